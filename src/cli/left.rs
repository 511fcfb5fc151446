//! What a job leaves in the journal, and how it is found again.
//!
//! ```json
//! {"exit": 3, "stdout": "text", "stderr": {"base64": "…"}}
//! ```
//!
//! Of an item that is done this is its output. A dead item has none; then the same is its piece `left`. A stream above
//! [`INLINE`] goes into pieces of its own, `{"pieces": 9, "bytes": 560000}` in its place, as it comes out of its spill
//! file: neither to write nor to print it takes more memory than some pieces. (While a job runs, its output above
//! 64 KiB lies in a file without a name in the directory for temporary files, as without a journal.)

use super::bytes::Bytes;
use super::capture::{Elsewhere, Output};
use super::job::{Finished, Status};
use super::report::Row;
use crate::engine::Context;
use crate::store::JournalError;
use crate::store::sqlite::admin::{Kind, RawResult, Reading};
use crate::sync::Arc;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

/// A stream up to this length lies in the row: a few hundred rows are read at a time.
const INLINE: u64 = 16 * 1024;
/// Pieces, of at most 64 KiB, that are committed together.
const TOGETHER: usize = 16;
/// The piece of a dead item.
const LEFT: &str = "left";

/// See the head of the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Left {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exit: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signal: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(default, skip_serializing_if = "Stream::is_empty")]
    stdout: Stream,
    #[serde(default, skip_serializing_if = "Stream::is_empty")]
    stderr: Stream,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Stream {
    Pieces { pieces: u64, bytes: u64 },
    Inline(Bytes),
}

impl Default for Stream {
    fn default() -> Self {
        Stream::Inline(Bytes::default())
    }
}

impl Stream {
    fn is_empty(&self) -> bool {
        matches!(self, Stream::Inline(bytes) if bytes.0.is_empty())
    }

    fn keep(output: &Output, name: &'static str, ctx: &Context) -> io::Result<Stream> {
        let length = output.len();
        if length <= INLINE {
            let mut bytes = Vec::with_capacity(length as usize);
            output.write_to(&mut bytes)?;
            return Ok(Stream::Inline(Bytes(bytes)));
        }
        let (mut from, mut some) = (0, Vec::new());
        let mut write = |some: &mut Vec<Vec<u8>>| {
            let count = some.len() as u64;
            ctx.keep_pieces(name, from, std::mem::take(some)).map_err(io::Error::other)?;
            from += count;
            Ok::<_, io::Error>(from)
        };
        output.read(|bytes| {
            some.push(bytes.to_vec());
            if some.len() == TOGETHER { write(&mut some).map(drop) } else { Ok(()) }
        })?;
        let pieces = write(&mut some)?;
        Ok(Stream::Pieces { pieces, bytes: length })
    }

    fn found(self, name: &'static str, place: &Place) -> Output {
        match self {
            Stream::Inline(bytes) => Output::of(bytes.0),
            Stream::Pieces { pieces, .. } => {
                Output::from_elsewhere(Box::new(Pieces { place: place.clone(), name, pieces }))
            }
        }
    }
}

impl Left {
    /// Puts what has ended into the journal, but for the outcome itself.
    ///
    /// # Errors
    ///
    /// Its output cannot be read any more, or not be written.
    pub(crate) fn keep(finished: &Finished, ctx: &Context) -> io::Result<Left> {
        let left = Left {
            exit: finished.exit.and_then(|exit| exit.code()),
            signal: finished.exit.and_then(|exit| exit.signal()),
            error: finished.error.clone(),
            stdout: Stream::keep(&finished.stdout, "stdout", ctx)?,
            stderr: Stream::keep(&finished.stderr, "stderr", ctx)?,
        };
        if finished.status == Status::Dead {
            ctx.keep(LEFT, serde_json::to_vec(&left)?);
        }
        Ok(left)
    }

    fn finished(self, status: Status, run_time: Duration, place: &Place) -> Finished {
        let exit = match (self.exit, self.signal) {
            (Some(code), _) => Some(ExitStatus::from_raw(code << 8)),
            (None, Some(signal)) => Some(ExitStatus::from_raw(signal)),
            (None, None) => None,
        };
        Finished {
            status,
            hopeless: false,
            exit,
            error: self.error,
            run_time,
            stdout: self.stdout.found("stdout", place),
            stderr: self.stderr.found("stderr", place),
        }
    }
}

/// Where an attempt has left something.
#[derive(Debug, Clone)]
struct Place {
    reading: Arc<Reading>,
    item: i64,
    epoch: i64,
}

/// A stream in pieces.
#[derive(Debug)]
struct Pieces {
    place: Place,
    name: &'static str,
    pieces: u64,
}

impl Elsewhere for Pieces {
    fn read(&self, take: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let Place { reading, item, epoch } = &self.place;
        for n in 0..self.pieces {
            let piece = reading.piece(*item, *epoch, self.name, n).map_err(io::Error::other)?;
            // Gone: the item has been given to another run meanwhile.
            let Some(piece) = piece else { break };
            take(&piece)?;
        }
        Ok(())
    }
}

/// The item of a result, as it was given to `run`; that of another program as its JSON.
pub(crate) fn item_of(payload: String) -> Bytes {
    serde_json::from_str(&payload).unwrap_or(Bytes(payload.into_bytes()))
}

/// A result as it is printed. `None`: of an item that its own program left out, or that is to be tried again.
pub(crate) fn row_of(reading: &Arc<Reading>, raw: &RawResult) -> Result<Option<Row>, JournalError> {
    let place = Place { reading: Arc::clone(reading), item: raw.item, epoch: raw.epoch };
    let run_time = Duration::from_micros(raw.run_us);
    let (status, text) = match raw.kind {
        Kind::Done => (Status::Done, raw.output.clone().unwrap_or_default().into_bytes()),
        Kind::Dead => {
            let left = reading.piece(raw.item, raw.epoch, LEFT, 0)?;
            // Driven again since it was read: what comes of that is told.
            if left.is_none() && !reading.stands(raw)? {
                return Ok(None);
            }
            (Status::Dead, left.unwrap_or_default())
        }
        Kind::Skipped => return Ok(None),
    };
    let finished = match serde_json::from_slice::<Left>(&text) {
        Ok(left) => left.finished(status, run_time, &place),
        Err(_) => {
            // It took the program down with it, or another program has made the batch.
            let errors = if status == Status::Dead { reading.errors(raw.item)? } else { Vec::new() };
            let mut stdout = text;
            if !stdout.is_empty() {
                stdout.push(b'\n');
            }
            Finished {
                status,
                hopeless: false,
                exit: None,
                error: errors.last().map(|error| error.message.clone()),
                run_time,
                stdout: Output::of(stdout),
                stderr: Output::default(),
            }
        }
    };
    Ok(Some(Row {
        number: raw.seq + 1,
        item: item_of(reading.payload(raw.item)?),
        key: raw.key.to_string(),
        attempts: raw.attempts,
        finished,
    }))
}
