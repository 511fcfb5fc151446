//! The order of the house's own locks: every latch of the floors from `limit` to `batch` has its level here.
//!
//! An order is in one piece, so it stands on the lowest floor that has one, and names what lives above. Names are all it has:
//! nothing here knows of what a lock guards. `tests/lock_levels.rs` holds the list against the sources, and says in which file
//! each is; [`Levelled`](super::Levelled) holds what runs against the order.
//!
//! There are four steps, and on each nobody holds two: of one level there may be many (the latches of all slots, say), and one
//! is held at a time. What is on the last step takes nothing inside. Who adds a lock places it: on the last step, if nothing is
//! taken while it is held.
//!
//! *Below.* The latches of `core/`, of `meter/` and of floor 0 have no level. They are leaves: nothing outside is called under
//! them but wakers, so they may be taken under any lock of the house. (Under the latch of `core/roll.rs` those of queues are
//! taken, all of them of `core/`.) Three of `core/` are no leaves, and all three serve `limit/`: `RatesMoving` is taken under the
//! latch of a line that has a leader, `RateSettings` under that of an epoch and under the shards of `limit/keyed.rs`. So
//! there it is: a line's latch, `RatesMoving`, an epoch's or the shards', `RateSettings`, a bucket's; and none of them the
//! other way about.
//!
//! *Above.* The latches of the command line program are not here: it is one user among others.
//!
//! *Code of the user's* is called with none of these held ([`outside`](super::outside)). Four exceptions: a payload is decoded
//! under `Refilling`, where items are claimed, and under `OwnReader`, where results are read; a revocation may be dropped
//! under `PermitWalk`, if its permit is while the walk looks at it; and names of locks are compared under `LockNames`.

#![allow(dead_code)] // Levels are names: no value of theirs is ever made. And some builds have no journal.

lock_order! {
    /// All there are.
    pub(crate) House:
        // Held from end to end by calls of users'.
        {
            Opening     // an engine's batches are opened one at a time; a journal is waited for meanwhile
            | Spawning  // makes the lane of `spawn`
            | Readers   // who reads a batch's results, as the store is told
            | OwnReader // a place in the journal's results
        }
        // Which hold others of the engine's and the store's.
        < {
            Places        // which lane has which number; it steers who comes and goes
            | Past        // the sums of lanes that have ended, held while the lanes are added to them
            | Taken       // an attempt is taken from its worker by one; its permits are charged meanwhile
            | Refilling   // a lane claims from its store
            | Backoff     // what is due goes to `Returned`
            | Outbox      // of a worker's seat: outcomes on their way into a store in memory
            | LaneWaiting // what a lane waits for: it asks for places in rates, and looks what is lost
        }
        // Which hold only such as hold none.
        < {
            LaneAt        // the lane of a number
            | Steer       // a lane's reasons to stand still, and its end; it is entered in `Timers`
            | SlotAt      // the slot of a worker, whose sleepers are woken
            | Zombies     // attempts that were given up, and how much they hold
            | Looks       // when a journal's claims are looked at again; entered in `Timers`
            | MemoryRows  // rows not claimed yet; how many may be, `MemoryLog` says
            | Paying      // takes of several rates
            | PermitWalk  // goes over all permits
            | RatesMoving // several rates that are moved as one
        }
        // Which hold none.
        < {
            TicketOutcome | SpawnQueue | Hand
            | Returned | Steps | Effects | ItemBill | LaneBill | GateChanges
            | Timers | Threads | Retired | EndsWritten | Throughput | SlotSleepers | SignalWaiting
            | MemoryLog
            | Incoming | Repeats | Buried | Stepped | Inbox | GivenUp
            | JournalStores | JournalWriter | IdleReaders | AdminDb | AskedStage | AskedWaiter
            | Asleep | PermitSlot | Revocations | OwnerManagers | PoolSlot | PoolWaits | PoolError
            | LockNames | LockNumbers | LockWaits | LockHolds | HoldTimes
            | RateSettings | RateWaits | ReservedSlot | QuotaWaits | QuotaUsable
        }
}
