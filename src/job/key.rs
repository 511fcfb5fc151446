//! An item's identity.
//!
//! A key *is* its text: two keys are equal exactly when they display the same, whatever they were made of, so a key
//! that went through a journal, a command line or JSON is the same key. What makes that cheap is one canonical form
//! for each text:
//!
//! | text | held as |
//! |---|---|
//! | a decimal number that fits `i64`, written without needless characters | the number |
//! | 32 lower-case hex digits | 16 bytes |
//! | up to 22 bytes | in place |
//! | anything else | shared, counted |
//!
//! so comparison and hashing never format anything, and only the last row allocates.

use crate::job::PayloadError;
use crate::sync::Arc;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use siphasher::sip128::{Hasher128, SipHasher13};
use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::Hasher;
use std::io;

/// The identity of an item within its batch: by it a batch resumes, never by position. Cheap to clone.
///
/// ```
/// use batchyard::Key;
/// assert_eq!(Key::from(42_u64), Key::from("42"));
/// assert_eq!(Key::from("chapter-1").to_string(), "chapter-1");
/// assert_eq!(Key::of_payload(&("a", 1))?.to_string().len(), 32);
/// # Ok::<(), batchyard::job::PayloadError>(())
/// ```
///
/// Keys order: numbers by value, then hashes, then other texts by their bytes.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key(Form);

/// The longest text that is held in place.
const INLINE: usize = 22;

#[derive(Clone, PartialEq, Eq, Hash)]
enum Form {
    Number(i64),
    Digest([u8; 16]),
    /// The bytes after `len` are zero, so that derived equality compares texts.
    Short {
        len: u8,
        bytes: [u8; INLINE],
    },
    Long(Arc<str>),
}

impl Key {
    /// The default identity: a 128-bit SipHash-1-3 of the payload's JSON, shown as 32 hex digits.
    ///
    /// The hash is a fixed function of the JSON text, the same in every version of this crate and on every machine,
    /// and the text is streamed into it, not built. A payload whose JSON differs from run to run (a `HashMap`, a
    /// time stamp) needs a key of its own. The hash does not resist someone who searches for collisions.
    ///
    /// # Errors
    ///
    /// [`PayloadError::Unwritable`] when the value has no JSON form.
    pub fn of_payload<T: Serialize + ?Sized>(payload: &T) -> Result<Key, PayloadError> {
        let mut hasher = Sink(SipHasher13::new_with_keys(SEED.0, SEED.1));
        serde_json::to_writer(&mut hasher, payload).map_err(|e| PayloadError::unwritable::<T>(&e))?;
        Ok(Key(Form::Digest(hasher.0.finish128().as_u128().to_be_bytes())))
    }

    /// The key of the `n`-th repetition of this one: itself for 0, `key#n` after it.
    ///
    /// ```
    /// use batchyard::Key;
    /// let key = Key::from("a");
    /// assert_eq!(key.occurrence(0), key);
    /// assert_eq!(key.occurrence(2).to_string(), "a#2");
    /// ```
    pub fn occurrence(&self, n: u64) -> Key {
        if n == 0 { self.clone() } else { Key::from(format!("{self}#{n}")) }
    }

    /// The key's text; built for numbers and hashes, borrowed otherwise.
    pub fn text(&self) -> Cow<'_, str> {
        match &self.0 {
            Form::Number(n) => Cow::Owned(n.to_string()),
            Form::Digest(bytes) => Cow::Owned(format!("{:032x}", u128::from_be_bytes(*bytes))),
            Form::Short { len, bytes } => Cow::Borrowed(short(*len, bytes)),
            Form::Long(text) => Cow::Borrowed(text),
        }
    }

    /// The text in its canonical form, unless it has to be shared.
    fn compact(text: &str) -> Option<Form> {
        if let Some(n) = canonical_number(text) {
            return Some(Form::Number(n));
        }
        if let Some(digest) = digest(text) {
            return Some(Form::Digest(digest));
        }
        if text.len() > INLINE {
            return None;
        }
        let mut bytes = [0; INLINE];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Some(Form::Short { len: text.len() as u8, bytes })
    }

    fn rank(&self) -> u8 {
        match self.0 {
            Form::Number(_) => 0,
            Form::Digest(_) => 1,
            Form::Short { .. } | Form::Long(_) => 2,
        }
    }
}

/// The key of the hash. Changing it makes every journal's default keys strangers: never change it.
const SEED: (u64, u64) = (0x6261_7463_6879_6172, 0x642d_6b65_792d_7631);

/// A hasher as a place to write: what is hashed is the concatenation of what is written, however it is cut.
struct Sink(SipHasher13);

impl io::Write for Sink {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn short(len: u8, bytes: &[u8; INLINE]) -> &str {
    std::str::from_utf8(&bytes[..usize::from(len)]).expect("copied whole from a str")
}

/// The number that displays as exactly this text.
fn canonical_number(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text).as_bytes();
    let plain = match digits {
        [b'0'] => text.len() == 1,
        [b'1'..=b'9', ..] => digits.len() <= 19,
        _ => false,
    };
    if plain { text.parse().ok() } else { None }
}

/// The 16 bytes that display as exactly this text.
fn digest(text: &str) -> Option<[u8; 16]> {
    let hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
    if text.len() != 32 || !text.bytes().all(hex) {
        return None;
    }
    u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes)
}

impl From<&str> for Key {
    fn from(text: &str) -> Self {
        Key(Key::compact(text).unwrap_or_else(|| Form::Long(text.into())))
    }
}

impl From<String> for Key {
    fn from(text: String) -> Self {
        Key::from(text.as_str())
    }
}

impl From<&String> for Key {
    fn from(text: &String) -> Self {
        Key::from(text.as_str())
    }
}

impl From<Cow<'_, str>> for Key {
    fn from(text: Cow<'_, str>) -> Self {
        Key::from(&*text)
    }
}

macro_rules! from_integers {
    ($($int:ty),*) => {$(
        impl From<$int> for Key {
            fn from(n: $int) -> Self {
                match i64::try_from(n) {
                    Ok(n) => Key(Form::Number(n)),
                    Err(_) => Key::from(n.to_string()),
                }
            }
        }
    )*};
}
from_integers!(i8, i16, i32, i64, i128, isize, u8, u16, u32, u64, u128, usize);

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        match (&self.0, &other.0) {
            (Form::Number(a), Form::Number(b)) => a.cmp(b),
            (Form::Digest(a), Form::Digest(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()).then_with(|| self.text().cmp(&other.text())),
        }
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.text())
    }
}

/// As its text.
impl Serialize for Key {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.text())
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Cow::<'de, str>::deserialize(from).map(|text| Key::from(&*text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_key_is_three_words() {
        assert_eq!(size_of::<Key>(), 24);
        assert_eq!(size_of::<Option<Key>>(), 24);
    }

    #[test]
    fn default_keys_never_change() {
        // These three are in journals. If this test fails, the function changed, not the expectation.
        for (key, pinned) in [
            (Key::of_payload("https://example.org").unwrap(), PINNED[0]),
            (Key::of_payload(&(1, "two", [3.5])).unwrap(), PINNED[1]),
            (Key::of_payload(&()).unwrap(), PINNED[2]),
        ] {
            assert_eq!(key.to_string(), pinned);
        }
    }
    /// SipHash-1-3-128 of the three JSON texts, computed by another implementation.
    const PINNED: [&str; 3] = [
        "2c54311c18fdc4ce9ba2a0c9f40e7c2a",
        "591bd9259f085dd4b4f2a081587d1308",
        "8dd597e25caaade4f79e81e2dfd38372",
    ];

    #[test]
    fn the_hash_does_not_see_how_its_input_is_cut() {
        let text = serde_json::to_string(&"a long enough text to cross a few blocks").unwrap();
        let mut whole = SipHasher13::new_with_keys(SEED.0, SEED.1);
        whole.write(text.as_bytes());
        let mut cut = SipHasher13::new_with_keys(SEED.0, SEED.1);
        for byte in text.bytes() {
            cut.write(&[byte]);
        }
        assert_eq!(whole.finish128(), cut.finish128());
    }

    #[test]
    fn numbers_beyond_i64_are_texts() {
        assert_eq!(Key::from(u64::MAX), Key::from("18446744073709551615"));
        assert_eq!(Key::from(i128::MIN).to_string(), i128::MIN.to_string());
        assert_eq!(Key::from(i64::MIN), Key::from(i64::MIN.to_string()));
    }

    #[test]
    fn what_looks_like_a_number_keeps_its_text() {
        for text in
            ["", "-", "-0", "00", "007", "+1", "1.0", " 1", "9223372036854775808", "-9223372036854775809"]
        {
            assert_eq!(Key::from(text).to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn a_key_displays_its_text(text in "\\PC{0,40}|-?[0-9]{1,20}|[0-9a-f]{32}") {
            let key = Key::from(text.as_str());
            prop_assert_eq!(&key.to_string(), &text);
            let json = serde_json::to_string(&key).unwrap();
            prop_assert_eq!(serde_json::from_str::<Key>(&json).unwrap(), key);
        }

        #[test]
        fn equal_means_the_same_text(
            a in "[a0-1]{0,3}|[ab]{21,24}|[0-9a]{32}",
            b in "[a0-1]{0,3}|[ab]{21,24}|[0-9a]{32}",
        ) {
            let (x, y) = (Key::from(a.clone()), Key::from(b.clone()));
            prop_assert_eq!(x == y, a == b);
            prop_assert_eq!(x.cmp(&y) == Ordering::Equal, a == b);
            prop_assert_eq!(x.cmp(&y), y.cmp(&x).reverse());
        }

        #[test]
        fn integers_are_their_decimal_text(n: i64) {
            prop_assert_eq!(Key::from(n), Key::from(n.to_string()));
        }
    }
}
