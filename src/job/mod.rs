//! Floor 1: plain data. What goes in, what comes out, and what is said about it.
//!
//! | file | what it holds |
//! |---|---|
//! | `key` | [`Key`]: an item's identity, and its hash when nobody names one |
//! | `payload` | [`Payload`]: what can travel through a journal |
//! | `priority` | [`Priority`]: four classes |
//! | `failure` | [`Failure`]: what a closure returns when it does not succeed |
//! | `retry` | [`Retry`]: how often and after what wait an item is tried again |
//! | `halt` | [`HaltRule`], [`HaltReason`]: when a batch stops before its end, and why it did |
//! | `dead` | [`Dead`]: an item given up, with the error of every attempt |
//! | `report` | [`Report`], [`BatchStatus`], [`ItemResult`]: how it ended |
//!
//! An *item* is the user's, an *attempt* is one try at it, an *outcome* ends an attempt, a *result* is a committed
//! outcome.

mod dead;
mod duplicates;
mod durability;
mod failure;
mod halt;
mod key;
mod names;
mod payload;
mod priority;
mod report;
mod retry;

pub(crate) use self::names::named;
pub use self::{
    dead::{AttemptError, AttemptKind, Dead, DeadReason},
    duplicates::Duplicates,
    durability::Durability,
    failure::{Failure, FailureKind},
    halt::{HaltAt, HaltReason, HaltRule},
    key::Key,
    payload::{Payload, PayloadError},
    priority::Priority,
    report::{BatchStatus, DeadItem, ItemResult, Report},
    retry::Retry,
};
