//! The log of jobs in GNU parallel's format: a line for each job that has ended, whatever became of its item.

use super::exit::Trouble;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

const HEADER: &[u8] = b"Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand\n";

/// The file. Each line is one write to its end, so lines of several jobs do not mix.
#[derive(Debug)]
pub(crate) struct JobLog {
    file: File,
    path: PathBuf,
}

/// A job that has ended.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) number: u64,
    pub(crate) began_ms: u64,
    pub(crate) run_time: Duration,
    /// Bytes of its stdout.
    pub(crate) received: u64,
    /// None: it did not start.
    pub(crate) exit: Option<ExitStatus>,
    /// As a shell reads it.
    pub(crate) command: &'a [u8],
}

impl JobLog {
    /// Begins a log; `keep`: adds to what is there.
    pub(crate) fn open(path: &Path, keep: bool) -> Result<Self, Trouble> {
        let open = || -> io::Result<File> {
            let mut file = OpenOptions::new().create(true).append(true).open(path)?;
            if !keep {
                file.set_len(0)?;
            }
            if file.metadata()?.len() == 0 {
                file.write_all(HEADER)?;
            }
            Ok(file)
        };
        let file = open().map_err(|e| {
            Trouble::usage(format!("cannot write the log of jobs to `{}`: {e}", path.display()))
        })?;
        Ok(Self { file, path: path.to_owned() })
    }

    pub(crate) fn write(&self, entry: &Entry<'_>) -> Result<(), Trouble> {
        (&self.file).write_all(&line(entry)).map_err(|e| {
            Trouble::internal(format!("cannot write the log of jobs to `{}`: {e}", self.path.display()))
        })
    }
}

fn line(entry: &Entry<'_>) -> Vec<u8> {
    let Entry { number, began_ms, received, .. } = entry;
    let signal = entry.exit.and_then(|exit| exit.signal()).unwrap_or(0);
    // As a shell has it: 127 for what could not be started. A killed job has no exit value.
    let code = entry.exit.map_or(127, |exit| exit.code().unwrap_or(0));
    let (secs, ms) = (began_ms / 1000, began_ms % 1000);
    let run_time = entry.run_time.as_secs_f64();
    let mut line = format!("{number}\t:\t{secs}.{ms:03}\t{run_time:10.3}\t0\t{received}\t{code}\t{signal}\t")
        .into_bytes();
    // The command of an item with a newline in it stays on its line.
    line.extend(entry.command.iter().map(|b| if *b == b'\n' { b' ' } else { *b }));
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_gnu_parallels() {
        let mut entry = Entry {
            number: 3,
            began_ms: 1_700_000_000_007,
            run_time: Duration::from_millis(1500),
            received: 12,
            exit: Some(ExitStatus::from_raw(0x0300)),
            command: b"echo 'a\nb'",
        };
        let text = |entry: &Entry<'_>| String::from_utf8(line(entry)).unwrap();
        assert_eq!(text(&entry), "3\t:\t1700000000.007\t     1.500\t0\t12\t3\t0\techo 'a b'\n");
        entry.exit = Some(ExitStatus::from_raw(9));
        assert!(text(&entry).contains("\t12\t0\t9\t"));
    }
}
