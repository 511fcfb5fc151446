//! The journal: a SQLite file that survives `kill -9`.
//!
//! | file | what |
//! |---|---|
//! | `schema` | the tables, and how a file is opened as a journal |
//! | `lock`, `owner`, `hand` | one owner at a time; what a dead one left behind |
//! | `writer`, `book` | the one thread that writes, in groups |
//! | `append`, `claim`, `settle`, `step`, `batch` | what is written |
//! | `effects` | the user's SQL on the writer's connection, and the fences around it |
//! | `transaction` | the user's SQL that belongs to no item |
//! | `rows`, `read` | rows and their checksums; reading beside the writer |
//! | `journal` | an open journal |
//! | `piece` | what attempts leave besides their results |
//! | `revive` | dead items that are driven again |
//! | `admin` | reading and steering without the types |
//! | `store`, `incoming`, `outgoing`, `reader` | one batch's rows, typed |

#[cfg(feature = "cli")]
pub(crate) mod admin;
mod append;
mod batch;
mod book;
mod claim;
mod effects;
mod error;
mod hand;
mod incoming;
mod journal;
mod lock;
mod moment;
mod outgoing;
mod owner;
#[cfg(feature = "cli")]
mod piece;
mod read;
mod reader;
mod revive;
mod rows;
mod schema;
mod settle;
mod step;
mod store;
#[cfg(test)]
mod testing;
mod transaction;
mod writer;

#[cfg(feature = "cli")]
pub(crate) use self::hand::Group;
pub(crate) use self::journal::{Journal, News, Options};
pub(crate) use self::owner::Orphans;
pub(crate) use self::store::JournalStore;
pub(crate) use self::transaction::{Answer, Asked};
#[cfg(test)]
pub(crate) use self::writer::Tx;
