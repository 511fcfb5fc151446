//! Prints what jobs have written, each job's output in one piece.

use super::bytes::{Bytes, brief};
use super::capture::Output;
use super::exit::Trouble;
use super::job::{Finished, Status};
use super::json;
use super::order::Turns;
use super::progress::{self, Progress};
use crate::sync::Mutex;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};

/// A settled item.
#[derive(Debug)]
pub(crate) struct Row {
    /// From 1, in the order of the input.
    pub(crate) number: u64,
    pub(crate) item: Bytes,
    pub(crate) key: String,
    pub(crate) attempts: u32,
    pub(crate) finished: Finished,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Plain,
    Tagged,
    Json,
}

/// Why nothing more can be printed.
#[derive(Debug)]
pub(crate) enum Unprinted {
    /// Nobody reads stdout any more.
    Closed,
    Trouble(Trouble),
}

/// Where results go. Whoever settles an item prints it: no thread is woken for that.
pub(crate) struct Printer {
    style: Style,
    results: Option<PathBuf>,
    /// With `-k`: the turns.
    order: Option<Turns>,
    desk: Mutex<Desk>,
}

struct Desk {
    stdout: BufWriter<File>,
    stderr: BufWriter<File>,
    progress: Progress,
}

impl Printer {
    pub(crate) fn new(
        style: Style,
        results: Option<PathBuf>,
        order: Option<Turns>,
        progress: Progress,
    ) -> Result<Self, Trouble> {
        if let Some(dir) = &results {
            let made = fs::create_dir_all(dir);
            made.map_err(|e| Trouble::usage(format!("cannot make the directory `{}`: {e}", dir.display())))?;
        }
        // Not std's own handles: they flush at each newline.
        let writer = |fd: io::Result<OwnedFd>| {
            fd.map(|fd| BufWriter::with_capacity(64 * 1024, File::from(fd)))
                .map_err(|e| Trouble::internal(format!("cannot use stdout: {e}")))
        };
        let stdout = writer(io::stdout().as_fd().try_clone_to_owned())?;
        let stderr = writer(io::stderr().as_fd().try_clone_to_owned())?;
        Ok(Self { style, results, order, desk: Mutex::new(Desk { stdout, stderr, progress }) })
    }

    /// Prints `row`, or keeps it until its turn comes.
    pub(crate) fn print(&self, row: Row) -> Result<(), Unprinted> {
        if let Some(dir) = &self.results {
            let dir = dir.join(row.number.to_string());
            save(&dir, &row.finished).map_err(|e| {
                Unprinted::Trouble(Trouble::internal(format!("cannot write to `{}`: {e}", dir.display())))
            })?;
        }
        let Some(turns) = &self.order else { return self.desk.lock().print(self.style, &row) };
        // The desk comes before the turns: what one thread has taken out in order, it prints before the next.
        let mut desk = self.desk.lock();
        turns.put(row);
        while let Some(row) = turns.take() {
            desk.print(self.style, &row)?;
        }
        Ok(())
    }

    /// Prints what still waits for its turn: a run that was stopped has gaps. Then the progress line goes; what is
    /// said later stands alone.
    pub(crate) fn finish(&self) -> Result<(), Unprinted> {
        let mut desk = self.desk.lock();
        let rest = self.order.iter().flat_map(Turns::rest);
        let printed = rest.into_iter().try_for_each(|row| desk.print(self.style, &row));
        desk.progress.finish();
        printed
    }
}

impl Desk {
    fn print(&mut self, style: Style, row: &Row) -> Result<(), Unprinted> {
        let Self { stdout, stderr, progress } = self;
        progress.moved();
        let finished = &row.finished;
        if style != Style::Json
            && finished.stdout.is_empty()
            && finished.stderr.is_empty()
            && finished.error.is_none()
        {
            return Ok(());
        }
        progress::aside(|| write_row(style, stdout, stderr, row)).map_err(|e| match e.kind() {
            io::ErrorKind::BrokenPipe => Unprinted::Closed,
            _ => Unprinted::Trouble(Trouble::internal(format!("cannot write the output: {e}"))),
        })
    }
}

fn write_row(
    style: Style,
    stdout: &mut BufWriter<File>,
    stderr: &mut BufWriter<File>,
    row: &Row,
) -> io::Result<()> {
    if style == Style::Json {
        json::write_row(stdout, row)?;
        return stdout.flush();
    }
    let finished = &row.finished;
    let tag = (style == Style::Tagged).then_some(row.item.0.as_slice());
    write_output(&finished.stdout, tag, stdout)?;
    stdout.flush()?;
    // A stderr that nobody reads is no reason to stop.
    let _ = write_output(&finished.stderr, tag, stderr);
    if let (Status::Dead, Some(error)) = (finished.status, &finished.error) {
        let _ = writeln!(stderr, "batchyard: item {} `{}`: {error}", row.number, brief(&row.item.0));
    }
    let _ = stderr.flush();
    Ok(())
}

fn write_output(output: &Output, tag: Option<&[u8]>, to: &mut impl Write) -> io::Result<()> {
    let Some(tag) = tag else { return output.write_to(to) };
    let mut line_begins = true;
    output.read(|bytes| {
        for line in bytes.split_inclusive(|b| *b == b'\n') {
            if line_begins {
                to.write_all(tag)?;
                to.write_all(b"\t")?;
            }
            to.write_all(line)?;
            line_begins = line.ends_with(b"\n");
        }
        Ok(())
    })?;
    // The next job's tag begins a line too.
    if line_begins { Ok(()) } else { to.write_all(b"\n") }
}

/// `exit` is written last: where it is, the rest is whole.
fn save(dir: &Path, finished: &Finished) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    finished.stdout.write_to(&mut File::create(dir.join("stdout"))?)?;
    finished.stderr.write_to(&mut File::create(dir.join("stderr"))?)?;
    let exit = match finished.exit.map(|exit| (exit.code(), exit.signal())) {
        Some((Some(code), _)) => code.to_string(),
        Some((None, Some(signal))) => format!("signal {signal}"),
        _ => finished.error.clone().unwrap_or_default(),
    };
    fs::write(dir.join("exit"), exit + "\n")
}
