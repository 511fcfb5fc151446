//! Ends a process group: TERM to all, time to tidy up, KILL to what is left.
//!
//! Everything here runs in the thread that will reap the group's leader, before it does: as long as the leader is
//! not reaped, not even when it is dead, its process id names this group and no other.

use super::controls::Switch;
use crate::time::{Clock, Timestamp};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use std::fs;
use std::os::fd::OwnedFd;

/// Asks the group to end. CONT lets its stopped members hear it.
pub(crate) fn terminate(group: Pid) {
    let _ = kill_process_group(group, Signal::TERM);
    let _ = kill_process_group(group, Signal::CONT);
}

pub(crate) fn kill(group: Pid) {
    let _ = kill_process_group(group, Signal::KILL);
}

/// After the leader of a terminated group has ended: waits for its other members until the time is `until` or
/// `hurry` fires, then kills them.
pub(crate) fn finish(group: Pid, clock: &Clock, until: Option<Timestamp>, hurry: &Switch) {
    while let Some(member) = other_member(group) {
        let Some(left) = until.map(|t| t - clock.now()).filter(|left| !left.is_zero()) else { break };
        let mut fds = [PollFd::new(hurry, PollFlags::IN), PollFd::new(&member, PollFlags::IN)];
        let left = Timespec::try_from(left).ok();
        let woken = poll(&mut fds, left.as_ref());
        if woken.is_ok() && !fds[0].revents().is_empty() {
            break;
        }
    }
    kill(group);
}

/// Some member of the group that lives, without its leader.
///
/// A process can be waited for, a group cannot; so one member after the other is. This reads all of /proc, once per
/// member that outlives its terminated leader.
fn other_member(group: Pid) -> Option<OwnedFd> {
    let pids = fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter_map(Pid::from_raw).filter(|pid| *pid != group && is_live_member(*pid, group)).find_map(
        |pid| {
            let fd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
            // The id may have gone to another process between the two: what is a member now is the one that is held.
            is_live_member(pid, group).then_some(fd)
        },
    )
}

fn is_live_member(pid: Pid, group: Pid) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())) else { return false };
    // pid (name) state ppid pgrp …; the name may hold anything.
    let mut fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_ascii_whitespace();
    let (state, _parent, its_group) = (fields.next(), fields.next(), fields.next());
    !matches!(state, None | Some("Z" | "X"))
        && its_group.and_then(|g| g.parse().ok()) == Some(group.as_raw_nonzero().get())
}
