//! How a run is stopped, whoever stops it: a signal, the halt rule, the batch timeout, a closed stdout.
//!
//! Blocking only on its short latches. A run goes through stages, forward only:
//!
//! | stage | what it means | who waits on its switch |
//! |---|---|---|
//! | `Running` | | |
//! | `Draining` | no job starts any more, running ones finish | who reads the input |
//! | `Cancelling` | running jobs get TERM, KILL after the grace | who waits for a child |
//! | `Killing` | running jobs get KILL, the program leaves | who waits for a child |
//!
//! A switch is an eventfd that is written once and never read: it stays readable, so that every thread in a
//! `poll` wakes, now or later, and none has to be found and interrupted. A child's process group is then
//! signalled by the one thread that will reap it, so no signal can meet a recycled process id.

use crate::job::HaltRule;
use crate::sync::Mutex;
use rustix::event::{EventfdFlags, eventfd};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// How far the run has been stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    Running,
    Draining,
    Cancelling,
    Killing,
}

/// Why the run was stopped. The first reason decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Why {
    /// SIGINT, SIGTERM, SIGHUP or SIGQUIT: its name.
    Signal(&'static str),
    /// The rule that struck.
    HaltRule(HaltRule),
    BatchTimeout,
    /// The engine, for another process or since its journal is lost.
    Elsewhere,
    /// Nobody reads stdout any more.
    StdoutClosed,
    /// An error of the input, the disk or the program.
    Trouble,
}

/// A flag that can be waited for with `poll`.
#[derive(Debug)]
pub(crate) struct Switch(OwnedFd);

impl Switch {
    fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    fn fire(&self) {
        // It can fail only when the counter is full, and then it is readable already.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }
}

/// Readable once the switch has fired.
impl AsFd for Switch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

type Hook = Box<dyn Fn(Stage) + Send>;

/// The stage of the run and the switches of its stages.
pub(crate) struct Controls {
    state: Mutex<(Stage, Option<Why>)>,
    hooks: Mutex<Vec<Hook>>,
    pub(crate) drain: Switch,
    pub(crate) cancel: Switch,
    pub(crate) kill: Switch,
}

impl Controls {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            state: Mutex::new((Stage::Running, None)),
            hooks: Mutex::new(Vec::new()),
            drain: Switch::new()?,
            cancel: Switch::new()?,
            kill: Switch::new()?,
        })
    }

    /// Moves the run forward to `to`; does nothing when it is there already.
    pub(crate) fn raise(&self, to: Stage, why: Why) {
        {
            let mut state = self.state.lock();
            if state.0 >= to {
                return;
            }
            state.0 = to;
            state.1.get_or_insert(why);
        }
        for (at, switch) in
            [(Stage::Draining, &self.drain), (Stage::Cancelling, &self.cancel), (Stage::Killing, &self.kill)]
        {
            if to >= at {
                switch.fire();
            }
        }
        self.hooks.lock().iter().for_each(|hook| hook(to));
    }

    pub(crate) fn stage(&self) -> Stage {
        self.state.lock().0
    }

    pub(crate) fn why(&self) -> Option<Why> {
        self.state.lock().1
    }

    /// Has `hook` called at every later stage, and at once when one has been reached already.
    pub(crate) fn on_raise(&self, hook: Hook) {
        let mut hooks = self.hooks.lock();
        // Read under the hooks' latch: a stage raised meanwhile either is seen here or finds the hook.
        let stage = self.stage();
        if stage > Stage::Running {
            hook(stage);
        }
        hooks.push(hook);
    }
}

impl fmt::Debug for Controls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Controls").field("stage", &self.stage()).finish_non_exhaustive()
    }
}
