//! After a panic of the engine's own, a bug: the chunk in hand is cleared up, so that its lane ends all the same.
//!
//! A closure's panic is caught where it is called, and everything else of the user's that runs on a worker is caught where
//! it runs. What unwinds out of the loop in `body` is therefore ours, or a `Drop` of the user's at the end of a chunk.
//! One item ends with it, dead, and is not tried again: what broke the engine once would do so each time. The rest
//! of the chunk goes back to the lane, and the worker's thread is replaced. Since each panic ends an item, a bug that
//! strikes every time ends the lane rather than going round in it.
//!
//! Which item that is stands in the worker's [`InHand`]; what was settled before and not told stands in the seat's tally.

use super::body::Body;
use super::entries::Entry;
use super::lane::Shell;
use super::shared::Shared;
use super::work::{Ended, Work};
use super::worker::{Fate, Place, WorkerState, caught, drop_quietly};
use crate::sync::Arc;
use std::time::Duration;

/// Where a worker is in its chunk.
///
/// | | whose is the item | a panic here |
/// |---|---|---|
/// | `First` | none was taken yet | ends the first that is left |
/// | `Item` | the worker's | ends it |
/// | `Settled` | the store's; the tally has not counted it | counts it |
/// | `Between` | the store's or the lane's | ends none |
/// | `Lost` | the supervisor's, with the seat and its tally | is none of the worker's business |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum InHand {
    First,
    Item(u32),
    Settled,
    #[default]
    Between,
    Lost,
}

impl<W: Work> Body<W> {
    /// Clears up. `entry`: the panic came before the chunk was in hand.
    #[cold]
    pub(super) fn recover(
        &self,
        shared: &Arc<Shared>,
        shell: &Arc<Shell>,
        me: &mut WorkerState,
        entry: Option<Entry<W::Chunk>>,
        (message, place): (String, Option<Place>),
    ) -> Fate {
        let id = me.slot.id;
        let in_hand = std::mem::take(&mut me.in_hand);
        if in_hand == InHand::Lost {
            shared.gate.returned(&me.slot, &mut me.held);
            return Fate::Abandoned;
        }
        me.slot.leave_chunk();
        me.held.release(shared);
        let seat = &self.seats[id];
        // What is counted later is not counted here.
        let counted = u64::from(!self.work.settles_later());
        let (found, settled, done) = match entry {
            Some(entry) => (Some((entry, InHand::First)), 0, 0),
            None => {
                // The tally first: what is told once must not be told again if this panics, too.
                let (settled, done) = seat.tally.read();
                seat.tally.note(0, 0);
                let left = seat.seat.lose();
                let entry =
                    left.map(|(hand, range)| Entry { chunk: hand.chunk, range, history: hand.history });
                if entry.is_some() {
                    self.work.off_hand(id);
                }
                let last = if in_hand == InHand::Settled { counted } else { 0 };
                (entry.map(|entry| (entry, in_hand)), settled + last, done)
            }
        };
        let mut ended = 0;
        if let Some((mut entry, in_hand)) = found {
            let victim = match in_hand {
                InHand::First => entry.range.next(),
                InHand::Item(at) => Some(at),
                _ => None,
            };
            if let Some(at) = victim {
                self.end_broken(shared, shell, me, &mut entry, at, message, place);
                ended = 1;
            }
            if entry.range.is_empty() {
                drop_quietly(entry);
            } else {
                self.give_back(shared, shell, [entry]);
            }
        }
        if ended > 0 {
            shared.check_halt(shell);
        }
        self.work.publish(id);
        shared.settled(shell, settled + ended * counted, done);
        Fate::Replace
    }

    /// Ends an item of this entry with what broke.
    #[allow(clippy::too_many_arguments)]
    fn end_broken(
        &self,
        shared: &Shared,
        shell: &Shell,
        me: &WorkerState,
        entry: &mut Entry<W::Chunk>,
        at: u32,
        message: String,
        place: Option<Place>,
    ) {
        let dead = entry.history.take().unwrap_or_default().broken(message, place);
        // Nothing that may have been what broke is asked again without care.
        let _ = caught(|| shared.dead(shell, self.work.seq(&entry.chunk, at), &dead));
        let attempts = dead.attempts();
        let ended = Ended { attempts, run_time: Duration::ZERO, queued_time: Duration::ZERO };
        self.work.keep(me.slot.id, &entry.chunk, at, Err(dead), ended);
        shell.core.counts.dead.add(1);
        me.slot.counters.panicked.add(1);
        me.slot.counters.failed.add(1);
    }
}
