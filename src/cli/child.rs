//! One child process: spawned into a group of its own, watched, ended in time, its output collected.
//!
//! Blocking: one thread per running child, in one `poll` for everything that can happen to it (its end, its output,
//! its deadline, a stop of the run). No polling loop, no thread that reads.
//!
//! **Cost.** `std::process::Command` with nothing but a process group goes through `posix_spawn`; a `pre_exec` would
//! mean fork, 1.5 times as dear and 57 times from a parent that holds a gigabyte. Per child there are a pidfd, a pipe
//! per captured stream, one `poll` and the reaping: 1 to 2 % over a bare spawn and wait of /bin/true.
//!
//! **Why pipes and not files.** A file in memory as the child's stdout needs no reading while the child runs, but it
//! breaks programs that open /dev/stdout or /dev/stderr again (`tee /dev/stderr` would truncate what is there), and
//! holds gigabytes in memory. A pipe does neither. Its usual price, wake-ups, is avoided: our own copy of the write
//! end stays open until the child has ended, so its closing wakes nobody, and a child that writes nothing wakes us
//! once.
//!
//! **Who holds the pipe.** We do not wait for its end: a daemon that the job has left behind may hold it for years.
//! What is in the pipe when the child ends is its output. If others of its process group live on, they get
//! [`LINGER`] to write theirs (`cmd > >(filter)` in bash ends before its filter does).

use super::capture::{Output, Spill};
use super::controls::Controls;
use super::{group, orphans};
use crate::store::sqlite::Group;
use crate::sync::Arc;
use crate::time::{Clock, Timestamp, millis};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open, test_kill_process_group};
use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// How long what a job leaves behind may still write to its output.
const LINGER: Duration = millis(100);

/// What a pipe holds unless somebody has changed it.
const PIPE: usize = 64 * 1024;

/// What all children of a run share.
#[derive(Debug)]
pub(crate) struct Nursery {
    pub(crate) clock: Clock,
    pub(crate) controls: Arc<Controls>,
    pub(crate) spill: Arc<Spill>,
    /// From TERM to KILL.
    pub(crate) kill_after: Duration,
    /// Whether anybody wants to see the stream. If not, children inherit ours.
    pub(crate) capture_stdout: bool,
    pub(crate) capture_stderr: bool,
}

/// Why a child was not left to end by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    TimedOut,
    Cancelled,
}

/// A child that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) cut: Option<Cut>,
    pub(crate) stdout: Output,
    pub(crate) stderr: Output,
    pub(crate) run_time: Duration,
}

/// Why there is no ended child to speak of.
#[derive(Debug)]
pub(crate) enum Failed {
    /// It did not start.
    Spawn(io::Error),
    /// It was killed, because its output could not be kept or it could not be watched.
    Broken(io::Error),
}

impl Nursery {
    /// Runs `command` to its end, or terminates it after `limit`.
    /// `started` is told of it, right after its start.
    pub(crate) fn run(
        &self,
        mut command: Command,
        limit: Option<Duration>,
        started: &dyn Fn(Group),
    ) -> Result<Ended, Failed> {
        command.process_group(0);
        let mut streams = [None, None];
        if self.capture_stdout {
            let (read, write) = pipe().map_err(Failed::Spawn)?;
            command.stdout(write);
            streams[0] = Some(Stream::new(read));
        }
        if self.capture_stderr {
            let (read, write) = pipe().map_err(Failed::Spawn)?;
            command.stderr(write);
            streams[1] = Some(Stream::new(read));
        }
        let began = self.clock.now();
        let since = orphans::ticks();
        let mut child = command.spawn().map_err(Failed::Spawn)?;
        let span = u32::try_from(orphans::ticks() - since).unwrap_or(u32::MAX);
        started(Group { pgid: pid_of(&child).as_raw_nonzero().get(), since, span });
        let deadline = limit.map(|limit| began + limit);
        let watched = self.watch(&child, command, deadline, &mut streams);
        if watched.is_err() {
            // Not reaped yet, so the id is still its own.
            group::kill(pid_of(&child));
        }
        let status = child.wait().map_err(Failed::Broken)?;
        let run_time = self.clock.now() - began;
        let (cut, command) = watched.map_err(Failed::Broken)?;
        self.linger(pid_of(&child), command, &mut streams).map_err(Failed::Broken)?;
        let [stdout, stderr] = streams.map(|s| s.map(|s| s.output).unwrap_or_default());
        Ok(Ended { status, cut, stdout, stderr, run_time })
    }

    /// Returns when the child has ended and, if its group was terminated, the rest of the group too. It is not
    /// reaped. `command` holds our copies of the pipes' write ends: it comes back.
    fn watch(
        &self,
        child: &Child,
        command: Command,
        deadline: Option<Timestamp>,
        streams: &mut [Option<Stream>; 2],
    ) -> io::Result<(Option<Cut>, Command)> {
        let group = pid_of(child);
        let pidfd = pidfd_open(group, PidfdFlags::empty())?;
        let (mut cut, mut killed) = (None, false);
        // The next moment to do something: terminate at first, then kill.
        let mut until = deadline;
        loop {
            let stop = if cut.is_none() { &self.controls.cancel } else { &self.controls.kill };
            // The pidfd comes first: `poll` looks at them in order, so when it finds the child ended, what it then
            // says about the pipes covers all that the child has written.
            let mut fds = Vec::with_capacity(4);
            fds.push(PollFd::new(&pidfd, PollFlags::IN));
            fds.extend(streams.iter().flatten().map(|s| PollFd::new(&s.pipe, PollFlags::IN)));
            if !killed {
                fds.push(PollFd::new(stop, PollFlags::IN));
            }
            wait(&mut fds, until.map(|t| t - self.clock.now()))?;
            let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            for (stream, _) in streams.iter_mut().flatten().zip(&ready[1..]).filter(|(_, ready)| **ready) {
                stream.read_what_is_there(&self.spill)?;
            }
            if ready[0] {
                break;
            }
            let stopped = !killed && ready.last() == Some(&true);
            let due = until.is_some_and(|t| self.clock.now() >= t);
            if !(stopped || due) {
                continue;
            }
            if cut.is_none() {
                cut = Some(if stopped { Cut::Cancelled } else { Cut::TimedOut });
                group::terminate(group);
                until = Some(self.clock.now() + self.kill_after);
            } else {
                group::kill(group);
                (killed, until) = (true, None);
            }
        }
        if cut.is_some() {
            group::finish(group, &self.clock, until, &self.controls.kill);
        }
        Ok((cut, command))
    }

    /// The last of the output, from those of the group that have outlived the child.
    ///
    /// The child is reaped: an empty group has no name any more, unless a new process has taken the id and made a
    /// group of it; then the pipes are at their end, and nothing is waited for.
    fn linger(&self, group: Pid, command: Command, streams: &mut [Option<Stream>; 2]) -> io::Result<()> {
        if streams.iter().all(Option::is_none) || test_kill_process_group(group) == Err(Errno::SRCH) {
            return Ok(());
        }
        drop(command);
        let until = self.clock.now() + LINGER;
        loop {
            let left = until - self.clock.now();
            let mut open: Vec<_> = streams.iter_mut().flatten().filter(|s| !s.ended).collect();
            if open.is_empty() {
                return Ok(());
            }
            let mut fds: Vec<_> = open.iter().map(|s| PollFd::new(&s.pipe, PollFlags::IN)).collect();
            wait(&mut fds, Some(left))?;
            let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            for (stream, _) in open.iter_mut().zip(ready).filter(|(_, ready)| *ready) {
                stream.read_what_is_there(&self.spill)?;
            }
            if left.is_zero() {
                return Ok(());
            }
        }
    }
}

/// The read end of a pipe and what came out of it.
struct Stream {
    pipe: OwnedFd,
    ended: bool,
    output: Output,
}

impl Stream {
    fn new(pipe: OwnedFd) -> Self {
        Self { pipe, ended: false, output: Output::default() }
    }

    /// Reads as much as the pipe holds now, and no more: a daemon may fill it as fast as we empty it.
    fn read_what_is_there(&mut self, spill: &Arc<Spill>) -> io::Result<()> {
        thread_local! {
            static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; PIPE]);
        }
        let mut left = rustix::io::ioctl_fionread(&self.pipe)?;
        self.ended = left == 0;
        BUFFER.with_borrow_mut(|buffer| {
            while left > 0 {
                match rustix::io::read(&self.pipe, &mut buffer[..]) {
                    Ok(n) => {
                        self.output.push(&buffer[..n], spill)?;
                        left = left.saturating_sub(n as u64);
                    }
                    Err(Errno::INTR) => {}
                    Err(e) => return Err(e.into()),
                }
            }
            Ok(())
        })
    }
}

fn pipe() -> io::Result<(OwnedFd, Stdio)> {
    let (read, write) = io::pipe()?;
    Ok((read.into(), write.into()))
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_child(child)
}

/// `poll`, restarted when a signal interrupts it: the deadline is tested by the caller anyway.
fn wait(fds: &mut [PollFd<'_>], left: Option<Duration>) -> io::Result<()> {
    // A time too long to be represented is none.
    let left = left.and_then(|left| Timespec::try_from(left).ok());
    match poll(fds, left.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Whether what is written to `fd` is thrown away by the kernel anyway.
pub(crate) fn is_dev_null(fd: impl AsFd) -> bool {
    let null = rustix::fs::stat("/dev/null");
    match (rustix::fs::fstat(fd), null) {
        (Ok(ours), Ok(null)) => {
            ours.st_rdev == null.st_rdev && rustix::fs::FileType::from_raw_mode(ours.st_mode).is_char_device()
        }
        _ => false,
    }
}
