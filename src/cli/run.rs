//! `batchyard run`: puts the parts together, and says how it ended.

use super::args::Run;
use super::bytes::Bytes;
use super::capture::Spill;
use super::child::{Nursery, is_dev_null};
use super::controls::{Controls, Stage, Why};
use super::descriptors::make_room;
use super::drive::{Plan, drive};
use super::exit::{Exit, Trouble};
use super::job::{Job, Slots};
use super::joblog::JobLog;
use super::kept::{self, Keeping};
use super::order::Turns;
use super::progress::Progress;
use super::report::{Printer, Row, Style, Unprinted};
use super::tally::{Counts, Tally};
use super::template::{Filling, Template, quoted};
use super::{input, say, signals};
use crate::job::{Duplicates, Report};
use crate::sync::{Arc, thread};
use crate::time::Clock;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Access, access};
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// With `-k`: how far, per job at a time, items may be ahead of the one whose turn it is.
const WINDOW: u64 = 64;

type Inputs = Box<dyn Iterator<Item = io::Result<Vec<u8>>> + Send>;

/// Runs the command for every item.
pub(crate) fn run(args: Run) -> Result<Exit, Trouble> {
    let (words, source) = args.command_and_source().map_err(Trouble::usage)?;
    let replace = args.replace.as_ref();
    let template =
        if args.shell { Template::shell(words, replace) } else { Template::direct(words, replace) };
    let controls = Controls::new().map(Arc::new);
    let controls = controls.map_err(|e| Trouble::internal(format!("cannot make an eventfd: {e}")))?;
    let inputs = input::open(source, args.separator(), &controls)?;
    if args.dry_run {
        return dry_run(&template, inputs);
    }
    let workers = args.jobs.count();
    make_room(workers)?;
    let keeping = args.keep.journal.as_ref().map(|path| {
        let command = written(words, replace, args.shell);
        Keeping {
            path: path.clone(),
            durability: args.keep.durability,
            name: args.keep.name.clone().unwrap_or_else(|| command.clone()),
            command,
            disk_wait: args.keep.disk_wait,
            in_order: args.keep_order,
        }
    });
    let program = template.fixed_program().map(|name| find_program(&name)).transpose()?;

    let clock = Clock::os();
    let tally = Arc::new(Tally::default());
    let style = match (args.json, args.tag) {
        (true, _) => Style::Json,
        (false, true) => Style::Tagged,
        (false, false) => Style::Plain,
    };
    let wanted = args.json || args.results.is_some() || keeping.is_some();
    let nursery = Nursery {
        clock: clock.clone(),
        controls: Arc::clone(&controls),
        spill: Spill::new(std::env::temp_dir()),
        kill_after: args.kill_after,
        capture_stdout: wanted || !is_dev_null(io::stdout()),
        capture_stderr: wanted || !is_dev_null(io::stderr()),
    };
    let plan = Plan {
        workers,
        rates: args.rates(),
        retry: args.backoff.attempts(args.retries.saturating_add(1)),
        duplicates: args.keep.duplicates.unwrap_or(match keeping {
            Some(_) => Duplicates::Skip,
            None => Duplicates::Allow,
        }),
        grace: args.kill_after,
        clock: clock.clone(),
    };
    let progress = Progress::new(args.progress, &tally, &clock);
    let summary_wanted = progress.is_on();
    // A journal keeps what waits for its turn.
    let turns =
        (args.keep_order && keeping.is_none()).then(|| Turns::new(WINDOW * plan.workers as u64, &controls));
    let printer = Printer::new(style, args.results, turns.clone(), progress)?;
    let job = Job {
        template,
        program,
        nursery,
        timeout: args.timeout,
        retries: args.retries,
        backoff: args.backoff,
        deadline: args.batch_timeout.map(|limit| clock.now() + limit),
        fatal_exit: args.fatal_exit,
        halt: args.halt,
        tally: Arc::clone(&tally),
        slots: Slots::default(),
        log: args.keep.joblog.map(|path| JobLog::open(&path, keeping.is_some())).transpose()?,
        owner: None,
    };
    signals::listen(&controls)?;
    if let Some(limit) = args.batch_timeout {
        end_after(limit, &controls)?;
    }

    let items = Counted { inputs, tally: Arc::clone(&tally), turns };
    let press = Arc::new(Press { printer, controls: Arc::clone(&controls), tally: Arc::clone(&tally) });
    let settled = Arc::clone(&press);
    let driven = match &keeping {
        Some(keeping) => kept::drive(&plan, keeping, items, job, &controls, &press),
        None => drive(&plan, items, job, &controls, move |row| {
            settled.print(row);
        }),
    };
    press.finish();
    // The first trouble tells most: what a journal says of it came after it.
    if let Some(trouble) = tally.counts().trouble.take() {
        return Err(trouble);
    }
    let report = driven?;
    let mut counts = tally.counts();
    counts.read -= report.duplicates;
    if keeping.is_some() {
        (counts.done, counts.dead) = (report.completed_items, report.failed_items);
    }
    Ok(conclude(&counts, &report, controls.why(), summary_wanted))
}

/// The command as a shell reads it: the identity of what runs the items.
fn written(words: &[OsString], replace: Option<&OsString>, shell: bool) -> String {
    let mut parts: Vec<Vec<u8>> = Vec::new();
    if shell {
        parts.push(b"--shell".to_vec());
    }
    if let Some(replace) = replace {
        parts.push([b"-I ", &*quoted(replace.as_bytes())].concat());
    }
    parts.extend(words.iter().map(|word| quoted(word.as_bytes())));
    // Two commands must not become one: bytes that are no text are written out.
    parts.join(&b' ').utf8_chunks().fold(String::new(), |mut text, chunk| {
        text.push_str(chunk.valid());
        chunk.invalid().iter().for_each(|byte| text += &format!("\\x{byte:02x}"));
        text
    })
}

/// The printer, which stops the run when it cannot print.
pub(crate) struct Press {
    printer: Printer,
    controls: Arc<Controls>,
    pub(crate) tally: Arc<Tally>,
}

impl Press {
    /// False: it was not printed.
    pub(crate) fn print(&self, row: Row) -> bool {
        // Once is enough: after the first error nothing is printed any more.
        if self.is_broken() {
            return false;
        }
        self.printer.print(row).map_err(|e| self.stop(e)).is_ok()
    }

    fn finish(&self) {
        if !self.is_broken() {
            self.printer.finish().unwrap_or_else(|e| self.stop(e));
        }
    }

    fn is_broken(&self) -> bool {
        matches!(self.controls.why(), Some(Why::StdoutClosed | Why::Trouble))
    }

    pub(crate) fn stop(&self, unprinted: Unprinted) {
        let why = match unprinted {
            Unprinted::Closed => Why::StdoutClosed,
            Unprinted::Trouble(trouble) => {
                self.tally.break_down(trouble);
                Why::Trouble
            }
        };
        self.controls.raise(Stage::Cancelling, why);
    }
}

/// The items. How many there are, and the end of the input or its failure, is noted in the tally.
struct Counted {
    inputs: Inputs,
    tally: Arc<Tally>,
    turns: Option<Turns>,
}

impl Iterator for Counted {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if let Some(turns) = &self.turns {
            let next = self.tally.counts().read + 1;
            turns.wait_for_room(next);
        }
        let next = self.inputs.next();
        let mut counts = self.tally.counts();
        match next {
            Some(Ok(bytes)) => {
                counts.read += 1;
                Some(Bytes(bytes))
            }
            Some(Err(e)) => {
                counts.trouble.get_or_insert(Trouble::usage(e.to_string()));
                None
            }
            None => {
                counts.all_read = true;
                None
            }
        }
    }
}

fn conclude(counts: &Counts, report: &Report, why: Option<Why>, summary_wanted: bool) -> Exit {
    let (exit, how) = match why {
        Some(Why::HaltRule(rule)) => (Exit::Halted, format!("halted by --halt {rule}: ")),
        Some(Why::BatchTimeout) => (Exit::Halted, "halted by --batch-timeout: ".to_owned()),
        Some(Why::Elsewhere) => (Exit::Cancelled, "cancelled by another process: ".to_owned()),
        Some(Why::Signal(name)) => (Exit::Cancelled, format!("cancelled by {name}: ")),
        Some(Why::StdoutClosed) => (Exit::Cancelled, "stdout was closed: ".to_owned()),
        Some(Why::Trouble) => (Exit::Internal, String::new()),
        None if counts.dead > 0 => (Exit::SomeDead, String::new()),
        None => (Exit::Done, String::new()),
    };
    if exit != Exit::Done || summary_wanted {
        let left = counts.read.saturating_sub(counts.done + counts.dead);
        let mut text = format!("{how}{} done, {} failed", counts.done, counts.dead);
        if report.resumed_items > 0 {
            text += &format!(", {} of them in earlier runs", report.resumed_items);
        }
        if left > 0 {
            text += &format!(", {left} not finished");
        }
        if let Some(first) = &counts.first_dead {
            text += &format!("; the first: {first}");
        }
        say(text);
    }
    exit
}

/// Prints the commands.
fn dry_run(template: &Template, inputs: Inputs) -> Result<Exit, Trouble> {
    let mut stdout = io::stdout().lock();
    for (n, item) in inputs.enumerate() {
        let item = item.map_err(|e| Trouble::usage(e.to_string()))?;
        let filling = Filling { item: &item, number: n as u64 + 1, slot: 1 };
        let words: Vec<_> = template.fill(filling).map(|word| quoted(&word.into_vec())).collect();
        let mut line = words.join(&b' ');
        line.push(b'\n');
        match stdout.write_all(&line).and_then(|()| stdout.flush()) {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(Exit::Cancelled),
            Err(e) => return Err(Trouble::internal(format!("cannot write the output: {e}"))),
            Ok(()) => {}
        }
    }
    Ok(Exit::Done)
}

/// Stops the run after `limit`. The thread is left alone when the run ends before.
fn end_after(limit: Duration, controls: &Arc<Controls>) -> Result<(), Trouble> {
    let controls = Arc::clone(controls);
    let timer = move || {
        let clock = Clock::os();
        let until = clock.now() + limit;
        loop {
            let left = until - clock.now();
            let Ok(timeout) = Timespec::try_from(left) else { return };
            let mut fds = [PollFd::new(&controls.cancel, PollFlags::IN)];
            if poll(&mut fds, Some(&timeout)).is_ok_and(|n| n > 0) {
                return;
            }
            if left.is_zero() {
                return controls.raise(Stage::Cancelling, Why::BatchTimeout);
            }
        }
    };
    let thread = thread::Builder::new().name("batch-timeout".into()).spawn(timer);
    thread.map(drop).map_err(|e| Trouble::internal(format!("cannot start a thread: {e}")))
}

/// Where the shell would find `name`. Once for all jobs: each would search the directories of PATH again.
fn find_program(name: &OsStr) -> Result<OsString, Trouble> {
    let named = |what: &str| Trouble::usage(format!("{what}: `{}`", name.display()));
    let is_file = |path: &Path| path.is_file();
    let may_run = |path: &Path| access(path, Access::EXEC_OK).is_ok();
    if name.as_bytes().contains(&b'/') {
        let path = Path::new(name);
        return match (is_file(path), may_run(path)) {
            (true, true) => Ok(name.to_owned()),
            (true, false) => Err(named("not an executable file")),
            (false, _) => Err(named("no such command")),
        };
    }
    // What execvp takes when there is no PATH.
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
    let candidates: Vec<PathBuf> = std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .filter(|p| !name.is_empty() && is_file(p))
        .collect();
    match candidates.iter().find(|p| may_run(p)) {
        // A relative directory in PATH may leave no slash, and a name without one would be searched again.
        Some(found) if !found.as_os_str().as_bytes().contains(&b'/') => Ok(Path::new(".").join(found).into()),
        Some(found) => Ok(found.into()),
        None if candidates.is_empty() => Err(named("no such command")),
        None => Err(named("not an executable file")),
    }
}
