//! Results in the order of their items (`-k`).
//!
//! Blocking. A result whose turn has not come waits here. So that not all of a run piles up behind a slow head, an
//! item is read only when it is less than a window ahead of the turn; the head itself is always in the window, so it
//! comes.

use super::controls::{Controls, Stage};
use super::report::Row;
use crate::sync::{Arc, Condvar, Mutex};
use std::collections::BTreeMap;

/// Whose turn it is, and who waits. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Turns {
    shared: Arc<Shared>,
    window: u64,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct State {
    taken: u64,
    waiting: BTreeMap<u64, Row>,
    stopped: bool,
}

impl Turns {
    pub(crate) fn new(window: u64, controls: &Controls) -> Self {
        let shared = Arc::<Shared>::default();
        let hook = Arc::clone(&shared);
        controls.on_raise(Box::new(move |_: Stage| {
            hook.state.lock().stopped = true;
            hook.moved.notify_all();
        }));
        Self { shared, window }
    }

    pub(crate) fn put(&self, row: Row) {
        self.shared.state.lock().waiting.insert(row.number, row);
    }

    /// The next result, if it is there.
    pub(crate) fn take(&self) -> Option<Row> {
        let mut state = self.shared.state.lock();
        let next = state.taken + 1;
        let row = state.waiting.remove(&next)?;
        state.taken = next;
        self.shared.moved.notify_one();
        Some(row)
    }

    /// What is left, over the gaps.
    pub(crate) fn rest(&self) -> Vec<Row> {
        std::mem::take(&mut self.shared.state.lock().waiting).into_values().collect()
    }

    /// Waits until the item of this number is in the window, or the run is stopped.
    pub(crate) fn wait_for_room(&self, number: u64) {
        let mut state = self.shared.state.lock();
        while !state.stopped && number > state.taken + self.window {
            state = self.shared.moved.wait(state);
        }
    }
}
