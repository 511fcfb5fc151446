//! What a closure of the command line leaves in the journal beside its result: the process it has started, and what that
//! wrote.

use super::Context;
use super::lane::Ending;
use crate::store::JournalError;
use crate::store::sqlite::{Group, Journal};
use crate::sync::Arc;

impl Context {
    fn journalled(&self) -> Option<(&Arc<Journal>, i64)> {
        let journal = self.shared.journal.as_ref()?;
        let item = self.shell.with(|body| body.number(self.seq)).flatten()?;
        Some((journal, item))
    }

    /// Notes a process group that was started for the item. The one that this worker noted before has ended.
    pub(crate) fn note_child(&self, group: Group) {
        if let Some(journal) = &self.shared.journal {
            journal.note_child(self.worker(), group);
        }
    }

    /// Keeps something of this attempt that is committed with its outcome, at the latest.
    pub(crate) fn keep(&self, name: &'static str, bytes: Vec<u8>) {
        if let Some((journal, item)) = self.journalled() {
            journal.keep(item, self.epoch, name, bytes);
        }
    }

    /// Keeps pieces of something large, `from` being the number of the first. Returns when they are committed, so that
    /// not all of it stands in memory.
    ///
    /// # Errors
    ///
    /// The journal is lost.
    pub(crate) fn keep_pieces(
        &self,
        name: &'static str,
        from: u64,
        pieces: Vec<Vec<u8>>,
    ) -> Result<(), Arc<JournalError>> {
        match self.journalled() {
            Some((journal, item)) => journal.keep_pieces(item, self.epoch, name, from, pieces),
            None => Ok(()),
        }
    }

    /// Ends the batch softly, for an item that must not begin: it and the others that have not begun stay pending.
    pub(crate) fn stop_batch(&self) {
        self.shared.stop_lane(&self.shell, Ending::Cancelled, false);
    }

    /// How many tries of the item have failed so far; those whose process died are none of them.
    pub(crate) fn failures(&self) -> u32 {
        self.tries - self.lost
    }
}
