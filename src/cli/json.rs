//! One JSON object a line for each job, written as it is read: an output of a gigabyte never stands in memory.

use super::bytes::base64;
use super::capture::Output;
use super::job::Status;
use super::report::Row;
use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;

/// Writes the object of `row` and a newline.
pub(crate) fn write_row(to: &mut impl Write, row: &Row) -> io::Result<()> {
    write!(to, "{{\"seq\":{},\"key\":{}", row.number, serde_json::to_string(&row.key)?)?;
    field(to, "item", |take| take(&row.item.0))?;
    let status = match row.finished.status {
        Status::Done => "done",
        Status::Dead => "dead",
        Status::Cancelled => "cancelled",
    };
    write!(to, ",\"status\":\"{status}\"")?;
    if let Some(exit) = row.finished.exit {
        match (exit.code(), exit.signal()) {
            (Some(code), _) => write!(to, ",\"exit_code\":{code}")?,
            (None, Some(signal)) => write!(to, ",\"signal\":{signal}")?,
            (None, None) => {}
        }
    }
    if let Some(error) = &row.finished.error {
        write!(to, ",\"error\":{}", serde_json::to_string(error)?)?;
    }
    let run_ms = row.finished.run_time.as_secs_f64() * 1e3;
    write!(to, ",\"attempts\":{},\"run_ms\":{run_ms:.3}", row.attempts)?;
    output(to, "stdout", &row.finished.stdout)?;
    output(to, "stderr", &row.finished.stderr)?;
    to.write_all(b"}\n")
}

fn output(to: &mut impl Write, name: &str, output: &Output) -> io::Result<()> {
    field(to, name, |take| output.read(take))
}

type Take<'a> = &'a mut dyn FnMut(&[u8]) -> io::Result<()>;

/// `,"name":"text"`, and `,"name_base64":"…"` when the bytes are no UTF-8. `bytes` is read twice then.
fn field(to: &mut impl Write, name: &str, bytes: impl Fn(Take<'_>) -> io::Result<()>) -> io::Result<()> {
    write!(to, ",\"{name}\":\"")?;
    let mut text = Text::default();
    bytes(&mut |piece| text.write(to, piece))?;
    let clean = text.finish(to)?;
    to.write_all(b"\"")?;
    if clean {
        return Ok(());
    }
    write!(to, ",\"{name}_base64\":\"")?;
    let mut left = Vec::new();
    bytes(&mut |piece| {
        left.extend_from_slice(piece);
        let whole = left.len() / 3 * 3;
        let encoded = base64(&left[..whole]);
        left.drain(..whole);
        to.write_all(encoded.as_bytes())
    })?;
    write!(to, "{}\"", base64(&left))
}

/// Bytes on their way into a JSON string: escaped, and U+FFFD for what is no UTF-8. A character may be cut between
/// two pieces.
#[derive(Default)]
struct Text {
    begun: Vec<u8>,
    lossy: bool,
}

impl Text {
    fn write(&mut self, to: &mut impl Write, piece: &[u8]) -> io::Result<()> {
        let joined;
        let mut rest = if self.begun.is_empty() {
            piece
        } else {
            self.begun.extend_from_slice(piece);
            joined = std::mem::take(&mut self.begun);
            &joined
        };
        loop {
            let e = match std::str::from_utf8(rest) {
                Ok(text) => return escaped(to, text),
                Err(e) => e,
            };
            let (valid, broken) = rest.split_at(e.valid_up_to());
            escaped(to, std::str::from_utf8(valid).expect("valid up to here"))?;
            let Some(length) = e.error_len() else {
                self.begun = broken.to_vec();
                return Ok(());
            };
            self.replace(to)?;
            rest = &broken[length..];
        }
    }

    /// True when all of it was UTF-8.
    fn finish(mut self, to: &mut impl Write) -> io::Result<bool> {
        if !self.begun.is_empty() {
            self.replace(to)?;
        }
        Ok(!self.lossy)
    }

    fn replace(&mut self, to: &mut impl Write) -> io::Result<()> {
        self.lossy = true;
        to.write_all("\u{fffd}".as_bytes())
    }
}

fn escaped(to: &mut impl Write, text: &str) -> io::Result<()> {
    let quoted = serde_json::to_string(text)?;
    to.write_all(&quoted.as_bytes()[1..quoted.len() - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(pieces: &[&[u8]]) -> String {
        let mut to = b"{\"a\":0".to_vec();
        field(&mut to, "x", |take| pieces.iter().try_for_each(|p| take(p))).unwrap();
        to.push(b'}');
        String::from_utf8(to).unwrap()
    }

    #[test]
    fn text_is_escaped_and_joined() {
        assert_eq!(written(&[b"a\"\n", b"\xc3", b"\xa9z"]), "{\"a\":0,\"x\":\"a\\\"\\né".to_owned() + "z\"}");
    }

    #[test]
    fn broken_text_comes_twice() {
        let json = written(&[b"a\xff", b"b\xc3"]);
        let object: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(object["x"], "a\u{fffd}b\u{fffd}");
        assert_eq!(object["x_base64"], base64(b"a\xffb\xc3"));
    }
}
