//! A subscriber of `tracing` that panics does no harm to the engine (promise 19).

#![cfg(feature = "tracing")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // threads and clocks of tests are plain ones

mod support;

use batchyard::{Engine, Failure, secs};
use std::sync::atomic::{AtomicU64, Ordering};
use support::within;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

static EVENTS: AtomicU64 = AtomicU64::new(0);

struct Panicking;

impl Subscriber for Panicking {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        if event.metadata().target() == "batchyard" {
            EVENTS.fetch_add(1, Ordering::SeqCst);
            panic!("the subscriber's own");
        }
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[test]
fn a_subscriber_that_panics_does_no_harm() {
    tracing::subscriber::set_global_default(Panicking).unwrap();
    within(|| {
        let heard = std::sync::Arc::new(AtomicU64::new(0));
        let counter = heard.clone();
        let engine = Engine::builder().workers(2).in_memory().on_event(move |_| {
            counter.fetch_add(1, Ordering::SeqCst);
        });
        let engine = engine.open().unwrap();
        let batch = engine.batch("b").submit(0..200u32, |n, _| match n % 10 {
            3 => Err(Failure::fatal("dead")),
            7 => panic!("a worker is replaced"),
            _ => Ok(*n),
        });
        let report = batch.unwrap().wait().unwrap();
        assert_eq!((report.completed_items, report.failed_items), (160, 40));
        let cancelled = engine.batch("c").open(|n: &u32, _| Ok(*n)).unwrap();
        cancelled.cancel();
        cancelled.wait().unwrap();
        engine.shutdown(secs(60)).unwrap();
        // Started, dead, replaced, ended, cancelled: the listener has heard of all of it, the subscriber too.
        let heard = heard.load(Ordering::SeqCst);
        assert!(heard >= 40 + 20 + 4, "{heard}");
        assert_eq!(EVENTS.load(Ordering::SeqCst), heard);
    });
}
