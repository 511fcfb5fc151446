//! Floor 1: the lock-free words, and wait lists under a short latch. No clock, no I/O, no allocation after `new` (but for
//! who enters `handover` or `sleepers`, or makes room in `hints`), no third-party atomics: every file here runs under loom and shuttle as it stands. Each has its model in
//! `loom-tests/tests/` under the same name.
//!
//! | file | structure | progress |
//! |---|---|---|
//! | `attempt` | whose an attempt's end is, and how many of its effects are on their way | lock-free; settling waits for its own item's effects |
//! | `bucket` | a token bucket in virtual tokens: one word per limiter | lock-free; changing its terms takes a latch |
//! | `chunk` | a range of items taken one by one or from the back; who holds its buffer | lock-free |
//! | `claims` | what of a journal's batch is to be claimed, on its way, or ready | blocking, one short latch |
//! | `epoch` | of all who are told to slow down, who does it | blocking, one short latch; who is not concerned, wait-free |
//! | `handover` | a shelf, and who sleeps until something comes back to it | lock-free while nobody sleeps; else one short latch |
//! | `hints` | where a thing is likely to be, by the hash of what it is called | lock-free; making room takes a latch |
//! | `integral` | how much is held, and was for how long, while many take and give | lock-free; a reading waits for who is in the middle |
//! | `laneword` | a lane's pending count and its reasons to stand still, in one word | lock-free |
//! | `latch` | a latch for a few dozen instructions | blocking: spins, then naps |
//! | `lease` | what is held until it is dropped or its time is over, and comes back once; who looks at it meanwhile | lock-free; one at a time looks |
//! | `leader` | who waits for a rate in order of priority, and who of them watches the clock | blocking, one short latch |
//! | `lifecycle` | running, draining, stopped, and how many are inside | lock-free |
//! | `lockline` | who waits for a lock, and who is handed it | blocking, one short latch per lock |
//! | `lockword` | who holds a lock in which mode, whether somebody waits, who may come in first | lock-free |
//! | `permits` | a counting semaphore's word: free permits and waiters | lock-free |
//! | `plate` | a lock with a name, which changes when nobody has to do with it | lock-free, but for who waits for the lock |
//! | `ready` | the lanes that have work; the workers' way to sleep until one has | lock-free; a latch per woken sleeper |
//! | `roll` | who waits, with what others need to know of it, and who of them is told something | one short latch |
//! | `seat` | what a worker has in hand, and a stop that nothing escapes | one short latch beside a lock-free word |
//! | `shelf` | values put and taken, the last one first, in a fixed number of slots | lock-free |
//! | `sleepers` | who sleeps to a time that a change may move | blocking, one short latch |
//! | `soonest` | the earliest end of all leases, while some enter and one looks at all | lock-free |
//! | `tenancy` | lanes' numbers that are used again: whose hint is cleared | wait-free |
//! | `turns` | whose turn it is while items are suspected of having crashed a process | blocking, one short latch |
//! | `vacant` | slots of a growing row that are used again | lock-free |
//! | `waitlist` | who waits for permits, over several kinds, all or nothing | blocking, one short latch per list |

// `pub`, not `pub(crate)`: the model checkers reach these through `__model`, and some of it the engine does not use.
#![allow(unreachable_pub, dead_code)]
// The parker of floor 0 is not public; the models bring it in through a wrapper of their own.
#![cfg_attr(any(loom, shuttle), allow(private_bounds, private_interfaces))]
pub mod attempt;
pub mod bucket;
pub mod chunk;
pub mod claims;
pub mod epoch;
pub mod handover;
pub mod hints;
pub mod integral;
pub mod laneword;
pub mod latch;
pub mod leader;
pub mod lease;
pub mod lifecycle;
pub mod lockline;
pub mod lockword;
pub mod permits;
pub mod plate;
pub mod ready;
pub mod roll;
pub mod seat;
pub mod shelf;
pub mod sleepers;
pub mod soonest;
pub mod tenancy;
pub mod turns;
pub mod vacant;
pub mod waitlist;
