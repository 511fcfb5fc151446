//! `retry`, `pause`, `resume`, `cancel`: what is asked of a journal.
//!
//! Without an owner we become it for a moment. With one, `pause`, `resume` and `cancel` are left in the journal as a
//! request, and its answer is waited for. `retry` is refused then: items that come back would have to enter a run that is
//! counting towards its end, and whether they did could not be told for sure.

use super::args_journal::{At, Revive};
use super::exit::{Exit, Trouble};
use super::look::the_one;
use super::{orphans, say};
use crate::store::JournalError;
use crate::store::sqlite::admin::{self, Answer, BatchRow, Pick, Reading};
use crate::sync::{Parker, thread};
use crate::time::{Clock, millis, secs};
use serde_json::json;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

/// How long an answer is waited for: an owner looks every 100 ms, unless its disk is full.
const PATIENCE: Duration = secs(5);
/// How often it is looked for.
const LOOK: Duration = millis(20);

/// `batchyard retry`
pub(crate) fn retry(args: Revive) -> Result<Exit, Trouble> {
    let Revive { at, key, matching } = args;
    let batch = the_one(&Reading::open(&at.journal)?, &at)?;
    let pick = match (&key, matching) {
        (Some(key), _) => Pick::Key(key.clone()),
        (None, Some(text)) => Pick::Matching(text),
        (None, None) => Pick::All,
    };
    let revived = admin::revive(&at.journal, &mut orphans::end, batch.id, &pick);
    let revived = revived.map_err(|e| Trouble::from(&*e))?;
    if let (Some(key), 0) = (key, revived) {
        return Err(Trouble::usage(format!("batch `{}` has no dead item with the key {key}", batch.name)));
    }
    let text = match revived {
        0 => format!("batch `{}` has no such dead item", batch.name),
        1 => format!("1 item of batch `{}` is pending again", batch.name),
        n => format!("{n} items of batch `{}` are pending again", batch.name),
    };
    tell(&at, json!({ "batch": batch.name, "revived": revived }), &text)
}

/// `batchyard pause`, `resume`, `cancel`
pub(crate) fn steer(at: &At, verb: &str) -> Result<Exit, Trouble> {
    let reading = Reading::open(&at.journal)?;
    let batch = the_one(&reading, at)?;
    let (answer, by) = ask(&at.journal, &reading, &batch, verb)?;
    let name = &batch.name;
    let done = match verb {
        "pause" => "is paused",
        "resume" => "is not paused",
        _ => "is cancelled",
    };
    let text = match (answer.as_str(), by) {
        ("done", Some(pid)) => format!("batch `{name}` {done}, by process {pid}, which runs it"),
        ("done", None) => format!("batch `{name}` {done}; nobody runs it"),
        (other, _) => format!("batch `{name}` {other}"),
    };
    tell(at, json!({ "batch": name, "verb": verb, "answer": answer, "pid": by }), &text)
}

/// The answer, and the process that gave it if it was not us.
fn ask(
    path: &Path,
    reading: &Reading,
    batch: &BatchRow,
    verb: &str,
) -> Result<(String, Option<u32>), Trouble> {
    let clock = Clock::os();
    let until = clock.now() + PATIENCE;
    loop {
        let pid = match admin::steer(path, &mut orphans::end, batch.id, verb) {
            Ok(answer) => return Ok((answer, None)),
            Err(error) => match &*error {
                JournalError::InUse { pid, .. } => *pid,
                other => return Err(other.into()),
            },
        };
        let request = admin::ask_owner(path, batch.id, verb)?;
        loop {
            match reading.answer(request)? {
                Answer::Given(answer) => return Ok((answer, pid)),
                // It has died, or has ended just before it could answer.
                Answer::Gone => break,
                Answer::Pending if !reading.owner()?.is_some_and(|owner| owner.lives) => break,
                Answer::Pending => {}
            }
            if clock.now() >= until {
                let who = pid.map_or_else(|| "its owner".to_owned(), |pid| format!("process {pid}"));
                return Err(Trouble::in_use(format!(
                    "{} is in use by {who}, which was asked and has not answered within {PATIENCE:?}",
                    path.display()
                )));
            }
            Parker::new().park_timeout(LOOK);
        }
        // Until the kernel has let the lock of a dead owner go.
        thread::yield_now();
    }
}

fn tell(at: &At, object: serde_json::Value, text: &str) -> Result<Exit, Trouble> {
    let told = match at.json {
        true => writeln!(io::stdout(), "{object}"),
        false => writeln!(io::stdout(), "{text}"),
    };
    if let Err(e) = told {
        // It is done all the same.
        say(format!("cannot write the output: {e}"));
    }
    Ok(Exit::Done)
}
