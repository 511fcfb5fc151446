//! Enums that people write and read by name: one list of names serves `as_str`, `Display`, `FromStr` and serde.

/// Gives a unit-like enum its names. The text forms are stable: journals and configuration files hold them.
macro_rules! named {
    ($type:ident, $what:literal, { $($variant:ident = $name:literal),+ $(,)? }) => {
        impl $type {
            /// Every value, in declaration order.
            pub const ALL: &'static [$type] = &[$($type::$variant),+];

            #[doc = concat!("The ", $what, "'s name, as journals and configuration files write it.")]
            pub const fn as_str(self) -> &'static str {
                match self { $($type::$variant => $name),+ }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        #[doc = concat!("Reads the name of a ", $what, "; capitals do not matter.")]
        impl std::str::FromStr for $type {
            type Err = crate::error::Invalid;
            fn from_str(text: &str) -> Result<Self, crate::error::Invalid> {
                $(if text.eq_ignore_ascii_case($name) {
                    return Ok($type::$variant);
                })+
                Err(crate::error::Invalid::new(
                    $what,
                    format!("`{text}` is none of: {}", [$($name),+].join(", ")),
                ))
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(self.as_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use named;
