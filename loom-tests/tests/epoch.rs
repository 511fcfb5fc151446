//! `core/epoch.rs`.
//!
//! Verified, for every interleaving and every value that the memory orders allow, in every spawn order: of those who were sent
//! in one epoch exactly one ends it; who was sent in the next one may end that, too, and an epoch never goes back; and, with
//! the rate beside it, each rate is cut once by those who were granted under it, whenever they are told, and one that was
//! set from outside by nobody who was granted before.
//!
//! Not verified here: that whoever is granted after a change is granted by the new rate, which is the bucket's
//! (`tests/bucket.rs`) and a latch around the pair here.

use batchyard::__model::epoch::Epoch;
use batchyard_loom_tests::explore;
#[cfg(loom)]
use loom::sync::Mutex;
#[cfg(shuttle)]
use shuttle::sync::Mutex;

fn epoch() -> Epoch {
    Epoch::new(0, ())
}

#[test]
fn one_of_two_ends_the_epoch() {
    explore(epoch, &[|e: &Epoch| e.end(1, |()| 5), |e: &Epoch| e.end(2, |()| 5)], |e, seen| {
        assert_eq!(e.since(), 5);
        (seen[0], seen[1])
    })
    .exactly_together([(true, false), (false, true)]);
}

#[test]
fn one_of_three_ends_the_epoch() {
    let body = |e: &Epoch| e.end(1, |()| 5);
    explore(epoch, &[body, body, body], |_, seen| seen.iter().filter(|ended| **ended).count()).exactly([1]);
}

/// The second was sent after the first heard of it: two epochs, or, when the later one is told first, one.
#[test]
fn an_epoch_does_not_go_back() {
    explore(epoch, &[|e: &Epoch| e.end(1, |()| 5), |e: &Epoch| e.end(6, |()| 7)], |e, seen| {
        assert_eq!(e.since(), 7);
        (seen[0], seen[1])
    })
    .exactly_together([(true, true), (false, true)]);
}

/// Nor by a rate that is set at a reading of the clock from before.
#[test]
fn a_rate_that_is_set_takes_no_epoch_back() {
    let set = |e: &Epoch| e.set(|()| Ok::<u64, ()>(3)).is_ok();
    explore(epoch, &[|e: &Epoch| e.end(1, |()| 5), set], |e, seen| (seen[0], e.since()))
        .exactly_together([(true, 5), (false, 3)]);
}

/// A rate, the time, and the epoch that both belong to.
struct Limiter {
    epoch: Epoch,
    /// The rate, and a time that goes on with every use.
    bucket: Mutex<(u64, u64)>,
}

impl Limiter {
    /// One was granted at time 1 by a rate of 100.
    fn new() -> Self {
        Limiter { epoch: epoch(), bucket: Mutex::new((100, 1)) }
    }

    /// The stamp, and the rate that it was granted by.
    fn grant(&self) -> (u64, u64) {
        let mut bucket = self.bucket.lock().unwrap();
        bucket.1 += 1;
        (bucket.1, bucket.0)
    }

    fn too_much(&self, sent: u64) {
        self.epoch.end(sent, |()| {
            let mut bucket = self.bucket.lock().unwrap();
            bucket.1 += 1;
            bucket.0 = bucket.0 * 7 / 10;
            bucket.1
        });
    }

    /// An operator sets it to 50.
    fn set(&self) {
        let set = self.epoch.set(|()| {
            let mut bucket = self.bucket.lock().unwrap();
            bucket.1 += 1;
            bucket.0 = 50;
            Ok::<u64, ()>(bucket.1)
        });
        set.unwrap();
    }

    fn rate(&self) -> u64 {
        self.bucket.lock().unwrap().0
    }
}

#[test]
fn each_rate_is_cut_once() {
    explore(
        Limiter::new,
        &[
            |limiter: &Limiter| {
                limiter.too_much(1);
                0
            },
            |limiter| {
                let (sent, rate) = limiter.grant();
                limiter.too_much(sent);
                rate
            },
        ],
        |limiter, seen| (seen[1], limiter.rate()),
    )
    .exactly_together([(100, 70), (70, 49)]);
}

/// Who was granted before is told before the rate is set, and cuts what is overwritten then; or after, and says nothing.
#[test]
fn a_rate_that_is_set_is_not_cut_by_those_before() {
    explore(
        Limiter::new,
        &[|limiter: &Limiter| limiter.set(), |limiter| limiter.too_much(1)],
        |limiter, _| limiter.rate(),
    )
    .exactly([50]);
}

#[test]
fn a_rate_that_is_set_is_cut_once_by_those_behind() {
    explore(
        Limiter::new,
        &[
            |limiter: &Limiter| {
                limiter.set();
                0
            },
            |limiter| {
                let (sent, rate) = limiter.grant();
                limiter.too_much(sent);
                rate
            },
        ],
        |limiter, seen| (seen[1], limiter.rate()),
    )
    .exactly_together([(100, 50), (50, 35)]);
}
