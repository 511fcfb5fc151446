//! A journal that is open: its writer, its readers, and what its batches have in common.

use super::batch::{Ask, Opened, Refused};
use super::book::Books;
use super::error::{At, JournalError};
use super::hand::{Hand, InHand};
use super::lock::{beside, lock};
use super::owner::{self, Orphans};
#[cfg(feature = "cli")]
use super::piece;
use super::read::Readers;
use super::revive::Revival;
use super::rows::Past;
use super::writer::{Inbox, Listener, Op, Tx, Writer};
use super::{batch, schema};
use crate::core::turns::{Side, Sides, Turns};
use crate::job::Durability;
use crate::lock::{Levelled, house};
use crate::store::{BatchId, Link};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::thread::{ThreadId, current};
use crate::sync::{Arc, Weak, thread};
use crossbeam::channel::bounded;
use rusqlite::Connection;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What happens to a journal as a whole.
#[derive(Debug)]
pub(crate) enum News<'a> {
    Stalled(&'a JournalError),
    GoesOn,
    Lost(&'a JournalError),
}

/// Who hears of it.
pub(crate) type Tell = Box<dyn Fn(News<'_>) + Send + Sync>;

/// How a journal is opened.
pub(crate) struct Options<'a> {
    pub(crate) durability: Durability,
    pub(crate) workers: usize,
    /// How long a full disk is waited for; `None`: for ever.
    pub(crate) patience: Option<Duration>,
    /// Ends the processes that a dead owner left.
    pub(crate) kill: &'a mut dyn FnMut(&Orphans),
    pub(crate) tell: Tell,
}

/// What a batch's store does when something happens to the journal.
pub(crate) trait Member: Send + Sync {
    /// Its batch's number.
    fn batch(&self) -> i64;
    /// What it has out, and whether it stands still. Takes no lock.
    fn side(&self) -> (&Side, bool);
    /// Its rows may be claimed again. Whoever calls may hold the lane's latches: it is looked at soon, not here.
    fn kick_soon(&self);
    /// The journal was closed: nothing is written any more.
    fn closed(&self, why: &Arc<JournalError>);
    /// Nothing can be written for the time being, or that is over.
    fn stalled(&self, stalled: bool);
    /// Nothing will ever be written again.
    fn failed(&self, why: &Arc<JournalError>);
    /// What tells its lane.
    fn link(&self) -> Option<Arc<dyn Link>>;
    /// Items that had died are pending again, and the lane has counted them in.
    fn come_back(&self, items: &[(i64, Past)]);
    /// Another process asks for this.
    fn control(&self, batch: i64, verb: &str) -> Option<String>;
}

/// The batches that are open, at one time, as [`Turns`] sees them. `None`: there were no suspects then, so they were not
/// gathered.
pub(super) struct Snapshot(Option<Vec<Arc<dyn Member>>>);

impl Sides for Snapshot {
    fn any(&self, what: &mut dyn FnMut(&Side, bool) -> bool) -> bool {
        self.0.as_ref().is_none_or(|members| {
            members.iter().any(|member| {
                let (side, still) = member.side();
                what(side, still)
            })
        })
    }
}

/// An open journal. Closed by [`Journal::close`], or when it is dropped.
pub(crate) struct Journal {
    path: PathBuf,
    inbox: Arc<Inbox>,
    writer: Levelled<Option<thread::JoinHandle<()>>, house::JournalWriter>,
    writer_id: ThreadId,
    pub(crate) readers: Readers,
    hand: Hand,
    owner: i64,
    #[cfg_attr(not(feature = "cli"), allow(dead_code))]
    uid: String,
    shared: Arc<Members>,
}

/// The open batches of a journal.
pub(super) type Open = Arc<Levelled<All, house::JournalStores>>;

/// The batches that are open.
struct Members {
    all: Open,
    /// The last request that was looked at. One that takes its time is not begun again.
    asked: AtomicU64,
    turns: Turns,
    tell: Tell,
    inbox: crate::sync::OnceLock<Weak<Inbox>>,
}

#[derive(Default)]
pub(super) struct All {
    pub(super) there: Vec<Weak<dyn Member>>,
    /// Nothing is written any more: who comes later is told, too.
    over: Option<Arc<JournalError>>,
}

impl Journal {
    /// Takes the lock, takes over from a dead owner, starts the writer.
    pub(crate) fn open(path: &Path, options: Options<'_>) -> Result<Arc<Journal>, JournalError> {
        let at = At(path);
        // A file that is something else gets no lock beside it.
        schema::check_head(path)?;
        let uid = owner::new_uid();
        let mut held = lock(path, &uid)?;
        let synchronous = match options.durability {
            Durability::PowerLoss => "FULL",
            _ => "NORMAL",
        };
        let mut db = schema::open(path, synchronous)?;
        let owner = owner::take_over(&mut db, path, &uid, options.kill)?;
        let (hand, hand_path) = Hand::create(path, options.workers)?;
        held.watch(path)?;
        // Commits to a log that has no name any more would be gone with the process.
        held.watch(&beside(path, "-wal"))?;
        held.watch(&hand_path)?;
        let shared = Arc::new(Members {
            all: Arc::default(),
            asked: AtomicU64::new(0),
            turns: Turns::new(),
            tell: options.tell,
            inbox: crate::sync::OnceLock::new(),
        });
        let writer = Writer::new(db, path.to_owned(), held, Books::default(), options.patience)
            .map_err(at.failed("cannot be set up"))?;
        let inbox = writer.inbox();
        let _ = shared.inbox.set(Arc::downgrade(&inbox));
        let listener: Arc<dyn Listener> = Arc::clone(&shared) as _;
        let thread = writer.start(listener).map_err(|source| JournalError::Io {
            path: path.to_owned(),
            doing: "has no thread to write it".to_owned(),
            source,
        })?;
        let readers = Readers::new(path.to_owned());
        // One that cannot be read is better told now.
        readers.read(|_| Ok(())).map_err(|error| match error {
            JournalError::Sqlite { problem, .. } => at.damaged(&problem),
            error => error,
        })?;
        Ok(Arc::new(Journal {
            path: path.to_owned(),
            inbox,
            writer_id: thread.thread().id(),
            writer: Levelled::new(Some(thread)),
            readers,
            hand,
            owner,
            uid,
            shared,
        }))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// This owner's id: what its children carry in their environment.
    #[cfg(feature = "cli")]
    pub(crate) fn uid(&self) -> &str {
        &self.uid
    }

    pub(crate) fn send(&self, op: impl Op + 'static) {
        self.inbox.send(Box::new(op));
    }

    /// See [`Inbox::send_along`].
    #[cfg(feature = "cli")]
    pub(crate) fn send_along(&self, op: impl Op + 'static) {
        self.inbox.send_along(Box::new(op));
    }

    /// Whether this is the writer's own thread: in a listener that it has called.
    fn is_writer(&self) -> bool {
        self.writer_id == current().id()
    }

    /// What waits for the writer may not run on it.
    pub(crate) fn may_wait(&self) -> Result<(), Arc<JournalError>> {
        if self.is_writer() {
            return Err(Arc::new(JournalError::WouldBlockWriter { path: self.path.clone() }));
        }
        Ok(())
    }

    /// Writes and waits for the commit.
    pub(crate) fn ask<R: Send + 'static>(
        &self,
        write: impl FnMut(&mut Tx<'_>) -> rusqlite::Result<R> + Send + 'static,
    ) -> Result<R, Arc<JournalError>> {
        self.may_wait()?;
        let (send, answer) = bounded(1);
        let told = Box::new(move |made| drop(send.send(made)));
        self.send(Ask { write, made: None, told });
        answer.recv().unwrap_or_else(|_| Err(Arc::new(JournalError::Closed { path: self.path.clone() })))
    }

    /// Finds or makes a batch, and begins a run of it.
    pub(crate) fn open_batch(&self, what: &BatchId, with_input: bool) -> Result<Opened, Arc<JournalError>> {
        let asked = what.clone();
        let opened = self.ask(move |tx| batch::open(tx, &asked, with_input))?;
        let path = self.path.clone();
        let batch = what.name.clone();
        opened.map_err(|refused| {
            Arc::new(match refused {
                Refused::Unknown { known } => {
                    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                    JournalError::UnknownBatch { path, batch, known }
                }
                Refused::Unsealed => JournalError::Unsealed { batch },
                Refused::OtherProcessor { there } => {
                    let asked = format!("{} {}", what.processor, what.version).trim().to_owned();
                    JournalError::OtherProcessor { path, batch, there, asked }
                }
            })
        })
    }

    /// From now on the batch is told of what happens, and at once if nothing more will.
    pub(crate) fn enter(&self, member: &Arc<dyn Member>) {
        let over = {
            let mut all = self.shared.all.lock();
            all.there.retain(|member| member.strong_count() > 0);
            all.there.push(Arc::downgrade(member));
            all.over.clone()
        };
        if let Some(why) = over {
            member.failed(&why);
        }
    }

    /// The number that this owner has in the table.
    pub(crate) fn owner(&self) -> i64 {
        self.owner
    }

    /// A worker has these items in hand.
    pub(crate) fn note_in_hand(&self, worker: usize, first: i64, last: i64) {
        self.hand.note(worker, InHand { first, last });
    }

    /// It has them in hand no more.
    pub(crate) fn note_off_hand(&self, worker: usize) {
        self.hand.clear(worker);
    }

    /// Notes a process that a worker has started for an item.
    #[cfg(feature = "cli")]
    pub(crate) fn note_child(&self, worker: usize, group: super::hand::Group) {
        self.hand.note_child(worker, group);
    }

    /// Keeps something of an attempt, before whatever is sent after it.
    #[cfg(feature = "cli")]
    pub(crate) fn keep(&self, item: i64, epoch: u32, name: &'static str, bytes: Vec<u8>) {
        let pieces = vec![bytes];
        self.send(Ask {
            write: move |tx: &mut Tx<'_>| piece::write(tx, item, epoch.into(), name, 0, &pieces),
            made: None,
            told: Box::new(|_: Result<(), _>| ()),
        });
    }

    /// Keeps pieces of an attempt, and waits for the commit.
    #[cfg(feature = "cli")]
    pub(crate) fn keep_pieces(
        &self,
        item: i64,
        epoch: u32,
        name: &'static str,
        from: u64,
        pieces: Vec<Vec<u8>>,
    ) -> Result<(), Arc<JournalError>> {
        self.ask(move |tx| piece::write(tx, item, epoch.into(), name, from as i64, &pieces))
    }

    /// A thread that had rows of the journal in hand was given up, or came back.
    pub(crate) fn note_given_up(&self, more: i64) {
        self.hand.given_up(more);
    }

    // ---- suspects: see `core/turns` ----------------------------------------------------------------------

    pub(super) fn turns(&self) -> &Turns {
        &self.shared.turns
    }

    /// The batches that are open, if it matters whose turn it is.
    pub(super) fn sides(&self) -> Snapshot {
        Snapshot(self.shared.turns.are_needed().then(|| self.shared.members()))
    }

    /// A suspect has ended: who was refused looks again.
    pub(super) fn kick_all(&self) {
        self.shared.kick();
    }

    /// Writes what was sent, ends the owner's time, and lets the lock go.
    pub(crate) fn close(&self) {
        let Some(writer) = self.writer.lock().take() else { return };
        let owner = self.owner;
        self.send(Ask {
            write: move |tx: &mut Tx<'_>| {
                let now = tx.now_ms;
                // Nothing is in hand any more: what was claimed and has not ended was not begun, or was given back.
                tx.books.flush(tx.db)?;
                for batch in batch::claimed(tx.db)? {
                    tx.books.of(tx.db, batch)?.claimed_to = 0;
                }
                tx.db.execute("UPDATE owner SET ended_ms = ? WHERE id = ?", [now, owner]).map(drop)
            },
            made: None,
            told: Box::new(|_: Result<(), _>| ()),
        });
        self.readers.close();
        self.inbox.close();
        if self.is_writer() {
            return; // It ends when it comes back from the listener that got here.
        }
        // A panic of the writer has been told by its listener's silence; there is nothing left to do for it here.
        let _ = writer.join();
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.close();
    }
}

impl Members {
    fn members(&self) -> Vec<Arc<dyn Member>> {
        self.all.lock().there.iter().filter_map(Weak::upgrade).collect()
    }

    fn each(&self, f: impl Fn(&dyn Member)) {
        for member in self.members() {
            f(&*member);
        }
    }

    fn kick(&self) {
        self.each(|member| member.kick_soon());
    }
}

impl Listener for Members {
    fn stalled(&self, why: Option<&JournalError>) {
        (self.tell)(why.map_or(News::GoesOn, News::Stalled));
        self.each(|member| member.stalled(why.is_some()));
    }

    fn failed(&self, why: &Arc<JournalError>) {
        self.all.lock().over = Some(Arc::clone(why));
        (self.tell)(News::Lost(why));
        self.each(|member| member.failed(why));
    }

    fn closed(&self, why: &Arc<JournalError>) {
        self.all.lock().over = Some(Arc::clone(why));
        self.each(|member| member.closed(why));
    }

    fn look_for_requests(&self, db: &Connection) -> bool {
        let found: rusqlite::Result<Vec<(i64, i64, String)>> = (|| {
            db.prepare_cached(
                "SELECT id, batch, verb FROM control WHERE done_ms IS NULL AND id > ? ORDER BY id",
            )?
            .query_map([self.asked.load(Ordering::Relaxed) as i64], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })?
            .collect()
        })();
        let Ok(found) = found else { return false };
        for (id, batch, verb) in found {
            let Some(inbox) = self.inbox.get().and_then(Weak::upgrade) else { return true };
            self.asked.store(id as u64, Ordering::Relaxed);
            if Revival::begin(id, batch, &verb, &self.all, &inbox) {
                continue;
            }
            let answer = self.members().iter().find_map(|member| member.control(batch, &verb));
            let answer = answer.filter(|answer| answer != "has ended");
            inbox.send(Box::new(Ask {
                write: move |tx: &mut Tx<'_>| {
                    let now = tx.now_ms;
                    // The next run of the batch finds it as it was asked to be.
                    let kept = batch::steer(tx, batch, &verb)?;
                    let answer = answer.as_deref().unwrap_or(kept);
                    tx.db
                        .prepare_cached("UPDATE control SET done_ms = ?, answer = ? WHERE id = ?")?
                        .execute(rusqlite::params![now, answer, id])
                        .map(drop)
                },
                made: None,
                told: Box::new(|_: Result<(), _>| ()),
            }));
        }
        true
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("path", &self.path).finish_non_exhaustive()
    }
}
