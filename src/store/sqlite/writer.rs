//! The one thread that writes: natural group commit.
//!
//! Blocking, one thread. Whatever has gathered while the last group was committed makes the next group: no timer, no
//! waiting for company. An [`Op`] is applied in the order in which it was sent, in one transaction with its group, and
//! told of the commit after it. What a commit makes visible is published by [`Op::committed`] alone.
//!
//! | what happens | what becomes of the group |
//! |---|---|
//! | commit | every op is told |
//! | the disk is full, an I/O error, the file is locked for too long | rolled back, kept, applied anew after a pause; meanwhile the journal is *stalled*: everybody is told, nothing is dispatched |
//! | it stays so for `patience` | the journal *fails* |
//! | damage, or the file was deleted or replaced, or an op panicked | the journal fails: every op is lost, and so is each that comes later |
//!
//! Ops keep what they need until they are committed, so a group can be applied again. Senders never wait: what bounds
//! the inbox is that claims stop while too much is in flight.
//!
//! # The length of the log
//!
//! The write-ahead log stays under 128 MiB, whatever the size of the rows. A group ends when SQLite has written
//! 16 MiB of it ([`Limits`]), by its own count, which knows of everything: outputs, indexes, the user's SQL. What is left of
//! it makes the next transaction; an op of many large rows may be divided, too ([`Tx::divide`]). After each commit the
//! log is looked at, and emptied when it is longer than 32 MiB: that waits for those who read an older state, which ours
//! do for milliseconds. So the longest log is one that is just not emptied, a group, and one op more, which for a page of
//! submitted rows is some 60 MiB. What no bound is set to: a single row, what one item's SQL writes, the chunk of a batch with
//! `write_with`; and a foreign reader, the `sqlite3` shell in a transaction, which keeps all that is written behind it.

use super::book::Books;
use super::effects::{Fence, is_anew};
use super::error::{At, JournalError, is_cut_off};
use super::hand::clear_away;
use super::lock::Held;
use crate::lock::{Levelled, house};
use crate::sync::{Arc, Parker, Unparker, thread};
use crate::time::{Clock, Timestamp, millis, secs, wall_ms};
use rusqlite::{Connection, ErrorCode, ffi};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::Duration;

/// Rows of a group: a longer one only makes its members wait.
const MOST_ROWS: usize = 4_096;
/// How long a stalled group waits before it is tried again.
const TRY_AGAIN: Duration = millis(100);
/// How often an idle writer looks for requests of other processes.
const LOOK: Duration = millis(100);
/// How long a journal that is being closed still waits for a disk that has no room.
const CLOSING: Duration = secs(2);
/// How long a reader is waited for when the log is emptied: none of ours reads for so long.
const READERS_LIMIT: Duration = secs(1);

/// Something to be written.
pub(crate) trait Op: Send {
    /// Writes into the open transaction, all of it or the next part ([`Tx::divide`]). Called anew after a rollback.
    fn apply(&mut self, tx: &mut Tx<'_>) -> rusqlite::Result<()>;
    /// The part of it that was written last is durable: the next one follows.
    fn part_committed(&mut self) {}
    /// What was written is gone: the group was rolled back, and is applied anew or lost.
    fn rolled_back(&mut self) {}
    /// What was written is durable.
    fn committed(self: Box<Self>);
    /// It will never be.
    fn lost(self: Box<Self>, why: &Arc<JournalError>);
    /// How many rows it writes, about.
    fn rows(&self) -> usize {
        1
    }
}

/// What bounds the log: see the head of the file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Pages of a transaction, as SQLite counts those that it has written: the last two megabytes are in its cache until
    /// the commit.
    pub(crate) pages: i32,
    /// A write-ahead log longer than this is emptied even if a reader has to be waited for. Bytes.
    pub(crate) log: u64,
}

impl Limits {
    /// 16 MiB of the pages that SQLite makes by itself, and 32.
    const OURS: Limits = Limits { pages: 4_096, log: 32 << 20 };
}

/// An open transaction.
pub(crate) struct Tx<'a> {
    pub(crate) db: &'a Connection,
    pub(crate) books: &'a mut Books,
    pub(crate) now_ms: i64,
    pub(crate) fence: &'a Fence,
    pub(crate) limits: &'a mut Limits,
    divided: bool,
}

impl Tx<'_> {
    /// Asked by an op that can be divided, where it can: whether it has to stop here and write the rest in the next
    /// transaction.
    pub(crate) fn divide(&mut self) -> bool {
        self.divided = self.is_full();
        self.divided
    }

    /// As much was written as a transaction shall have.
    fn is_full(&self) -> bool {
        pages_written(self.db, false) >= self.limits.pages
    }
}

/// How many pages SQLite has written on this connection since the count was set back.
fn pages_written(db: &Connection, set_back: bool) -> i32 {
    let (mut count, mut unused) = (0, 0);
    let what = ffi::SQLITE_DBSTATUS_CACHE_WRITE;
    // SAFETY: the connection is open, this thread is the only one to use it, and both pointers are good for the call.
    unsafe { ffi::sqlite3_db_status(db.handle(), what, &mut count, &mut unused, i32::from(set_back)) };
    count
}

/// What the writer tells about the journal as a whole.
pub(crate) trait Listener: Send + Sync {
    /// Nothing can be written now, and why; `None`: it goes on.
    fn stalled(&self, why: Option<&JournalError>);
    /// Nothing will ever be written again.
    fn failed(&self, why: &Arc<JournalError>);
    /// It was closed: nothing will ever be written again.
    fn closed(&self, why: &Arc<JournalError>);
    /// Another process has left requests. False: they cannot be read now.
    fn look_for_requests(&self, db: &Connection) -> bool;
}

/// The sending side.
#[derive(Debug)]
pub(crate) struct Inbox {
    box_: Levelled<Letters, house::Inbox>,
    writer: Unparker,
}

struct Letters {
    ops: Vec<Box<dyn Op>>,
    /// One of them does not want to wait for company.
    hurry: bool,
    /// The writer sleeps, or is about to: whoever brings something wakes it.
    asleep: bool,
    closing: bool,
    failed: Option<Arc<JournalError>>,
}

impl std::fmt::Debug for Letters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Letters").field("ops", &self.ops.len()).field("closing", &self.closing).finish()
    }
}

impl Inbox {
    /// Hands an op to the writer. Never waits. Once the journal has failed or is closed the op is told so at once, by
    /// this thread: nobody sends with a latch held that the op takes. (Every open batch has been told by then: the op does
    /// not stop its lane.)
    pub(crate) fn send(&self, op: Box<dyn Op>) {
        self.put(op, true);
    }

    /// The same for what nobody waits for: it goes with the next group that is written, or alone within [`LOOK`]. A
    /// commit of its own would cost more than what it says.
    #[cfg(feature = "cli")]
    pub(crate) fn send_along(&self, op: Box<dyn Op>) {
        self.put(op, false);
    }

    fn put(&self, op: Box<dyn Op>, hurry: bool) {
        let mut letters = self.box_.lock();
        if let Some(why) = &letters.failed {
            let why = Arc::clone(why);
            drop(letters);
            op.lost(&why);
            return;
        }
        letters.ops.push(op);
        letters.hurry |= hurry;
        let wake = hurry && std::mem::take(&mut letters.asleep);
        drop(letters);
        if wake {
            self.writer.unpark();
        }
    }

    /// Whether the writer ends soon.
    pub(crate) fn is_closing(&self) -> bool {
        self.box_.lock().closing
    }

    /// Lets the writer end once everything sent so far is written.
    pub(crate) fn close(&self) {
        self.box_.lock().closing = true;
        self.writer.unpark();
    }
}

/// The writer before it runs.
pub(crate) struct Writer {
    db: Connection,
    path: PathBuf,
    held: Held,
    books: Books,
    parker: Parker,
    inbox: Arc<Inbox>,
    /// What is being written. It outlives a panic, so that everybody in it is told.
    group: VecDeque<Box<dyn Op>>,
    clock: Clock,
    fence: Fence,
    /// How long a stall may last; `None`: for ever.
    patience: Option<Duration>,
    limits: Limits,
    /// How much more than that it may have, since somebody reads who is not waited for again so soon.
    busy_log: u64,
    data_version: i64,
}

/// Whether it is worth trying again: the cause is outside the file.
fn may_pass(error: &rusqlite::Error) -> bool {
    !is_cut_off(error)
        && matches!(
            error.sqlite_error_code(),
            Some(
                ErrorCode::DiskFull
                    | ErrorCode::SystemIoFailure
                    | ErrorCode::DatabaseBusy
                    | ErrorCode::DatabaseLocked
                    | ErrorCode::CannotOpen
                    | ErrorCode::ReadOnly
                    | ErrorCode::OutOfMemory
                    | ErrorCode::FileLockingProtocolFailed
                    | ErrorCode::PermissionDenied
            )
        )
}

/// How an attempt to write a group ended.
enum Outcome {
    /// So many ops of it, and perhaps a part of the next one.
    Committed {
        ops: usize,
        part: bool,
    },
    /// Apply the group anew at once: an op has put a part of it aside.
    Anew,
    Again(JournalError),
    Over(JournalError),
}

impl Writer {
    pub(crate) fn new(
        mut db: Connection,
        path: PathBuf,
        held: Held,
        books: Books,
        patience: Option<Duration>,
    ) -> rusqlite::Result<Writer> {
        let clock = Clock::os();
        let fence = Fence::install(&mut db, &clock)?;
        let parker = Parker::new();
        let letters = Letters { ops: Vec::new(), hurry: false, asleep: false, closing: false, failed: None };
        let inbox = Arc::new(Inbox { box_: Levelled::new(letters), writer: parker.unparker() });
        Ok(Writer {
            db,
            path,
            held,
            books,
            parker,
            inbox,
            group: VecDeque::new(),
            clock,
            fence,
            patience,
            limits: Limits::OURS,
            busy_log: 0,
            data_version: 0,
        })
    }

    pub(crate) fn inbox(&self) -> Arc<Inbox> {
        Arc::clone(&self.inbox)
    }

    /// Starts the thread. It ends after [`Inbox::close`], or when the journal fails.
    pub(crate) fn start(mut self, listener: Arc<dyn Listener>) -> std::io::Result<thread::JoinHandle<()>> {
        thread::Builder::new().name("batchyard-journal".to_owned()).spawn(move || {
            // Everybody would wait for ever for a writer that is gone.
            if catch_unwind(AssertUnwindSafe(|| self.run(&*listener))).is_err() {
                let what = "its writer panicked, and nothing more is written".to_owned();
                self.fail(JournalError::Broken { path: self.path.clone(), what }, &*listener);
            }
        })
    }

    fn run(&mut self, listener: &dyn Listener) {
        let mut looked = self.clock.now();
        while self.has_group(&mut looked, listener) {
            let mut stalled: Option<Timestamp> = None;
            let written = loop {
                match self.write() {
                    Outcome::Committed { ops, part } => break Ok((ops, part)),
                    Outcome::Anew => {}
                    Outcome::Over(error) => break Err(error),
                    Outcome::Again(error) => {
                        let now = self.clock.now();
                        let since = *stalled.get_or_insert_with(|| {
                            listener.stalled(Some(&error));
                            now
                        });
                        let closing = self.inbox.box_.lock().closing.then_some(CLOSING);
                        let patience = [self.patience, closing].into_iter().flatten().min();
                        if patience.is_some_and(|patience| now - since >= patience) {
                            break Err(error);
                        }
                        self.parker.park_timeout(TRY_AGAIN);
                    }
                }
            };
            let (ops, part) = match written {
                Ok(written) => written,
                Err(error) => return self.fail(error, listener),
            };
            if stalled.is_some() {
                listener.stalled(None);
            }
            for _ in 0..ops {
                self.group.pop_front().into_iter().for_each(|op| op.committed());
            }
            if part {
                self.group.front_mut().into_iter().for_each(|op| op.part_committed());
            }
            self.keep_the_log_short();
        }
        // Nobody sends after `close`; what still comes is told so.
        let why = Arc::new(JournalError::Closed { path: self.path.clone() });
        listener.closed(&why);
        self.refuse(why);
        // While the lock is held: the next owner makes its own.
        let _ = clear_away(&self.path);
    }

    /// There is something to write: what is left of the last group, or the next one. False: closed, and nothing is left.
    fn has_group(&mut self, looked: &mut Timestamp, listener: &dyn Listener) -> bool {
        while self.group.is_empty() {
            let now = self.clock.now();
            let time_to_look = now - *looked >= LOOK;
            if time_to_look {
                *looked = now;
                self.look_for_requests(listener);
            }
            let mut letters = self.inbox.box_.lock();
            if letters.hurry || ((time_to_look || letters.closing) && !letters.ops.is_empty()) {
                letters.asleep = false;
                let mut rows = 0;
                let fit = letters.ops.iter().take_while(|op| {
                    let fits = rows < MOST_ROWS;
                    rows += op.rows();
                    fits
                });
                let count = fit.count();
                self.group = match count == letters.ops.len() {
                    true => {
                        letters.hurry = false;
                        std::mem::take(&mut letters.ops).into()
                    }
                    false => letters.ops.drain(..count).collect(),
                };
                break;
            }
            if letters.closing {
                return false;
            }
            letters.asleep = true;
            drop(letters);
            self.parker.park_timeout(LOOK);
        }
        true
    }

    fn write(&mut self) -> Outcome {
        if let Some(path) = self.held.gone() {
            let what = format!("{} was deleted or replaced while it was in use", path.display());
            return Outcome::Over(At(&self.path).damaged(&what));
        }
        let before = self.books.clone();
        let error = match self.try_write() {
            Ok((ops, part)) => return Outcome::Committed { ops, part },
            Err(error) => error,
        };
        let told = At(&self.path).said_to(&self.db, "cannot be written", &error);
        self.books = before;
        if !self.db.is_autocommit() {
            // Some errors roll back by themselves. One here leaves nothing to lose.
            let _ = self.db.execute_batch("ROLLBACK");
        }
        self.group.iter_mut().for_each(|op| op.rolled_back());
        if is_anew(&error) {
            return Outcome::Anew;
        }
        if may_pass(&error) { Outcome::Again(told) } else { Outcome::Over(told) }
    }

    /// One transaction of it: how many ops, and whether a part of the next one is with them.
    fn try_write(&mut self) -> rusqlite::Result<(usize, bool)> {
        self.db.execute_batch("BEGIN IMMEDIATE")?;
        pages_written(&self.db, true);
        let now_ms = wall_ms() as i64;
        let (books, limits) = (&mut self.books, &mut self.limits);
        let mut tx = Tx { db: &self.db, books, now_ms, fence: &self.fence, limits, divided: false };
        let mut ops = 0;
        for op in &mut self.group {
            op.apply(&mut tx)?;
            if tx.divided {
                break;
            }
            ops += 1;
            if tx.is_full() {
                break;
            }
        }
        let part = tx.divided;
        self.books.flush(&self.db)?;
        self.db.execute_batch("COMMIT")?;
        Ok((ops, part))
    }

    fn fail(&mut self, error: JournalError, listener: &dyn Listener) {
        let why = Arc::new(error);
        listener.failed(&why);
        for op in std::mem::take(&mut self.group) {
            op.lost(&why);
        }
        self.refuse(why);
    }

    fn refuse(&self, why: Arc<JournalError>) {
        let left = {
            let mut letters = self.inbox.box_.lock();
            letters.failed = Some(Arc::clone(&why));
            std::mem::take(&mut letters.ops)
        };
        left.into_iter().for_each(|op| op.lost(&why));
    }

    fn look_for_requests(&mut self, listener: &dyn Listener) {
        let version = self.db.query_row("PRAGMA data_version", [], |row| row.get(0)).unwrap_or(0);
        if version != self.data_version && listener.look_for_requests(&self.db) {
            self.data_version = version;
        }
    }

    /// See the head of the file.
    fn keep_the_log_short(&mut self) {
        let log = std::fs::metadata(super::lock::beside(&self.path, "-wal")).map_or(0, |meta| meta.len());
        if log <= self.limits.log + self.busy_log {
            return;
        }
        let _ = self.db.busy_timeout(READERS_LIMIT);
        let emptied = self.db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
        let _ = self.db.busy_timeout(super::schema::PATIENCE);
        // Whoever reads for longer is waited for again when half as much has come to it.
        let emptied = emptied.is_ok_and(|busy| busy == 0);
        self.busy_log = if emptied { 0 } else { log - self.limits.log / 2 };
    }
}

#[cfg(test)]
mod tests {
    #[cfg(feature = "cli")]
    use super::{Tx, secs};
    use crate::store::JournalError;
    use crate::store::sqlite::testing::Alone;

    #[cfg(feature = "cli")]
    #[test]
    fn what_goes_along_is_written_with_the_next_or_by_itself() {
        use crate::store::sqlite::batch::Ask;
        use crossbeam::channel::unbounded;

        let there = Alone::new("along");
        let journal = &there.journal;
        let (send, written) = unbounded();
        let along = |n: u32| {
            let send = send.clone();
            let told = Box::new(move |made: Result<(), _>| send.send((n, made.is_ok())).unwrap());
            journal.send_along(Ask { write: |_: &mut Tx<'_>| Ok(()), made: None, told });
        };
        along(1);
        journal.ask(|_| Ok(())).unwrap();
        assert_eq!(written.try_recv(), Ok((1, true)), "it went before what was sent after it");
        along(2);
        assert_eq!(written.recv_timeout(secs(60)), Ok((2, true)), "nothing follows it");
        along(3);
        journal.close();
        assert_eq!(written.try_recv(), Ok((3, true)), "the end takes it along");
    }

    #[test]
    fn a_panic_ends_the_journal_and_everybody_is_told() {
        let there = Alone::new("panic");
        let asked = there.journal.ask::<()>(|_| panic!("a mistake"));
        assert!(matches!(&*asked.unwrap_err(), JournalError::Broken { .. }));
        assert!(matches!(&*there.journal.ask(|_| Ok(())).unwrap_err(), JournalError::Broken { .. }));
        // What was half written is rolled back; the file is as good as after a crash.
        drop(there.again());
    }
}
