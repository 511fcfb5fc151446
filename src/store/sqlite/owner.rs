//! Who held the journal before, and what a process that died left behind.
//!
//! Runs once, under the lock, before anything else is written. A process that ended by itself left nothing in hand.
//! One that died did: whatever it had claimed and not settled may have been started, and is tried again under the next
//! attempt's number. What was in hand just then ([`hand`](super::hand)) is *suspect*: it runs alone until it has ended
//! once, and a crash with a suspect alone in hand is counted against it. The third one ends it: dead, crashed.

use super::book::{Book, Books};
use super::error::{At, JournalError};
use super::hand::{Group, Hand, Left};
use super::rows::{Kind, NewError, Past, key_sum, number, range_of, result_sum};
use super::schema::{self, BATCH_SHIFT};
use super::settle::{read_past, write_error, write_past};
use crate::job::{AttemptKind, DeadReason};
use crate::time::{secs, wall_ms};
use rusqlite::{Connection, params};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;
use std::time::Duration;

/// Crashes of one item, each with the item alone in hand, that end it.
pub(crate) const MOST_CRASHES: i64 = 3;

/// Up to this many bytes a journal is looked through wholly whenever it is opened, which takes a twentieth of a second; a
/// larger one when its last owner died. (A million finished items have 200 MB, and take three seconds of a processor.)
const WHOLLY_CHECKED: u64 = 16 << 20;

/// Up to this many, one that was closed in an orderly way is looked through for its structure and its counters, not for
/// what the indexes say of the tables: a quarter of a second for 100 MB.
const STRUCTURE_CHECKED: u64 = 512 << 20;

/// How long that may take for a larger one. What lies behind is not looked at then.
const CHECK_LIMIT: Duration = secs(1);

/// Processes of dead owners that may still run.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Orphans {
    /// Ids of the dead owners: the value of the variable that their children have in their environment.
    pub(crate) owners: Vec<String>,
    pub(crate) groups: Vec<Group>,
}

/// An owner that did not end.
#[derive(Debug)]
struct DeadOwner {
    id: i64,
    uid: String,
    boot: String,
}

/// A number nobody else has.
pub(crate) fn new_uid() -> String {
    // Each state is keyed by the system's randomness.
    let part = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", part(), part())
}

/// Which start of the machine this is.
pub(crate) fn boot() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

/// Takes over from those who died: their processes by `kill`, their items by the rules above. Then enters the new
/// owner and returns its number.
pub(crate) fn take_over(
    db: &mut Connection,
    path: &Path,
    uid: &str,
    kill: &mut dyn FnMut(&Orphans),
) -> Result<i64, JournalError> {
    let at = At(path);
    let dead = dead_owners(db).map_err(at.failed("cannot be read"))?;
    let bytes = std::fs::metadata(path).map_or(0, |meta| meta.len());
    if !dead.is_empty() || bytes <= WHOLLY_CHECKED {
        schema::check(db, path)?;
        super::batch::count_again(db).map_err(at.failed("cannot be read"))?;
    } else {
        schema::check_structure(db, path, (bytes > STRUCTURE_CHECKED).then_some(CHECK_LIMIT))?;
    }
    let boot = boot();
    // Of the last one only: who took over from the others has read theirs. Of this start of the machine: processes of an
    // earlier one are gone, and their numbers are strangers'.
    let left = match dead.last() {
        Some(last) if last.boot == boot && !boot.is_empty() => Hand::read(path).unwrap_or_default(),
        _ => Left::default(),
    };
    if !dead.is_empty() {
        let orphans = Orphans {
            owners: dead.iter().map(|owner| owner.uid.clone()).collect(),
            groups: left.groups.clone(),
        };
        kill(&orphans);
    }
    let tx = db
        .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
        .map_err(at.failed("cannot be written"))?;
    let taken = (|| {
        if !dead.is_empty() {
            recover(&tx, &dead, &left)?;
        }
        let now = wall_ms() as i64;
        // Who asked an owner that has died asks again.
        tx.execute("DELETE FROM control", [])?;
        for owner in &dead {
            tx.execute("UPDATE owner SET ended_ms = ? WHERE id = ?", params![now, owner.id])?;
        }
        tx.execute(
            "INSERT INTO owner (uid, pid, boot, started_ms) VALUES (?, ?, ?, ?)",
            params![uid, std::process::id(), boot, now],
        )?;
        Ok(tx.last_insert_rowid())
    })()
    .map_err(at.failed("cannot be taken over"))?;
    tx.commit().map_err(at.failed("cannot be written"))?;
    Ok(taken)
}

fn dead_owners(db: &Connection) -> rusqlite::Result<Vec<DeadOwner>> {
    db.prepare("SELECT id, uid, boot FROM owner WHERE ended_ms IS NULL OR ended_ms < started_ms ORDER BY id")?
        .query_map([], |row| Ok(DeadOwner { id: row.get(0)?, uid: row.get(1)?, boot: row.get(2)? }))?
        .collect()
}

/// Whatever the dead owners had claimed may have been started: those claimed in order lie below their batch's mark,
/// the others bear the owner's number. What of it was in hand is suspect.
fn recover(db: &Connection, dead: &[DeadOwner], hand: &Left) -> rusqlite::Result<()> {
    let mut books = Books::default();
    let mut claimed = Vec::new();
    for batch in super::batch::claimed(db)? {
        let book = books.of(db, batch)?;
        let mut select = db.prepare_cached(
            "SELECT id FROM item WHERE id >= ? AND id < ? AND run = ?
             AND NOT EXISTS (SELECT 1 FROM result WHERE item = item.id)
             AND NOT EXISTS (SELECT 1 FROM retry WHERE item = item.id)",
        )?;
        let (from, _) = range_of(batch);
        let to = number(batch, std::mem::take(&mut book.claimed_to));
        for id in select.query_map(params![from, to, book.run], |row| row.get(0))? {
            claimed.push((id?, Past::NONE));
        }
    }
    for owner in dead {
        let mut select = db.prepare_cached("SELECT item FROM retry WHERE owner = ?")?;
        let ids = select.query_map([owner.id], |row| row.get(0))?;
        for id in ids.collect::<rusqlite::Result<Vec<i64>>>()? {
            claimed.extend(read_past(db, id)?.map(|past| (id, past)));
        }
    }
    let is_in_hand = |id: i64| hand.in_hand.iter().any(|slot| slot.first <= id && id <= slot.last);
    let alone = !hand.strangers && claimed.iter().filter(|(id, _)| is_in_hand(*id)).count() == 1;
    for (id, past) in claimed {
        let in_hand = is_in_hand(id);
        let past = Past {
            epoch: past.epoch.saturating_add(1),
            lost: past.lost.saturating_add(1),
            crashes: past.crashes.saturating_add(i64::from(in_hand && alone)),
            suspect: past.suspect || in_hand,
            owner: 0,
            ..past
        };
        if past.crashes >= MOST_CRASHES {
            bury(db, books.of(db, id >> BATCH_SHIFT)?, id, &past)?;
        } else {
            write_past(db, id, &past)?;
        }
    }
    books.flush(db)
}

/// Ends an item that has taken its process down too often.
fn bury(db: &Connection, book: &mut Book, id: i64, past: &Past) -> rusqlite::Result<()> {
    let key: String = db.query_row("SELECT key FROM item WHERE id = ?", [id], |row| row.get(0))?;
    let now = wall_ms() as i64;
    let (attempts, reason) = (past.tries.saturating_add(past.lost), DeadReason::Crashed.as_str());
    let result = number(id >> BATCH_SHIFT, book.next_result);
    let (times, key_sum) = ((0, 0, now), key_sum(&key));
    let sum =
        result_sum(result, id, key_sum, Kind::Dead.as_str(), Some(reason), past.epoch, attempts, times, None);
    db.execute(
        "INSERT INTO result (id, item, kind, reason, epoch, attempts, wait_us, run_us, ended_ms, output, sum)
         VALUES (?, ?, ?, ?, ?, ?, 0, 0, ?, NULL, ?)",
        params![result, id, Kind::Dead.as_str(), reason, past.epoch, attempts, now, sum],
    )?;
    let error = NewError {
        attempt: attempts,
        kind: AttemptKind::Crashed.as_str(),
        message: format!("the process died {} times with this item alone in hand", past.crashes),
        place: None,
    };
    write_error(db, now, id, past.epoch, &error)?;
    db.execute("DELETE FROM retry WHERE item = ?", [id])?;
    db.execute("DELETE FROM step WHERE item = ?", [id])?;
    book.next_result += 1;
    book.dead += 1;
    Ok(())
}
