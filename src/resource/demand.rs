//! What work asks for.

use super::kind::ResourceKind;
use std::collections::BTreeMap;

/// So much of each of a few kinds, all or nothing, and tokens of a few rates.
///
/// Made once, used as often as wanted. What is named twice adds up; zero is nothing. Whether the kinds are known, and
/// the amounts within the limits, is for the [`ResourceManager`](crate::ResourceManager) to say that it is given to.
///
/// ```
/// use batchyard::{ResourceKind, resource::Demand};
/// let demand = Demand::new().need(ResourceKind::DatabaseConnection, 1).need("gpu", 2).need("gpu", 1).pace("api", 1);
/// assert_eq!((demand.amount("gpu"), demand.tokens("api"), demand.amount("api")), (3, 1, 0));
/// assert_eq!(Demand::from("gpu"), Demand::new().need("gpu", 1));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Demand {
    needs: BTreeMap<ResourceKind, u64>,
    paces: BTreeMap<ResourceKind, u64>,
}

impl Demand {
    /// Nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// And `n` of the kind's quota, to be held.
    pub fn need(mut self, kind: impl Into<ResourceKind>, n: u64) -> Self {
        add(&mut self.needs, kind.into(), n);
        self
    }

    /// And `n` tokens of the rate of this name, to be spent. They are taken last, when all permits are there.
    ///
    /// A demand that has to wait for its tokens holds no permits meanwhile. Are the permits gone when the tokens have come, it
    /// queues for them, and its tokens are for whoever has everything else first; only after three such turns it keeps its
    /// own. No more of a rate is kept so than two demands': what it sees is its burst, what comes by its rate, and the tokens
    /// of the two largest demands.
    ///
    /// Of several rates, too, what has come is not held while the others are waited for.
    pub fn pace(mut self, rate: impl Into<ResourceKind>, n: u64) -> Self {
        add(&mut self.paces, rate.into(), n);
        self
    }

    pub(crate) fn without_needs(self) -> Self {
        Demand { needs: BTreeMap::new(), ..self }
    }

    pub(crate) fn without_paces(self) -> Self {
        Demand { paces: BTreeMap::new(), ..self }
    }

    /// How much of a kind it needs.
    pub fn amount(&self, kind: impl Into<ResourceKind>) -> u64 {
        self.needs.get(&kind.into()).copied().unwrap_or(0)
    }

    /// How many tokens of a rate it spends.
    pub fn tokens(&self, rate: impl Into<ResourceKind>) -> u64 {
        self.paces.get(&rate.into()).copied().unwrap_or(0)
    }

    /// Whether it asks for nothing.
    pub fn is_empty(&self) -> bool {
        self.needs.is_empty() && self.paces.is_empty()
    }

    /// The kinds it needs and how much of each, in the kinds' order.
    pub fn needs(&self) -> impl Iterator<Item = (&ResourceKind, u64)> {
        self.needs.iter().map(|(kind, n)| (kind, *n))
    }

    /// The rates it is paced by and how many tokens of each, in their names' order.
    pub fn paces(&self) -> impl Iterator<Item = (&ResourceKind, u64)> {
        self.paces.iter().map(|(rate, n)| (rate, *n))
    }
}

fn add(to: &mut BTreeMap<ResourceKind, u64>, kind: ResourceKind, n: u64) {
    if n > 0 {
        let amount = to.entry(kind).or_insert(0);
        *amount = amount.saturating_add(n);
    }
}

/// One of it.
impl From<ResourceKind> for Demand {
    fn from(kind: ResourceKind) -> Self {
        Demand::new().need(kind, 1)
    }
}

/// One of the kind of this name.
impl From<&str> for Demand {
    fn from(kind: &str) -> Self {
        Demand::new().need(kind, 1)
    }
}
