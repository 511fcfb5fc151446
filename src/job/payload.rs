//! What travels through a journal: JSON, so that a person can read it in the sqlite3 shell.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A value that can be kept in a journal: whatever serde can write and read back, owned and shareable.
///
/// Nobody implements it by hand. In memory the value itself travels and nothing is encoded.
///
/// ```
/// fn keeps<T: batchyard::Payload>(_: &T) {}
/// keeps(&String::from("https://example.org"));
/// keeps(&vec![(1_u32, 2.5_f64)]);
/// ```
///
/// JSON knows no NaN and no infinity: a payload that holds one is written as `null` and does not read back as a
/// number.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be kept in a journal",
    note = "derive `serde::Serialize` and `serde::Deserialize` for it, without borrowed fields",
    note = "`map`, `try_map`, `for_each` and `spawn` ask for nothing: they work in memory only"
)]
pub trait Payload: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The value as one JSON text, appended to `out`. On an error `out` may hold a part of it.
    #[doc(hidden)]
    fn encode_into(&self, out: &mut Vec<u8>) -> Result<(), PayloadError> {
        serde_json::to_writer(out, self).map_err(|e| PayloadError::unwritable::<Self>(&e))
    }

    /// The value as one JSON text.
    #[doc(hidden)]
    fn encode(&self) -> Result<String, PayloadError> {
        serde_json::to_string(self).map_err(|e| PayloadError::unwritable::<Self>(&e))
    }

    /// The value that a JSON text stands for.
    #[doc(hidden)]
    fn decode(text: &str) -> Result<Self, PayloadError> {
        serde_json::from_str(text).map_err(|e| PayloadError::Unreadable {
            type_name: std::any::type_name::<Self>(),
            problem: e.to_string(),
        })
    }
}

impl<T: Serialize + DeserializeOwned + Send + Sync + 'static> Payload for T {}

/// A value that could not be written as JSON or read from it.
///
/// ```
/// use batchyard::{Key, job::PayloadError};
/// let keyed_by_pairs = std::collections::BTreeMap::from([((1, 2), 3)]);
/// assert!(matches!(Key::of_payload(&keyed_by_pairs), Err(PayloadError::Unwritable { .. })));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PayloadError {
    /// The value has no JSON form: a map whose keys are not text, or its own `Serialize` failed.
    #[error("a {type_name} cannot be written as JSON: {problem}")]
    #[non_exhaustive]
    Unwritable {
        /// The Rust type.
        type_name: &'static str,
        /// What serde_json says.
        problem: String,
    },
    /// The text is not the JSON of this type: another version of the program wrote it, or the row is damaged.
    #[error("not the JSON of a {type_name}: {problem}")]
    #[non_exhaustive]
    Unreadable {
        /// The Rust type.
        type_name: &'static str,
        /// What serde_json says, with line and column.
        problem: String,
    },
}

impl PayloadError {
    pub(super) fn unwritable<T: ?Sized>(error: &serde_json::Error) -> Self {
        PayloadError::Unwritable { type_name: std::any::type_name::<T>(), problem: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_keep_their_last_bit(x in prop::num::f64::NORMAL | prop::num::f64::SUBNORMAL, n: i128) {
            let text = (x, n).encode().unwrap();
            prop_assert_eq!(<(f64, i128)>::decode(&text).unwrap(), (x, n));
        }
    }

    #[test]
    fn values_go_there_and_back() {
        let value = vec![Some((1_u8, "a\"b".to_owned())), None];
        let text = value.encode().unwrap();
        assert_eq!(text, r#"[[1,"a\"b"],null]"#);
        let mut bytes = b"x".to_vec();
        value.encode_into(&mut bytes).unwrap();
        assert_eq!(&bytes[1..], text.as_bytes());
        assert_eq!(Payload::decode(&text), Ok(value));
    }

    #[test]
    fn a_bad_row_is_an_error_that_names_the_type() {
        let wrong = <u32 as Payload>::decode("{\"a\":1").unwrap_err();
        assert!(wrong.to_string().starts_with("not the JSON of a u32: "), "{wrong}");
        assert!(<u8 as Payload>::decode("256").is_err());
        assert!(<u8 as Payload>::decode("1 2").is_err());
    }
}
