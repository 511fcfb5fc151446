//! `retry`, `pause`, `resume`, `cancel`: what is asked of a journal.
//!
//! Without an owner we become it for a moment. With one, what is asked for is left in the journal as a request, the owner
//! does it, and its answer is waited for. What `retry` brings back is tried by the run under way, if its batch runs there
//! and has the items in its input; otherwise by the next run that has them.

use super::args_journal::{At, Revive};
use super::exit::{Exit, Trouble};
use super::look::the_one;
use super::{orphans, say};
use crate::store::JournalError;
use crate::store::sqlite::admin::{self, Answer, Pick, Reading, Revived};
use crate::sync::{Arc, Parker, thread};
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
    let reading = Reading::open(&at.journal)?;
    let batch = the_one(&reading, &at)?;
    let pick = match (&key, matching) {
        (Some(key), _) => Pick::Key(key.clone()),
        (None, Some(text)) => Pick::Matching(text),
        (None, None) => Pick::All,
    };
    let alone = |path: &Path| admin::revive(path, &mut orphans::end, batch.id, &pick);
    let (revived, by) = match ask(&at.journal, &reading, batch.id, &pick.verb(), alone)? {
        Done::ByUs(revived) => (Revived { revived, running: 0 }, None),
        Done::ByOwner(answer, pid) => {
            let revived = serde_json::from_str(&answer).map_err(|_| {
                Trouble::in_use(format!("the process that has {} says: {answer}", at.journal.display()))
            })?;
            (revived, pid)
        }
    };
    let Revived { revived, running } = revived;
    let name = &batch.name;
    if let (Some(key), 0) = (key, revived) {
        return Err(Trouble::usage(format!("batch `{name}` has no dead item with the key {key}")));
    }
    let items = |n: u64| if n == 1 { "1 item".to_owned() } else { format!("{n} items") };
    let here =
        by.map_or_else(|| "the run under way".to_owned(), |pid| format!("process {pid}, which runs it"));
    let text = match (revived, running) {
        (0, _) => format!("batch `{name}` has no such dead item"),
        (n, 0) => format!("{} of batch `{name}`: pending again, for its next run", items(n)),
        (n, all) if n == all => format!("{} of batch `{name}`: tried again by {here}", items(n)),
        (n, some) => format!(
            "{} of batch `{name}`: {some} tried again by {here}, the others pending for a run that has them in its input",
            items(n)
        ),
    };
    tell(&at, json!({ "batch": name, "revived": revived, "running": running, "pid": by }), &text)
}

/// `batchyard pause`, `resume`, `cancel`
pub(crate) fn steer(at: &At, verb: &str) -> Result<Exit, Trouble> {
    let reading = Reading::open(&at.journal)?;
    let batch = the_one(&reading, at)?;
    let alone = |path: &Path| admin::steer(path, &mut orphans::end, batch.id, verb);
    let (answer, by) = match ask(&at.journal, &reading, batch.id, verb, alone)? {
        Done::ByUs(answer) => (answer, None),
        Done::ByOwner(answer, pid) => (answer, pid),
    };
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

/// What has been done, and by whom.
enum Done<R> {
    ByUs(R),
    /// Its answer, and its process.
    ByOwner(String, Option<u32>),
}

/// Does it alone if nobody has the journal, and asks who has it otherwise.
fn ask<R>(
    path: &Path,
    reading: &Reading,
    batch: i64,
    verb: &str,
    mut alone: impl FnMut(&Path) -> Result<R, Arc<JournalError>>,
) -> Result<Done<R>, Trouble> {
    let clock = Clock::os();
    let mut until = clock.now() + PATIENCE;
    loop {
        let pid = match alone(path) {
            Ok(done) => return Ok(Done::ByUs(done)),
            Err(error) => match &*error {
                JournalError::InUse { pid, .. } => *pid,
                other => return Err(other.into()),
            },
        };
        let request = admin::ask_owner(path, batch, verb)?;
        let mut before = None;
        loop {
            match reading.answer(request)? {
                Answer::Given(answer) => return Ok(Done::ByOwner(answer, pid)),
                // It has died, or has ended just before it could answer.
                Answer::Gone => break,
                Answer::Pending(_) if !reading.owner()?.is_some_and(|owner| owner.lives) => break,
                // It is at work.
                Answer::Pending(so_far) if so_far != before => {
                    before = so_far;
                    until = clock.now() + PATIENCE;
                }
                Answer::Pending(_) => {}
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
