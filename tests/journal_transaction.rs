//! SQL of the user's outside of items (promise 21): all or nothing, once, durable when it returns, behind the same fences
//! as SQL that belongs to an item.

#![cfg(feature = "sqlite")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // counts and threads of tests are plain ones

mod support;

use batchyard::{Context, Engine, Error, Event, Failure, JournalError, ManualClock, millis, rusqlite, secs};
use std::path::Path;
use std::sync::{Arc, Mutex};
use support::dir::Dir;
use support::{Door, until, within};

fn engine(journal: &Path) -> Engine {
    Engine::builder().workers(2).journal(journal).open().unwrap()
}

/// What another connection sees.
fn count(journal: &Path, sql: &str) -> i64 {
    rusqlite::Connection::open(journal).unwrap().query_row(sql, [], |row| row.get(0)).unwrap()
}

fn create(engine: &Engine) {
    engine.transaction(|tx| Ok(tx.execute_batch("CREATE TABLE mine (n INTEGER PRIMARY KEY)")?)).unwrap();
}

fn insert(n: i64) -> impl Fn(&rusqlite::Connection) -> Result<i64, Failure> + Send + 'static {
    move |tx| {
        tx.execute("INSERT INTO mine VALUES (?)", [n])?;
        Ok(tx.last_insert_rowid())
    }
}

/// A statement that writes and does not end. Interrupting it rolls back the whole transaction.
fn endless(tx: &rusqlite::Connection) -> Result<usize, Failure> {
    Ok(tx.execute(
        "INSERT INTO mine WITH RECURSIVE c(x) AS (SELECT 100 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c",
        [],
    )?)
}

/// Holds the writer, in SQL of its own, until the door is opened.
fn hold(engine: &Engine, door: &Door) -> std::thread::JoinHandle<()> {
    let (here, held) = (engine.clone(), door.clone());
    let holding = std::thread::spawn(move || {
        here.transaction(move |_| {
            held.pass();
            Ok(())
        })
        .unwrap();
    });
    door.wait_for(1);
    holding
}

#[test]
fn it_is_durable_when_it_returns() {
    let dir = Dir::new("tx-durable");
    let path = dir.file("a.db");
    let engine = engine(&path);
    create(&engine);
    for n in 1..=20 {
        assert_eq!(engine.transaction(insert(n)).unwrap(), n);
        assert_eq!(count(&path, "SELECT count(*) FROM mine"), n);
    }
    engine.shutdown(secs(5)).unwrap();
    assert_eq!(count(&path, "SELECT sum(n) FROM mine"), 210);
}

#[test]
fn what_fails_leaves_nothing() {
    let dir = Dir::new("tx-fails");
    let path = dir.file("a.db");
    let engine = engine(&path);
    create(&engine);
    let failed = engine.transaction(|tx| {
        insert(1)(tx)?;
        tx.execute_batch("CREATE TABLE more (n INTEGER)")?;
        Err::<(), _>(Failure::fatal("not so"))
    });
    assert!(matches!(&failed, Err(Error::Transaction(why)) if why.message() == "not so"), "{failed:?}");
    let panicked = engine.transaction(|tx| -> Result<(), Failure> {
        insert(2)(tx)?;
        panic!("in the SQL");
    });
    assert!(panicked.unwrap_err().to_string().contains("in the SQL"));
    // SQLite itself undoes all of it; what comes after would be outside of any transaction.
    let undone = engine.transaction(|tx| {
        insert(3)(tx)?;
        let _ = tx.execute("INSERT OR ROLLBACK INTO mine VALUES (3)", []);
        let stray = tx.execute("INSERT INTO mine VALUES (4)", []);
        assert!(stray.is_err(), "it was committed by itself");
        Ok(())
    });
    assert!(undone.unwrap_err().to_string().contains("rolled the transaction back"));
    engine.transaction(insert(5)).unwrap();
    assert_eq!(count(&path, "SELECT sum(n) FROM mine"), 5);
    assert_eq!(count(&path, "SELECT count(*) FROM sqlite_schema WHERE name = 'more'"), 0);
}

#[test]
fn it_stays_within_the_fence() {
    let dir = Dir::new("tx-fence");
    let path = dir.file("a.db");
    let engine = engine(&path);
    for forbidden in [
        "COMMIT",
        "ROLLBACK",
        "SAVEPOINT mine",
        "RELEASE byrd",
        "ATTACH ':memory:' AS other",
        "PRAGMA synchronous = OFF",
        "DELETE FROM result",
        "SELECT count(*) FROM batch",
        "DROP TABLE retry",
    ] {
        let refused = engine.transaction(move |tx| Ok(tx.execute_batch(forbidden)?));
        let said = refused.expect_err(forbidden).to_string();
        assert!(said.contains("not authorized"), "{forbidden}: {said}");
    }
    assert_eq!(engine.batch("b").submit(0..3u64, |n, _| Ok(*n)).unwrap().wait().unwrap().completed_items, 3);
}

/// Its deadline counts for the wait for its turn, too: what has not begun by then never does.
#[test]
fn it_ends_at_its_deadline() {
    let dir = Dir::new("tx-deadline");
    let path = dir.file("a.db");
    let engine = engine(&path);
    create(&engine);
    let late = engine.transaction_by(millis(30), endless);
    assert!(matches!(late, Err(Error::TimedOut { .. })), "{late:?}");
    let late = engine.transaction_by(millis(30), |tx| {
        let _ = endless(tx); // whatever it makes of it
        Ok(())
    });
    assert!(matches!(late, Err(Error::TimedOut { .. })), "{late:?}");

    let door = Door::new();
    let holding = hold(&engine, &door);
    let (waiting, path_there) = (engine.clone(), path.clone());
    within(move || {
        let late = waiting.transaction_by(millis(10), insert(1));
        assert!(matches!(late, Err(Error::TimedOut { .. })), "{late:?}");
        assert_eq!(count(&path_there, "SELECT count(*) FROM mine"), 0);
    });
    door.open();
    holding.join().unwrap();
    engine.transaction(insert(2)).unwrap();
    assert_eq!(count(&path, "SELECT sum(n) FROM mine"), 2);
}

/// On the engine's clock, whoever moves it.
#[test]
fn its_deadline_is_on_the_engines_clock() {
    let dir = Dir::new("tx-clock");
    let path = dir.file("a.db");
    let time = ManualClock::new();
    let engine = Engine::builder().workers(1).clock(time.clock()).journal(&path).open().unwrap();
    create(&engine);
    let door = Door::new();
    let holding = hold(&engine, &door);
    let (waiting, deadline) = (engine.clone(), time.now() + millis(1));
    let asking = std::thread::spawn(move || within(move || waiting.transaction_by(deadline, insert(1))));
    until("it waits", || time.next_deadline() == Some(deadline));
    time.advance(secs(1));
    let late = asking.join().unwrap();
    assert!(matches!(late, Err(Error::TimedOut { waited }) if waited == secs(1)), "{late:?}");
    door.open();
    holding.join().unwrap();
    assert!(matches!(engine.transaction_by(deadline, insert(1)), Err(Error::TimedOut { .. })));
    assert_eq!(count(&path, "SELECT count(*) FROM mine"), 0);
}

/// An item may, and a listener on the journal's own thread may not: it would wait for itself.
#[test]
fn the_journals_own_thread_does_not_wait_for_itself() {
    let dir = Dir::new("tx-own");
    let path = dir.file("a.db");
    let heard: Arc<Mutex<Vec<String>>> = Arc::default();
    let there: Arc<Mutex<Option<Engine>>> = Arc::default();
    let (said, inside) = (Arc::clone(&heard), Arc::clone(&there));
    let builder = Engine::builder().workers(2).journal(&path).on_event(move |event| {
        let Event::JournalLost { .. } = event else { return };
        let Some(engine) = inside.lock().unwrap().take() else { return };
        match engine.transaction(insert(7)) {
            Err(Error::Journal(why)) => said.lock().unwrap().push(format!("{why:?}")),
            other => panic!("{other:?}"),
        }
    });
    let engine = builder.open().unwrap();
    *there.lock().unwrap() = Some(engine.clone());
    create(&engine);
    within(move || {
        let inner = engine.clone();
        let nested = engine.transaction(move |_| Ok(format!("{:?}", inner.transaction(insert(1)))));
        assert!(nested.unwrap().contains("WouldBlockWriter"));

        let inner = engine.clone();
        let batch =
            engine.batch("b").submit(10..30i64, move |n, _| Ok(inner.transaction(insert(*n))?)).unwrap();
        assert_eq!(batch.wait().unwrap().completed_items, 20);
        assert_eq!(count(&path, "SELECT count(*) FROM mine"), 20);

        // A journal that is taken away is lost, and says so to everybody who asks.
        std::fs::remove_file(&path).unwrap();
        for n in 100..102 {
            match engine.transaction(insert(n)) {
                Err(Error::Journal(why)) => assert!(why.to_string().contains("was deleted"), "{why}"),
                other => panic!("{other:?}"),
            }
        }
        engine.shutdown(secs(5)).unwrap();
    });
    let heard = heard.lock().unwrap();
    assert!(heard.len() == 1 && heard[0].contains("WouldBlockWriter"), "{heard:?}");
}

/// An item that is told to stop does not go on waiting.
#[test]
fn an_item_that_shall_stop_withdraws_it() {
    let dir = Dir::new("tx-stop");
    let path = dir.file("a.db");
    let engine = engine(&path);
    create(&engine);
    let (asks, door) = (Door::new(), Door::new());
    let (before, inner) = (asks.clone(), engine.clone());
    let answers: Arc<Mutex<Vec<String>>> = Arc::default();
    let said = Arc::clone(&answers);
    let batch = engine.batch("b").submit([1i64], move |n, _: &Context| {
        before.pass();
        let asked = inner.transaction(insert(*n));
        said.lock().unwrap().push(format!("{asked:?}"));
        Ok(asked?)
    });
    let batch = batch.unwrap();
    asks.wait_for(1);
    let holding = hold(&engine, &door);
    asks.open();
    batch.cancel();
    // It comes back although the writer is held.
    until("it has stopped", || answers.lock().unwrap().len() == 1);
    assert!(answers.lock().unwrap()[0].contains("Transaction"), "{answers:?}");
    door.open();
    holding.join().unwrap();
    batch.wait().unwrap();
    assert_eq!(count(&path, "SELECT count(*) FROM mine"), 0);
}

#[test]
fn without_a_journal_there_is_none() {
    let engine = Engine::builder().workers(1).in_memory().open().unwrap();
    let refused = engine.transaction(|_| Ok(()));
    assert!(
        matches!(&refused, Err(Error::Invalid(why)) if why.to_string().contains("journal")),
        "{refused:?}"
    );
}

#[test]
fn after_the_end_there_is_none() {
    let dir = Dir::new("tx-closed");
    let path = dir.file("a.db");
    let engine = engine(&path);
    create(&engine);
    engine.shutdown(secs(5)).unwrap();
    let refused = engine.transaction(insert(1));
    assert!(
        matches!(&refused, Err(Error::Journal(why)) if matches!(&**why, JournalError::Closed { .. })),
        "{refused:?}"
    );
    assert_eq!(count(&path, "SELECT count(*) FROM mine"), 0);
}

/// Promise 21: SQL that was cut at its deadline has failed, also where it only read, and passed over that.
#[test]
fn sql_that_passes_over_its_interruption_has_failed() {
    let dir = Dir::new("passed-over");
    let engine = Engine::builder().workers(2).journal(dir.file("a.db")).open().unwrap();
    let batch = engine
        .batch("b")
        .item_timeout(batchyard::millis(300))
        .retry(batchyard::Retry::fixed(batchyard::millis(1)).attempts(1))
        .submit([1u64], |n: &u64, ctx: &batchyard::Context| {
            ctx.commit_with(|tx| {
                let all =
                    "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT sum(x) FROM c";
                let _sum: i64 = tx.query_row(all, [], |row| row.get(0)).unwrap_or(0);
                Ok(())
            })?;
            Ok(*n)
        })
        .unwrap();
    let report = batch.wait().unwrap();
    assert_eq!((report.completed_items, report.failed_items), (0, 1), "{report}");
    engine.shutdown(secs(5)).unwrap();
}

/// A listener on one of the engine's own threads holds up the others that wait for that thread.
#[test]
fn a_listener_does_not_hold_the_engine_up() {
    within(|| {
        let dir = Dir::new("tx-listener");
        let there: Arc<Mutex<Option<Engine>>> = Arc::default();
        let (tell, told) = std::sync::mpsc::channel();
        let inside = Arc::clone(&there);
        let builder = Engine::builder().workers(1).journal(dir.file("a.db")).on_event(move |event| {
            let Event::ItemDead { .. } = event else { return };
            let Some(engine) = inside.lock().unwrap().take() else { return };
            tell.send(matches!(engine.transaction(insert(7)), Err(Error::WouldBlockWorker))).unwrap();
        });
        let engine = builder.open().unwrap();
        *there.lock().unwrap() = Some(engine.clone());
        let work = |_: &u64, _: &Context| -> Result<u64, Failure> { Err(Failure::fatal("no")) };
        let batch = engine.batch("b").submit([1u64], work).unwrap();
        assert_eq!(batch.wait().unwrap().failed_items, 1);
        assert!(told.recv().unwrap());
        engine.shutdown(secs(5)).unwrap();
    });
}
