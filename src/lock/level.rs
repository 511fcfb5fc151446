//! The hierarchy: every lock of an order has a level, and a thread takes locks upwards only, so that no two threads can
//! wait for each other.
//!
//! An [order](Order) is declared by [`lock_order!`](crate::lock_order) as a chain of levels. A level is part of a lock's
//! type. Whoever holds a lock takes another one of the same order only at a higher level, and several of one level (its
//! peers) only in one go, by [`lock_all!`](crate::lock_all).
//!
//! Two orders know nothing of each other. Which one is taken inside which is learned: the first time that a lock of order B
//! is taken by who holds one of order A, B is inside A from then on, as is all that is inside B; the other way about is a
//! violation. (Learned classes of locks are Linux's lockdep.)

use super::error::{LockError, OrderViolation};
use super::held;
use super::token::{self, Token};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::fmt;
use std::panic::Location;

/// What is done when a lock is asked for against its order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnViolation {
    /// The call fails with [`LockError::Order`](super::LockError::Order), and takes nothing.
    #[default]
    Error,
    /// It panics.
    Panic,
    /// It is told to the log, and the lock is taken all the same.
    Log,
}

/// A chain of levels. Made by [`lock_order!`](crate::lock_order).
pub trait Order: 'static {
    /// What is known of it.
    #[doc(hidden)]
    const INFO: &'static OrderInfo;

    /// What is done from now on, in the whole process, when a lock is asked for against this order.
    fn on_violation(then: OnViolation) {
        Self::INFO.then.store(then as u8, Ordering::Relaxed);
    }

    /// Calls `f` with this thread's token of the order: locks that are taken by it are checked by the compiler.
    ///
    /// # Errors
    ///
    /// [`LockError::Entered`](super::LockError::Entered): this thread has a token of the order, or holds a lock of it.
    ///
    /// ```
    /// use batchyard::lock::{LockError, Order, RwLock};
    /// batchyard::lock_order! { Shop: Catalogue < Journal }
    /// let (catalogue, journal) = (RwLock::<_, Catalogue>::of(1), RwLock::<_, Journal>::of(0));
    /// Shop::enter(|mut token| {
    ///     let (read, mut token) = catalogue.read_in(&mut token)?;
    ///     let (mut wrote, _) = journal.write_in(&mut token)?;
    ///     *wrote += *read;
    ///     Ok::<(), LockError>(())
    /// })??;
    /// # Ok::<(), LockError>(())
    /// ```
    ///
    /// Downwards does not compile:
    ///
    /// ```compile_fail,E0277
    /// use batchyard::lock::{LockError, Order, RwLock};
    /// batchyard::lock_order! { Shop: Catalogue < Journal }
    /// let (catalogue, journal) = (RwLock::<_, Catalogue>::of(1), RwLock::<_, Journal>::of(0));
    /// Shop::enter(|mut token| {
    ///     let (wrote, mut token) = journal.write_in(&mut token)?;
    ///     let (read, _) = catalogue.read_in(&mut token)?; // `Catalogue` cannot be acquired after `Journal`
    ///     Ok::<(), LockError>(())
    /// })??;
    /// # Ok::<(), LockError>(())
    /// ```
    ///
    /// Nor does a token that is used while a guard has it:
    ///
    /// ```compile_fail,E0499
    /// use batchyard::lock::{LockError, Order, RwLock};
    /// batchyard::lock_order! { Shop: Catalogue < Journal }
    /// let (catalogue, journal) = (RwLock::<_, Catalogue>::of(1), RwLock::<_, Journal>::of(0));
    /// Shop::enter(|mut token| {
    ///     let (wrote, _) = journal.write_in(&mut token)?;
    ///     let (read, _) = catalogue.read_in(&mut token)?;
    ///     drop((wrote, read));
    ///     Ok::<(), LockError>(())
    /// })??;
    /// # Ok::<(), LockError>(())
    /// ```
    #[track_caller]
    fn enter<R>(f: impl FnOnce(Token<'_, Self>) -> R) -> Result<R, LockError>
    where
        Self: Sized,
    {
        token::enter(f)
    }
}

/// A place in an [`Order`]. Made by [`lock_order!`](crate::lock_order); [`Unlevelled`] is the one outside all orders.
pub trait Level: 'static {
    /// What is known of it; `None`: it is in no order.
    #[doc(hidden)]
    const INFO: Option<&'static LevelInfo>;
}

/// The level of a lock that stands in no order, and is not checked.
#[derive(Clone, Copy, Debug)]
pub struct Unlevelled;

impl Level for Unlevelled {
    const INFO: Option<&'static LevelInfo> = None;
}

/// A level of this order.
#[doc(hidden)]
pub trait In<O: Order>: Level {}

/// What a new token says is held.
#[derive(Clone, Copy, Debug)]
pub struct Nothing;

/// A level that may be taken when one holds at most `Held`: it is above it. Implemented by
/// [`lock_order!`](crate::lock_order), for tokens.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be acquired after `{Held}`",
    label = "its level is not above `{Held}`",
    note = "take the lock of the lower level first, or give back what is held above it"
)]
pub trait After<Held: ?Sized>: Level {}

/// What is known of an order.
#[doc(hidden)]
#[derive(Debug)]
pub struct OrderInfo {
    name: &'static str,
    then: AtomicU8,
    /// A bit of its own among the orders that have met; 0: it has met none.
    bit: AtomicU64,
    /// The bits of the orders that may be taken inside.
    inside: AtomicU64,
}

impl OrderInfo {
    #[doc(hidden)]
    pub const fn new(name: &'static str) -> Self {
        OrderInfo { name, then: AtomicU8::new(0), bit: AtomicU64::new(0), inside: AtomicU64::new(0) }
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn then(&self) -> OnViolation {
        match self.then.load(Ordering::Relaxed) {
            1 => OnViolation::Panic,
            2 => OnViolation::Log,
            _ => OnViolation::Error,
        }
    }
}

/// What is known of a level.
#[doc(hidden)]
#[derive(Debug)]
pub struct LevelInfo {
    name: &'static str,
    order: &'static OrderInfo,
    rank: u32,
}

impl LevelInfo {
    #[doc(hidden)]
    pub const fn new(name: &'static str, order: &'static OrderInfo, rank: u32) -> Self {
        LevelInfo { name, order, rank }
    }

    pub(super) fn is_of(&self, order: &OrderInfo) -> bool {
        std::ptr::eq(self.order, order)
    }

    /// Whether it is the same level. By its name, as one constant may lie at several addresses.
    pub(super) fn is(&self, other: &LevelInfo) -> bool {
        self.is_of(other.order) && self.name == other.name
    }
}

impl fmt::Display for LevelInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}::{}", self.order.name, self.name)
    }
}

/// Whether this thread, which holds locks, may take one of a level now.
///
/// # Errors
///
/// It may not.
#[cfg(debug_assertions)] // for the latches of the house, which are levelled in such builds only
pub(super) fn check(
    level: &'static LevelInfo,
    place: &'static Location<'static>,
) -> Result<(), Box<OrderViolation>> {
    match offender(level, ALONE) {
        None => Ok(()),
        Some(held) => violated(held, level, place),
    }
}

/// A depth of the stack that is never reached: no lock that is held is a peer.
pub(super) const ALONE: usize = usize::MAX;

/// What this thread holds that is not to be held when it takes a lock of this level. Those of the level itself may be held
/// if they are its peers, which were taken at this depth of the stack or above.
pub(super) fn offender(level: &'static LevelInfo, peers: usize) -> Option<held::Entry> {
    held::look_by_place(|at, held| offends(held, level, at >= peers).then_some(*held))
}

/// The same, of what was taken at depth `since` or above, and but for holds of the lock itself.
pub(super) fn other_offender(
    lock: usize,
    level: &'static LevelInfo,
    peers: usize,
    since: usize,
) -> Option<held::Entry> {
    held::look_by_place(|at, held| {
        let other = at >= since && !held.is_of(lock, Some(level));
        (other && offends(held, level, at >= peers)).then_some(*held)
    })
}

#[inline]
fn offends(held: &held::Entry, level: &'static LevelInfo, peer: bool) -> bool {
    let Some(below) = held.level else { return false };
    if std::ptr::eq(below.order, level.order) {
        below.rank > level.rank || below.rank == level.rank && !peer
    } else {
        let bit = level.order.bit.load(Ordering::Relaxed);
        let known = bit != 0 && below.order.inside.load(Ordering::Relaxed) & bit != 0;
        !known && !learn(below.order, level.order)
    }
}

/// Orders that have met.
static MET: Mutex<Vec<&'static OrderInfo>> = Mutex::new(Vec::new());

/// `inner` is taken inside `outer`. False: it is the other way about.
#[cold]
fn learn(outer: &'static OrderInfo, inner: &'static OrderInfo) -> bool {
    let mut met = MET.lock();
    for order in [outer, inner] {
        if order.bit.load(Ordering::Relaxed) == 0 {
            if met.len() == 64 {
                return true; // of so many orders the rest is not checked against others
            }
            order.bit.store(1 << met.len(), Ordering::Relaxed);
            met.push(order);
        }
    }
    let bit = |order: &OrderInfo| order.bit.load(Ordering::Relaxed);
    let inside = |order: &OrderInfo| order.inside.load(Ordering::Relaxed);
    if inside(inner) & bit(outer) != 0 {
        return false;
    }
    // All that is outside `outer`, and itself, has now inside what `inner` has, and itself.
    let more = inside(inner) | bit(inner);
    for order in &*met {
        if std::ptr::eq(*order, outer) || inside(order) & bit(outer) != 0 {
            order.inside.store(inside(order) | more, Ordering::Relaxed);
        }
    }
    true
}

/// Does about it what the order says.
///
/// # Errors
///
/// Unless the lock is to be taken all the same.
#[cold]
pub(super) fn violated(
    held: held::Entry,
    level: &'static LevelInfo,
    place: &'static Location<'static>,
) -> Result<(), Box<OrderViolation>> {
    let Some(below) = held.level else { return Ok(()) };
    let violation = OrderViolation { wanted: level, at: place, held: below, held_at: held.place };
    match level.order.then() {
        OnViolation::Error => Err(Box::new(violation)),
        OnViolation::Panic => panic!("{violation}"),
        OnViolation::Log => {
            tell(&violation);
            Ok(())
        }
    }
}

fn tell(violation: &OrderViolation) {
    #[cfg(feature = "tracing")]
    tracing::warn!(target: "batchyard::lock", "{violation}");
    #[cfg(not(feature = "tracing"))]
    eprintln!("batchyard: {violation}");
}

/// Declares an order of locks: a chain of levels, each to be taken after those before it. Levels in braces are peers:
/// they stand at one place in the chain, and none is taken after another.
///
/// A chain of more than some forty levels needs a higher `#![recursion_limit]` in the crate that declares it.
///
/// The names become types. A lock has its level in its type; [`Order::on_violation`](crate::lock::Order::on_violation) says
/// what becomes of who goes against the order.
///
/// Of two orders, which one is inside the other is learned when they first meet. That goes for the first 64 orders of a process
/// that meet any other: of those that come later, each is checked in itself, and not against others.
///
/// ```
/// use batchyard::lock::{LockError, Mutex, RwLock};
/// batchyard::lock_order! { pub Shop: Catalogue < { Cart | Till } < Journal }
///
/// let catalogue: RwLock<Vec<&str>, Catalogue> = RwLock::of(vec!["tea"]);
/// let journal: Mutex<u32, Journal> = Mutex::of(0);
/// let read = catalogue.read()?;
/// *journal.lock()? += read.len() as u32;
/// drop(read);
///
/// let wrote = journal.lock()?;
/// let error = catalogue.read().unwrap_err();
/// assert!(matches!(error, LockError::Order(_)));
/// assert!(error.to_string().contains("`Shop::Catalogue` is to be taken before `Shop::Journal`"), "{error}");
/// # drop(wrote);
/// # Ok::<(), LockError>(())
/// ```
#[macro_export]
macro_rules! lock_order {
    ($(#[$meta:meta])* $vis:vis $order:ident : $($levels:tt)+) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug)]
        $vis struct $order;

        impl $crate::lock::Order for $order {
            const INFO: &'static $crate::lock::OrderInfo = {
                static INFO: $crate::lock::OrderInfo = $crate::lock::OrderInfo::new(stringify!($order));
                &INFO
            };
        }

        $crate::__lock_levels! { ($vis) $order (0) [] $($levels)+ }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __lock_levels {
    (($vis:vis) $order:ident ($rank:expr) $below:tt) => {};
    (($vis:vis) $order:ident ($rank:expr) $below:tt < $($rest:tt)+) => {
        $crate::__lock_levels! { ($vis) $order ($rank) $below $($rest)+ }
    };
    (($vis:vis) $order:ident ($rank:expr) $below:tt $level:ident $($rest:tt)*) => {
        $crate::__lock_levels! { @level ($vis) $order ($rank) $below $level }
        $crate::__lock_levels! { @next ($vis) $order ($rank) $below [$level] $($rest)* }
    };
    (($vis:vis) $order:ident ($rank:expr) $below:tt { $($level:ident)|+ } $($rest:tt)*) => {
        $( $crate::__lock_levels! { @level ($vis) $order ($rank) $below $level } )+
        $crate::__lock_levels! { @next ($vis) $order ($rank) $below [$($level)+] $($rest)* }
    };
    (@next ($vis:vis) $order:ident ($rank:expr) [$($below:ident)*] [$($level:ident)+] $($rest:tt)*) => {
        $crate::__lock_levels! { ($vis) $order ($rank + 1) [$($below)* $($level)+] $($rest)* }
    };
    (@level ($vis:vis) $order:ident ($rank:expr) [$($below:ident)*] $level:ident) => {
        #[doc = concat!("A level of the order of locks `", stringify!($order), "`.")]
        #[derive(Clone, Copy, Debug)]
        $vis struct $level;

        impl $crate::lock::Level for $level {
            const INFO: ::core::option::Option<&'static $crate::lock::LevelInfo> =
                ::core::option::Option::Some(&$crate::lock::LevelInfo::new(
                    stringify!($level),
                    <$order as $crate::lock::Order>::INFO,
                    $rank,
                ));
        }

        impl $crate::lock::In<$order> for $level {}
        impl $crate::lock::After<$crate::lock::Nothing> for $level {}
        $( impl $crate::lock::After<$below> for $level {} )*
    };
}
