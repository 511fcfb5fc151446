//! What abandoned attempts hold whose threads have not returned, and what that makes impossible.

use super::{FIRST_NAMED, Gate, Held, TOTAL};
use crate::core::waitlist::{Demand, Refused};
use crate::engine::lane::Shell;
use crate::engine::shared::Shared;
use crate::engine::slot::Slot;
use crate::job::Priority;
use crate::resource::{OwnerId, Permit};
use crate::sync::Arc;
use crate::time::Timestamp;

/// An abandoned attempt whose thread has not returned.
#[derive(Debug)]
pub(super) struct Zombie {
    slot: Arc<Slot>,
    attempt: OwnerId,
    /// What its lane needs.
    permit: Permit,
    /// It is certain: until then its worker may still come back with it.
    is_lost: bool,
}

impl Gate {
    /// The attempt of this slot is about to be abandoned: what it holds stays charged until its thread returns.
    #[track_caller]
    pub(crate) fn charge(&self, slot: &Arc<Slot>, attempt: OwnerId, demand: Demand, shell: &Shell) {
        let priority = Priority::from_class(usize::from(shell.core.tunables.get().class));
        let owner = format!("an attempt of `{}` that was given up", shell.core.name).into();
        let place = std::panic::Location::caller();
        let permit = self.manager.adopt(demand, owner, attempt, priority, place);
        self.zombies.lock().push(Zombie { slot: Arc::clone(slot), attempt, permit, is_lost: false });
    }

    /// The attempt is lost: when its time is over, what it holds is given back in any case, also what it took inside.
    pub(crate) fn lose(&self, slot: &Arc<Slot>, now: Timestamp) {
        let mut lost = Vec::new();
        {
            let mut zombies = self.zombies.lock();
            for zombie in zombies.iter_mut().filter(|zombie| Arc::ptr_eq(&zombie.slot, slot)) {
                zombie.is_lost = true;
                lost.push(zombie.attempt);
            }
        }
        // Under no latch: what was to become of a permit may be the user's to drop.
        if let Some(after) = self.reclaim_after {
            lost.into_iter().for_each(|attempt| self.manager.lapse_at(attempt, now + after));
        }
    }

    /// The attempt came back before it was abandoned: it holds what it holds.
    pub(crate) fn uncharge(&self, slot: &Arc<Slot>) {
        if let Some(zombie) = self.take_zombie(slot) {
            // It has no lease: nobody has taken it back.
            zombie.permit.into_bare();
        }
    }

    fn take_zombie(&self, slot: &Arc<Slot>) -> Option<Zombie> {
        let mut zombies = self.zombies.lock();
        let at = zombies.iter().position(|zombie| Arc::ptr_eq(&zombie.slot, slot))?;
        Some(zombies.swap_remove(at))
    }

    /// An abandoned attempt has returned: gives back what its lane needs, unless that was reclaimed.
    pub(crate) fn returned(&self, slot: &Arc<Slot>, held: &mut Held) {
        *held = Held::default();
        drop(self.take_zombie(slot));
    }

    /// Ends leases that are over, those of abandoned attempts among them, for the supervisor. When the next is due.
    pub(crate) fn reclaim(&self, now: Timestamp) -> Option<Timestamp> {
        self.manager.sweep_apart(now);
        self.manager.next_expiry()
    }

    /// How much of a kind abandoned attempts hold for as long as they please.
    fn lost(&self, kind: u16) -> u64 {
        if self.reclaim_after.is_some() {
            return 0;
        }
        let zombies = self.zombies.lock();
        let lost = zombies.iter().filter(|zombie| zombie.is_lost);
        lost.map(|zombie| self.manager.held_by(zombie.attempt, kind)).sum()
    }

    /// Whether anything is lost.
    pub(crate) fn has_losses(&self) -> bool {
        self.zombies.lock().iter().any(|zombie| zombie.is_lost)
    }

    /// Of a kind that is needed in this class: how much, how much is lost, and the class's limit; `None`: it suffices.
    pub(crate) fn lacks(&self, demand: &Demand, class: usize) -> Option<(u16, u64, u64, u64)> {
        demand.parts().find_map(|(kind, asked)| {
            let word = self.manager.list().word(kind)?;
            let (lost, limit) = (self.lost(kind), word.limit().saturating_sub(word.floor(class)));
            (lost > 0 && asked > limit.saturating_sub(lost)).then_some((kind, asked, lost, limit))
        })
    }
}

impl Shared {
    /// The sentence for a demand that can never be met.
    pub(super) fn never(&self, refused: &Refused) -> Option<String> {
        match refused {
            Refused::Short { .. } => None,
            Refused::Never { kind, asked, limit } => Some(format!(
                "an item needs {asked} of {}, whose limit is {limit} now",
                self.kind_name(*kind)
            )),
            Refused::Closed { kind } => Some(format!("{} is closed", self.kind_name(*kind))),
        }
    }

    /// The sentence for a demand that abandoned attempts have made impossible.
    pub(super) fn impossible(&self, demand: &Demand, class: usize) -> Option<String> {
        let (kind, asked, lost, limit) = self.gate.lacks(demand, class)?;
        Some(format!(
            "an item needs {asked} of {}, and abandoned attempts that do not return hold {lost} of {limit}",
            self.kind_name(kind)
        ))
    }

    fn kind_name(&self, kind: u16) -> String {
        match kind {
            TOTAL => "the engine's cap on items in hand".into(),
            k if k < FIRST_NAMED => "the batch's cap on items in hand".into(),
            k => format!("`{}`", self.gate.manager.kind_of(k)),
        }
    }
}
