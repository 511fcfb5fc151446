//! The kinds of things that are limited.

use crate::error::Invalid;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// What a quota limits and a demand asks for.
///
/// ```
/// use batchyard::ResourceKind;
/// assert_eq!(ResourceKind::from("file_handle"), ResourceKind::FileHandle);
/// assert_eq!(ResourceKind::from("licences").to_string(), "licences");
/// const GPU: ResourceKind = ResourceKind::Custom(std::borrow::Cow::Borrowed("gpu"));
/// assert_eq!(GPU, "gpu".into());
/// ```
///
/// The names of the kinds below are read in every spelling: case, `_` and `-` make no difference. Make a custom kind by
/// `from`, which knows them: a `Custom("file_handle")` written out would be a kind of its own, and
/// [`EngineConfig::validate`](crate::EngineConfig::validate) refuses it.
///
/// ```
/// use batchyard::ResourceKind;
/// assert_eq!(ResourceKind::from("FileHandle"), ResourceKind::FileHandle);
/// assert_eq!(ResourceKind::from("file-handle"), ResourceKind::FileHandle);
/// ```
#[doc(alias = "ResourceType")]
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ResourceKind {
    /// `database_connection`: connections to a database.
    DatabaseConnection,
    /// `api_request`: requests in flight to a service.
    ApiRequest,
    /// `worker_thread`: threads.
    WorkerThread,
    /// `memory_buffer`: memory, in a unit of the user's choice.
    MemoryBuffer,
    /// `file_handle`: open files.
    FileHandle,
    /// `network_socket`: open sockets.
    NetworkSocket,
    /// Anything else, by name.
    Custom(Cow<'static, str>),
}

impl ResourceKind {
    /// The kinds that have a name of their own.
    pub const NAMED: [ResourceKind; 6] = [
        ResourceKind::DatabaseConnection,
        ResourceKind::ApiRequest,
        ResourceKind::WorkerThread,
        ResourceKind::MemoryBuffer,
        ResourceKind::FileHandle,
        ResourceKind::NetworkSocket,
    ];

    /// The kind's name, as configuration files write it.
    pub fn as_str(&self) -> &str {
        match self {
            ResourceKind::DatabaseConnection => "database_connection",
            ResourceKind::ApiRequest => "api_request",
            ResourceKind::WorkerThread => "worker_thread",
            ResourceKind::MemoryBuffer => "memory_buffer",
            ResourceKind::FileHandle => "file_handle",
            ResourceKind::NetworkSocket => "network_socket",
            ResourceKind::Custom(name) => name,
        }
    }

    /// The kind of this name, however it is spelt. A person who writes `DatabaseConnection` means it: to make a kind of
    /// its own of that would leave the connections unlimited in silence.
    pub(crate) fn named(name: &str) -> Option<Self> {
        fn letters(name: &str) -> impl Iterator<Item = u8> {
            name.bytes().filter(|b| !matches!(b, b'_' | b'-')).map(|b| b.to_ascii_lowercase())
        }
        Self::NAMED.into_iter().find(|kind| letters(kind.as_str()).eq(letters(name)))
    }
}

impl fmt::Display for ResourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The kind of this name; a custom one unless it names another.
impl From<&str> for ResourceKind {
    fn from(name: &str) -> Self {
        Self::named(name).unwrap_or_else(|| ResourceKind::Custom(Cow::Owned(name.to_owned())))
    }
}

/// As from `&str`.
impl From<String> for ResourceKind {
    fn from(name: String) -> Self {
        Self::named(&name).unwrap_or(ResourceKind::Custom(Cow::Owned(name)))
    }
}

/// As from `&str`, for text that a person typed: a name is not empty and holds no blank, comma or `=`.
impl FromStr for ResourceKind {
    type Err = Invalid;
    fn from_str(name: &str) -> Result<Self, Invalid> {
        if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c == ',' || c == '=') {
            return Err(Invalid::new(
                "resource",
                format!("`{name}` is not a name: use letters, digits, `_`"),
            ));
        }
        Ok(name.into())
    }
}

/// As its name.
impl Serialize for ResourceKind {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for ResourceKind {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Cow::<'de, str>::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        for kind in ResourceKind::NAMED.into_iter().chain(["gpu".into()]) {
            assert_eq!(kind.to_string().parse(), Ok(kind.clone()));
            assert_eq!(ResourceKind::from(kind.to_string()), kind);
            let json = serde_json::to_string(&kind).unwrap();
            assert_eq!(serde_json::from_str::<ResourceKind>(&json).unwrap(), kind);
        }
        for kind in ResourceKind::NAMED {
            let name = kind.as_str();
            for spelling in
                [name.to_uppercase(), name.replace('_', "-"), name.replace('_', ""), format!("{kind:?}")]
            {
                assert_eq!(ResourceKind::from(&*spelling), kind);
                assert_eq!(ResourceKind::from(spelling.clone()), kind);
                assert_eq!(spelling.parse(), Ok(kind.clone()));
            }
        }
        for other in ["database", "database_connections", "database connection", "Gpu", ""] {
            assert_eq!(ResourceKind::from(other).as_str(), other);
        }
        for wrong in ["", "a b", "a,b", "a=1"] {
            assert!(wrong.parse::<ResourceKind>().is_err(), "{wrong}");
        }
    }
}
