//! The stores that are held against the suite.

use super::*;
use crate::store::MemoryStore;

pub(super) struct Memory {
    store: MemoryStore<u64, String>,
    told: Told,
}

impl Maker for Memory {
    fn fresh(_name: &str) -> Self {
        Memory { store: MemoryStore::new(10_000), told: Told::default() }
    }

    fn store(&self) -> &Rows {
        &self.store
    }

    fn told(&self) -> &Told {
        &self.told
    }

    fn now(&self) -> Timestamp {
        Timestamp::ZERO
    }
}

#[cfg(feature = "sqlite")]
pub(super) use journalled::Journalled;

#[cfg(feature = "sqlite")]
mod journalled {
    use super::*;
    use crate::job::Durability;
    use crate::store::BatchId;
    use crate::store::sqlite::{Journal, JournalStore, Options, Tx};
    use crossbeam::channel::bounded;
    use std::path::{Path, PathBuf};

    pub(in crate::store::conformance) struct Journalled {
        store: Arc<JournalStore<u64, String>>,
        journal: Arc<Journal>,
        told: Arc<Told>,
        clock: Clock,
        dir: Dir,
    }

    impl Journalled {
        pub(in crate::store::conformance) fn path(&self) -> &Path {
            self.journal.path()
        }

        /// Writes past the store.
        pub(in crate::store::conformance) fn in_the_writer<R: Send + 'static>(
            &self,
            write: impl FnMut(&mut Tx<'_>) -> rusqlite::Result<R> + Send + 'static,
        ) -> R {
            self.journal.ask(write).expect("a commit")
        }
    }

    struct Dir(PathBuf);

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn open(dir: Dir) -> Journalled {
        let options = Options {
            durability: Durability::ProcessCrash,
            workers: 2,
            patience: None,
            kill: &mut |_| (),
            tell: Box::new(|_| ()),
        };
        let journal = Journal::open(&dir.0.join("a.db"), options).expect("a journal");
        let id = BatchId { name: "b".to_owned(), ..BatchId::default() };
        let opened = journal.open_batch(&id, true).expect("a batch");
        let clock = Clock::os();
        let store = JournalStore::new(&journal, &opened, 2, &clock);
        let told = Arc::new(Told::default());
        store.link(Arc::new(Arc::clone(&told)), &opened.again);
        Journalled { store, journal, told, clock, dir }
    }

    impl Maker for Journalled {
        fn fresh(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("batchyard-store-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&dir);
            std::fs::create_dir_all(&dir).expect("a directory");
            open(Dir(dir))
        }

        fn store(&self) -> &Rows {
            &self.store
        }

        fn told(&self) -> &Told {
            &self.told
        }

        fn now(&self) -> Timestamp {
            self.clock.now()
        }

        fn held_up(&self, run: &mut dyn FnMut()) {
            let (begun, has_begun) = bounded(1);
            let (over, is_over) = bounded::<()>(0);
            let journal = Arc::clone(&self.journal);
            let holding = thread::Builder::new().spawn(move || {
                journal.ask(move |_| {
                    let _ = begun.send(());
                    let _ = is_over.recv();
                    Ok(())
                })
            });
            has_begun.recv().expect("the writer");
            run();
            drop(over);
            holding.expect("a thread").join().expect("no panic").expect("a commit");
        }

        fn lose(&self) -> bool {
            std::fs::remove_file(self.path()).expect("the file");
            true
        }

        fn tables(&self) -> Option<rusqlite::Connection> {
            Some(rusqlite::Connection::open(self.path()).expect("a connection"))
        }

        /// A copy of the files is what a process leaves that dies now: nothing is written meanwhile.
        fn after_a_crash(self) -> Option<Self> {
            self.journal.ask(|_| Ok(())).expect("all is written");
            let copy = self.dir.0.join("copy");
            std::fs::create_dir_all(&copy).expect("a directory");
            copy_files(&self.dir.0, &copy);
            let there =
                self.dir.0.with_file_name(format!("{}-after", self.dir.0.file_name()?.to_string_lossy()));
            let _ = std::fs::remove_dir_all(&there);
            std::fs::rename(&copy, &there).expect("another directory");
            drop((self.store, self.journal));
            Some(open(Dir(there)))
        }
    }

    fn copy_files(from: &Path, to: &Path) {
        for name in ["a.db", "a.db-wal", "a.db-hand"] {
            if from.join(name).exists() {
                std::fs::copy(from.join(name), to.join(name)).expect("a copy");
            }
        }
    }
}
