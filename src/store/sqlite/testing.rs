//! What the tests of a journal's parts share: a journal of their own, and a hand on its writer.

use super::journal::{Journal, News, Options};
use crate::job::Durability;
use crate::sync::{Arc, Mutex, thread};
use crate::time::{Clock, secs};
use crossbeam::channel::{Sender, bounded};
use std::path::PathBuf;

/// A journal in a directory that goes with it.
pub(super) struct Alone {
    pub(super) journal: Arc<Journal>,
    pub(super) path: PathBuf,
    /// What was told of it.
    pub(super) news: Arc<Mutex<Vec<String>>>,
    dir: PathBuf,
}

impl Alone {
    pub(super) fn new(name: &str) -> Alone {
        let dir = std::env::temp_dir().join(format!("batchyard-unit-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).expect("a directory");
        Alone::open(dir)
    }

    /// The journal of this one, opened anew.
    pub(super) fn again(mut self) -> Alone {
        self.journal.close();
        Alone::open(std::mem::take(&mut self.dir))
    }

    fn open(dir: PathBuf) -> Alone {
        let path = dir.join("a.db");
        let news: Arc<Mutex<Vec<String>>> = Arc::default();
        let heard = Arc::clone(&news);
        let options = Options {
            durability: Durability::ProcessCrash,
            workers: 1,
            patience: None,
            kill: &mut |_| (),
            tell: Box::new(move |news| {
                heard.lock().push(match news {
                    News::Stalled(why) => format!("stalled: {why}"),
                    News::GoesOn => "goes on".to_owned(),
                    News::Lost(why) => format!("lost: {why}"),
                });
            }),
        };
        let journal = Journal::open(&path, options).expect("a journal");
        Alone { journal, path, news, dir }
    }

    /// Holds the writer until what this returns is dropped: what is sent meanwhile makes the next group.
    pub(super) fn hold(&self) -> Sender<()> {
        let (begun, has_begun) = bounded(1);
        let (over, is_over) = bounded::<()>(0);
        let journal = Arc::clone(&self.journal);
        let holding = thread::Builder::new().spawn(move || {
            let _ = journal.ask(move |_| {
                let _ = begun.send(());
                let _ = is_over.recv();
                Ok(())
            });
        });
        drop(holding.expect("a thread"));
        has_begun.recv().expect("the writer");
        over
    }

    /// One number, read by another connection.
    pub(super) fn count(&self, sql: &str) -> i64 {
        let db = rusqlite::Connection::open(&self.path).expect("a connection");
        db.query_row(sql, [], |row| row.get(0)).expect(sql)
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.journal.close();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// What comes in the end.
#[track_caller]
pub(super) fn in_the_end<R>(what: &str, mut is: impl FnMut() -> Option<R>) -> R {
    let clock = Clock::os();
    let began = clock.now();
    loop {
        if let Some(found) = is() {
            return found;
        }
        assert!(clock.now() - began < secs(60), "never: {what}");
        thread::yield_now();
    }
}
