//! How items come into a batch, until it is known that no more will.

use super::Batch;
use crate::engine::PushError;
use crate::job::Key;
use crate::store::{AppendError, Earlier, Unsealed};
use crate::time::Deadline;

impl<I: 'static, O> Batch<I, O> {
    /// Adds an item, and waits while the batch is full. Meanwhile iterators over its results in the hands of this thread
    /// do not push back, as in [`wait`](Batch::wait).
    ///
    /// # Errors
    ///
    /// The item comes back: [`PushError::Closed`], [`PushError::Duplicate`], [`PushError::Key`]; and
    /// [`PushError::WouldBlockWorker`] when it is full and the caller is an item of the same engine.
    pub fn push(&self, item: I) -> Result<(), PushError<I>> {
        self.push_by(item, Deadline::NEVER)
    }

    /// Adds an item if there is room.
    ///
    /// # Errors
    ///
    /// The item comes back: [`PushError::Full`], and as [`push`](Batch::push).
    pub fn try_push(&self, item: I) -> Result<(), PushError<I>> {
        let key = match self.key_for(&item) {
            Ok(key) => key,
            Err(why) => return Err(PushError::Key(why, item)),
        };
        self.append(key, item, self.settings.capacity).map_err(|(_, error)| error)
    }

    /// Adds an item, and waits while the batch is full, but not past a deadline.
    ///
    /// # Errors
    ///
    /// The item comes back: [`PushError::TimedOut`], and as [`push`](Batch::push).
    pub fn push_by(&self, item: I, deadline: impl Into<Deadline>) -> Result<(), PushError<I>> {
        let mut key = match self.key_for(&item) {
            Ok(key) => key,
            Err(why) => return Err(PushError::Key(why, item)),
        };
        let mut item = match self.append(key, item, self.settings.capacity) {
            Ok(()) => return Ok(()),
            Err((back, PushError::Full(item))) => {
                key = back;
                item
            }
            Err((_, error)) => return Err(error),
        };
        if self.shared.must_not_wait() {
            return Err(PushError::WouldBlockWorker(item));
        }
        let clock = &self.shared.clock;
        let until = deadline.into().on(clock);
        let _aside = self.rows.stand_aside();
        self.shell.with(|body| body.refill(&self.shared, &self.shell));
        loop {
            let room = || {
                (self.rows.store.has_room(self.settings.capacity) || self.shell.core.is_sealed())
                    .then_some(())
            };
            if self.rows.room.wait(clock, until, room).is_none() {
                return Err(PushError::TimedOut(item));
            }
            match self.append(key, item, self.settings.capacity) {
                Ok(()) => return Ok(()),
                Err((back, PushError::Full(again))) => (key, item) = (back, again),
                Err((_, error)) => return Err(error),
            }
        }
    }

    /// Adds an item whatever waits already.
    pub(in crate::batch) fn push_unbounded(&self, item: I) -> Result<(), PushError<I>> {
        let key = match self.key_for(&item) {
            Ok(key) => key,
            Err(why) => return Err(PushError::Key(why, item)),
        };
        self.append(key, item, usize::MAX).map_err(|(_, error)| error)
    }

    fn key_for(&self, item: &I) -> Result<Key, String> {
        // The user's code: its panic is this call's error.
        crate::engine::worker::caught(|| self.rows.key.key_of(item))
            .unwrap_or_else(|(message, _)| Err(format!("the key function panicked: {message}")))
    }

    /// Appends; a full store gives the key back too.
    fn append(&self, key: Key, item: I, bound: usize) -> Result<(), (Key, PushError<I>)> {
        let (shared, shell) = (&self.shared, &self.shell);
        let core = &shell.core;
        if core.is_sealed() || shared.check_open().is_err() {
            return Err((key, PushError::Closed(item)));
        }
        // Counted first: the lane must not end between the append and the count. If it has just been sealed and ended,
        // the count shows it.
        core.counts.open.add(1);
        core.counts.submitted.add(1);
        if core.is_sealed() {
            core.counts.submitted.sub(1);
            shared.settled(shell, 1, 0);
            return Err((key, PushError::Closed(item)));
        }
        let uncount = || {
            core.counts.submitted.sub(1);
            shared.settled(shell, 1, 0);
        };
        let now = shared.clock.now();
        match self.rows.store.append(key.clone(), item, bound, self.settings.duplicates, now) {
            Ok(appended) if appended.rows == 0 => {
                core.counts.duplicates.add(1);
                uncount();
                return Ok(());
            }
            Ok(_) => {}
            Err(error) => {
                uncount();
                return Err(match error {
                    AppendError::Full(item) => (key, PushError::Full(item)),
                    AppendError::Sealed(item) => (key, PushError::Closed(item)),
                    AppendError::Duplicate(there, item) => (key, PushError::Duplicate(there, item)),
                    AppendError::Unwritable(why, item) => (key, PushError::Key(why, item)),
                });
            }
        }
        shell.with(|body| {
            if core.may_have_missed_a_stop() {
                // The stop may have dropped what waited just before this came.
                body.clear(shared, shell);
            } else if !core.spec.in_journal {
                // A journal says when its rows can be claimed.
                body.refill(shared, shell);
            }
        });
        Ok(())
    }

    /// Says that no more items will come: the batch ends when all have. With a journal it returns when all of them are
    /// durable, or the journal is lost, which halts the batch.
    pub fn seal(&self) {
        // A lost journal is told by the batch's report; a key that came twice was told to who pushed it.
        let _ = self.finish();
    }

    /// All items are known already.
    pub(in crate::batch) fn no_input(&self) {
        self.rows.store.seal();
        self.close();
    }

    /// Waits until what was submitted is durable, and closes the batch.
    pub(in crate::batch) fn finish(&self) -> Result<(), Unsealed> {
        let sealed = self.rows.store.sealed();
        let sealed = sealed.map(|earlier| {
            let there = &mut self.shell.core.steer.lock().earlier;
            *there = Earlier { resumed: there.resumed + earlier.resumed, ..earlier };
        });
        if sealed.is_ok() {
            // Items that other items had submitted may have come with it.
            self.shell.with(|body| body.due(&self.shared, &self.shell, self.shared.clock.now()));
        }
        self.close();
        sealed
    }
}
