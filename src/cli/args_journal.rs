//! The part of the command line that is about journals.

use super::values;
use crate::job::{Duplicates, Durability};
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

/// What `run` is told of its journal.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of a run that can be resumed")]
pub(crate) struct Keep {
    /// Keep items and results in this file, made if it is not there. The same line again goes on where the run was,
    /// even after kill -9: what is done is not run again, what has failed is
    #[arg(long, value_name = "FILE")]
    pub(crate) journal: Option<PathBuf>,

    /// What must be survived: process-crash, or power-loss too (every commit waits for the disk)
    #[arg(long, value_name = "WHAT", default_value = "process-crash", value_parser = values::durability, requires = "journal")]
    pub(crate) durability: Durability,

    /// The batch's name in the journal; by default the command. Another command under the same name is an error
    #[arg(long, value_name = "NAME", value_parser = values::name, requires = "journal")]
    pub(crate) name: Option<String>,

    /// An item that comes twice: skip it, stop with an error, or allow it. By default skip with a journal, allow without
    #[arg(long, value_name = "skip|error|allow", value_parser = values::duplicates)]
    pub(crate) duplicates: Option<Duplicates>,

    /// How long a full disk is waited for
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = values::time_or_zero, requires = "journal")]
    pub(crate) disk_wait: Duration,

    /// Write a line for each job that has ended, in GNU parallel's format. With a journal lines are added to those of
    /// earlier runs
    #[arg(long, value_name = "FILE")]
    pub(crate) joblog: Option<PathBuf>,
}

/// Which journal, and which of its batches.
#[derive(Debug, Args)]
pub(crate) struct At {
    /// The journal
    #[arg(long, value_name = "FILE")]
    pub(crate) journal: PathBuf,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,

    /// The batch's name; it may be left out if there is one only
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,
}

/// `retry`.
#[derive(Debug, Args)]
pub(crate) struct Revive {
    #[command(flatten)]
    pub(crate) at: At,

    /// Only the item with this key, as `dead` lists it
    #[arg(long, value_name = "KEY", conflicts_with = "matching")]
    pub(crate) key: Option<String>,

    /// Only items with this text in the error of an attempt
    #[arg(long = "match", value_name = "TEXT")]
    pub(crate) matching: Option<String>,
}

/// `results`.
#[derive(Debug, Args)]
pub(crate) struct Outputs {
    #[command(flatten)]
    pub(crate) at: At,

    /// In the order of the items, not in that of their ends
    #[arg(short = 'k', long)]
    pub(crate) keep_order: bool,

    /// Begin each line of output with the item and a tab
    #[arg(long, conflicts_with = "json")]
    pub(crate) tag: bool,
}
