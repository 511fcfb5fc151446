//! Room for the open files of all jobs.

use super::exit::Trouble;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// A job has two pipes with both ends and a pidfd, and for moments what it takes to start it, to end its group or to
/// save its output.
const PER_JOB: u64 = 8;
const OUR_OWN: u64 = 32;

/// Raises the soft limit of open files, where it must, to what so many jobs at a time need. (The usual 1,024 are too
/// few from 128 jobs on.) The jobs inherit it: to give them the old one back would need a fork.
///
/// Without this the limit would be hit in the middle: a job that has begun and cannot be watched must be killed.
pub(crate) fn make_room(jobs: usize) -> Result<(), Trouble> {
    let need = OUR_OWN + PER_JOB * jobs as u64;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|now| now >= need) {
        return Ok(());
    }
    match limit.maximum {
        Some(most) if most < need => Err(Trouble::usage(format!(
            "{jobs} jobs at a time need {need} open files, and the system allows {most}: lower -j or raise `ulimit -n`"
        ))),
        maximum => setrlimit(Resource::Nofile, Rlimit { current: Some(need), maximum })
            .map_err(|e| Trouble::internal(format!("cannot raise the limit of open files to {need}: {e}"))),
    }
}
