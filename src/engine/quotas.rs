//! Reads limits by kind of resource. A kind has several spellings, and a map would keep the last of them in silence.

use crate::resource::ResourceKind;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, Visitor};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<BTreeMap<ResourceKind, usize>, D::Error> {
    from.deserialize_map(Quotas)
}

struct Quotas;

/// A kind that was not given yet under any of these names. Refused here and not by who inserts it: so the error's place
/// in the text is the key's.
struct NewKind<'a>(&'a mut BTreeMap<ResourceKind, String>);

impl<'de> Visitor<'de> for Quotas {
    type Value = BTreeMap<ResourceKind, usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("limits by kind of resource")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut quotas, mut names) = (BTreeMap::new(), BTreeMap::new());
        while let Some(kind) = map.next_key_seed(NewKind(&mut names))? {
            quotas.insert(kind, map.next_value()?);
        }
        Ok(quotas)
    }
}

impl<'de> DeserializeSeed<'de> for NewKind<'_> {
    type Value = ResourceKind;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<ResourceKind, D::Error> {
        let name = Cow::<'de, str>::deserialize(from)?;
        let kind: ResourceKind = name.parse().map_err(Error::custom)?;
        if let Some(other) = self.0.insert(kind.clone(), name.to_string()) {
            return Err(Error::custom(format_args!(
                "`{name}` and `{other}` are the same resource: give one"
            )));
        }
        Ok(kind)
    }
}
