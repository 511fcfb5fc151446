//! The entries of a lane: what waits in it, and the ways in and out.
//!
//! An *entry* is a chunk of items, or one item that came back. Fresh entries wait in the lane's crossbeam channel,
//! which only [`fill`](Body::fill) fills; everything that comes back (a retry, the rest of a chunk that was taken
//! back, an item that the gate held up) waits in `returned`, which is looked at first; what waits for its next
//! attempt's time waits in `backoff`, holds nothing, and is not counted yet. The lane's word counts the other two: an
//! entry is inserted, then added; whoever removes one takes a ticket first, so a ticket holder always finds an entry,
//! in one of the two, perhaps after looking again.
//!
//! The queues are short latches; the supervisor passes through them and never waits for a lane.

use super::body::Body;
use super::lane::{Ending, Shell};
use super::shared::Shared;
use super::verdict::History;
use super::work::Work;
use super::worker::drop_quietly;
use crate::policy;
use crate::sync::Arc;
use crate::sync::atomic::Ordering;
use crate::time::Timestamp;
use crossbeam::channel::{Sender, TryRecvError};
use std::cmp::Reverse;
use std::ops::Range;

/// A chunk, or an item that came back.
pub(super) struct Entry<C> {
    pub(super) chunk: C,
    pub(super) range: Range<u32>,
    pub(super) history: Option<Box<History>>,
}

/// An entry whose time has not come.
pub(super) struct Later<C> {
    pub(super) due: Timestamp,
    pub(super) entry: Entry<C>,
}

impl<C> PartialEq for Later<C> {
    fn eq(&self, other: &Self) -> bool {
        self.due == other.due
    }
}
impl<C> Eq for Later<C> {}
impl<C> PartialOrd for Later<C> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<C> Ord for Later<C> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.due.cmp(&other.due)
    }
}

impl<W: Work> Body<W> {
    /// How many items the next chunk should have.
    pub(super) fn chunk_size(&self, shell: &Shell) -> usize {
        let fair = self.work.unclaimed().div_ceil(self.workers * 2).max(1);
        {
            let core = &shell.core;
            let next = policy::chunk_size::next(
                core.last_chunk.load(Ordering::Relaxed),
                core.predicted.load(Ordering::Relaxed),
            );
            core.last_chunk.store(next, Ordering::Relaxed);
            (next as usize).min(fair)
        }
    }

    /// The entry that belongs to a ticket. `None`: a direct claim found nothing left.
    pub(super) fn pop(&self, shared: &Shared, shell: &Arc<Shell>) -> Option<Entry<W::Chunk>> {
        loop {
            if let Some(entry) = self.returned.lock().pop_front() {
                return Some(entry);
            }
            match &self.fresh {
                Some((_, fresh)) => match fresh.try_recv() {
                    Ok(entry) => return Some(entry),
                    // The ticket says there is one: it went into `returned` after we looked there.
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => crate::sync::hint::spin_loop(),
                },
                None => {
                    let (chunk, len, more) = self.work.claim(self.chunk_size(shell))?;
                    if more {
                        shared.add(shell, 1);
                    }
                    return Some(Entry { chunk, range: 0..len, history: None });
                }
            }
        }
    }

    /// Back into the lane, in front.
    pub(super) fn give_back(
        &self,
        shared: &Shared,
        shell: &Arc<Shell>,
        entries: impl IntoIterator<Item = Entry<W::Chunk>>,
    ) {
        let mut count = 0;
        {
            let mut returned = self.returned.lock();
            for entry in entries {
                returned.push_front(entry);
                count += 1;
            }
        }
        if count > 0 {
            shared.add(shell, count);
            if shell.core.may_have_missed_a_stop() {
                // The stop may have cleared the lane just before these came back.
                self.drop_all(shared, shell);
            }
        }
    }

    /// Fills the lane's channel from the store.
    pub(super) fn fill(&self, shared: &Shared, shell: &Arc<Shell>) {
        let Some((fresh, _)) = &self.fresh else { return };
        let bound = fresh.capacity().unwrap_or(usize::MAX);
        // Below half: a refill is worth its lock then.
        while fresh.len() <= bound / 2 {
            {
                let _one = self.refilling.lock();
                while !fresh.is_full() && !shell.core.is_stopping() {
                    let Some((chunk, len, more)) = self.work.claim(self.chunk_size(shell)) else { return };
                    self.enter_fresh(shared, shell, fresh, chunk, len);
                    if !more {
                        break;
                    }
                }
            }
            if self.work.unclaimed() == 0 || shell.core.is_stopping() || fresh.is_full() {
                return;
            }
        }
    }

    fn enter_fresh(
        &self,
        shared: &Shared,
        shell: &Arc<Shell>,
        fresh: &Sender<Entry<W::Chunk>>,
        chunk: W::Chunk,
        len: u32,
    ) {
        let history = self.work.past(&chunk).map(|past| Box::new(History::of(past)));
        if let Err(full) = fresh.try_send(Entry { chunk, range: 0..len, history }) {
            // Only who holds the latch of refilling sends, into a channel with room.
            self.returned.lock().push_back(full.into_inner());
        }
        shared.add(shell, 1);
    }

    /// Claims one chunk if the channel is empty: the worker that takes it fills the rest. For a thread that has better
    /// things to do.
    pub(super) fn fill_one(&self, shared: &Shared, shell: &Arc<Shell>) {
        let Some((fresh, _)) = &self.fresh else { return };
        let _one = self.refilling.lock();
        if fresh.is_empty()
            && !shell.core.is_stopping()
            && let Some((chunk, len, _)) = self.work.claim(self.chunk_size(shell))
        {
            self.enter_fresh(shared, shell, fresh, chunk, len);
        }
    }

    /// Moves the items whose backoff is over back into the lane.
    pub(super) fn take_due(&self, shared: &Shared, shell: &Arc<Shell>, now: Timestamp) {
        let mut count = 0;
        let next = {
            let mut backoff = self.backoff.lock();
            let mut returned = self.returned.lock();
            while backoff.peek().is_some_and(|Reverse(later)| later.due <= now) {
                if let Some(Reverse(later)) = backoff.pop() {
                    returned.push_back(later.entry);
                    count += 1;
                }
            }
            backoff.peek().map(|Reverse(later)| later.due)
        };
        shell.core.counts.waiting_retry.sub(u64::from(count));
        if count > 0 {
            shared.add(shell, count);
            if shell.core.may_have_missed_a_stop() {
                // The stop may have cleared the lane while these were on their way.
                self.drop_all(shared, shell);
            }
        }
        if let Some(next) = next {
            shared.schedule(next, shell);
        }
    }

    /// The lane was cancelled: settles everything that waits.
    pub(super) fn drop_all(&self, shared: &Shared, shell: &Arc<Shell>) {
        let core = &shell.core;
        let ending = core.steer.lock().ending.clone().unwrap_or(Ending::Cancelled);
        core.gate.withdraw(shared, core);
        let mut gone = 0u64;
        // Nothing is claimed any more: `refill` stops at a cancelled lane, and holds its latch while it looks.
        let unclaimed = {
            let _one = self.refilling.lock();
            let (count, unclaimed) = self.work.drop_unclaimed(&ending);
            gone += count as u64;
            unclaimed
        };
        let waiting = std::mem::take(&mut *self.backoff.lock());
        core.counts.waiting_retry.sub(waiting.len() as u64);
        let mut dropped = Vec::new();
        for Reverse(later) in waiting {
            self.work.cancelled(&later.entry.chunk, later.entry.range.clone(), &ending);
            gone += later.entry.range.len() as u64;
            dropped.push(later.entry);
        }
        for seat in &self.seats {
            self.take_back_seat(shared, shell, seat, u64::MAX);
        }
        // A remover takes its ticket first, here too.
        while core.word.take_any() {
            let entry =
                if self.fresh.is_some() { self.pop(shared, shell) } else { self.returned.lock().pop_front() };
            if let Some(entry) = entry {
                gone += entry.range.len() as u64;
                self.work.cancelled(&entry.chunk, entry.range.clone(), &ending);
                dropped.push(entry);
            }
        }
        core.counts.cancelled.add(gone);
        for id in 0..self.seats.len() {
            self.work.publish(id);
        }
        shared.settled(shell, gone, 0);
        // Items of the user's, once all is counted.
        if gone > 0 {
            drop_quietly((dropped, unclaimed));
        }
    }
}
