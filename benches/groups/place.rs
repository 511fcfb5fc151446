//! Where journals are put, and how they are taken away again.

use std::fs;
use std::path::{Path, PathBuf};

/// A directory of the group's own, in the build directory, with what it is on.
pub(crate) struct Place {
    pub(crate) dir: PathBuf,
    file_system: Option<String>,
}

impl Place {
    /// # Panics
    /// When the build directory cannot be written.
    pub(crate) fn of(group: &str) -> Place {
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(group);
        fs::create_dir_all(&dir).expect("cargo's scratch is writable");
        let file_system = file_system(&dir);
        Place { dir, file_system }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Says what the journals are on: a commit costs little on a file system in memory.
    pub(crate) fn tell(&self, group: &str) {
        let what = self.file_system.as_deref().unwrap_or("an unknown file system");
        eprintln!("{group}: journals on {what}, {}", self.dir.display());
    }

    /// What is left of a failed run is of use; this one went well.
    pub(crate) fn clear(self) {
        let _ = fs::remove_dir_all(self.dir);
    }
}

/// Removes a journal with all that lies beside it.
pub(crate) fn remove(journal: &Path) {
    for suffix in ["", "-wal", "-shm", "-lock", "-hand"] {
        let mut name = journal.as_os_str().to_owned();
        name.push(suffix);
        let _ = fs::remove_file(name);
    }
}

/// The type of the mount that a directory lies on, where Linux tells.
fn file_system(dir: &Path) -> Option<String> {
    let dir = dir.canonicalize().ok()?;
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        Some((Path::new(words.nth(1)?), words.next()?))
    });
    // Of equal ones the last hides the others.
    let on = mounts.filter(|(at, _)| dir.starts_with(at)).max_by_key(|(at, _)| at.as_os_str().len());
    on.map(|(_, kind)| kind.to_owned())
}
