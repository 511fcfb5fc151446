//! Items and outputs are bytes, not text. Where they must become text (JSON), valid UTF-8 stays as it is and the
//! rest travels as base64 (RFC 4648, with padding).

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The bytes of an item. In JSON: a string, or `{"base64": "…"}` when they are no UTF-8.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub(crate) struct Bytes(pub(crate) Vec<u8>);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Text {
    Plain(String),
    Encoded { base64: String },
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => to.serialize_str(text),
            Err(_) => Text::Encoded { base64: base64(&self.0) }.serialize(to),
        }
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match Text::deserialize(from)? {
            Text::Plain(text) => Ok(Bytes(text.into_bytes())),
            Text::Encoded { base64 } => {
                from_base64(&base64).map(Bytes).ok_or_else(|| de::Error::custom("not base64"))
            }
        }
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The base64 text of `bytes`. Texts of pieces may be joined when every piece but the last has a length that is a
/// multiple of 3.
pub(crate) fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let word = group.iter().fold(0_u32, |word, b| word << 8 | u32::from(*b)) << (8 * (3 - group.len()));
        for sextet in 0..4 {
            let wanted = sextet <= group.len();
            let letter = ALPHABET[(word >> (18 - 6 * sextet) & 63) as usize];
            text.push(if wanted { char::from(letter) } else { '=' });
        }
    }
    text
}

fn from_base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    for group in text.as_bytes().chunks(4) {
        let letters = group.iter().take_while(|c| **c != b'=').count();
        if group.len() != 4 || letters < 2 {
            return None;
        }
        let mut word = 0_u32;
        for letter in &group[..letters] {
            let sextet = ALPHABET.iter().position(|c| c == letter)?;
            word = word << 6 | sextet as u32;
        }
        word <<= 6 * (4 - letters);
        bytes.extend_from_slice(&word.to_be_bytes()[1..letters]);
    }
    Some(bytes)
}

/// `item` for a line of stderr: lossy, control characters escaped, cut after 40 characters.
pub(crate) fn brief(item: &[u8]) -> String {
    let cut = &item[..item.len().min(200)];
    let text = String::from_utf8_lossy(cut);
    let mut short: String = text.chars().take(40).flat_map(char::escape_debug).collect();
    if text.chars().nth(40).is_some() || cut.len() < item.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_as_the_rfc_has_it() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
            assert_eq!(from_base64(text).unwrap(), bytes.as_bytes());
        }
        assert_eq!(from_base64("Zg="), None);
        assert_eq!(from_base64("Z!=="), None);
        assert_eq!(from_base64("===="), None);
    }

    #[test]
    fn bytes_survive_json() {
        for bytes in [&b"plain"[..], b"", b"\xff\x00\xfe", "né".as_bytes()] {
            let json = serde_json::to_string(&Bytes(bytes.to_vec())).unwrap();
            assert_eq!(serde_json::from_str::<Bytes>(&json).unwrap().0, bytes, "{json}");
        }
        assert_eq!(serde_json::to_string(&Bytes(b"plain".to_vec())).unwrap(), "\"plain\"");
    }

    #[test]
    fn brief_is_short_and_on_one_line() {
        assert_eq!(brief(b"a\nb"), "a\\nb");
        assert_eq!(brief(&[b'x'; 1000]).chars().count(), 41);
    }
}
