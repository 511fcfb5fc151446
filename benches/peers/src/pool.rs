//! Getting a connection and bringing it back, against r2d2's own pool: the same manager, whose connections do nothing, and
//! the defaults of each pool, which agree: 10 connections, each checked before it is handed out, lifetimes and idle
//! timeouts on. At most as many threads as connections, so that nobody waits.

use crate::common::rounds::{Contest, Plan, hold as hold_rounds, operation};
use crate::common::row::Row;
use batchyard::r2d2::{self, ManageConnection};
use batchyard::resource::{Pool, PoolError};
use std::convert::Infallible;
use std::hint::black_box;
use std::time::Duration;

const TARGET: f64 = 0.5;
const CONNECTIONS: u32 = 10;

struct Trivial;

impl ManageConnection for Trivial {
    type Connection = u64;
    type Error = Infallible;

    fn connect(&self) -> Result<u64, Infallible> {
        Ok(7)
    }

    fn is_valid(&self, connection: &mut u64) -> Result<(), Infallible> {
        black_box(connection);
        Ok(())
    }

    fn has_broken(&self, connection: &mut u64) -> bool {
        black_box(connection);
        false
    }
}

pub(crate) fn hold(group: &str, plan: &Plan) -> Vec<Row> {
    let ours = Pool::new(Trivial).expect("the defaults are sound");
    let theirs = r2d2::Pool::new(Trivial).expect("the defaults are sound");
    gives_ten(&ours, &theirs);
    let contests = [1, 2].into_iter().map(|threads| {
        Contest::new(
            "get and bring back",
            threads,
            TARGET,
            operation(threads, || || ours.get().is_ok_and(|c| *c == 7)),
        )
        .against("r2d2", operation(threads, || || theirs.get().is_ok_and(|c| *c == 7)))
    });
    hold_rounds(group, plan, contests.collect())
}

/// Ten and not eleven; and those that come back are given again.
fn gives_ten(ours: &Pool<Trivial>, theirs: &r2d2::Pool<Trivial>) {
    for _ in 0..2 {
        let all: Vec<_> = (0..CONNECTIONS).map(|_| ours.get().expect("one of ten")).collect();
        assert!(matches!(ours.try_get(), Err(PoolError::Full)));
        drop(all);
        let all: Vec<_> = (0..CONNECTIONS).map(|_| theirs.get().expect("one of ten")).collect();
        assert!(theirs.get_timeout(Duration::from_millis(1)).is_err());
        drop(all);
    }
    assert_eq!((ours.stats().opened, ours.stats().idle), (u64::from(CONNECTIONS), u64::from(CONNECTIONS)));
    assert_eq!(theirs.state().idle_connections, CONNECTIONS);
}
