//! `status`, `dead`, `results`, `report`: what a journal tells, beside its owner.

use super::args_journal::{At, Outputs};
use super::bytes::brief;
use super::exit::{Exit, Trouble};
use super::left::{item_of, row_of};
use super::progress::Progress;
use super::report::{Printer, Style, Unprinted};
use crate::job::{AttemptError, BatchStatus};
use crate::meter::Recorder;
use crate::stats::Percentiles;
use crate::store::sqlite::admin::{BatchRow, Kind, OwnerRow, RawResult, Reading, utc};
use crate::sync::Arc;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};

/// The kinds of failures that a report lists.
const MOST_KINDS: usize = 10;
/// The kinds that it counts apart from one another.
const COUNTED_KINDS: usize = 1_000;

/// All batches, or the one of this name (there may be several, with different parameters).
fn chosen(reading: &Reading, at: &At) -> Result<Vec<BatchRow>, Trouble> {
    let all = reading.batches()?;
    let Some(name) = &at.name else { return Ok(all) };
    let known = names(&all);
    let found: Vec<_> = all.into_iter().filter(|batch| batch.name == *name).collect();
    if found.is_empty() {
        return Err(Trouble::usage(format!(
            "{} has no batch `{name}`; it has {known}",
            at.journal.display()
        )));
    }
    Ok(found)
}

/// The one that is meant.
pub(super) fn the_one(reading: &Reading, at: &At) -> Result<BatchRow, Trouble> {
    let mut found = chosen(reading, at)?;
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(Trouble::usage(format!("{} has no batch", at.journal.display()))),
        _ => Err(Trouble::usage(format!(
            "{} has several batches, say which one: {}",
            at.journal.display(),
            names(&found)
        ))),
    }
}

fn names(batches: &[BatchRow]) -> String {
    if batches.is_empty() {
        return "none".to_owned();
    }
    batches.iter().map(title).collect::<Vec<_>>().join(", ")
}

fn title(batch: &BatchRow) -> String {
    match batch.parameters.is_empty() {
        true => format!("`{}`", batch.name),
        false => format!("`{}` ({})", batch.name, batch.parameters),
    }
}

/// Prints with `write`; a reader who has gone has seen enough.
fn printed(write: impl FnOnce(&mut dyn Write) -> Result<(), Unprinted>) -> Result<Exit, Trouble> {
    let mut to = BufWriter::new(io::stdout().lock());
    match write(&mut to).and_then(|()| to.flush().map_err(unprinted)) {
        Ok(()) => Ok(Exit::Done),
        Err(Unprinted::Closed) => Ok(Exit::Cancelled),
        Err(Unprinted::Trouble(trouble)) => Err(trouble),
    }
}

fn unprinted(e: io::Error) -> Unprinted {
    match e.kind() {
        io::ErrorKind::BrokenPipe => Unprinted::Closed,
        _ => Unprinted::Trouble(Trouble::internal(format!("cannot write the output: {e}"))),
    }
}

fn line(to: &mut dyn Write, value: &impl Serialize) -> Result<(), Unprinted> {
    let text = serde_json::to_string(value).expect("plain values have a JSON form");
    writeln!(to, "{text}").map_err(unprinted)
}

/// What a batch does at the moment, or how it ended.
fn state(batch: &BatchRow, owner: Option<&OwnerRow>) -> (&'static str, String) {
    let runs = owner.is_some_and(|owner| owner.lives);
    let Some(status) = &batch.status else {
        let word = match (runs, batch.paused) {
            (true, true) => "paused",
            (true, false) => "running",
            (false, true) => "paused, and nobody runs it",
            (false, false) => "interrupted",
        };
        return (if runs { "running" } else { "interrupted" }, word.to_owned());
    };
    let status: Option<BatchStatus> = serde_json::from_str(status).ok();
    let word = match status {
        Some(BatchStatus::Completed) => "completed",
        Some(BatchStatus::CompletedWithFailures) => "completed_with_failures",
        Some(BatchStatus::Cancelled) => "cancelled",
        Some(BatchStatus::Halted(_)) => "halted",
        None => "ended",
    };
    let mut text = status.map_or_else(|| word.to_owned(), |status| status.to_string());
    if batch.paused {
        text += ", paused";
    }
    (word, text)
}

fn owner_json(owner: Option<&OwnerRow>) -> Value {
    match owner {
        None => Value::Null,
        Some(owner) => json!({ "pid": owner.pid, "since": utc(owner.since_ms), "lives": owner.lives }),
    }
}

fn counts_json(batch: &BatchRow, owner: Option<&OwnerRow>) -> Value {
    let (word, _) = state(batch, owner);
    json!({
        "batch": batch.name,
        "parameters": batch.parameters,
        "command": batch.processor,
        "version": batch.version,
        "state": word,
        "status": batch.status.as_deref().and_then(|status| serde_json::from_str::<Value>(status).ok()),
        "paused": batch.paused,
        "runs": batch.run,
        "all_submitted": batch.sealed,
        "total": batch.total,
        "done": batch.done,
        "dead": batch.dead,
        "skipped": batch.skipped,
        "open": batch.open(),
        "to_try_again": batch.again,
        "created": utc(batch.created_ms),
        "ended": batch.ended_ms.map(utc),
    })
}

/// `3 of 10 done, 1 dead, 6 to do`.
fn counts_text(batch: &BatchRow) -> String {
    let mut text = format!("{} of {} done", batch.done, batch.total);
    for (count, what) in [
        (batch.dead, "dead"),
        (batch.skipped, "skipped"),
        (batch.open(), "to do"),
        (batch.again, "of them tried before"),
    ] {
        if count > 0 {
            text += &format!(", {count} {what}");
        }
    }
    if !batch.sealed {
        text += ", not all submitted";
    }
    text
}

/// `batchyard status`
pub(crate) fn status(at: &At) -> Result<Exit, Trouble> {
    let reading = Reading::open(&at.journal)?;
    let (owner, batches) = (reading.owner()?, chosen(&reading, at)?);
    printed(|to| {
        if at.json {
            let batches: Vec<_> = batches.iter().map(|batch| counts_json(batch, owner.as_ref())).collect();
            let journal = at.journal.display().to_string();
            let whole =
                json!({ "journal": journal, "owner": owner_json(owner.as_ref()), "batches": batches });
            return line(to, &whole);
        }
        let held = match &owner {
            Some(OwnerRow { pid, since_ms, lives: true }) => {
                format!("in use by process {pid} since {} UTC", utc(*since_ms))
            }
            Some(OwnerRow { pid, .. }) => format!("process {pid} had it and died"),
            None => "not in use".to_owned(),
        };
        writeln!(to, "{}: {held}", at.journal.display()).map_err(unprinted)?;
        for batch in &batches {
            let (_, state) = state(batch, owner.as_ref());
            writeln!(to, "{}: {state}: {}", title(batch), counts_text(batch)).map_err(unprinted)?;
        }
        Ok(())
    })
}

/// Calls `each` for the results of a batch, a page at a time.
fn each_result(
    reading: &Reading,
    batch: &BatchRow,
    in_order: bool,
    mut each: impl FnMut(&RawResult) -> Result<(), Unprinted>,
) -> Result<(), Unprinted> {
    let mut next = 0;
    loop {
        let rows = match in_order {
            true => reading.results_in_order(batch.id, next, true),
            false => reading.results(batch.id, next),
        };
        let rows = rows.map_err(|e| Unprinted::Trouble(e.into()))?;
        let Some(last) = rows.last() else { return Ok(()) };
        next = if in_order { last.seq + 1 } else { last.cursor };
        rows.iter().try_for_each(&mut each)?;
    }
}

/// Calls `each` for the dead of a batch, a page at a time.
fn each_dead(
    reading: &Reading,
    batch: &BatchRow,
    mut each: impl FnMut(&RawResult) -> Result<(), Unprinted>,
) -> Result<(), Unprinted> {
    let mut next = Some(0);
    while let Some(cursor) = next {
        let (rows, behind) = troubled(reading.dead(batch.id, cursor))?;
        rows.iter().try_for_each(&mut each)?;
        next = behind;
    }
    Ok(())
}

fn troubled<R>(read: Result<R, crate::store::JournalError>) -> Result<R, Unprinted> {
    read.map_err(|e| Unprinted::Trouble(e.into()))
}

/// `batchyard dead`
pub(crate) fn dead(at: &At) -> Result<Exit, Trouble> {
    let reading = Reading::open(&at.journal)?;
    let batch = the_one(&reading, at)?;
    printed(|to| {
        each_dead(&reading, &batch, |raw| {
            let errors = troubled(reading.errors(raw.item))?;
            let item = item_of(troubled(reading.payload(raw.item))?);
            let reason = raw.reason.map_or("dead", |reason| reason.as_str());
            if at.json {
                return line(
                    to,
                    &json!({
                        "batch": batch.name,
                        "seq": raw.seq + 1,
                        "key": raw.key.to_string(),
                        "item": item,
                        "reason": reason,
                        "attempts": raw.attempts,
                        "ended": utc(raw.ended_ms as u64),
                        "errors": errors.iter().map(error_json).collect::<Vec<_>>(),
                    }),
                );
            }
            writeln!(to, "{} `{}`: {reason} after {} attempts", raw.key, brief(&item.0), raw.attempts)
                .map_err(unprinted)?;
            errors
                .iter()
                .try_for_each(|e| writeln!(to, "  attempt {}, {}: {}", e.attempt, e.kind, e.message))
                .map_err(unprinted)
        })
    })
}

fn error_json(error: &AttemptError) -> Value {
    json!({
        "attempt": error.attempt,
        "kind": error.kind.as_str(),
        "message": error.message,
        "place": error.place,
    })
}

/// `batchyard results`
pub(crate) fn results(outputs: Outputs) -> Result<Exit, Trouble> {
    let Outputs { at, keep_order, tag } = outputs;
    let reading = Arc::new(Reading::open(&at.journal)?);
    let batch = the_one(&reading, &at)?;
    let style = match (at.json, tag) {
        (true, _) => Style::Json,
        (false, true) => Style::Tagged,
        (false, false) => Style::Plain,
    };
    let printer = Printer::new(style, None, None, Progress::Off)?;
    let done = each_result(&reading, &batch, keep_order, |raw| match troubled(row_of(&reading, raw))? {
        Some(row) => printer.print(row),
        None => Ok(()),
    });
    match done {
        Ok(()) => Ok(Exit::Done),
        Err(Unprinted::Closed) => Ok(Exit::Cancelled),
        Err(Unprinted::Trouble(trouble)) => Err(trouble),
    }
}

/// What a report tells beside the counts.
struct Timings {
    /// Attempts of all results.
    attempts: u64,
    /// From submission to the start of the attempt that ended the item.
    wait: Percentiles,
    /// Of the attempt that ended the item.
    run: Percentiles,
    /// The last error of dead items, and how many have it.
    failures: Vec<(String, u64)>,
}

impl Timings {
    fn of(reading: &Reading, batch: &BatchRow) -> Result<Self, Unprinted> {
        let mut recorder = Recorder::switched(true);
        let mut attempts = 0;
        let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
        each_result(reading, batch, false, |raw| {
            attempts += u64::from(raw.attempts);
            recorder.record_run(raw.run_us.saturating_mul(1000));
            recorder.record_wait(raw.wait_us.saturating_mul(1000));
            if raw.kind == Kind::Dead {
                let errors = troubled(reading.errors(raw.item))?;
                let error = errors.last().map_or_else(|| "unknown".to_owned(), |error| error.message.clone());
                if kinds.len() < COUNTED_KINDS || kinds.contains_key(&error) {
                    *kinds.entry(error).or_insert(0) += 1;
                } else {
                    *kinds.entry("others".to_owned()).or_insert(0) += 1;
                }
            }
            Ok(())
        })?;
        recorder.pour();
        let reader = recorder.reader();
        let mut failures: Vec<_> = kinds.into_iter().collect();
        failures.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        failures.truncate(MOST_KINDS);
        Ok(Self { attempts, wait: reader.wait().percentiles(), run: reader.run().percentiles(), failures })
    }
}

/// `batchyard report`
pub(crate) fn report(at: &At) -> Result<Exit, Trouble> {
    let reading = Reading::open(&at.journal)?;
    let (owner, batches) = (reading.owner()?, chosen(&reading, at)?);
    printed(|to| {
        for batch in &batches {
            let timings = Timings::of(&reading, batch)?;
            if at.json {
                let mut whole = counts_json(batch, owner.as_ref());
                whole["attempts"] = timings.attempts.into();
                whole["wait"] = json!(timings.wait);
                whole["run"] = json!(timings.run);
                let failure = |(error, count): &(String, u64)| json!({ "error": error, "items": count });
                whole["failures"] = timings.failures.iter().map(failure).collect();
                line(to, &whole)?;
                continue;
            }
            let (_, state) = state(batch, owner.as_ref());
            let mut text = format!("{}: {state}: {}\n", title(batch), counts_text(batch));
            text += &format!("  command   {}\n", batch.processor);
            text += &format!("  submitted {} times, first {} UTC\n", batch.run, utc(batch.created_ms));
            if let Some(ended) = batch.ended_ms {
                text += &format!("  ended     {} UTC\n", utc(ended));
            }
            text += &format!("  attempts  {}\n", timings.attempts);
            text += &format!("  run time  {}\n  waited    {}\n", timings.run, timings.wait);
            for (error, count) in &timings.failures {
                text += &format!("  dead      {count}: {error}\n");
            }
            to.write_all(text.as_bytes()).map_err(unprinted)?;
        }
        Ok(())
    })
}
