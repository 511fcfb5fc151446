//! `map` over data that is borrowed from the stack, on all cores, with a line that tells how far it is.
//!
//! `cargo run --release --example map_progress`

use batchyard::Engine;
use std::sync::mpsc::channel;
use std::thread;

fn is_prime(n: u64) -> bool {
    n > 1 && (2..).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d))
}

fn main() -> Result<(), batchyard::Error> {
    let engine = Engine::builder().in_memory().open()?;
    let numbers: Vec<u64> = (1_000_000_000_000..1_000_000_002_000).collect();
    let total = numbers.len();
    let (tell, told) = channel();

    let found = thread::scope(|scope| {
        scope.spawn(move || {
            // Until the last sender is gone.
            for (done, ()) in (1..).zip(told) {
                if done % 50 == 0 {
                    eprint!("\r{done} of {total}");
                }
            }
            eprintln!();
        });
        // Items, closure and results may all borrow: the call returns when every item has ended, and drops the closure.
        engine.map(&numbers, move |n, _ctx| {
            let prime = is_prime(**n);
            let _ = tell.send(());
            Ok(prime)
        })
    });

    // One result an item, in the items' order. `Err` is an item that was given up, for instance by a panic.
    let primes: Vec<u64> =
        numbers.iter().zip(found).filter(|(_, prime)| *prime == Ok(true)).map(|(n, _)| *n).collect();
    println!("{} primes, from {:?} to {:?}", primes.len(), primes.first(), primes.last());
    Ok(())
}
