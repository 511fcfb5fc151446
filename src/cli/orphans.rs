//! Ends what the children of a run that died still do, before their items run again.
//!
//! Two ways lead to them. Beside the journal lies the process group of each worker's last child; a group is ours only if its
//! leader has the start time that was noted, since numbers are used again. And every child has the run's id in its
//! environment, and hands it down: so those are found, too, that were started just before the run died, and those
//! that have left their group. A process is held by a descriptor before it is looked at and killed, so nothing hits
//! another one that has got its number meanwhile.

use super::job::OWNER;
use super::say;
use crate::store::sqlite::Orphans;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;

/// After this many seconds it is told what is waited for.
const PATIENCE: i64 = 5;

/// Kills them and waits until they are gone. New ones that they start meanwhile are found by the next look.
pub(crate) fn end(orphans: &Orphans) {
    let spared = ourselves();
    let held = |meant: &dyn Fn(Pid) -> bool| -> Vec<(Pid, OwnedFd)> {
        let hold = |pid| Some((pid, pidfd_open(pid, PidfdFlags::empty()).ok()?));
        let others = processes().filter(|pid| !spared.contains(pid));
        others.filter_map(hold).filter(|(pid, _)| meant(*pid)).collect()
    };
    let groups: Vec<Pid> = orphans
        .groups
        .iter()
        .filter_map(|(group, ticks)| {
            Pid::from_raw(*group).filter(|leader| start_ticks(*leader) == Some(*ticks))
        })
        .collect();
    // As long as a leader of that start time is there, its number names this group and no other.
    let mut found = held(&|pid| group_of(pid).is_some_and(|group| groups.contains(&group)));
    found.extend(held(&|pid| is_orphan(pid, orphans)));
    while !found.is_empty() {
        for (_, fd) in &found {
            let _ = pidfd_send_signal(fd, Signal::KILL);
        }
        for (pid, fd) in &found {
            gone(*pid, fd);
        }
        found = held(&|pid| is_orphan(pid, orphans));
    }
}

fn group_of(pid: Pid) -> Option<Pid> {
    Pid::from_raw(field(pid, 2)?.parse().ok()?)
}

/// When a process started, in clock ticks since the machine did: field 22 of its `stat`.
pub(crate) fn start_ticks(pid: Pid) -> Option<u64> {
    field(pid, 19)?.parse().ok()
}

/// A field of `stat` behind the name, which may hold anything; the state is field 0.
fn field(pid: Pid, n: usize) -> Option<String> {
    // All of it comes with one read: 52 numbers and a name, which is no text if the file's is none.
    let mut stat = [0; 2048];
    let read = fs::File::open(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?.read(&mut stat).ok()?;
    let stat = String::from_utf8_lossy(&stat[..read]);
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(n).map(str::to_owned)
}

fn is_orphan(pid: Pid, orphans: &Orphans) -> bool {
    // Those of other users cannot be read, and are none of ours.
    let environment = fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())).unwrap_or_default();
    let value = environment
        .split(|b| *b == 0)
        .find_map(|entry| entry.strip_prefix(OWNER.as_bytes())?.strip_prefix(b"="))
        .unwrap_or_default();
    // A run inside a run's job has both ids.
    value.split(|b| *b == b' ').any(|id| orphans.owners.iter().any(|owner| owner.as_bytes() == id))
}

fn processes() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    entries.filter_map(|entry| Pid::from_raw(entry.ok()?.file_name().to_str()?.parse().ok()?))
}

/// This process and those it runs under: an orphan may have started us to go on with its run.
fn ourselves() -> Vec<Pid> {
    let mut line = vec![rustix::process::getpid()];
    while let Some(parent) = field(line[line.len() - 1], 1).and_then(|pid| Pid::from_raw(pid.parse().ok()?))
        && !line.contains(&parent)
    {
        line.push(parent);
    }
    line
}

fn gone(pid: Pid, fd: &OwnedFd) {
    let mut told = false;
    loop {
        let mut fds = [PollFd::new(fd, PollFlags::IN)];
        let patience = Timespec { tv_sec: PATIENCE, tv_nsec: 0 };
        match poll(&mut fds, Some(&patience)) {
            Ok(0) if !told => {
                told = true;
                say(format!(
                    "waiting for process {} of the run before, which was killed",
                    pid.as_raw_nonzero()
                ));
            }
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) | Err(_) => return,
        }
    }
}
