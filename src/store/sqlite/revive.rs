//! Dead items that are driven again because somebody asks for it (`batchyard retry`): all of a batch, one by its key, or
//! those with a text in their errors. Whatever they died of, they have all their tries before them again.
//!
//! Done by the owner of the journal, who may be running the batch meanwhile. Then they are run by that very run: it is
//! what somebody who watches it asks for, and the door is the one by which items of earlier runs come in. What could go
//! wrong is the end of the run in the middle of it. So the lane is held ([`Link::hold`]): it counts one more open item, and
//! does not end before what has come back is counted in. A lane that has ended is not held; its items wait for the next run.
//!
//! | of the items that come back, those | are |
//! |---|---|
//! | of the run's input | run by it, and no longer counted as dead |
//! | that the input has not named, or not yet | pending: for its rest, or for the run whose input has them |
//! | of a batch that nobody runs | pending for its next run |
//!
//! A page a commit, so that others may write between two of them. Whoever is killed in the middle of it has done a part, and
//! who asked asks again. The order in the writer is what makes the counts right: a result that is taken back is a row, so its
//! commit has been told before that of its coming back is.

use super::append::again;
use super::error::JournalError;
use super::journal::{Member, Open};
use super::read::{self, RawResult};
use super::rows::{Kind, Past};
use super::store::JournalStore;
use super::writer::{Inbox, Op, Tx};
use crate::job::Payload;
use crate::store::Link;
use crate::sync::{Arc, Weak};
use rusqlite::{OptionalExtension, params};

/// Dead items of a page.
const PAGE: usize = 256;

/// Which of the dead are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pick {
    All,
    /// The one with this key.
    Key(String),
    /// Those with this text in an error of theirs.
    Matching(String),
}

impl Pick {
    /// What stands in the table `control`.
    #[cfg(feature = "cli")]
    pub(crate) fn verb(&self) -> String {
        match self {
            Pick::All => "retry".to_owned(),
            Pick::Key(key) => format!("retry key {key}"),
            Pick::Matching(text) => format!("retry match {text}"),
        }
    }

    /// `None`: something else is asked for.
    fn of_verb(verb: &str) -> Option<Pick> {
        if verb == "retry" {
            return Some(Pick::All);
        }
        let key = verb.strip_prefix("retry key ").map(|key| Pick::Key(key.to_owned()));
        key.or_else(|| verb.strip_prefix("retry match ").map(|text| Pick::Matching(text.to_owned())))
    }
}

/// How many items came back.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Revived {
    pub(crate) revived: u64,
    /// Those of them that the run under way tries.
    pub(crate) running: u64,
}

/// What came back with a page.
#[derive(Debug, Default)]
pub(crate) struct Page {
    /// Of the batch's last submission.
    again: Vec<(i64, Past)>,
    /// Of earlier ones, which the last one has not named.
    others: u64,
    /// The cursor behind it; `None`: it was the last.
    pub(crate) next: Option<u64>,
}

impl Page {
    pub(crate) fn len(&self) -> u64 {
        self.again.len() as u64 + self.others
    }
}

/// Takes the results of dead items behind a cursor back; not of those that died after `until` results: they have come
/// back already, and died again.
pub(crate) fn page(
    tx: &mut Tx<'_>,
    batch: i64,
    pick: &Pick,
    cursor: u64,
    until: u64,
) -> rusqlite::Result<Page> {
    let (mut dead, mut next) = match pick {
        Pick::Key(key) => (by_key(tx, batch, key)?, None),
        _ => read::dead(tx.db, batch, cursor, PAGE)?,
    };
    if dead.iter().any(|row| row.cursor > until) {
        dead.retain(|row| row.cursor <= until);
        next = None;
    }
    let mut page = Page { next, ..Page::default() };
    for row in dead {
        let meant = match pick {
            Pick::All | Pick::Key(_) => true,
            Pick::Matching(text) => {
                read::errors(tx.db, row.item)?.iter().any(|error| error.message.contains(text))
            }
        };
        if meant {
            let past = again(tx.db, row.item, row.epoch)?;
            let book = tx.books.of(tx.db, batch)?;
            book.dead -= 1;
            let run: i64 = tx
                .db
                .prepare_cached("SELECT run FROM item WHERE id = ?")?
                .query_row([row.item], |row| row.get(0))?;
            if run == book.run {
                page.again.push((row.item, past));
            } else {
                page.others += 1;
            }
        }
    }
    Ok(page)
}

fn by_key(tx: &Tx<'_>, batch: i64, key: &str) -> rusqlite::Result<Vec<RawResult>> {
    let item: Option<i64> = tx
        .db
        .prepare_cached(
            "SELECT r.item FROM item i JOIN result r ON r.item = i.id WHERE i.batch = ? AND i.key = ? AND r.kind = ?",
        )?
        .query_row(params![batch, key, Kind::Dead.as_str()], |row| row.get(0))
        .optional()?;
    item.map(|item| read::of_item(tx.db, item)).into_iter().collect()
}

/// A request of another process, a page of it.
pub(crate) struct Revival {
    batch: i64,
    pick: Pick,
    cursor: u64,
    /// Results that there were when it began; `None`: it has not.
    until: Option<u64>,
    /// The request's number in the table `control`.
    request: i64,
    /// With the pages before this one.
    so_far: Revived,
    page: Page,
    open: Open,
    inbox: Weak<Inbox>,
    /// The run that is held until the page is written.
    run: Option<(Arc<dyn Member>, Arc<dyn Link>)>,
}

impl Revival {
    /// False: something else is asked for.
    pub(crate) fn begin(request: i64, batch: i64, verb: &str, open: &Open, inbox: &Arc<Inbox>) -> bool {
        let Some(pick) = Pick::of_verb(verb) else { return false };
        let revival = Revival {
            batch,
            pick,
            cursor: 0,
            until: None,
            request,
            so_far: Revived::default(),
            page: Page::default(),
            open: Arc::clone(open),
            inbox: Arc::downgrade(inbox),
            run: None,
        };
        revival.send();
        true
    }

    fn send(mut self) {
        let Some(inbox) = self.inbox.upgrade().filter(|inbox| !inbox.is_closing()) else { return };
        let open: Vec<Arc<dyn Member>> = self.open.lock().there.iter().filter_map(Weak::upgrade).collect();
        let held = |member: Arc<dyn Member>| {
            let link = member.link().filter(|link| link.hold())?;
            Some((member, link))
        };
        // Of a batch that was opened anew the earlier run may still be here: it has ended, and cannot be held.
        self.run = open.into_iter().filter(|member| member.batch() == self.batch).find_map(held);
        inbox.send(Box::new(self));
    }

    fn let_go(&mut self) {
        if let Some((_, link)) = self.run.take() {
            link.settled(1, 0);
        }
    }
}

impl Op for Revival {
    fn apply(&mut self, tx: &mut Tx<'_>) -> rusqlite::Result<()> {
        let results = tx.books.of(tx.db, self.batch)?.next_result;
        let until = *self.until.get_or_insert(results as u64);
        self.page = page(tx, self.batch, &self.pick, self.cursor, until)?;
        let running = if self.run.is_some() { self.page.again.len() as u64 } else { 0 };
        let so_far = Revived {
            revived: self.so_far.revived + self.page.len(),
            running: self.so_far.running + running,
        };
        let answer = serde_json::to_string(&so_far).expect("two numbers have a JSON form");
        let done_ms = self.page.next.is_none().then_some(tx.now_ms);
        tx.db
            .prepare_cached("UPDATE control SET done_ms = ?, answer = ? WHERE id = ?")?
            .execute(params![done_ms, answer, self.request])
            .map(drop)
    }

    fn committed(mut self: Box<Self>) {
        self.so_far.revived += self.page.len();
        let page = std::mem::take(&mut self.page);
        if let Some((member, link)) = &self.run {
            self.so_far.running += page.again.len() as u64;
            if page.len() > 0 {
                link.revived(page.again.len() as u64, page.others);
                member.come_back(&page.again);
            }
        }
        self.let_go();
        if let Some(next) = page.next {
            self.cursor = next;
            self.send();
        }
    }

    fn lost(mut self: Box<Self>, _why: &Arc<JournalError>) {
        self.let_go();
    }

    fn rows(&self) -> usize {
        PAGE
    }
}

impl<I: Payload, O: Payload> JournalStore<I, O> {
    /// Items with something behind them, which the lane has counted in, are claimed when their time comes. Not if it has
    /// been stopped: then they are as those that it dropped.
    pub(super) fn take_back(&self, items: &[(i64, Past)]) {
        self.wait_by_name(items);
        self.told().kick_at(self.clock.now());
    }
}

#[cfg(all(test, feature = "cli"))]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_understood() {
        for pick in [Pick::All, Pick::Key("a key".to_owned()), Pick::Matching("no route: match ".to_owned())]
        {
            assert_eq!(Pick::of_verb(&pick.verb()), Some(pick));
        }
        for other in ["pause", "retry ", "retry keys", "retrying"] {
            assert_eq!(Pick::of_verb(other), None);
        }
    }
}
