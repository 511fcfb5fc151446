//! "No limit" in a configuration file: the type's largest value in memory, the word `none` in text.

macro_rules! number_or_none {
    ($module:ident, $number:ty, $none:expr, $write:ident) => {
        pub(super) mod $module {
            use serde::{Deserializer, Serializer, de};
            use std::fmt;

            const NONE: $number = $none;

            pub(in crate::engine) fn serialize<S: Serializer>(n: &$number, to: S) -> Result<S::Ok, S::Error> {
                if *n == NONE { to.serialize_str("none") } else { to.$write(*n as _) }
            }

            pub(in crate::engine) fn deserialize<'de, D: Deserializer<'de>>(
                from: D,
            ) -> Result<$number, D::Error> {
                struct NumberOrNone;
                impl de::Visitor<'_> for NumberOrNone {
                    type Value = $number;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("a positive number or \"none\"")
                    }
                    fn visit_u64<E: de::Error>(self, n: u64) -> Result<$number, E> {
                        super::Whole::from_whole(n)
                            .ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(n), &self))
                    }
                    fn visit_i64<E: de::Error>(self, n: i64) -> Result<$number, E> {
                        match u64::try_from(n) {
                            Ok(n) => self.visit_u64(n),
                            Err(_) => Err(E::invalid_value(de::Unexpected::Signed(n), &self)),
                        }
                    }
                    fn visit_f64<E: de::Error>(self, n: f64) -> Result<$number, E> {
                        super::Whole::from_fraction(n)
                            .ok_or_else(|| E::invalid_value(de::Unexpected::Float(n), &self))
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$number, E> {
                        match text {
                            "none" => Ok(NONE),
                            _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                        }
                    }
                }
                from.deserialize_any(NumberOrNone)
            }
        }
    };
}

number_or_none!(usize, usize, usize::MAX, serialize_u64);
number_or_none!(u64, u64, u64::MAX, serialize_u64);
number_or_none!(f64, f64, f64::INFINITY, serialize_f64);

/// How a number in a file becomes a field's.
trait Whole: Sized {
    fn from_whole(n: u64) -> Option<Self>;
    fn from_fraction(_: f64) -> Option<Self> {
        None
    }
}

impl Whole for usize {
    fn from_whole(n: u64) -> Option<Self> {
        n.try_into().ok()
    }
}

impl Whole for u64 {
    fn from_whole(n: u64) -> Option<Self> {
        Some(n)
    }
}

impl Whole for f64 {
    fn from_whole(n: u64) -> Option<Self> {
        Some(n as f64)
    }
    fn from_fraction(n: f64) -> Option<Self> {
        Some(n)
    }
}
