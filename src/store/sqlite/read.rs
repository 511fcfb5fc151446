//! Reading beside the writer: short statements, none of which holds an old state of the file for long.

use super::error::{At, JournalError};
use super::rows::{Kind, error_sum, key_sum, number, range_of, result_sum, seq_of};
use super::settle::damaged;
use crate::job::{AttemptError, AttemptKind, DeadReason, Key};
use crate::sync::Mutex;
use rusqlite::{Connection, Row, params};
use std::path::PathBuf;

/// A result as it lies in the table.
#[derive(Debug, Clone)]
pub(crate) struct RawResult {
    /// The cursor behind it: how many results the batch had with it.
    pub(crate) cursor: u64,
    pub(crate) seq: u64,
    pub(crate) item: i64,
    pub(crate) key: Key,
    pub(crate) kind: Kind,
    pub(crate) reason: Option<DeadReason>,
    pub(crate) epoch: i64,
    pub(crate) attempts: u32,
    pub(crate) wait_us: u64,
    pub(crate) run_us: u64,
    #[cfg_attr(not(feature = "cli"), allow(dead_code))]
    pub(crate) ended_ms: i64,
    pub(crate) output: Option<String>,
}

/// Connections to read with, kept for the next.
#[derive(Debug)]
pub(crate) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    /// Connections kept at the most.
    const KEPT: usize = 4;

    pub(crate) fn new(path: PathBuf) -> Readers {
        Readers { path, idle: Mutex::new(Vec::new()) }
    }

    /// Closes those that are not in use: the writer's, if it is the last, empties the log as it goes.
    pub(crate) fn close(&self) {
        self.idle.lock().clear();
    }

    /// Reads with a connection that nobody else uses meanwhile.
    pub(crate) fn read<R>(
        &self,
        f: impl FnOnce(&Connection) -> rusqlite::Result<R>,
    ) -> Result<R, JournalError> {
        let idle = self.idle.lock().pop();
        let db = match idle {
            Some(db) => db,
            None => super::schema::open_beside(&self.path, false)?,
        };
        let read = f(&db).map_err(At(&self.path).failed("cannot be read"));
        let mut idle = self.idle.lock();
        if idle.len() < Self::KEPT {
            idle.push(db);
        }
        read
    }
}

const COLUMNS: &str =
    "r.id, r.item, i.key, r.kind, r.reason, r.epoch, r.attempts, r.wait_us, r.run_us, r.ended_ms,
 r.output, r.sum";

/// Results behind a cursor, in the order of completion.
pub(crate) fn by_completion(
    db: &Connection,
    batch: i64,
    cursor: u64,
    most: usize,
) -> rusqlite::Result<Vec<RawResult>> {
    let (_, end) = range_of(batch);
    db.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM result r LEFT JOIN item i ON i.id = r.item WHERE r.id >= ? AND r.id < ? ORDER BY r.id LIMIT ?"
    ))?
    .query_map(params![number(batch, cursor as i64), end, most as i64], result)?
    .collect()
}

/// Results from an item on, in the order of submission, up to the first item that will have one and has none. `gaps`: such
/// items are passed over, too.
pub(crate) fn by_input(
    db: &Connection,
    batch: i64,
    from: u64,
    most: usize,
    gaps: bool,
) -> rusqlite::Result<Vec<RawResult>> {
    let (_, end) = range_of(batch);
    // What died in an earlier run is still to come if it is submitted again; whether it is, the seal tells at last.
    let (join, open) = match gaps {
        true => ("JOIN", "0"),
        false => ("LEFT JOIN", "r.id IS NULL OR (r.kind = 'dead' AND i.run <> b.run AND NOT b.sealed)"),
    };
    let mut select = db.prepare_cached(&format!(
        "SELECT {COLUMNS}, {open} FROM item i JOIN batch b ON b.id = i.batch {join} result r ON r.item = i.id
         WHERE i.id >= ? AND i.id < ? AND (r.id IS NOT NULL OR NOT (b.sealed AND b.run <> i.run))
         ORDER BY i.id LIMIT ?"
    ))?;
    let mut rows = select.query(params![number(batch, from as i64), end, most as i64])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        if row.get(12)? {
            break;
        }
        found.push(result(row)?);
    }
    Ok(found)
}

/// The result of an item that has one.
pub(crate) fn of_item(db: &Connection, item: i64) -> rusqlite::Result<RawResult> {
    db.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM result r LEFT JOIN item i ON i.id = r.item WHERE r.item = ?"
    ))?
    .query_row([item], result)
}

/// The dead of a batch, in the order in which they died.
pub(crate) fn dead(db: &Connection, batch: i64) -> rusqlite::Result<Vec<RawResult>> {
    let (from, end) = range_of(batch);
    db.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM result r LEFT JOIN item i ON i.id = r.item
         WHERE r.id >= ? AND r.id < ? AND r.kind = 'dead' ORDER BY r.id"
    ))?
    .query_map([from, end], result)?
    .collect()
}

/// The dead of a batch behind a cursor, in the order in which they died, and the cursor behind them; `None`: those were
/// the last.
pub(crate) fn dead_behind(
    db: &Connection,
    batch: i64,
    cursor: u64,
    most: usize,
) -> rusqlite::Result<(Vec<RawResult>, Option<u64>)> {
    let (_, end) = range_of(batch);
    let found: Vec<RawResult> = db
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM result r LEFT JOIN item i ON i.id = r.item
             WHERE r.id >= ? AND r.id < ? AND r.kind = 'dead' ORDER BY r.id LIMIT ?"
        ))?
        .query_map(params![number(batch, cursor as i64), end, most as i64], result)?
        .collect::<rusqlite::Result<_>>()?;
    let next = found.last().filter(|_| found.len() == most).map(|last| last.cursor);
    Ok((found, next))
}

/// Why the attempts of an item failed, the first one first.
pub(crate) fn errors(db: &Connection, item: i64) -> rusqlite::Result<Vec<AttemptError>> {
    db.prepare_cached(
        "SELECT attempt, kind, message, place, epoch, at_ms, sum FROM error WHERE item = ? ORDER BY epoch",
    )?
    .query_map([item], |row| {
        let (attempt, kind, message): (i64, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let (place, epoch, at_ms): (Option<String>, i64, i64) = (row.get(3)?, row.get(4)?, row.get(5)?);
        let sum = error_sum(item, epoch, attempt, &kind, &message, place.as_deref(), at_ms);
        if sum != row.get::<_, i64>(6)? {
            return Err(damaged("error", item));
        }
        // A kind of a newer version is still an error.
        let kind = kind.parse().unwrap_or(AttemptKind::Failed);
        let error = AttemptError::new(u32::try_from(attempt).unwrap_or(u32::MAX), kind, message);
        Ok(match place {
            Some(place) => error.at(place),
            None => error,
        })
    })?
    .collect()
}

/// What attempts of an open item have achieved.
pub(crate) fn step(db: &Connection, item: i64, name: &str) -> rusqlite::Result<Option<String>> {
    let mut select = db.prepare_cached("SELECT output, sum FROM step WHERE item = ? AND name = ?")?;
    let mut rows = select.query(params![item, name])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let (output, sum): (String, i64) = (row.get(0)?, row.get(1)?);
    if sum != super::step::sum(item, name, &output) {
        return Err(damaged("step", item));
    }
    Ok(Some(output))
}

fn result(row: &Row<'_>) -> rusqlite::Result<RawResult> {
    let (id, item): (i64, i64) = (row.get(0)?, row.get(1)?);
    let (kind, reason): (String, Option<String>) = (row.get(3)?, row.get(4)?);
    let (epoch, attempts): (i64, i64) = (row.get(5)?, row.get(6)?);
    let times: (i64, i64, i64) = (row.get(7)?, row.get(8)?, row.get(9)?);
    let output: Option<String> = row.get(10)?;
    let Some(key) = row.get::<_, Option<String>>(2)? else { return Err(damaged("item", item)) };
    let sum = result_sum(
        id,
        item,
        key_sum(&key),
        &kind,
        reason.as_deref(),
        epoch,
        attempts,
        times,
        output.as_deref(),
    );
    let kind = Kind::of(&kind).filter(|_| sum == row.get::<_, i64>(11).unwrap_or(!sum));
    let Some(kind) = kind else { return Err(damaged("result", id)) };
    Ok(RawResult {
        cursor: seq_of(id) + 1,
        seq: seq_of(item),
        item,
        key: Key::from(key),
        kind,
        reason: reason.map(|reason| reason.parse().unwrap_or(DeadReason::Exhausted)),
        epoch,
        attempts: u32::try_from(attempts).unwrap_or(u32::MAX),
        wait_us: times.0.max(0) as u64,
        run_us: times.1.max(0) as u64,
        ended_ms: times.2,
        output,
    })
}
