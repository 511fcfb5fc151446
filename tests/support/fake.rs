//! A connection manager that does as it is told.

#![allow(dead_code, reason = "each test file uses a part of it")]

use batchyard::r2d2::ManageConnection;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refused(pub(crate) &'static str);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Refused {}

/// Called with the connection's number, 0 if it has none yet.
pub(crate) type Hook = Arc<dyn Fn(usize) + Send + Sync>;

#[derive(Default)]
pub(crate) struct Script {
    /// Connections that are open, and the most there have been.
    pub(crate) alive: AtomicUsize,
    pub(crate) peak: AtomicUsize,
    pub(crate) made: AtomicUsize,
    pub(crate) checks: AtomicUsize,
    /// So many attempts to connect are still refused.
    pub(crate) refuse: AtomicUsize,
    /// Connections with numbers up to this are not valid.
    pub(crate) invalid_up_to: AtomicUsize,
    pub(crate) panic_in_connect: AtomicBool,
    pub(crate) panic_in_check: AtomicBool,
    pub(crate) panic_in_has_broken: AtomicBool,
    pub(crate) while_connecting: Mutex<Option<Hook>>,
    pub(crate) while_checking: Mutex<Option<Hook>>,
    pub(crate) while_dropping: Mutex<Option<Hook>>,
}

pub(crate) struct Fake(pub(crate) Arc<Script>);

pub(crate) struct Connection {
    /// From 1, in the order of opening.
    pub(crate) id: usize,
    pub(crate) broken: bool,
    pub(crate) panics_when_dropped: bool,
    script: Arc<Script>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "connection {}", self.id)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        call(&self.script.while_dropping, self.id);
        self.script.alive.fetch_sub(1, SeqCst);
        assert!(!self.panics_when_dropped, "drop");
    }
}

/// Not under the latch: a hook may last.
fn call(hook: &Mutex<Option<Hook>>, id: usize) {
    let hook = hook.lock().unwrap().clone();
    if let Some(hook) = hook {
        hook(id);
    }
}

impl ManageConnection for Fake {
    type Connection = Connection;
    type Error = Refused;

    fn connect(&self) -> Result<Connection, Refused> {
        let script = &self.0;
        call(&script.while_connecting, 0);
        if script.panic_in_connect.load(SeqCst) {
            panic!("connect");
        }
        if script.refuse.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_ok() {
            return Err(Refused("no"));
        }
        let alive = script.alive.fetch_add(1, SeqCst) + 1;
        script.peak.fetch_max(alive, SeqCst);
        let id = script.made.fetch_add(1, SeqCst) + 1;
        Ok(Connection { id, broken: false, panics_when_dropped: false, script: script.clone() })
    }

    fn is_valid(&self, connection: &mut Connection) -> Result<(), Refused> {
        let script = &self.0;
        script.checks.fetch_add(1, SeqCst);
        call(&script.while_checking, connection.id);
        if script.panic_in_check.load(SeqCst) {
            panic!("check");
        }
        if connection.id <= script.invalid_up_to.load(SeqCst) { Err(Refused("dead")) } else { Ok(()) }
    }

    fn has_broken(&self, connection: &mut Connection) -> bool {
        if self.0.panic_in_has_broken.load(SeqCst) {
            panic!("has_broken");
        }
        connection.broken
    }
}
