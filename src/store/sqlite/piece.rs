//! What attempts leave besides their results: outputs too large for a row, and those of items that were given up.
//!
//! Written before the outcome of the attempt is sent, so it is committed with it or earlier. The pieces of an older attempt
//! at the same item go with the first piece of a newer one.

use super::rows::Sum;
use super::settle::damaged;
use super::writer::Tx;
use rusqlite::{Connection, params};

/// Writes pieces of one name, `from` being the number of the first.
pub(super) fn write(
    tx: &mut Tx<'_>,
    item: i64,
    epoch: i64,
    name: &str,
    from: i64,
    pieces: &[Vec<u8>],
) -> rusqlite::Result<()> {
    if from == 0 {
        tx.db
            .prepare_cached("DELETE FROM piece WHERE item = ? AND (epoch <> ? OR name = ?)")?
            .execute(params![item, epoch, name])?;
    }
    let mut insert = tx.db.prepare_cached(
        "INSERT OR REPLACE INTO piece (item, name, n, epoch, bytes, sum) VALUES (?, ?, ?, ?, ?, ?)",
    )?;
    for (n, bytes) in (from..).zip(pieces) {
        insert.execute(params![item, name, n, epoch, bytes, sum(item, name, n, epoch, bytes)])?;
    }
    Ok(())
}

/// One piece, if the attempt has left it.
pub(super) fn read(
    db: &Connection,
    item: i64,
    epoch: i64,
    name: &str,
    n: i64,
) -> rusqlite::Result<Option<Vec<u8>>> {
    let mut select = db.prepare_cached(
        "SELECT bytes, sum, id FROM piece WHERE item = ? AND name = ? AND n = ? AND epoch = ?",
    )?;
    let mut rows = select.query(params![item, name, n, epoch])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let bytes: Vec<u8> = row.get(0)?;
    if row.get::<_, i64>(1)? != sum(item, name, n, epoch, &bytes) {
        return Err(damaged("piece", row.get(2)?));
    }
    Ok(Some(bytes))
}

fn sum(item: i64, name: &str, n: i64, epoch: i64, bytes: &[u8]) -> i64 {
    Sum::of(5).int(item).text(name).int(n).int(epoch).bytes(bytes).finish()
}
