//! What a closure returns, and what becomes of it: failures, retries and dead items as data.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // threads and clocks of tests are plain ones

use batchyard::job::{AttemptKind, FailureKind, HaltRule};
use batchyard::{AttemptError, Dead, DeadReason, Failure, Key, Retry, millis, secs};
use std::error::Error;

#[test]
fn any_error_becomes_a_retryable_failure() {
    fn io() -> Result<(), Failure> {
        std::fs::read("/no/such/file")?;
        Ok(())
    }
    fn boxed() -> Result<(), Failure> {
        let error: Box<dyn Error + Send + Sync> = "boxed".into();
        Err(Failure::retry(error))
    }
    let failure = io().unwrap_err();
    assert_eq!(failure.kind(), FailureKind::Retry);
    assert_eq!(failure.downcast_ref::<std::io::Error>().unwrap().kind(), std::io::ErrorKind::NotFound);
    assert_eq!(boxed().unwrap_err().message(), "boxed");
}

#[test]
fn failures_cross_threads() {
    fn crosses<T: Send + Sync + 'static>() {}
    crosses::<Failure>();
    crosses::<Dead>();
    crosses::<Key>();
}

#[test]
fn the_dead_are_errors_too() {
    let dead =
        Dead::new(DeadReason::TimedOut, 3, vec![AttemptError::new(3, AttemptKind::TimedOut, "after 30s")]);
    let failure = Failure::from(dead.clone());
    assert_eq!(failure.message(), "timed out: after 30s");
    assert_eq!(failure.downcast_ref::<Dead>(), Some(&dead));
}

#[test]
fn defaults_are_what_the_docs_say() {
    let retry = Retry::exponential(millis(200)..secs(30));
    assert_eq!((retry.max_attempts(), retry.budget_share(), retry.is_jittered()), (3, Some(0.2), true));
    let fixed = Retry::fixed(secs(1)).jitter(true).no_budget();
    assert_eq!((fixed.waits(), fixed.budget_share(), fixed.is_jittered()), (secs(1)..secs(1), None, true));
    assert_eq!(Retry::default().max_attempts(), 1);
    const AT_COMPILE_TIME: Retry = Retry::exponential(millis(1)..secs(1)).attempts(9);
    assert!(AT_COMPILE_TIME.validate().is_ok());
}

#[test]
fn halt_rules_are_gnu_parallels() {
    assert!("now,fail=1".parse::<HaltRule>().unwrap().now);
    assert!(!"soon,fail=5%".parse::<HaltRule>().unwrap().now);
}
