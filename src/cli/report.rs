//! Prints what jobs have written, each job's output in one piece.

use super::bytes::brief;
use super::capture::Output;
use super::exit::Trouble;
use super::job::{Finished, Item, Status};
use super::json;
use super::progress::{self, Progress};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};

/// A settled item.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) item: Item,
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

/// Where results go.
pub(crate) struct Printer {
    style: Style,
    results: Option<PathBuf>,
    stdout: BufWriter<File>,
    stderr: BufWriter<File>,
    progress: Progress,
}

impl Printer {
    pub(crate) fn new(style: Style, results: Option<PathBuf>, progress: Progress) -> Result<Self, Trouble> {
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
        Ok(Self { style, results, stdout, stderr, progress })
    }

    pub(crate) fn print(&mut self, row: &Row) -> Result<(), Unprinted> {
        if let Some(dir) = &self.results {
            let dir = dir.join(row.item.number.to_string());
            save(&dir, &row.finished).map_err(|e| {
                Unprinted::Trouble(Trouble::internal(format!("cannot write to `{}`: {e}", dir.display())))
            })?;
        }
        let Self { style, stdout, stderr, progress, .. } = self;
        progress.moved();
        let finished = &row.finished;
        if *style != Style::Json
            && finished.stdout.is_empty()
            && finished.stderr.is_empty()
            && finished.error.is_none()
        {
            return Ok(());
        }
        progress::aside(|| write_row(*style, stdout, stderr, row)).map_err(|e| match e.kind() {
            io::ErrorKind::BrokenPipe => Unprinted::Closed,
            _ => Unprinted::Trouble(Trouble::internal(format!("cannot write the output: {e}"))),
        })
    }

    /// The progress line goes; what is said later stands alone.
    pub(crate) fn finish(self) {
        self.progress.finish();
        // What could not be written was reported; a second try at it would only fail again.
        let (_file, _unwritten) = self.stdout.into_parts();
        let (_file, _unwritten) = self.stderr.into_parts();
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
    let tag = (style == Style::Tagged).then_some(row.item.bytes.0.as_slice());
    write_output(&finished.stdout, tag, stdout)?;
    stdout.flush()?;
    // A stderr that nobody reads is no reason to stop.
    let _ = write_output(&finished.stderr, tag, stderr);
    if let (Status::Dead, Some(error)) = (finished.status, &finished.error) {
        let _ =
            writeln!(stderr, "batchyard: item {} `{}`: {error}", row.item.number, brief(&row.item.bytes.0));
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
    })
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
