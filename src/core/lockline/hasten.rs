//! Who is held up by the order of the line alone is let past it: for the detector (`waitgraph`), that finds it out.

use super::*;

impl RawLock {
    /// Lets who waits as this owner past all others, now or as soon as the holders leave it room; who wants to share the lock
    /// also past an upgrade that waits for the readers, of whom it is one more. For who is held up by the order of the line
    /// alone, and holds the others up in turn.
    pub(crate) fn hasten(&self, owner: u32, now: u64, wake: &mut impl FnMut(&Waiter)) -> Hastened {
        let mut line = self.latch(now);
        let mut found = None;
        line.lines.each(|seat| {
            if found.is_none() && seat.with(|e| e.want.1 == owner) {
                found = Some(seat);
            }
            found.is_none()
        });
        let Some(seat) = found else { return Hastened::Nobody };
        if self.word.look().drains()
            && seat.with(|e| e.want.0 == Mode::Shared)
            && (armed!(mutant = "lockline_hasten_uncounted") || self.word.share_again().is_ok())
        {
            let mut wakes = Wakes::default();
            line.tally.handed += 1;
            line.told.take_if(|told| *told == seat);
            wakes.push(self.take_out(&mut line, seat, NodeState::Granted));
            self.settle_with(line, false, None, wakes, wake);
            return Hastened::Entered;
        }
        line.lines.put_first(seat);
        if armed!(mutant = "lockline_hasten_silent") {
            self.tell_word(&line);
            return Hastened::First;
        }
        self.settle(line, false, None, wake);
        Hastened::First
    }

    /// The threads that wait in line, in the order in which they would be served now.
    pub(crate) fn queue(&self, now: u64) -> Vec<Unparker> {
        let line = self.latch(now);
        line.lines.threads(line.now)
    }
}
