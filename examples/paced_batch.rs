//! A batch in memory: at most so many calls a second, failures retried with backoff, results printed as they come.
//!
//! `cargo run --example paced_batch`

use batchyard::{Context, Engine, Failure, Rate, Retry, millis, secs};

/// Stands for a call over the network: every third one fails at first.
fn fetch(url: &str, ctx: &Context) -> Result<usize, Failure> {
    if url.ends_with('3') && ctx.attempt() == 1 {
        // Any error converts with `?` and is retried; `Failure::fatal` gives up at once.
        return Err(Failure::retry("connection reset"));
    }
    if url.ends_with('7') {
        return Err(Failure::fatal("404 not found"));
    }
    Ok(url.len())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let engine =
        Engine::builder().workers(8).in_memory().rate("api", Rate::per_second(20).burst(5)).open()?;
    let urls = (0..20).map(|n| format!("https://example.org/{n}"));
    let batch = engine
        .batch("pages")
        .paced_by("api")
        .item_timeout(secs(10))
        .retry(Retry::exponential(millis(50)..secs(2)).attempts(4))
        .submit(urls, |url: &String, ctx| fetch(url, ctx))?;

    for item in batch.results() {
        let item = item?;
        match item.outcome {
            Ok(bytes) => println!("{:>2}: {bytes} bytes, attempt {}", item.seq, item.attempts),
            Err(dead) => println!("{:>2}: {dead}", item.seq),
        }
    }

    let report = batch.wait()?;
    println!("{}: {} done, {} failed", report.status, report.completed_items, report.failed_items);
    engine.shutdown(secs(5))?;
    Ok(())
}
