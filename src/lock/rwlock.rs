//! [`RwLock`].

use super::error::LockError;
use super::guard::{HeldAs, Hold, ReadGuard, Tag, UpgradableGuard, WriteGuard};
use super::held::{self, Entry};
use super::level::{self, Level, LevelInfo, Unlevelled};
use super::levelled::Levelled;
use super::poison::{NoPoison, Poison};
use super::stats::{Book, End, LockStats};
use super::times::More;
use super::wait::LockWait;
use crate::core::lockline::{Left, RawLock};
use crate::core::lockword::{Miss, Mode};
use crate::core::waitlist::Waiter;
use crate::job::Priority;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{OnceLock, Parker, with_parker};
use crate::time::{Clock, Deadline, Timestamp};
use std::cell::{Cell, UnsafeCell};
use std::fmt;
use std::marker::PhantomData;
use std::panic::Location;

/// A lock that many may share, that one may hold with the right to [upgrade](UpgradableGuard::upgrade), or one alone.
///
/// - Without waiters, taking it is one read-modify-write of one word, and giving it back is another.
/// - Who waits does so in four classes, and rises by one for each 10 ms; within a class it is first come, first served.
///   Who wants the lock alone may take it, when it is free, before one of its class that was woken for it, up to three times or for
///   1 ms; then it is handed over. Who gives it back yields the processor, once in 50 µs, if one that was woken has not come: it may
///   wait for that. By others, a waiter that wants it alone, or to be the one that may upgrade, is passed only while
///   their class is above what it has risen to: for `(3 - p) · 10 ms` at the most, if p is its class and 3 the highest.
/// - Readers wait behind a writer that waits, unless their class is above it; after a writer, all readers that wait enter
///   together. Neither starves the other. Who holds the lock already, and reads it again, does not wait: it would wait for
///   itself.
/// - `L` is its level: see [`lock_order!`](crate::lock_order). `P` is whether it remembers a panic: [`NoPoison`] does not.
/// - A guard stays on its thread.
///
/// ```
/// use batchyard::lock::{LockError, RwLock};
/// let lock = RwLock::new(vec![1]);
/// assert_eq!(lock.read()?.len(), 1);
/// let look = lock.upgradable()?;
/// if !look.contains(&2) {
///     look.upgrade().map_err(|error| error.why)?.push(2);
/// }
/// assert_eq!(*lock.read()?, [1, 2]);
/// # Ok::<(), LockError>(())
/// ```
pub struct RwLock<T: ?Sized, L: Level = Unlevelled, P: Poison = NoPoison> {
    body: Body,
    kind: PhantomData<fn() -> (L, P)>,
    data: UnsafeCell<T>,
}

// SAFETY: the lock owns the value, and gives it to one thread at a time, or shares it.
unsafe impl<T: ?Sized + Send, L: Level, P: Poison> Send for RwLock<T, L, P> {}
// SAFETY: as above: `Send`, for an exclusive holder has the value for itself; `Sync`, for it is shared.
unsafe impl<T: ?Sized + Send + Sync, L: Level, P: Poison> Sync for RwLock<T, L, P> {}

/// What does not depend on the types.
///
/// Its end, where the word is and the count, lies beside the value, which each holder needs with them: in one line of the
/// cache, mostly.
#[repr(C)]
pub(super) struct Body {
    /// What was asked for beyond a plain lock.
    more: Option<Box<More>>,
    /// How it has been waited for: made when somebody has slept for it.
    book: OnceLock<Box<Book>>,
    raw: RawLock,
    /// How often it was held exclusively. Written by who holds it so.
    exclusive: AtomicU64,
    /// Where it was taken by who has no entry in its thread's stack for it. Read and written by that one.
    place: Cell<&'static Location<'static>>,
}

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

/// Sleeps until then at the most. False: it gives up.
pub(super) type Park<'a> = dyn FnMut(&Parker, Option<u64>) -> bool + 'a;

pub(super) fn unpark(waiter: &Waiter) {
    if let Waiter::Thread(thread) = waiter {
        thread.unpark();
    }
}

impl Body {
    const fn new() -> Self {
        let (exclusive, place) = (AtomicU64::new(0), Cell::new(Location::caller()));
        Body { raw: RawLock::new(), exclusive, place, more: None, book: OnceLock::new() }
    }

    fn id(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    fn with_clock<R>(&self, f: impl FnOnce(&Clock) -> R) -> R {
        match &self.more {
            Some(more) => f(&more.clock),
            None => f(&Clock::os()),
        }
    }

    fn more(&mut self) -> &mut More {
        self.more.get_or_insert_with(|| Box::new(More::new()))
    }

    #[cold]
    fn now(&self) -> u64 {
        self.with_clock(|clock| clock.now().as_nanos())
    }

    /// Takes it. The tag is what the hold gives back with.
    ///
    /// Who shares it, and who has it by its level, is entered in the thread's stack. Others are not: in the order of levels
    /// they do not count, and that it is this thread which holds the lock is said by the word, in which it has its number.
    ///
    /// What is to be done most often stands where the lock is taken, and calls nothing; all else is in `enter_with_care`.
    #[inline(always)] // what is left of it where mode and level are known is little
    fn enter(
        &self,
        mode: Mode,
        level: Option<&'static LevelInfo>,
        peers: usize,
        ask: Ask<'_>,
        place: &'static Location<'static>,
    ) -> Result<Tag, LockError> {
        let owner = if mode == Mode::Shared { 0 } else { held::number_if_any() };
        let is_plain = self.more.is_none() && (mode == Mode::Shared || owner != 0);
        let enters = Self::is_entered(mode, level, owner);
        if is_plain && (!enters || held::is_empty()) {
            if enters {
                // A processor ends what it has begun before it locks a line: there is less of that between the two times that
                // a lock costs if the stack is written before the first, and after the second.
                held::push_first(Entry::new(self.id(), mode, level, place));
            }
            if self.raw.word().try_enter_at_once(mode, owner) {
                if mode == Mode::Exclusive {
                    self.count();
                }
                if !enters {
                    self.place.set(place);
                }
                let tag = Tag::new(owner);
                return Ok(if enters { tag.entered(true) } else { tag });
            }
            if enters {
                held::pop_first(self.id(), mode);
            }
        }
        self.enter_with_care(mode, level, peers, ask, place)
    }

    #[inline(never)]
    fn enter_with_care(
        &self,
        mode: Mode,
        level: Option<&'static LevelInfo>,
        peers: usize,
        ask: Ask<'_>,
        place: &'static Location<'static>,
    ) -> Result<Tag, LockError> {
        if let Some(level) = level
            && !held::is_empty()
        {
            self.check(mode, level, peers, place)?;
        }
        let owner = if mode == Mode::Shared { 0 } else { held::number() };
        if !self.raw.word().try_enter_at_once(mode, owner) {
            self.enter_slowly(mode, level, owner, ask)?;
        }
        if mode == Mode::Exclusive {
            self.count();
        }
        let tag = if Self::is_entered(mode, level, owner) {
            Tag::new(owner).entered(held::push(Entry::new(self.id(), mode, level, place)))
        } else {
            self.place.set(place);
            Tag::new(owner)
        };
        let timed = self.more.as_ref().is_some_and(|more| more.begin(self.id()));
        Ok(if timed { tag.timed() } else { tag })
    }

    /// Whether who has it so is entered in the thread's stack.
    #[inline]
    fn is_entered(mode: Mode, level: Option<&'static LevelInfo>, owner: u32) -> bool {
        mode == Mode::Shared || level.is_some() || owner == 0
    }

    #[inline(never)]
    fn check(
        &self,
        mode: Mode,
        level: &'static LevelInfo,
        peers: usize,
        place: &'static Location<'static>,
    ) -> Result<(), LockError> {
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
    fn enter_slowly(
        &self,
        mode: Mode,
        level: Option<&'static LevelInfo>,
        owner: u32,
        ask: Ask<'_>,
    ) -> Result<(), LockError> {
        let Err(miss) = self.raw.word().try_enter(mode, ask.class(), owner) else { return Ok(()) };
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
        if matches!(ask, Ask::Now) {
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
                Some((alone, self.place.get()))
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
                // Only a lock without a level has no entry.
                tag = tag.entered(held::push(Entry::new(self.id(), to, None, self.place.get())));
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
        if mode == Mode::Shared {
            self.raw.leave(mode, false, || self.now(), &mut unpark);
        } else if !self.raw.word().try_leave_at_once(mode, tag.owner()) {
            self.leave_slowly(mode, false);
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
        if mode == Mode::Shared || poison || !self.raw.word().try_leave_at_once(mode, tag.owner()) {
            self.leave_slowly(mode, poison);
        }
    }

    #[cold]
    fn leave_slowly(&self, mode: Mode, poison: bool) {
        self.raw.leave(mode, poison, || self.now(), &mut unpark);
    }
}

impl<T> RwLock<T> {
    /// A free one, in no order. Its deadlines go by the operating system's clock.
    pub const fn new(value: T) -> Self {
        Self::of(value)
    }
}

impl<T, L: Level, P: Poison> RwLock<T, L, P> {
    /// A free one with the level and the poisoning of its type.
    ///
    /// ```
    /// use batchyard::lock::{LockError, RwLock};
    /// batchyard::lock_order! { House: Door < Safe }
    /// static SAFE: RwLock<u32, Safe> = RwLock::of(7);
    /// assert_eq!(*SAFE.read()?, 7);
    /// # Ok::<(), LockError>(())
    /// ```
    pub const fn of(value: T) -> Self {
        RwLock { body: Body::new(), kind: PhantomData, data: UnsafeCell::new(value) }
    }

    /// The same, going by this clock.
    pub fn with_clock(mut self, clock: Clock) -> Self {
        self.body.more().clock = clock;
        self
    }

    /// The same, measuring how long each hold lasts, from the take to the last guard made of it: two readings of the clock and
    /// a latch for each. See [`LockStats::held`].
    ///
    /// ```
    /// use batchyard::lock::{LockError, RwLock};
    /// let lock = RwLock::new(1).with_hold_times();
    /// *lock.write()? += 1;
    /// assert_eq!(*lock.read()?, 2);
    /// assert_eq!(lock.stats().held.map(|held| held.count), Some(2));
    /// # Ok::<(), LockError>(())
    /// ```
    pub fn with_hold_times(mut self) -> Self {
        self.body.more().holds = Some(Levelled::default());
        self
    }

    /// The value. Whether a holder panicked does not matter any more.
    pub fn into_inner(self) -> T {
        self.data.into_inner()
    }
}

macro_rules! ways {
    ($($guard:ident $(<$poison:ident>)?: $plain:ident $try:ident $by:ident $with:ident, $what:literal;)*) => {$(
        #[doc = concat!("Takes it ", $what, ", waiting as long as it takes.")]
        ///
        /// # Errors
        ///
        /// [`LockError`]: against the order of locks; this thread would wait for itself; poisoned; too many readers.
        #[track_caller]
        #[inline]
        pub fn $plain(&self) -> Result<$guard<'_, T $(, $poison)?>, LockError> {
            let hold = self.take(Ask::Wait, Location::caller())?;
            // SAFETY: it has just been taken so.
            Ok(unsafe { $guard::new(hold, &self.data) })
        }

        #[doc = concat!("Takes it ", $what, " if that needs no waiting.")]
        ///
        /// # Errors
        ///
        /// [`LockError::WouldBlock`], and as the one that waits.
        #[track_caller]
        #[inline]
        pub fn $try(&self) -> Result<$guard<'_, T $(, $poison)?>, LockError> {
            let hold = self.take(Ask::Now, Location::caller())?;
            // SAFETY: it has just been taken so.
            Ok(unsafe { $guard::new(hold, &self.data) })
        }

        #[doc = concat!("Takes it ", $what, ", waiting until then: a point in time, or how long from the call on.")]
        ///
        /// # Errors
        ///
        /// [`LockError::TimedOut`], and as the one that waits.
        #[track_caller]
        pub fn $by(&self, deadline: impl Into<Deadline>) -> Result<$guard<'_, T $(, $poison)?>, LockError> {
            let hold = self.take(Ask::By(deadline.into()), Location::caller())?;
            // SAFETY: it has just been taken so.
            Ok(unsafe { $guard::new(hold, &self.data) })
        }

        #[doc = concat!("Takes it ", $what, ", waiting as `wait` says.")]
        ///
        /// # Errors
        ///
        /// [`LockError::TimedOut`], [`LockError::Cancelled`], and as the one that waits.
        #[track_caller]
        pub fn $with(&self, wait: &LockWait) -> Result<$guard<'_, T $(, $poison)?>, LockError> {
            let hold = self.take(Ask::With(wait), Location::caller())?;
            // SAFETY: it has just been taken so.
            Ok(unsafe { $guard::new(hold, &self.data) })
        }
    )*};
}

impl<T: ?Sized, L: Level, P: Poison> RwLock<T, L, P> {
    ways! {
        ReadGuard: read try_read read_by read_with, "to share it with others";
        UpgradableGuard<P>: upgradable try_upgradable upgradable_by upgradable_with,
            "to share it with others, as the one that may upgrade";
        WriteGuard<P>: write try_write write_by write_with, "alone";
    }

    #[inline(always)] // with what it calls: see `Body::enter`
    fn take<M: HeldAs>(
        &self,
        ask: Ask<'_>,
        place: &'static Location<'static>,
    ) -> Result<Hold<'_, M>, LockError> {
        self.sound(self.hold(level::ALONE, ask, place)?)
    }

    /// As one of several of its level, which this thread began to take at this depth of its stack.
    pub(super) fn take_peer<M: HeldAs>(
        &self,
        peers: usize,
        place: &'static Location<'static>,
    ) -> Result<Hold<'_, M>, LockError> {
        self.sound(self.hold(peers, Ask::Wait, place)?)
    }

    #[inline(always)]
    fn hold<M: HeldAs>(
        &self,
        peers: usize,
        ask: Ask<'_>,
        place: &'static Location<'static>,
    ) -> Result<Hold<'_, M>, LockError> {
        let tag = self.body.enter(M::MODE, L::INFO, peers, ask, place)?;
        Ok(Hold::new::<P>(&self.body, tag))
    }

    /// What was taken goes back if it is poisoned.
    #[inline(always)]
    fn sound<'a, M: HeldAs>(&self, hold: Hold<'a, M>) -> Result<Hold<'a, M>, LockError> {
        if P::REMEMBERS && self.body.raw.word().look().poisoned() {
            Err(LockError::Poisoned)
        } else {
            Ok(hold)
        }
    }

    pub(super) fn address(&self) -> usize {
        self.body.id()
    }

    /// Where the value lies.
    pub(super) fn data(&self) -> &UnsafeCell<T> {
        &self.data
    }

    /// The value, without locking: nobody else can have it.
    pub fn get_mut(&mut self) -> &mut T {
        self.data.get_mut()
    }

    /// Whether a holder panicked while it held the lock alone. Never, unless `P` is
    /// [`Poisoning`](super::Poisoning).
    pub fn is_poisoned(&self) -> bool {
        P::REMEMBERS && self.body.raw.word().look().poisoned()
    }

    /// Makes good what a panic left: takes the lock alone, poisoned or not, and if `mend` returns it is not poisoned any
    /// more.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write), but for [`LockError::Poisoned`].
    ///
    /// ```
    /// use batchyard::lock::{LockError, Poisoning, RwLock, Unlevelled};
    /// let lock: RwLock<u32, Unlevelled, Poisoning> = RwLock::of(1);
    /// std::thread::scope(|scope| {
    ///     let dies = scope.spawn(|| {
    ///         let _held = lock.write();
    ///         panic!("with the lock in hand");
    ///     });
    ///     assert!(dies.join().is_err());
    /// });
    /// assert!(matches!(lock.read(), Err(LockError::Poisoned)));
    /// lock.recover(|value| *value = 0)?;
    /// assert_eq!(*lock.read()?, 0);
    /// # Ok::<(), LockError>(())
    /// ```
    #[track_caller]
    pub fn recover<R>(&self, mend: impl FnOnce(&mut T) -> R) -> Result<R, LockError> {
        let hold = self.hold(level::ALONE, Ask::Wait, Location::caller())?;
        // SAFETY: it has just been taken so.
        let mut guard: WriteGuard<'_, T, P> = unsafe { WriteGuard::new(hold, &self.data) };
        let mended = mend(&mut guard);
        self.body.raw.word().clear_poison();
        Ok(mended)
    }

    /// In what mode somebody holds it now; `None`: it is free. Old when it is read.
    pub fn mode(&self) -> Option<Mode> {
        self.body.raw.word().look().mode()
    }

    /// What can be told of it now.
    pub fn stats(&self) -> LockStats {
        let mut stats = LockStats::default();
        stats.add(self.body.exclusive.load(Ordering::Relaxed), &self.body.raw.tally());
        if let Some(book) = self.body.book.get() {
            book.tell(&mut stats);
        }
        let holds = self.body.more.as_ref().and_then(|more| more.holds.as_ref());
        stats.held = holds.map(|holds| holds.lock().percentiles());
        stats
    }
}

impl<T: Default, L: Level, P: Poison> Default for RwLock<T, L, P> {
    fn default() -> Self {
        Self::of(T::default())
    }
}

impl<T, L: Level, P: Poison> From<T> for RwLock<T, L, P> {
    fn from(value: T) -> Self {
        Self::of(value)
    }
}

impl<T: ?Sized + fmt::Debug, L: Level, P: Poison> fmt::Debug for RwLock<T, L, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_struct("RwLock");
        match self.look(Mode::Shared) {
            Some(value) => f.field("data", &&*value),
            None => f.field("data", &format_args!("<locked>")),
        };
        f.field("poisoned", &self.is_poisoned()).finish_non_exhaustive()
    }
}

/// A hold for a look at the value, for whoever prints it. It does not wait, so its order is not checked; what the value takes while
/// it is printed is.
pub(super) struct Seen<'a, T: ?Sized> {
    body: &'a Body,
    mode: Mode,
    value: &'a T,
}

impl<T: ?Sized, L: Level, P: Poison> RwLock<T, L, P> {
    fn look(&self, mode: Mode) -> Option<Seen<'_, T>> {
        self.body.raw.word().try_enter(mode, Priority::Normal.class(), 0).ok()?;
        held::push(Entry::new(self.body.id(), mode, L::INFO, Location::caller()));
        // SAFETY: it is held until the value is dropped; where it is shared, the caller has `&RwLock`, which is `Sync` if
        // it is shared by threads.
        Some(Seen { body: &self.body, mode, value: unsafe { &*self.data.get() } })
    }

    /// For a value that must not be shared.
    pub(super) fn look_alone(&self) -> Option<Seen<'_, T>> {
        self.look(Mode::Exclusive)
    }
}

impl<T: ?Sized> std::ops::Deref for Seen<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value
    }
}

impl<T: ?Sized> Drop for Seen<'_, T> {
    fn drop(&mut self) {
        held::pop(self.body.id(), self.mode);
        self.body.raw.leave(self.mode, false, || self.body.now(), &mut unpark);
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.raw.fmt(f)
    }
}
