//! Who calls: what a permit notes of its thread, made once a thread.

use crate::sync::Arc;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::thread::{self, ThreadId};
use std::cell::{Cell, OnceCell};

/// What a thread is to the reports.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) id: ThreadId,
    name: Arc<str>,
}

thread_local! {
    static CALLER: OnceCell<Caller> = const { OnceCell::new() };
    /// One more than its place.
    static PLACE: Cell<usize> = const { Cell::new(0) };
}

impl Caller {
    fn new() -> Self {
        let thread = thread::current();
        Caller { id: thread.id(), name: thread.name().unwrap_or("unnamed").into() }
    }

    /// The calling thread's name.
    pub(super) fn name() -> Arc<str> {
        Self::with(|caller| Arc::clone(&caller.name))
    }

    /// The calling thread.
    pub(super) fn id() -> ThreadId {
        Self::with(|caller| caller.id)
    }

    fn with<R>(f: impl Fn(&Caller) -> R) -> R {
        // A thread that ends, and has given its own away, makes another.
        CALLER.try_with(|caller| f(caller.get_or_init(Caller::new))).unwrap_or_else(|_| f(&Caller::new()))
    }
}

/// A number of the calling thread's own, counted from zero: which of several places it uses, so that others use others.
#[inline]
pub(super) fn place() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    PLACE.with(|place| {
        if place.get() == 0 {
            place.set(NEXT.fetch_add(1, Ordering::Relaxed).max(1));
        }
        place.get() - 1
    })
}
