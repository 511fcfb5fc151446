//! The command line of a job: the user's words with placeholders, filled for one item.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;

/// What a placeholder stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hole {
    Item,
    /// Without its extension.
    Stem,
    FileName,
    FileStem,
    Directory,
    /// The number of the item, from 1.
    Number,
    /// The number of the job slot, from 1.
    Slot,
}

/// Longest first where one begins like another.
const HOLES: [(&[u8], Hole); 7] = [
    (b"{//}", Hole::Directory),
    (b"{/.}", Hole::FileStem),
    (b"{/}", Hole::FileName),
    (b"{.}", Hole::Stem),
    (b"{#}", Hole::Number),
    (b"{%}", Hole::Slot),
    (b"{}", Hole::Item),
];

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(Vec<u8>),
    Hole(Hole),
}

/// The words of a command, each a row of texts and holes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Template {
    words: Vec<Vec<Piece>>,
}

/// What fills the holes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Filling<'a> {
    pub(crate) item: &'a [u8],
    pub(crate) number: u64,
    pub(crate) slot: usize,
}

impl Template {
    /// The words as they are; without a placeholder in any, the item is one word more.
    /// `replace` is written for the item instead of `{}`.
    pub(crate) fn direct(words: &[OsString], replace: Option<&OsString>) -> Self {
        let mut words: Vec<_> =
            words.iter().map(|word| pieces(word.clone().into_vec().as_slice(), replace)).collect();
        if !words.iter().flatten().any(|piece| matches!(piece, Piece::Hole(_))) {
            words.push(vec![Piece::Hole(Hole::Item)]);
        }
        Self { words }
    }

    /// `sh -c SCRIPT sh VALUE…`: the script is the words joined by blanks, and each placeholder in it has become
    /// `"${1}"`, `"${2}"` and so on.
    ///
    /// The shell never parses an item: it is data in a parameter, however the user has quoted the placeholder. The
    /// quotes around the placeholder decide only how the expansion is written, so that it stays one word.
    pub(crate) fn shell(words: &[OsString], replace: Option<&OsString>) -> Self {
        let joined = words.join(OsStr::new(" ")).into_vec();
        let mut row = pieces(&joined, replace);
        if !row.iter().any(|piece| matches!(piece, Piece::Hole(_))) {
            row.push(Piece::Text(b" ".to_vec()));
            row.push(Piece::Hole(Hole::Item));
        }
        let mut script = Vec::new();
        let mut values = Vec::new();
        let mut quotes = Quotes::default();
        for piece in row {
            match piece {
                Piece::Text(text) => {
                    quotes.read(&text);
                    script.extend_from_slice(&text);
                }
                Piece::Hole(hole) => {
                    let at = values.iter().position(|v| *v == hole).unwrap_or_else(|| {
                        values.push(hole);
                        values.len() - 1
                    });
                    script.extend_from_slice(quotes.expansion(at + 1).as_bytes());
                }
            }
        }
        let text = |bytes: &[u8]| vec![Piece::Text(bytes.to_vec())];
        let mut words = vec![text(b"sh"), text(b"-c"), text(&script), text(b"sh")];
        words.extend(values.into_iter().map(|hole| vec![Piece::Hole(hole)]));
        Self { words }
    }

    /// The program, when it is the same for all items.
    pub(crate) fn fixed_program(&self) -> Option<OsString> {
        let mut name = Vec::new();
        for piece in self.words.first()? {
            match piece {
                Piece::Text(text) => name.extend_from_slice(text),
                Piece::Hole(_) => return None,
            }
        }
        Some(OsString::from_vec(name))
    }

    /// Whether a job must know its slot.
    pub(crate) fn needs_slot(&self) -> bool {
        self.words.iter().flatten().any(|piece| *piece == Piece::Hole(Hole::Slot))
    }

    /// The words for one item, the program first.
    pub(crate) fn fill(&self, with: Filling<'_>) -> impl Iterator<Item = OsString> {
        self.words.iter().map(move |word| {
            let mut bytes = Vec::new();
            for piece in word {
                match piece {
                    Piece::Text(text) => bytes.extend_from_slice(text),
                    Piece::Hole(hole) => hole.fill(with, &mut bytes),
                }
            }
            OsString::from_vec(bytes)
        })
    }
}

fn pieces(mut word: &[u8], replace: Option<&OsString>) -> Vec<Piece> {
    let replace = replace.map(|r| r.clone().into_vec());
    let hole_at = |rest: &[u8]| {
        if let Some(own) = &replace
            && rest.starts_with(own)
        {
            return Some((own.len(), Hole::Item));
        }
        HOLES
            .iter()
            .filter(|(_, hole)| replace.is_none() || *hole != Hole::Item)
            .find(|(text, _)| rest.starts_with(text))
            .map(|(text, hole)| (text.len(), *hole))
    };
    let mut row = Vec::new();
    let mut text = Vec::new();
    while let Some(first) = word.first() {
        match hole_at(word) {
            Some((length, hole)) => {
                if !text.is_empty() {
                    row.push(Piece::Text(std::mem::take(&mut text)));
                }
                row.push(Piece::Hole(hole));
                word = &word[length..];
            }
            None => {
                text.push(*first);
                word = &word[1..];
            }
        }
    }
    if !text.is_empty() {
        row.push(Piece::Text(text));
    }
    row
}

impl Hole {
    fn fill(self, with: Filling<'_>, to: &mut Vec<u8>) {
        match self {
            Hole::Item => to.extend_from_slice(with.item),
            Hole::Stem => to.extend_from_slice(stem(with.item)),
            Hole::FileName => to.extend_from_slice(file_name(with.item)),
            Hole::FileStem => to.extend_from_slice(stem(file_name(with.item))),
            Hole::Directory => to.extend_from_slice(directory(with.item)),
            Hole::Number => to.extend_from_slice(with.number.to_string().as_bytes()),
            Hole::Slot => to.extend_from_slice(with.slot.to_string().as_bytes()),
        }
    }
}

fn without_trailing_slashes(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|b| *b != b'/').map_or(path.len().min(1), |last| last + 1);
    &path[..end]
}

/// As basename(1): `a/b/` is `b`.
fn file_name(path: &[u8]) -> &[u8] {
    let path = without_trailing_slashes(path);
    match path.iter().rposition(|b| *b == b'/') {
        Some(slash) if path.len() > 1 => &path[slash + 1..],
        _ => path,
    }
}

/// As dirname(1): `.` where there is none.
fn directory(path: &[u8]) -> &[u8] {
    let path = without_trailing_slashes(path);
    match path.iter().rposition(|b| *b == b'/') {
        None => b".",
        Some(slash) => without_trailing_slashes(&path[..slash.max(1)]),
    }
}

/// Without what follows the last dot of the file name; a dot at its beginning begins no extension.
fn stem(path: &[u8]) -> &[u8] {
    let name_at = path.iter().rposition(|b| *b == b'/').map_or(0, |slash| slash + 1);
    match path[name_at..].iter().rposition(|b| *b == b'.') {
        Some(dot) if dot > 0 => &path[..name_at + dot],
        _ => path,
    }
}

/// Where in a shell's quotes a text ends. It knows `\`, `'`, `"`, `$(` and `(`; what it does not know (here
/// documents, backquotes) costs the item its quoting, so it is split at blanks, but never makes it code.
#[derive(Debug, Default)]
struct Quotes {
    open: Vec<Quote>,
    escaped: bool,
    dollar: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quote {
    Single,
    Double,
    Paren,
}

impl Quotes {
    fn read(&mut self, text: &[u8]) {
        for byte in text {
            let dollar = std::mem::replace(&mut self.dollar, *byte == b'$');
            if std::mem::take(&mut self.escaped) {
                continue;
            }
            match (self.open.last(), byte) {
                (Some(Quote::Single), b'\'') => drop(self.open.pop()),
                (Some(Quote::Single), _) => {}
                (_, b'\\') => self.escaped = true,
                (Some(Quote::Double), b'"') => drop(self.open.pop()),
                (Some(Quote::Double), b'(') if dollar => self.open.push(Quote::Paren),
                (Some(Quote::Double), _) => {}
                (_, b'\'') => self.open.push(Quote::Single),
                (_, b'"') => self.open.push(Quote::Double),
                (_, b'(') => self.open.push(Quote::Paren),
                (Some(Quote::Paren), b')') => drop(self.open.pop()),
                _ => {}
            }
        }
    }

    fn expansion(&self, parameter: usize) -> String {
        match self.open.last() {
            Some(Quote::Single) => format!("'\"${{{parameter}}}\"'"),
            Some(Quote::Double) => format!("${{{parameter}}}"),
            Some(Quote::Paren) | None => format!("\"${{{parameter}}}\""),
        }
    }
}

/// `word` as a POSIX shell reads it back.
pub(crate) fn quoted(word: &[u8]) -> Vec<u8> {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"_-./:=@%+,".contains(b);
    if !word.is_empty() && word.iter().all(plain) {
        return word.to_vec();
    }
    let mut text = vec![b'\''];
    for byte in word {
        match byte {
            b'\'' => text.extend_from_slice(b"'\\''"),
            _ => text.push(*byte),
        }
    }
    text.push(b'\'');
    text
}

#[cfg(test)]
#[path = "template_tests.rs"]
mod tests;
