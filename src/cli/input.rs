//! The items, as they come: from the command line, a file or stdin.
//!
//! Blocking. An item is handed out as soon as its last byte has been read, so a job starts while the writer of the
//! pipe still works. The reader waits on its descriptor and on the drain switch together, so that a stop does not
//! wait for the next line.

use super::args::{Separator, Source};
use super::controls::Controls;
use super::exit::Trouble;
use crate::sync::Arc;
use rustix::event::{PollFd, PollFlags, poll};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

/// Opens the input. Afterwards this process's stdin is /dev/null, which every child inherits at no cost.
pub(crate) fn open(
    source: Source,
    separator: Separator,
    controls: &Arc<Controls>,
) -> Result<Box<dyn Iterator<Item = io::Result<Vec<u8>>> + Send>, Trouble> {
    let (fd, name): (OwnedFd, _) = match &source {
        Source::Arguments(_) => (null()?.into(), String::new()),
        Source::File(path) => {
            let name = path.display().to_string();
            let file = File::open(path)
                .and_then(|file| if file.metadata()?.is_dir() { Err(is_a_directory()) } else { Ok(file) })
                .map_err(|e| Trouble::usage(format!("cannot read the items from `{name}`: {e}")))?;
            (file.into(), name)
        }
        Source::Stdin => {
            // Above the three that every program owns, whichever of them are closed.
            let copy = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)
                .map_err(|e| Trouble::usage(format!("cannot read the items from stdin: {e}")))?;
            (copy, "stdin".to_owned())
        }
    };
    rustix::stdio::dup2_stdin(null()?)
        .map_err(|e| Trouble::internal(format!("cannot put /dev/null on stdin: {e}")))?;
    if let Source::Arguments(items) = source {
        return Ok(Box::new(items.into_iter().map(|item| Ok(item.into_vec()))));
    }
    let reader = Stoppable { fd, controls: Arc::clone(controls), name };
    Ok(Box::new(Splitter { reader: BufReader::with_capacity(64 * 1024, reader), separator, ended: false }))
}

fn null() -> Result<File, Trouble> {
    File::open("/dev/null").map_err(|e| Trouble::internal(format!("cannot open /dev/null: {e}")))
}

fn is_a_directory() -> io::Error {
    io::Error::from(io::ErrorKind::IsADirectory)
}

/// Reads until the run is stopped; then it is at its end.
struct Stoppable {
    fd: OwnedFd,
    controls: Arc<Controls>,
    name: String,
}

impl Read for Stoppable {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut fds = [
                PollFd::new(&self.controls.drain, PollFlags::IN),
                PollFd::from_borrowed_fd(self.fd.as_fd(), PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Err(rustix::io::Errno::INTR) => continue,
                Err(e) => return Err(e.into()),
                Ok(_) => {}
            }
            if !fds[0].revents().is_empty() {
                return Ok(0);
            }
            match rustix::io::read(&self.fd, &mut *buf) {
                Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
                Err(e) => {
                    let e = io::Error::from(e);
                    return Err(io::Error::new(
                        e.kind(),
                        format!("cannot read the items from `{}`: {e}", self.name),
                    ));
                }
                Ok(n) => return Ok(n),
            }
        }
    }
}

/// Cuts a stream into items.
///
/// | separator | kept |
/// |---|---|
/// | `Lines` | lines with anything but blanks in them, whole, without their newline |
/// | `Byte` | everything between two separators, the empty too; a separator at the very end begins no item |
struct Splitter<R> {
    reader: BufReader<R>,
    separator: Separator,
    ended: bool,
}

impl<R: Read> Iterator for Splitter<R> {
    type Item = io::Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        let (end, skip_blank) = match self.separator {
            Separator::Lines => (b'\n', true),
            Separator::Byte(byte) => (byte, false),
        };
        while !self.ended {
            let mut item = Vec::new();
            match self.reader.read_until(end, &mut item) {
                Err(e) => {
                    self.ended = true;
                    return Some(Err(e));
                }
                Ok(0) => break,
                Ok(_) => {}
            }
            if item.last() == Some(&end) {
                item.pop();
            } else {
                self.ended = true;
            }
            if !(skip_blank && item.iter().all(|b| matches!(b, b' ' | b'\t' | b'\r'))) {
                return Some(Ok(item));
            }
        }
        self.ended = true;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &[u8], separator: Separator) -> Vec<Vec<u8>> {
        // A buffer of three bytes: items cross its border.
        let reader = BufReader::with_capacity(3, text);
        Splitter { reader, separator, ended: false }.map(Result::unwrap).collect()
    }

    #[test]
    fn lines_lose_blank_ones_and_keep_blanks() {
        let items = split(b"a\n\n  b c \n \t\r\nlast", Separator::Lines);
        assert_eq!(items, [&b"a"[..], b"  b c ", b"last"]);
        assert!(split(b"", Separator::Lines).is_empty());
        assert!(split(b"\n\n", Separator::Lines).is_empty());
    }

    #[test]
    fn separated_items_are_all_kept() {
        assert_eq!(split(b"a\0\0 b\n\0", Separator::Byte(0)), [&b"a"[..], b"", b" b\n"]);
        assert_eq!(split(b"x,,y", Separator::Byte(b',')), [&b"x"[..], b"", b"y"]);
        assert_eq!(split(b",", Separator::Byte(b',')), [&b""[..]]);
        assert!(split(b"", Separator::Byte(b',')).is_empty());
    }

    #[test]
    fn bytes_that_are_no_text_go_through() {
        assert_eq!(split(b"\xff\xfe\n\x80", Separator::Lines), [&b"\xff\xfe"[..], b"\x80"]);
    }
}
