//! The process's own manager. A program of its own: it is set once a process.

// What a user of the crate holds; the house rules on clocks and threads are for `src/`.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use batchyard::resource::{AcquireError, Demand, Owner, Wait, global, set_global};
use batchyard::{ManualClock, Priority, ResourceKind, ResourceManager, secs};
use std::thread;

#[test]
fn it_is_set_once_and_what_is_gone_with_its_owner_comes_back() {
    let time = ManualClock::new();
    let manager = || {
        ResourceManager::builder()
            .quota(ResourceKind::DatabaseConnection, 1)
            .quota("gpu", 2)
            .clock(time.clock())
            .build()
            .unwrap()
    };
    set_global(manager()).unwrap();
    assert!(set_global(manager()).is_err());
    let (one, other) = (Owner::new("one"), Owner::new("other"));
    let held = batchyard::allocate(ResourceKind::DatabaseConnection, &one).unwrap();
    assert_eq!((held.owner(), held.is_leased()), ("one", false));
    assert!(held.amount(ResourceKind::DatabaseConnection) == 1 && global().holders().len() == 1);
    assert!(global().holders()[0].place.file().ends_with("resource_global.rs"));
    let unknown = batchyard::allocate(ResourceKind::FileHandle, &one).unwrap_err();
    assert_eq!(unknown, AcquireError::UnknownKind { kind: ResourceKind::FileHandle });
    thread::scope(|s| {
        let late = s.spawn(|| {
            batchyard::allocate_by(ResourceKind::DatabaseConnection, &other, secs(3)).map(drop).unwrap_err()
        });
        time.wait_for_sleepers(1);
        time.advance(secs(3));
        assert!(matches!(late.join().unwrap(), AcquireError::TimedOut { .. }));
        let waits = s.spawn(|| {
            let wait = Wait::new().priority(Priority::High).by(secs(100));
            let demand = Demand::new().need(ResourceKind::DatabaseConnection, 1).need("gpu", 2);
            batchyard::allocate_with(&demand, &other, &wait).map(|p| p.amount("gpu"))
        });
        time.wait_for_sleepers(1);
        std::mem::forget(held);
        drop(one);
        assert_eq!(waits.join().unwrap(), Ok(2));
    });
    // Its lease is over, and it is reclaimed unless said otherwise.
    std::mem::forget(batchyard::allocate_with(&"gpu".into(), &other, &Wait::new().lease(secs(1))).unwrap());
    time.advance(secs(1));
    assert_eq!((global().sweep(), global().in_use("gpu")), (1, Some(0)));
}
