//! What adaptive rates hear of the attempts that took their tokens.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // threads and clocks of tests are plain ones

mod support;

use batchyard::limit::{Adaptive, Outcome};
use batchyard::resource::Demand;
use batchyard::*;
use std::sync::Mutex;
use std::sync::mpsc::channel;
use support::*;

const WAIT: std::time::Duration = secs(5);

/// An adaptive rate and its clock's present, a second after it was made.
fn learning(time: &ManualClock, per_second: u64, burst: u64) -> RateLimiter {
    RateLimiter::builder(Rate::per_second(per_second).burst(burst))
        .adaptive(Adaptive::between(Rate::per_second(1), Rate::per_second(200)).step(Rate::per_second(1)))
        .clock(time.clock())
        .build()
        .unwrap()
}

fn rate(limiter: &RateLimiter) -> f64 {
    limiter.rate().as_per_second_f64()
}

fn is_paused(limiter: &RateLimiter) -> bool {
    limiter.stats().paused_for.is_some()
}

/// An engine of one worker on a clock of the test's, with two rates that learn.
fn two_rates(slow: (u64, u64), fast: (u64, u64)) -> (ManualClock, Engine, RateLimiter, RateLimiter) {
    let time = ManualClock::new();
    let (slow, fast) = (learning(&time, slow.0, slow.1), learning(&time, fast.0, fast.1));
    let engine = Engine::builder()
        .workers(1)
        .in_memory()
        .clock(time.clock())
        .limiter("slow", slow.clone())
        .limiter("fast", fast.clone())
        .open()
        .unwrap();
    time.advance(secs(1));
    (time, engine, slow, fast)
}

/// One item, whose first attempt makes its calls and is then told to come again later.
fn refused(
    batch: BatchBuilder,
    calls: impl Fn(&Context) -> Result<(), Failure> + Send + Sync + 'static,
) -> Batch<(), ()> {
    let first = move |(): &(), ctx: &Context| {
        if ctx.deferrals() == 0 {
            calls(ctx)?;
            return Err(Failure::retry_after(WAIT));
        }
        Ok(())
    };
    batch.submit([()], first).unwrap()
}

fn ends(time: &ManualClock, batch: &Batch<(), ()>) {
    advance_until(time, millis(100), "it is done", || batch.wait_by(Deadline::NOW).is_ok());
}

#[test]
fn tokens_taken_inside_count() {
    within(|| {
        let (time, engine, slow, fast) = two_rates((10, 10), (100, 10));
        let batch = refused(engine.batch("inside"), |ctx| Ok(ctx.pace("slow", 2)?));
        until("it was told", || is_paused(&slow));
        until("it was cut", || rate(&slow) == 7.0);
        ends(&time, &batch);
        assert_eq!(rate(&fast), 100.0);
        // And what goes well does: seven tokens in a second and more.
        time.advance(secs(10));
        let before = rate(&slow);
        engine.map(0..7, |_, ctx| Ok(ctx.pace("slow", 1)?)).into_iter().for_each(|out| out.unwrap());
        time.advance(secs(1));
        let grown = || {
            engine.map([()], |(), ctx| Ok(ctx.pace("slow", 1)?)).into_iter().for_each(|out| out.unwrap());
            time.advance(millis(200));
            rate(&slow) > before
        };
        until("it grows", grown);
    });
}

/// One of the calls was refused, the one that the last tokens were for.
#[test]
fn who_was_asked_last_is_to_blame() {
    within(|| {
        let (time, engine, slow, fast) = two_rates((10, 10), (100, 10));
        let batch = refused(engine.batch("both").paced_by("fast"), |ctx| Ok(ctx.pace("slow", 1)?));
        until("it was told", || rate(&slow) == 7.0);
        assert_eq!((is_paused(&slow), is_paused(&fast), rate(&fast)), (true, false, 100.0));
        ends(&time, &batch);
    });
}

/// Of two rates that are asked together that one set the pace which had to be waited for.
#[test]
fn who_set_the_pace_is_to_blame() {
    within(|| {
        let (time, engine, slow, fast) = two_rates((2, 1), (100, 10));
        slow.acquire(1).unwrap();
        let batch = refused(engine.batch("both").paced_by("fast").paced_by("slow"), |_| Ok(()));
        advance_until(&time, millis(10), "it was told", || is_paused(&slow));
        until("it was cut", || rate(&slow) == 1.4);
        assert_eq!((is_paused(&fast), rate(&fast)), (false, 100.0));
        ends(&time, &batch);
    });
}

/// From inside they are taken together: nobody has noted which of them was waited for.
#[test]
fn all_that_were_asked_together_inside_are_to_blame() {
    within(|| {
        let (time, engine, slow, fast) = two_rates((2, 1), (100, 10));
        slow.acquire(1).unwrap();
        let both = || Demand::new().pace("slow", 1).pace("fast", 1);
        let batch = refused(engine.batch("both"), move |ctx| {
            drop(ctx.acquire(both())?);
            Ok(())
        });
        advance_until(&time, millis(10), "they were told", || is_paused(&slow) && is_paused(&fast));
        until("both were cut", || rate(&slow) == 1.4 && rate(&fast) == 70.0);
        ends(&time, &batch);
    });
}

/// Where nothing had to be waited for, the burst of any may have been too much.
#[test]
fn who_let_it_through_at_once_is_to_blame() {
    within(|| {
        let (time, engine, slow, fast) = two_rates((10, 10), (100, 10));
        let batch = refused(engine.batch("both").paced_by("fast").paced_by("slow"), |_| Ok(()));
        until("both were told", || rate(&slow) == 7.0 && rate(&fast) == 70.0);
        assert!(is_paused(&slow) && is_paused(&fast));
        ends(&time, &batch);
    });
}

/// Its token was granted before a cut, and it began after that: that cut was for it, too.
#[test]
fn a_start_counts_from_its_grant() {
    within(|| {
        let (time, engine, slow, _) = two_rates((10, 1), (100, 10));
        slow.acquire(1).unwrap();
        let (running, runs) = channel();
        let (go, told) = channel::<()>();
        let waiting = refused(engine.batch("waits").paced_by("slow"), |_| Ok(()));
        until("its lane waits", || {
            slow.remaining() == 0 && slow.try_acquire(1).unwrap_err().ready_in > millis(150)
        });
        let told = Mutex::new(told);
        let busy = engine
            .batch("busy")
            .submit([()], move |(), _| {
                running.send(()).unwrap();
                told.lock().unwrap().recv().unwrap();
                Ok(())
            })
            .unwrap();
        runs.recv().unwrap();
        // Its time comes while the only worker is busy; then the rate is cut, for another.
        time.advance(millis(100));
        time.advance(secs(1));
        slow.try_acquire(0).unwrap().complete(Outcome::Throttled { retry_after: None });
        assert_eq!(rate(&slow), 7.0);
        time.advance(secs(1));
        go.send(()).unwrap();
        busy.wait().unwrap();
        until("it was told", || is_paused(&slow));
        ends(&time, &waiting);
        assert_eq!(rate(&slow), 7.0);
    });
}

/// Items of a `map` inside an item are attempts of their own.
#[test]
fn items_inside_an_item_tell_too() {
    within(|| {
        let (time, engine, slow, _) = two_rates((10, 10), (100, 10));
        let inner = engine.clone();
        let batch = engine
            .batch("outer")
            .submit([()], move |(), _| {
                let calls = inner.map([()], |(), ctx| {
                    if ctx.deferrals() == 0 {
                        ctx.pace("slow", 1)?;
                        return Err(Failure::retry_after(millis(1)));
                    }
                    Ok(())
                });
                calls.into_iter().for_each(|call| call.unwrap());
                Ok(())
            })
            .unwrap();
        until("it was told", || rate(&slow) == 7.0);
        ends(&time, &batch);
    });
}
