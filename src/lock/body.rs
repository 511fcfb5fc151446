//! What a lock is but for its types: taking it and giving it back, with what its thread is to know of that.

use super::error::LockError;
use super::guard::Tag;
use super::held::{self, Entry};
use super::level::{self, LevelInfo};
use super::stats::{Book, End};
use super::times::More;
use super::wait::LockWait;
use crate::core::lockline::{Left, RawLock};
use crate::core::lockword::{Miss, Mode};
use crate::core::waitlist::Waiter;
use crate::job::Priority;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{OnceLock, Parker, with_parker};
use crate::time::{Clock, Deadline, Timestamp};
use std::cell::Cell;
use std::fmt;
use std::panic::{Location, RefUnwindSafe};

/// What does not depend on the types.
///
/// Its end, the count and the place, lies beside the value, which each holder needs with them. The word lies before all that
/// is rare, in another line of the cache: see [`RawLock`].
#[repr(C)]
pub(super) struct Body {
    /// What was asked for beyond a plain lock.
    pub(super) more: Option<Box<More>>,
    pub(super) raw: RawLock,
    /// How it has been waited for: made when somebody has slept for it.
    pub(super) book: OnceLock<Box<Book>>,
    /// How often it was held exclusively. Written by who holds it so.
    pub(super) exclusive: AtomicU64,
    /// Of who has no entry in its thread's stack for it.
    place: Place,
}

/// Where a lock was taken, by who holds it upgradable or exclusively.
struct Place(Cell<&'static Location<'static>>);

// SAFETY: only such a holder reads or writes it, and only of its own hold, which it knows by its number in the word: so one
// thread at a time, each after the ones before it by the Release of their leave and the Acquire of its entry.
unsafe impl Sync for Place {}

/// A panic finds it written or not.
impl RefUnwindSafe for Place {}

const _: () = {
    const fn is_shared_by_threads<T: Send + Sync + RefUnwindSafe>() {}
    is_shared_by_threads::<Body>();
};

/// How a lock is asked for, without owning it.
#[derive(Clone, Copy)]
pub(super) enum Ask<'a> {
    /// As long as it takes.
    Wait,
    Now,
    By(Deadline),
    With(&'a LockWait),
}

impl Ask<'_> {
    fn class(self) -> usize {
        match self {
            Ask::With(wait) => wait.priority.class(),
            _ => Priority::Normal.class(),
        }
    }
}

/// What is wanted of a lock, and by whom.
#[derive(Clone, Copy)]
pub(super) struct Want<'a> {
    pub(super) mode: Mode,
    pub(super) level: Option<&'static LevelInfo>,
    /// The depth of the thread's stack from which on it holds those that it takes with this one.
    pub(super) peers: usize,
    pub(super) ask: Ask<'a>,
    pub(super) place: &'static Location<'static>,
}

impl Want<'_> {
    /// What stands in the thread's stack of it.
    fn entry(&self, body: &Body) -> Entry {
        Entry::new(body.id(), self.mode, self.level, self.place)
    }

    /// Whether it stands there, if it is asked for by this number.
    #[inline]
    fn is_entered(&self, owner: u32) -> bool {
        self.mode == Mode::Shared || self.level.is_some() || owner == 0
    }
}

/// Sleeps until then at the most. False: it gives up.
pub(super) type Park<'a> = dyn FnMut(&Parker, Option<u64>) -> bool + 'a;

pub(super) fn unpark(waiter: &Waiter) {
    if let Waiter::Thread(thread) = waiter {
        thread.unpark();
    }
}

impl Body {
    pub(super) const fn new() -> Self {
        let (exclusive, place) = (AtomicU64::new(0), Place(Cell::new(Location::caller())));
        Body { raw: RawLock::new(), exclusive, place, more: None, book: OnceLock::new() }
    }

    pub(super) fn id(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    fn with_clock<R>(&self, f: impl FnOnce(&Clock) -> R) -> R {
        match &self.more {
            Some(more) => f(&more.clock),
            None => f(&Clock::os()),
        }
    }

    pub(super) fn more(&mut self) -> &mut More {
        self.more.get_or_insert_with(|| Box::new(More::new()))
    }

    #[cold]
    pub(super) fn now(&self) -> u64 {
        self.with_clock(|clock| clock.now().as_nanos())
    }

    /// Takes it. The tag is what the hold gives back with.
    ///
    /// Who shares it, and who has it by its level, is entered in the thread's stack. Others are not, if the thread has a number:
    /// in the order of levels they do not count, and that it is this thread which holds the lock is said by the word.
    ///
    /// What is to be done most often stands where the lock is taken, and calls nothing; all else is in `enter_with_care`.
    #[inline(always)] // what is left of it where mode and level are known is little
    pub(super) fn enter(&self, want: Want<'_>) -> Result<Tag, LockError> {
        let mode = want.mode;
        let owner = if mode == Mode::Shared { 0 } else { held::number_if_any() };
        let is_plain = self.more.is_none() && (mode == Mode::Shared || owner != 0);
        let enters = want.is_entered(owner);
        if !is_plain || enters && !held::is_empty() {
            return self.enter_with_care(want);
        }
        if enters {
            // A processor ends what it has begun before it locks a line: there is less of that between the two times that
            // a lock costs if the stack is written before the first, and after the second.
            held::push_first(want.entry(self));
        }
        if !self.raw.word().try_enter_at_once(mode, owner) {
            if enters {
                held::pop_first(self.id(), mode);
            }
            // Nothing that it holds could be out of order: it has no level, or holds nothing.
            return self.enter_after_miss(want, owner);
        }
        if mode == Mode::Exclusive {
            self.count();
        }
        if enters {
            Ok(Tag::new(owner).entered(true))
        } else {
            self.place.0.set(want.place);
            Ok(Tag::new(owner))
        }
    }

    #[inline(never)]
    fn enter_with_care(&self, want: Want<'_>) -> Result<Tag, LockError> {
        if let Some(level) = want.level
            && !held::is_empty()
        {
            self.check(level, want)?;
        }
        let owner = if want.mode == Mode::Shared { 0 } else { held::number() };
        if self.raw.word().try_enter_at_once(want.mode, owner) {
            Ok(self.entered(want, owner))
        } else {
            self.enter_after_miss(want, owner)
        }
    }

    #[inline(never)]
    fn enter_after_miss(&self, want: Want<'_>, owner: u32) -> Result<Tag, LockError> {
        self.enter_slowly(want, owner)?;
        Ok(self.entered(want, owner))
    }

    /// What is to be written down by who has entered.
    fn entered(&self, want: Want<'_>, owner: u32) -> Tag {
        if want.mode == Mode::Exclusive {
            self.count();
        }
        let tag = if want.is_entered(owner) {
            Tag::new(owner).entered(held::push(want.entry(self)))
        } else {
            self.place.0.set(want.place);
            Tag::new(owner)
        };
        let timed = self.more.as_ref().is_some_and(|more| more.begin(self.id()));
        if timed { tag.timed() } else { tag }
    }

    #[inline(never)]
    fn check(&self, level: &'static LevelInfo, want: Want<'_>) -> Result<(), LockError> {
        let Want { mode, peers, place, .. } = want;
        let Some(held) = level::offender(level, peers) else { return Ok(()) };
        let held = match held::find(self.id(), Some(level)) {
            None => held,
            // Once more the same lock does not wait, so it is no matter of order. But for the right to upgrade, who shares the
            // lock may have to wait.
            Some(own) if mode == Mode::Upgradable && own.shares() => {
                match level::other_offender(self.id(), level, peers, 0) {
                    None => return Ok(()),
                    Some(held) => held,
                }
            }
            Some(_) => return Ok(()),
        };
        Ok(level::violated(held, level, place)?)
    }

    #[inline]
    fn count(&self) {
        // Relaxed: only who holds the lock exclusively writes it.
        self.exclusive.store(self.exclusive.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    #[cold]
    fn enter_slowly(&self, Want { mode, level, ask, .. }: Want<'_>, owner: u32) -> Result<(), LockError> {
        let (word, now) = (self.raw.word(), matches!(ask, Ask::Now));
        let entered = match now {
            true => word.try_enter(mode, ask.class(), owner),
            false => word.try_enter_again(mode, ask.class(), owner),
        };
        let Err(miss) = entered else { return Ok(()) };
        if let Some((held, place)) = self.own(level) {
            let again = mode == Mode::Shared && held != Mode::Exclusive;
            match if again { self.raw.word().share_again() } else { Err(Miss::Busy) } {
                Ok(()) => return Ok(()),
                Err(Miss::Full) => return Err(LockError::TooManyReaders),
                // The entry is what a forgotten guard left behind.
                Err(Miss::Busy) if again => {}
                Err(Miss::Busy) => return Err(LockError::Recursive { held, wanted: mode, place }),
            }
        }
        if miss == Miss::Full {
            return Err(LockError::TooManyReaders);
        }
        if now {
            return Err(LockError::WouldBlock);
        }
        match self.raw.enter_soon(mode, ask.class(), owner) {
            Ok(true) => Ok(()),
            Ok(false) => self.wait(ask, |parker, now, park| {
                self.raw.wait_in_line(mode, ask.class(), owner, now, (parker, park), &mut unpark)
            }),
            Err(_) => Err(LockError::TooManyReaders),
        }
    }

    /// In what way this thread holds it, and where it was taken so; if it shares it, it does no more.
    fn own(&self, level: Option<&'static LevelInfo>) -> Option<(Mode, &'static Location<'static>)> {
        let word = self.raw.word().look();
        let alone = if word.is_exclusive() { Mode::Exclusive } else { Mode::Upgradable };
        let entry = held::find(self.id(), level);
        match entry {
            Some(entry) if !entry.shares() => Some((alone, entry.place)),
            // No other thread has this number, so it is not by chance that the word has it, and it does not change.
            _ if level.is_none() && word.owner() != 0 && word.owner() == held::number() => {
                Some((alone, self.place.0.get()))
            }
            _ => entry.map(|entry| (Mode::Shared, entry.place)),
        }
    }

    /// Sleeps by `ask` in what `enter` queues for.
    fn wait(
        &self,
        ask: Ask<'_>,
        enter: impl FnOnce(&Parker, &dyn Fn() -> u64, &mut Park<'_>) -> Result<(), Left>,
    ) -> Result<(), LockError> {
        let (deadline, cancel) = match ask {
            Ask::By(deadline) => (Some(deadline), None),
            Ask::With(wait) => (wait.deadline, wait.cancel.as_ref()),
            Ask::Wait | Ask::Now => (None, None),
        };
        self.with_clock(|clock| {
            let until = deadline.and_then(|deadline| deadline.on(clock));
            let began = clock.now();
            let (mut cancelled, mut slept) = (false, false);
            let outcome = with_parker(|parker| {
                // Entered before the first look at the cancel, so that one of the two sees the other.
                let _cancel = cancel.map(|cancel| cancel.enter(parker.unparker()));
                enter(parker, &|| clock.now().as_nanos(), &mut |parker, rise| {
                    slept = true;
                    cancelled = cancel.is_some_and(|cancel| cancel.is_cancelled());
                    let wake_at = [until, rise.map(Timestamp::from_nanos)].into_iter().flatten().min();
                    !cancelled
                        && (clock.park(parker, wake_at) || until.is_none_or(|until| clock.now() < until))
                })
            });
            let waited = clock.now() - began;
            let (end, ended) = match outcome {
                Ok(()) => (End::Entered, Ok(())),
                Err(Left::Full) => return Err(LockError::TooManyReaders),
                Err(Left::GaveUp) if cancelled => (End::Cancelled, Err(LockError::Cancelled)),
                Err(Left::GaveUp) => (End::TimedOut, Err(LockError::TimedOut { waited })),
            };
            if slept {
                self.book.get_or_init(Box::default).waited(waited, end);
            }
            ended
        })
    }

    /// From upgradable to exclusive.
    #[inline]
    pub(super) fn upgrade(
        &self,
        tag: Tag,
        ask: Ask<'_>,
        place: &'static Location<'static>,
    ) -> Result<(), LockError> {
        if tag.is_entered() && !held::is_last(self.id()) {
            self.check_upgrade(place)?;
        }
        if !self.raw.word().try_upgrade_at_once(tag.owner()) {
            self.upgrade_slowly(ask)?;
        }
        self.count();
        Ok(())
    }

    /// It may wait for who shares the lock, and that one for what this thread has taken since.
    #[cold]
    fn check_upgrade(&self, place: &'static Location<'static>) -> Result<(), LockError> {
        if let Some((depth, own)) = held::find_own(self.id())
            && let Some(level) = own.level
            && let Some(held) = level::other_offender(self.id(), level, level::ALONE, depth)
        {
            level::violated(held, level, place)?;
        }
        Ok(())
    }

    #[cold]
    fn upgrade_slowly(&self, ask: Ask<'_>) -> Result<(), LockError> {
        if self.raw.word().try_upgrade() {
            return Ok(());
        }
        if let Some(entry) = held::find_as(self.id(), Mode::Shared) {
            let (held, wanted) = (Mode::Shared, Mode::Exclusive);
            return Err(LockError::Recursive { held, wanted, place: entry.place });
        }
        if matches!(ask, Ask::Now) {
            return Err(LockError::WouldBlock);
        }
        self.wait(ask, |parker, now, park| self.raw.upgrade(now, parker, park, &mut unpark))
    }

    /// From this mode to a weaker one. The tag to give back with from then on.
    #[inline]
    pub(super) fn weaken(&self, from: Mode, to: Mode, mut tag: Tag) -> Tag {
        if to == Mode::Shared {
            if tag.is_entered() {
                held::share(self.id());
            } else {
                // What has no entry has no level.
                tag = tag.entered(held::push(Entry::new(self.id(), to, None, self.place.0.get())));
            }
        }
        self.raw.weaken(from, to, || self.now(), &mut unpark);
        tag
    }

    /// Gives it back. As in `enter`, what is rare is elsewhere.
    #[inline(always)]
    pub(super) fn leave(&self, mode: Mode, tag: Tag) {
        if !tag.is_plain() {
            return self.leave_with_care(mode, tag);
        }
        if tag.is_first() {
            held::pop_first(self.id(), mode);
        }
        match mode {
            Mode::Shared => self.raw.leave(mode, false, || self.now(), &mut unpark),
            Mode::Upgradable => self.raw.leave_upgradable(tag.owner(), || self.now(), &mut unpark),
            Mode::Exclusive if self.raw.word().try_leave_at_once(tag.owner()) => {}
            Mode::Exclusive => self.leave_slowly(mode, false),
        }
    }

    #[inline(never)]
    fn leave_with_care(&self, mode: Mode, tag: Tag) {
        let poison = tag.poisons() && std::thread::panicking();
        if tag.is_timed()
            && let Some(more) = &self.more
        {
            more.end(self.id());
        }
        if tag.is_first() {
            held::pop_first(self.id(), mode);
        } else if tag.is_entered() {
            held::pop(self.id(), mode);
        }
        if mode != Mode::Exclusive || poison || !self.raw.word().try_leave_at_once(tag.owner()) {
            self.leave_slowly(mode, poison);
        }
    }

    #[cold]
    fn leave_slowly(&self, mode: Mode, poison: bool) {
        self.raw.leave(mode, poison, || self.now(), &mut unpark);
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.raw.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::super::RwLock;
    use super::*;
    use crate::sync::thread;

    /// A thread without a number, which no word can name, is told all the same what it holds.
    #[test]
    fn a_thread_without_a_number_knows_what_it_holds() {
        let alone = || {
            held::NUMBERLESS.set(true);
            let (lock, other) = (RwLock::new(0), RwLock::new(0));
            let recursive = |held: Mode| {
                for error in [lock.write().map(drop).unwrap_err(), lock.upgradable().map(drop).unwrap_err()] {
                    assert!(matches!(error, LockError::Recursive { held: h, .. } if h == held), "{error}");
                }
            };
            let write = lock.write().unwrap();
            let second = other.write().unwrap();
            recursive(Mode::Exclusive);
            assert!(lock.read().is_err());
            let look = write.downgrade_to_upgradable();
            recursive(Mode::Upgradable);
            let read = look.upgrade().unwrap().downgrade();
            assert!(matches!(lock.write(), Err(LockError::Recursive { held: Mode::Shared, .. })));
            drop((second, lock.read().unwrap(), read));
            assert!(held::is_empty() && lock.mode().is_none() && other.mode().is_none());
        };
        thread::scope(|scope| scope.spawn(alone).join().unwrap());
    }
}
