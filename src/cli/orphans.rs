//! Ends what the children of a run that died still do, before their items run again.
//!
//! Two ways lead to them. Beside the journal lies the process group of each worker's last child; a group is ours only if its
//! leader started between the moments that were noted, since numbers are used again. And every child has the run's id in its
//! environment, and hands it down: so those are found, too, that were started just before the run died, with all of
//! their group, and those that have left it. A process is held by a descriptor before it is looked at and
//! killed, so nothing hits another one that has got its number meanwhile.
//!
//! They are stopped first, and killed when a look finds no more of them: what stands still starts nothing new, and
//! vouches for its group.

use super::job::OWNER;
use super::say;
use crate::store::sqlite::{Group, Orphans};
use crate::sync::Parker;
use crate::time::millis;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::param::clock_ticks_per_second;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use rustix::time::{ClockId, clock_gettime};
use std::collections::HashSet;
use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// After this many seconds it is told what is waited for.
const PATIENCE: i64 = 5;
/// How often it is looked whether a process stands still by now.
const LOOK: Duration = millis(1);

/// Kills them and waits until they are gone.
pub(crate) fn end(orphans: &Orphans) {
    let mut spared = ourselves();
    let ours: HashSet<Pid> = spared.iter().filter_map(|pid| group_of(*pid)).collect();
    let mut held: Vec<(Pid, OwnedFd)> = Vec::new();
    let mut groups: HashSet<Pid> = orphans
        .groups
        .iter()
        .filter_map(|noted| Pid::from_raw(noted.pgid).filter(|leader| is_started_in(*leader, noted)))
        .collect();
    loop {
        let mut found = Vec::new();
        for pid in processes().filter(|pid| !spared.contains(pid)) {
            let Ok(fd) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
            let group = group_of(pid);
            if is_orphan(pid, orphans) {
                // As long as it stands still its group's number names this group and no other.
                groups.extend(group.filter(|group| !ours.contains(group)));
            } else if !group.is_some_and(|group| groups.contains(&group)) {
                continue;
            }
            found.push((pid, fd));
        }
        if found.is_empty() {
            break;
        }
        for (pid, fd) in found {
            match pidfd_send_signal(&fd, Signal::STOP) {
                Ok(()) => stands_still(pid),
                Err(Errno::SRCH) => continue, // gone: the number may be another one's by now
                // Another user's: it does not stop, and ends with those it waits for, which are killed below.
                Err(_) => {}
            }
            spared.insert(pid);
            held.push((pid, fd));
        }
    }
    for (_, fd) in &held {
        let _ = pidfd_send_signal(fd, Signal::KILL);
    }
    for (pid, fd) in &held {
        gone(*pid, fd);
    }
}

/// Waits until the signal has arrived: a process may be in the middle of starting another one.
fn stands_still(pid: Pid) {
    for round in 0.. {
        // It is stopped, traced, or dead.
        if field(pid, 0).is_none_or(|state| matches!(&*state, "T" | "t" | "Z" | "X")) {
            return;
        }
        if round == PATIENCE * 1000 {
            waiting_for(pid);
        }
        Parker::new().park_timeout(LOOK);
    }
}

fn group_of(pid: Pid) -> Option<Pid> {
    Pid::from_raw(field(pid, 2)?.parse().ok()?)
}

/// Clock ticks since the machine started. Those who are about to start a process look here and not into its `stat`:
/// reading that takes the lock of its memory, while it is busy laying that out.
pub(crate) fn ticks() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let per_second = clock_ticks_per_second();
    now.tv_sec as u64 * per_second + now.tv_nsec as u64 / (1_000_000_000 / per_second)
}

/// Whether the process is the one that was noted, and not a later one of its number. Field 22 of its `stat` is its start.
fn is_started_in(pid: Pid, noted: &Group) -> bool {
    let start: Option<u64> = field(pid, 19).and_then(|ticks| ticks.parse().ok());
    start.and_then(|start| start.checked_sub(noted.since)).is_some_and(|after| after <= noted.span.into())
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
fn ourselves() -> HashSet<Pid> {
    let mut line = HashSet::new();
    let mut next = Some(rustix::process::getpid());
    while let Some(pid) = next.filter(|pid| line.insert(*pid)) {
        next = field(pid, 1).and_then(|parent| Pid::from_raw(parent.parse().ok()?));
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
                waiting_for(pid);
            }
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) | Err(_) => return,
        }
    }
}

fn waiting_for(pid: Pid) {
    say(format!("waiting for process {} of the run before, which was killed", pid.as_raw_nonzero()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_later_process_of_the_number_is_another_one() {
        let since = ticks();
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let span = u32::try_from(ticks() - since).unwrap();
        let (pid, pgid) = (Pid::from_child(&child), 1);
        assert!(is_started_in(pid, &Group { pgid, since, span }));
        // Noted of another one, which has started before or after it.
        assert!(!is_started_in(pid, &Group { pgid, since: since - 2, span: 1 }));
        assert!(!is_started_in(pid, &Group { pgid, since: since + u64::from(span) + 1, span }));
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(!is_started_in(pid, &Group { pgid, since, span }));
    }
}
