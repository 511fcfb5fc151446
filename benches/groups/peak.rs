//! The most memory that a process has had.
//!
//! Linux tells it while the process is there (`VmHWM`). What `wait4` says of one that has gone takes in what its parent
//! had before the start, and this program is large.

use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

/// Between two looks. What is had for less than this, at the very end, is not seen.
const LOOK: Duration = Duration::from_millis(2);

/// In MiB, of the process of this number, or `self`; `None` where the system does not tell, or it is gone.
pub(crate) fn of(process: &str) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024.0)
}

/// Runs a command to its end, which must be a good one. NaN where the system does not tell.
pub(crate) fn of_run(command: &mut Command) -> f64 {
    let mut child = command.stdout(Stdio::null()).spawn().expect("the program just built runs");
    let mut peak = f64::NAN;
    loop {
        // Asked before the look: the last look comes after the last that is waited for.
        let ended = child.try_wait().expect("it is our child");
        peak = of(&child.id().to_string()).unwrap_or(peak);
        if let Some(status) = ended {
            assert!(status.success(), "{command:?}: {status}");
            return peak;
        }
        thread::sleep(LOOK);
    }
}
