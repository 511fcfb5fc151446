//! The claim pipeline of one batch of a journal: what is to be claimed, what is on its way, what may be started.
//!
//! Blocking, one short latch, held over no call but to the [`Turns`] that lie below it. A row may be started only once
//! its claim is written, and a claim is written by somebody else, later: so claims are asked for ahead, a page at a
//! time, while the rows of the page before are started. (The idea is prefetch with a low-water mark, as a message
//! broker's consumer has it.) Every row that has not ended is in exactly one place:
//!
//! | where | what it is | leaves by |
//! |---|---|---|
//! | `unclaimed`, a number | nobody has claimed it | the ask on its way, in the order of submission |
//! | `later`, then `due` | waits for its next attempt's time; the time has come | the ask on its way, by name |
//! | `suspects` | was in hand when a process died | the ask on its way, by name, when it is its [`Turn`] |
//! | the ask on its way | is being claimed, those by name counted | [`claimed`](Claims::claimed) |
//! | `ready` | its claim is written | [`take`](Claims::take) |
//! | with the taker, counted in [`Side::out`] | its outcome is not written | [`landed`](Claims::landed), or [`put_off`](Claims::put_off) back to `later` |
//!
//! [`stop`](Claims::stop) empties all but the last, and tells how many there were. Those in order stay in `unclaimed`
//! until their claim is there, and those by name are counted with the ask: so a stop counts what is on its way as well,
//! and what arrives after it is nobody's. Each row is counted once, by whoever takes it out of its place.
//!
//! Why nothing is left lying (the invariant that the model checks): *at rest*, that is, with no ask on its way and no
//! call under way, one of these holds.
//! 1. Nothing is to be claimed, or all is stopped.
//! 2. More than half a page is ready. Whoever takes the next looks again.
//! 3. As much is out and ready as may be. With nothing ready, something is out: whoever lands it looks again, after its
//!    subtraction. Of two who land at a time the second to get the latch sees both.
//! 4. It is not this side's turn. Who was refused looks again: see [`Turns`].
//!
//! `take`, `due` and `landed` look, under the latch, whether there is a reason to ask, and the ask is handed to the
//! caller, who sends it with no latch held. One is on its way at a time, so their order is no matter. Whoever brings
//! something (`claimed`, `arrived`, `put_off`, `suspect`, a larger `bound`) has the batch looked at after it: a kick, which
//! comes back as `take` or `due`.
//!
//! How large a page is follows from how often its rows came too late: it doubles when somebody found nothing. How much
//! may be out follows from how large the rows are: see [`bound`](Claims::bound).
//!
//! What is allocated: the lines, which grow to what waits by name and two pages, and the names of an ask.

use crate::core::turns::{Side, Sides, Turn, Turns};
use crate::sync::{Mutex, armed};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::mem;

/// How a row has come to be claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// In the order of submission.
    Plain,
    /// By name: it has something behind it.
    Named,
    /// By name, and it runs alone.
    Suspect,
}

/// What is to be claimed: to be sent by who gets it. Its answer comes back by [`Claims::claimed`], unless nothing can
/// be claimed any more ([`Claims::over`]).
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// Rows with something behind them.
    pub names: Vec<i64>,
    /// It is one suspect.
    pub suspect: bool,
    /// So many of the others.
    pub max: usize,
}

/// What a call leaves to do.
#[derive(Debug, Default, PartialEq, Eq)]
#[must_use = "an ask that is not sent is never answered"]
pub enum Next {
    /// Nothing.
    #[default]
    Nothing,
    /// Send this.
    Send(Ask),
    /// Call [`Claims::take`] again soon: others have the turn, and may lose it without a word.
    LookAgain,
}

/// What is there to be taken.
#[derive(Debug, PartialEq, Eq)]
pub struct Taken {
    /// More is ready.
    pub more: bool,
}

/// Rows that will not run: what [`Claims::stop`] found, by place.
#[derive(Debug)]
pub struct Dropped<T> {
    /// To be dropped with no latch held.
    pub ready: VecDeque<(Kind, T)>,
    /// Nobody had claimed them.
    pub unclaimed: u64,
    /// They waited for their time, or for their claim after it.
    pub backing_off: usize,
    /// They waited for their turn.
    pub suspects: usize,
    /// One had its turn, and was being claimed: its turn ends when the claim arrives.
    pub asked_suspect: bool,
}

/// How large pages are, and how much may be out.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Rows of the first page.
    pub page: usize,
    /// Rows of a page at the most.
    pub most_page: usize,
    /// Rows that may be out and ready.
    pub most_out: usize,
}

/// Whom to ask for a turn.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a, S> {
    /// All of them.
    pub turns: &'a Turns,
    /// Where the others are found.
    pub sides: S,
    /// This side stands still.
    pub still: bool,
}

/// See the head of this file. `T` is a claimed row.
#[derive(Debug)]
pub struct Claims<T> {
    line: Mutex<Line<T>>,
    side: Side,
}

#[derive(Debug)]
struct Line<T> {
    unclaimed: u64,
    later: BinaryHeap<Reverse<(u64, i64)>>,
    due: VecDeque<i64>,
    suspects: VecDeque<i64>,
    ready: VecDeque<(Kind, T)>,
    /// An ask is on its way.
    asked: Option<Asked>,
    limits: Limits,
    stopped: bool,
    /// Nothing can be claimed any more.
    over: bool,
}

/// What is asked for by name.
#[derive(Debug, Clone, Copy)]
enum Asked {
    Named(usize),
    Suspect,
}

impl<T> Claims<T> {
    /// With so many rows that nobody has claimed.
    pub fn new(limits: Limits, unclaimed: u64) -> Self {
        Self {
            line: Mutex::new(Line {
                unclaimed,
                later: BinaryHeap::new(),
                due: VecDeque::new(),
                suspects: VecDeque::new(),
                ready: VecDeque::new(),
                asked: None,
                limits,
                stopped: false,
                over: false,
            }),
            side: Side::new(),
        }
    }

    /// What the batch has out.
    pub fn side(&self) -> &Side {
        &self.side
    }

    /// Takes up to `max` rows that are ready, in order; one that has something behind it comes alone. `None`: there are
    /// none, or it is others' turn.
    pub fn take<S: Sides>(
        &self,
        max: usize,
        asker: &Asker<'_, S>,
        into: &mut Vec<T>,
    ) -> (Option<Taken>, Next) {
        let mut line = self.line.lock();
        let count = match line.ready.front() {
            None => 0,
            Some((Kind::Plain, _)) => {
                line.ready.iter().take(max.max(1)).take_while(|(kind, _)| *kind == Kind::Plain).count()
            }
            Some(_) => 1,
        };
        // A suspect is out since its turn was decided.
        let is_suspect = line.ready.front().is_some_and(|(kind, _)| *kind == Kind::Suspect);
        let free = count > 0 && (is_suspect || asker.turns.hand_out(&self.side, count, &asker.sides));
        if !free {
            if count == 0 && line.unclaimed > 0 {
                // Somebody waits for what is on its way.
                line.limits.page = (line.limits.page * 2).min(line.limits.most_page);
            }
            let refused = count > 0;
            return (None, line.next(self, asker).or_look_again(refused));
        }
        into.extend(line.ready.drain(..count).map(|(_, row)| row));
        let taken = Taken { more: !line.ready.is_empty() };
        (Some(taken), line.next(self, asker))
    }

    /// The claim is written: of these rows, in this order. `max` as it was asked for; `more`: others are left to claim in
    /// the order of submission. `Err`: all was stopped meanwhile, and the rows come back.
    pub fn claimed(&self, rows: Vec<(Kind, T)>, max: usize, more: bool) -> Result<(), Vec<(Kind, T)>> {
        let in_order = rows.iter().filter(|(kind, _)| *kind == Kind::Plain).count() as u64;
        let mut line = self.line.lock();
        let asked = line.asked.take();
        debug_assert!(asked.is_some() || line.stopped, "one ask, one answer");
        if line.stopped && !armed!(mutant = "claims_arrive_after_the_stop") {
            return Err(rows);
        }
        line.unclaimed = if max > 0 && !more { 0 } else { line.unclaimed.saturating_sub(in_order) };
        for row in rows {
            match row.0 {
                Kind::Suspect => line.ready.push_front(row),
                _ => line.ready.push_back(row),
            }
        }
        Ok(())
    }

    /// Nothing can be claimed any more. The ask that may be on its way is not answered: its rows are counted by the
    /// [`stop`](Self::stop) that follows.
    pub fn over(&self) {
        self.line.lock().over = true;
    }

    /// Rows whose claim was written with their submission, and others that were submitted and are to be claimed.
    /// `Err`: all is stopped.
    pub fn arrived(&self, ready: Vec<T>, unclaimed: u64) -> Result<(), Vec<T>> {
        let mut line = self.line.lock();
        if line.stopped {
            return Err(ready);
        }
        line.ready.extend(ready.into_iter().map(|row| (Kind::Plain, row)));
        line.unclaimed += unclaimed;
        Ok(())
    }

    /// A row with something behind it, which may be claimed from then on. `Err`: all is stopped.
    pub fn put_off(&self, due: u64, name: i64) -> Result<(), ()> {
        let mut line = self.line.lock();
        if line.stopped && !armed!(mutant = "claims_put_off_after_the_stop") {
            return Err(());
        }
        line.later.push(Reverse((due, name)));
        Ok(())
    }

    /// A row that was in hand when a process died. `Err`: all is stopped.
    pub fn suspect(&self, name: i64, turns: &Turns) -> Result<(), ()> {
        let mut line = self.line.lock();
        if line.stopped {
            return Err(());
        }
        line.suspects.push_back(name);
        // Under this latch: a stop takes exactly those away that it finds.
        turns.suspect(&self.side, 1);
        Ok(())
    }

    /// Looks which rows have come due; when the next does.
    pub fn due<S: Sides>(&self, now: u64, asker: &Asker<'_, S>) -> (Option<u64>, Next) {
        let mut line = self.line.lock();
        while line.later.peek().is_some_and(|Reverse((due, _))| *due <= now) {
            if let Some(Reverse((_, name))) = line.later.pop() {
                line.due.push_back(name);
            }
        }
        let next = line.later.peek().map(|Reverse((due, _))| *due);
        (next, line.next(self, asker))
    }

    /// Rows whose outcome is written, or that were given back.
    pub fn landed<S: Sides>(&self, rows: usize, asker: &Asker<'_, S>) -> Next {
        if armed!(mutant = "claims_land_after_the_look") {
            let next = self.line.lock().next(self, asker);
            self.side.landed(rows);
            return next;
        }
        self.side.landed(rows);
        if armed!(mutant = "claims_land_silently") {
            return Next::Nothing;
        }
        self.line.lock().next(self, asker)
    }

    /// Nothing more is claimed or taken. What was found is the caller's to count; a second call finds nothing.
    pub fn stop(&self) -> Dropped<T> {
        let mut line = self.line.lock();
        line.stopped = true;
        let asked = if armed!(mutant = "claims_stop_forgets_the_ask") { None } else { line.asked.take() };
        let named = if let Some(Asked::Named(names)) = asked { names } else { 0 };
        Dropped {
            ready: mem::take(&mut line.ready),
            unclaimed: mem::take(&mut line.unclaimed),
            backing_off: mem::take(&mut line.later).len() + mem::take(&mut line.due).len() + named,
            suspects: mem::take(&mut line.suspects).len(),
            asked_suspect: matches!(asked, Some(Asked::Suspect)),
        }
    }

    /// Rows that wait to be taken, or claimed.
    pub fn waiting(&self) -> usize {
        let line = self.line.lock();
        line.ready.len() + line.unclaimed as usize + line.due.len() + line.suspects.len()
    }

    /// How many rows may be claimed with their writing, since nothing waits before them.
    pub fn room(&self) -> usize {
        let line = self.line.lock();
        let nothing_waits = line.unclaimed == 0 && line.due.is_empty() && line.suspects.is_empty();
        if nothing_waits && line.asked.is_none() && line.may_ask(self) {
            (line.limits.page * 2).saturating_sub(line.ready.len()).min(line.left_out(self))
        } else {
            0
        }
    }

    /// From now on at most so many rows may be out and ready.
    pub fn bound(&self, most_out: usize) {
        self.line.lock().limits.most_out = most_out.max(1);
    }
}

impl Next {
    fn or_look_again(self, refused: bool) -> Self {
        if self == Next::Nothing && refused { Next::LookAgain } else { self }
    }
}

impl<T> Line<T> {
    /// How many more may be out and ready.
    fn left_out(&self, claims: &Claims<T>) -> usize {
        self.limits.most_out.saturating_sub(claims.side.out() + self.ready.len())
    }

    fn may_ask(&self, claims: &Claims<T>) -> bool {
        !self.stopped && !self.over && self.left_out(claims) > 0
    }

    /// Asks for more, if there is a reason to.
    fn next<S: Sides>(&mut self, claims: &Claims<T>, asker: &Asker<'_, S>) -> Next {
        if (self.asked.is_some() && !armed!(mutant = "claims_two_on_their_way")) || self.stopped || self.over
        {
            return Next::Nothing;
        }
        if let Some(name) = self.suspects.front().copied() {
            let turn = if asker.still { Turn::Later } else { asker.turns.turn(&claims.side, &asker.sides) };
            return match turn {
                Turn::Yours => {
                    self.suspects.pop_front();
                    self.asked = Some(Asked::Suspect);
                    Next::Send(Ask { names: vec![name], suspect: true, max: 0 })
                }
                // One that stands still is looked at when it goes on.
                Turn::Later if asker.still => Next::Nothing,
                Turn::Later => Next::LookAgain,
            };
        }
        let page = self.limits.page.min(self.limits.most_out);
        let enough = self.ready.len() * 2 > page || !self.may_ask(claims);
        if enough || (self.unclaimed == 0 && self.due.is_empty()) {
            return Next::Nothing;
        }
        let room = self.limits.page.min(self.left_out(claims));
        let due = self.due.len().min(room);
        let names: Vec<i64> = self.due.drain(..due).collect();
        let max = if self.unclaimed > 0 { room - due } else { 0 };
        self.asked = Some(Asked::Named(names.len()));
        Next::Send(Ask { names, suspect: false, max })
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    /// The one batch there is.
    struct Alone<'a>(&'a Claims<u32>);

    impl Sides for Alone<'_> {
        fn any(&self, what: &mut dyn FnMut(&Side, bool) -> bool) -> bool {
            what(self.0.side(), false)
        }
    }

    fn asker<'a>(claims: &'a Claims<u32>, turns: &'a Turns) -> Asker<'a, Alone<'a>> {
        Asker { turns, sides: Alone(claims), still: false }
    }

    fn sent(next: Next) -> Ask {
        match next {
            Next::Send(ask) => ask,
            next => panic!("nothing is asked for: {next:?}"),
        }
    }

    fn plain(rows: impl IntoIterator<Item = u32>) -> Vec<(Kind, u32)> {
        rows.into_iter().map(|row| (Kind::Plain, row)).collect()
    }

    const LIMITS: Limits = Limits { page: 2, most_page: 8, most_out: 100 };

    /// The next page is asked for while the last one is started, not when it has ended; and by one call only.
    #[test]
    fn one_page_ahead() {
        let (claims, turns) = (Claims::new(LIMITS, 10), Turns::new());
        let mut taken = Vec::new();
        let (found, next) = claims.take(2, &asker(&claims, &turns), &mut taken);
        assert!(found.is_none());
        // It doubled: somebody waited.
        assert_eq!(sent(next), Ask { names: vec![], suspect: false, max: 4 });
        claims.claimed(plain(0..4), 4, true).unwrap();
        let (found, next) = claims.take(1, &asker(&claims, &turns), &mut taken);
        assert_eq!(
            (found, next),
            (Some(Taken { more: true }), Next::Nothing),
            "more than half a page is ready"
        );
        let (found, next) = claims.take(1, &asker(&claims, &turns), &mut taken);
        assert_eq!(found, Some(Taken { more: true }));
        assert_eq!(sent(next).max, 4, "half a page is left, and none has landed");
        let (_, next) = claims.take(8, &asker(&claims, &turns), &mut taken);
        assert_eq!(next, Next::Nothing, "one is on its way");
        assert_eq!((taken, claims.side().out(), claims.waiting()), (vec![0, 1, 2, 3], 4, 6));
    }

    #[test]
    fn what_is_out_is_bounded() {
        let (claims, turns) = (Claims::new(LIMITS, 10), Turns::new());
        claims.bound(2);
        let mut taken = Vec::new();
        let ask = sent(claims.take(2, &asker(&claims, &turns), &mut taken).1);
        claims.claimed(plain(0..2), ask.max, true).unwrap();
        assert_eq!(claims.take(2, &asker(&claims, &turns), &mut taken).1, Next::Nothing);
        assert_eq!(claims.room(), 0);
        assert_eq!(sent(claims.landed(1, &asker(&claims, &turns))).max, 1, "no more than may be out");
    }

    /// Those with something behind them come by name, one at a time, before the others; a suspect before them all.
    #[test]
    fn by_name() {
        let (claims, turns) = (Claims::new(LIMITS, 1), Turns::new());
        let mut taken = Vec::new();
        claims.put_off(5, 70).unwrap();
        claims.put_off(9, 71).unwrap();
        let (due, next) = claims.due(5, &asker(&claims, &turns));
        assert_eq!((due, sent(next)), (Some(9), Ask { names: vec![70], suspect: false, max: 1 }));
        claims.claimed(vec![(Kind::Named, 70), (Kind::Plain, 0)], 1, false).unwrap();
        claims.suspect(90, &turns).unwrap();
        let (found, next) = claims.take(8, &asker(&claims, &turns), &mut taken);
        assert_eq!(found, None, "it is a suspect's turn");
        assert_eq!(sent(next), Ask { names: vec![90], suspect: true, max: 0 });
        claims.claimed(vec![(Kind::Suspect, 90)], 0, false).unwrap();
        let (found, next) = claims.take(8, &asker(&claims, &turns), &mut taken);
        assert_eq!((found, next), (Some(Taken { more: true }), Next::Nothing));
        let (found, next) = claims.take(8, &asker(&claims, &turns), &mut taken);
        assert_eq!((found, next), (None, Next::LookAgain), "it has not ended");
        assert_eq!(claims.landed(1, &asker(&claims, &turns)), Next::Nothing);
        turns.done(claims.side(), 1);
        while claims.take(8, &asker(&claims, &turns), &mut taken).0.is_some() {}
        assert_eq!(taken, [90, 70, 0]);
    }

    #[test]
    fn a_stop_counts_what_is_on_its_way() {
        let (claims, turns) = (Claims::new(LIMITS, 5), Turns::new());
        claims.put_off(0, 70).unwrap();
        claims.put_off(100, 71).unwrap();
        let (_, next) = claims.due(0, &asker(&claims, &turns));
        assert_eq!(sent(next).names, [70]);
        claims.arrived(vec![8, 9], 0).unwrap();
        let dropped = claims.stop();
        assert_eq!((dropped.ready.len(), dropped.unclaimed, dropped.backing_off), (2, 5, 2));
        assert_eq!(claims.claimed(vec![(Kind::Named, 70)], 2, true).unwrap_err().len(), 1);
        assert!(claims.put_off(0, 72).is_err() && claims.arrived(vec![1], 1).is_err());
        assert!(claims.suspect(90, &turns).is_err() && !turns.are_needed());
        let dropped = claims.stop();
        assert_eq!((dropped.ready.len(), dropped.unclaimed, dropped.backing_off), (0, 0, 0));
    }
}
