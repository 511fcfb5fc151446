//! One attempt at one item: the command is filled in, run, and its end judged.

use super::bytes::brief;
use super::capture::Output;
use super::child::{Cut, Ended, Failed, Nursery};
use super::controls::{Stage, Why};
use super::exit::Trouble;
use super::joblog::{Entry, JobLog};
use super::tally::Tally;
use super::template::{Filling, Template, quoted};
use super::values::ExitSet;
use crate::job::{HaltRule, Retry};
use crate::policy::{backoff, halt};
use crate::store::sqlite::Group;
use crate::sync::{Arc, Mutex};
use crate::time::{Timestamp, wall_ms};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};
use std::time::Duration;

/// EX_TEMPFAIL: "try again later".
const LATER: i32 = 75;
/// What shells say when a command cannot be executed or is not there: no further try will change it.
const HOPELESS: [i32; 2] = [126, 127];
/// What is told of a stderr, at most.
const LAST_WORDS: usize = 1024;
/// The variable of a child's environment that names the run which started it.
pub(crate) const OWNER: &str = "BATCHYARD_OWNER";
/// How often an item may be put off.
const MOST_DEFERRALS: u32 = 20;

/// What the scheduler knows about this attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt<'a> {
    pub(crate) item: &'a [u8],
    /// Of the item, from 1, in the order of the input.
    pub(crate) number: u64,
    pub(crate) key: &'a str,
    pub(crate) idempotency_key: &'a str,
    /// From 1; attempts that were put off do not count.
    pub(crate) tries: u32,
    /// Those before it that have failed: not those whose process died.
    pub(crate) failures: u32,
    /// How often the item has been put off.
    pub(crate) deferrals: u32,
}

/// What has become of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Done,
    Dead,
    /// Terminated because the run was stopped.
    Cancelled,
}

/// The last attempt at an item, for the report.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: Status,
    /// Dead, and no further try would have changed it.
    pub(crate) hopeless: bool,
    /// None: it did not start.
    pub(crate) exit: Option<ExitStatus>,
    /// What the exit status does not say.
    pub(crate) error: Option<String>,
    pub(crate) run_time: Duration,
    pub(crate) stdout: Output,
    pub(crate) stderr: Output,
}

impl Finished {
    /// Its end in a few words.
    fn end(&self) -> String {
        self.error.clone().unwrap_or_else(|| match self.exit.and_then(|exit| exit.code()) {
            Some(code) => format!("exit {code}"),
            None => "failed".to_owned(),
        })
    }

    /// Its end, and what it said last on stderr: what is told of an attempt that is over.
    pub(crate) fn how(&self) -> String {
        let mut last = Vec::new();
        let read = self.stderr.read(|bytes| {
            last.extend_from_slice(bytes);
            last.drain(..last.len().saturating_sub(LAST_WORDS));
            Ok(())
        });
        let text = String::from_utf8_lossy(&last);
        match text.lines().rev().map(str::trim).find(|line| !line.is_empty()) {
            Some(line) if read.is_ok() => format!("{}: {line}", self.end()),
            _ => self.end(),
        }
    }
}

/// What the scheduler has to do with the item now.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// This was its last attempt.
    Settled(Finished),
    /// Try again after the backoff; this try counts. Why it failed.
    Again(String),
    /// Try again after this time; this try does not count. Why not now.
    Later(Duration, String),
}

/// All that the attempts of a run share.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) template: Template,
    /// Where the program is, if it is the same for all items: saves each child the search.
    pub(crate) program: Option<OsString>,
    pub(crate) nursery: Nursery,
    pub(crate) timeout: Option<Duration>,
    pub(crate) retries: u32,
    /// The waits of items that are put off.
    pub(crate) backoff: Retry,
    /// When the run is stopped. The job is told; what holds it to it is the stop.
    pub(crate) deadline: Option<Timestamp>,
    pub(crate) fatal_exit: Option<ExitSet>,
    pub(crate) halt: Option<HaltRule>,
    pub(crate) tally: Arc<Tally>,
    pub(crate) slots: Slots,
    pub(crate) log: Option<JobLog>,
    /// What the run's children carry in their environment, so that they are found when it has died.
    pub(crate) owner: Option<String>,
}

/// How an attempt ended.
enum End {
    Done,
    Cancelled,
    Failed,
    Fatal,
    PutOff,
}

impl Job {
    /// Runs the command for an item, to its end. `started` is told of each process.
    pub(crate) fn attempt(&self, attempt: Attempt<'_>, started: &dyn Fn(Group)) -> Verdict {
        let began_ms = wall_ms();
        let slot = self.template.needs_slot().then(|| self.slots.take());
        let slot_number = slot.as_ref().map_or(0, |s| s.0);
        let filling = Filling { item: attempt.item, number: attempt.number, slot: slot_number };
        let mut ran = self.nursery.run(self.command(filling, attempt, false), self.timeout, started);
        if let Err(Failed::Spawn(e)) = &ran
            && e.raw_os_error() == Some(Errno::NOEXEC.raw_os_error())
        {
            ran = self.nursery.run(self.command(filling, attempt, true), self.timeout, started);
        }
        let (end, mut finished) = match ran {
            Ok(ended) => self.judge(ended),
            Err(Failed::Spawn(e)) => not_started(&e),
            Err(Failed::Broken(e)) => {
                self.break_down(Trouble::internal(e.to_string()));
                (End::Cancelled, nothing(e.to_string()))
            }
        };
        if let Some(log) = &self.log {
            self.log(log, filling, began_ms, &finished);
        }
        finished.hopeless = matches!(end, End::Fatal | End::PutOff);
        finished.status = match end {
            End::Done => Status::Done,
            End::Cancelled => Status::Cancelled,
            End::Failed if attempt.failures < self.retries => return Verdict::Again(finished.how()),
            End::Failed | End::Fatal => Status::Dead,
            End::PutOff if attempt.deferrals < MOST_DEFERRALS => {
                // A hasher with random keys: std's only source of chance.
                let chance = RandomState::new().hash_one(attempt.number);
                let wait = backoff::delay(&self.backoff, attempt.deferrals + 1, chance);
                return Verdict::Later(wait, finished.how());
            }
            End::PutOff => {
                finished.error = Some(format!("put off {MOST_DEFERRALS} times"));
                Status::Dead
            }
        };
        self.settle(attempt.item, &finished);
        Verdict::Settled(finished)
    }

    /// Ends the run: something of it does not work.
    pub(crate) fn break_down(&self, trouble: Trouble) {
        self.tally.break_down(trouble);
        self.nursery.controls.raise(Stage::Cancelling, Why::Trouble);
    }

    fn log(&self, log: &JobLog, filling: Filling<'_>, began_ms: u64, finished: &Finished) {
        let words: Vec<_> = self.template.fill(filling).map(|word| quoted(&word.into_vec())).collect();
        let written = log.write(&Entry {
            number: filling.number,
            began_ms,
            run_time: finished.run_time,
            received: finished.stdout.len(),
            exit: finished.exit,
            command: &words.join(&b' '),
        });
        if let Err(trouble) = written {
            self.break_down(trouble);
        }
    }

    /// The command for an item. A script without a `#!` line is one for sh, as execvp(3) has it.
    fn command(&self, filling: Filling<'_>, attempt: Attempt<'_>, script: bool) -> Command {
        let mut words = self.template.fill(filling);
        let first = words.next().unwrap_or_default();
        let path = self.program.as_ref().unwrap_or(&first);
        let mut command = if script { Command::new("/bin/sh") } else { Command::new(path) };
        if script {
            command.arg(path);
        } else {
            command.arg0(&first);
        }
        command.args(words);
        command.env("BATCHYARD_KEY", attempt.key);
        command.env("BATCHYARD_IDEMPOTENCY_KEY", attempt.idempotency_key);
        command.env("BATCHYARD_ATTEMPT", attempt.tries.to_string());
        if let Some(owner) = &self.owner {
            command.env(OWNER, owner);
        }
        let remaining = self.deadline.map(|at| at - self.nursery.clock.now());
        match self.timeout.into_iter().chain(remaining).min() {
            Some(left) => {
                let deadline = u128::from(wall_ms()) + left.as_millis();
                command.env("BATCHYARD_DEADLINE_MS", deadline.to_string())
            }
            // One of ours, around us, may have set it.
            None => command.env_remove("BATCHYARD_DEADLINE_MS"),
        };
        command
    }

    fn judge(&self, ended: Ended) -> (End, Finished) {
        let mut error = None;
        let end = match (ended.cut, ended.status.code()) {
            (Some(Cut::Cancelled), _) => End::Cancelled,
            (Some(Cut::TimedOut), _) => {
                error = Some(format!("timed out after {:.1?}", ended.run_time));
                End::Failed
            }
            (None, Some(0)) => End::Done,
            // What the user says of a code goes before what we would do.
            (None, Some(code)) if self.fatal_exit.as_ref().is_some_and(|set| set.contains(code)) => {
                End::Fatal
            }
            (None, Some(LATER)) => End::PutOff,
            (None, Some(code)) if HOPELESS.contains(&code) => End::Fatal,
            (None, Some(_)) => End::Failed,
            (None, None) => {
                error = ended.status.signal().map(|signal| format!("killed by signal {signal}"));
                End::Failed
            }
        };
        let finished = Finished {
            status: Status::Dead,
            hopeless: false,
            exit: Some(ended.status),
            error,
            run_time: ended.run_time,
            stdout: ended.stdout,
            stderr: ended.stderr,
        };
        (end, finished)
    }

    fn settle(&self, item: &[u8], finished: &Finished) {
        let describe = || format!("`{}`: {}", brief(item), finished.end());
        let (settled, dead) = self.tally.settle(finished.status, describe);
        if let Some(rule) = &self.halt
            && finished.status != Status::Cancelled
            && halt::says_stop(rule, dead, settled)
        {
            let to = if rule.now { Stage::Cancelling } else { Stage::Draining };
            self.nursery.controls.raise(to, Why::HaltRule(*rule));
        }
    }
}

fn nothing(error: String) -> Finished {
    Finished {
        status: Status::Dead,
        hopeless: false,
        exit: None,
        error: Some(error),
        run_time: Duration::ZERO,
        stdout: Output::default(),
        stderr: Output::default(),
    }
}

fn not_started(e: &io::Error) -> (End, Finished) {
    let (end, text) = match e.kind() {
        io::ErrorKind::ArgumentListTooLong => {
            (End::Fatal, "the item is too long for a command line".to_owned())
        }
        io::ErrorKind::InvalidInput => (End::Fatal, "a command line cannot hold a NUL byte".to_owned()),
        io::ErrorKind::NotFound => (End::Fatal, "no such command".to_owned()),
        // No process, memory or descriptor free: a state of the machine, not of the item.
        io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory => (End::PutOff, format!("cannot start: {e}")),
        _ if e.raw_os_error() == Some(Errno::MFILE.raw_os_error()) => {
            (End::PutOff, format!("cannot start: {e}"))
        }
        _ => (End::Fatal, format!("cannot start: {e}")),
    };
    (end, nothing(text))
}

/// The numbers of the job slots: a job takes the lowest that is free.
#[derive(Debug, Default)]
pub(crate) struct Slots(Mutex<BTreeSet<usize>>);

struct Slot<'a>(usize, &'a Slots);

impl Slots {
    fn take(&self) -> Slot<'_> {
        let mut taken = self.0.lock();
        let free = (1..).find(|n| !taken.contains(n)).expect("finitely many are taken");
        taken.insert(free);
        Slot(free, self)
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.1.0.lock().remove(&self.0);
    }
}
