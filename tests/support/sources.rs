//! The sources of the crate as text, and as tokens: for tests of how they are written.

use std::fs;
use std::path::Path;

/// All of `src/`: path below it, text.
pub(crate) fn read() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &root, &mut files);
    assert!(files.len() > 20, "found only {} files", files.len());
    files
}

fn collect(root: &Path, folder: &Path, files: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
            files.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
}

#[derive(Debug)]
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) line: usize,
}

/// Names, `::` and single other characters; no comments, no literals that could hold a name.
pub(crate) fn lex(source: &str) -> Vec<Token> {
    let c: Vec<char> = source.chars().collect();
    let get = |i: usize| c.get(i).copied().unwrap_or('\0');
    let word = |ch: char| ch == '_' || ch.is_alphanumeric();
    let (mut tokens, mut i, mut line) = (Vec::new(), 0, 1);
    while i < c.len() {
        let start = i;
        match get(i) {
            '/' if get(i + 1) == '/' => {
                while i < c.len() && c[i] != '\n' {
                    i += 1;
                }
            }
            '/' if get(i + 1) == '*' => {
                let mut depth = 0;
                while i < c.len() {
                    match (get(i), get(i + 1)) {
                        ('/', '*') => (depth, i) = (depth + 1, i + 2),
                        ('*', '/') => (depth, i) = (depth - 1, i + 2),
                        _ => i += 1,
                    }
                    if depth == 0 {
                        break;
                    }
                }
            }
            '"' => i = string_end(&c, i),
            '\'' if get(i + 1) == '\\' => {
                i += 3;
                while i < c.len() && c[i] != '\'' {
                    i += 1;
                }
                i += 1;
            }
            '\'' if get(i + 2) == '\'' => i += 3,
            // A lifetime or a label.
            '\'' => {
                i += 1;
                while word(get(i)) {
                    i += 1;
                }
            }
            ':' if get(i + 1) == ':' => {
                i += 2;
                tokens.push(Token { text: "::".to_owned(), line });
            }
            ch if word(ch) || (ch == '$' && word(get(i + 1))) => {
                i += 1;
                while word(get(i)) {
                    i += 1;
                }
                let text: String = c[start..i].iter().collect();
                let hashes = c[i..].iter().take_while(|h| **h == '#').count();
                if matches!(text.as_str(), "r" | "br" | "cr") && get(i + hashes) == '"' {
                    let close: String = format!("\"{}", "#".repeat(hashes));
                    i += hashes + 1;
                    while i < c.len() && !c[i..].iter().take(close.len()).copied().eq(close.chars()) {
                        i += 1;
                    }
                    i += close.len();
                } else if text == "r" && hashes == 1 && word(get(i + 1)) {
                    i += 1; // A raw name: its text follows as a name.
                } else if matches!(text.as_str(), "b" | "c") && get(i) == '"' {
                    i = string_end(&c, i);
                } else if text.starts_with(|d: char| d.is_ascii_digit()) {
                    // A number names nothing.
                } else {
                    tokens.push(Token { text, line });
                }
            }
            ch if ch.is_whitespace() => i += 1,
            ch => {
                i += 1;
                tokens.push(Token { text: ch.to_string(), line });
            }
        }
        line += c[start..i.min(c.len())].iter().filter(|ch| **ch == '\n').count();
    }
    tokens
}

fn string_end(c: &[char], open: usize) -> usize {
    let mut i = open + 1;
    while i < c.len() && c[i] != '"' {
        i += if c[i] == '\\' { 2 } else { 1 };
    }
    i + 1
}
