//! Signals move the run through its [stages](super::controls).
//!
//! | signal | stage |
//! |---|---|
//! | SIGINT | the next one: drain, cancel, kill and leave |
//! | SIGTERM, SIGHUP | cancel |
//! | SIGQUIT | kill and leave: the jobs are in groups of their own, so the terminal's Ctrl-\\ does not reach them |
//!
//! A signal that was ignored when we started (`nohup`, a background job of a script) stays ignored. Children get
//! default dispositions either way: caught signals are reset by exec, and `std::process` resets SIGPIPE.

use super::controls::{Controls, Stage, Why};
use super::exit::{Exit, Trouble};
use crate::sync::{Arc, thread};
use crate::time::millis;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;
use std::fs;

/// Starts the thread that listens.
pub(crate) fn listen(controls: &Arc<Controls>) -> Result<(), Trouble> {
    let wanted: Vec<_> = [SIGINT, SIGTERM, SIGHUP, SIGQUIT].into_iter().filter(|s| !is_ignored(*s)).collect();
    let mut signals =
        Signals::new(wanted).map_err(|e| Trouble::internal(format!("cannot listen for signals: {e}")))?;
    let controls = Arc::clone(controls);
    let listener = move || {
        for signal in signals.forever() {
            let (name, to) = match (signal, controls.stage()) {
                (SIGINT, Stage::Running) => ("SIGINT", Stage::Draining),
                (SIGINT, Stage::Draining) => ("SIGINT", Stage::Cancelling),
                (SIGINT, _) => ("SIGINT", Stage::Killing),
                (SIGQUIT, _) => ("SIGQUIT", Stage::Killing),
                (SIGHUP, _) => ("SIGHUP", Stage::Cancelling),
                _ => ("SIGTERM", Stage::Cancelling),
            };
            controls.raise(to, Why::Signal(name));
            match to {
                Stage::Draining => super::say("no more jobs start; Ctrl-C again terminates the running ones"),
                Stage::Killing => leave_soon(),
                _ => {}
            }
        }
    };
    let thread = thread::Builder::new().name("signals".into()).spawn(listener);
    thread.map(drop).map_err(|e| Trouble::internal(format!("cannot start a thread: {e}")))
}

/// The switches have fired: who waits for a child is killing it now. Normally the run ends by itself in this time.
fn leave_soon() {
    let parker = crate::sync::Parker::new();
    parker.park_timeout(millis(200));
    std::process::exit(Exit::Cancelled as i32);
}

fn is_ignored(signal: i32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal - 1) & 1 == 1
}
