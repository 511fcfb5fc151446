//! A disk that can be filled.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A small disk, in memory. Gone when dropped.
pub(crate) struct Disk(PathBuf);

impl Disk {
    /// `None`: that is not allowed here, which is said.
    pub(crate) fn mount(at: PathBuf, bytes: u64) -> Option<Disk> {
        fs::create_dir_all(&at).unwrap();
        let size = format!("size={bytes}");
        mounted(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&at)).then(|| Disk(at))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Leaves no room.
    pub(crate) fn fill(&self) {
        let mut file = fs::File::create(self.file("ballast")).unwrap();
        for size in [4096, 1] {
            while std::io::Write::write_all(&mut file, &vec![7; size]).is_ok() {}
        }
    }

    pub(crate) fn make_room(&self) {
        fs::remove_file(self.file("ballast")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Whether it could be done; if not, why is said.
pub(crate) fn mounted(command: &mut Command) -> bool {
    match command.output() {
        Ok(output) if output.status.success() => true,
        Ok(output) => {
            println!(
                "skipped: no file system can be mounted: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
            false
        }
        Err(error) => {
            println!("skipped: there is no `mount`: {error}");
            false
        }
    }
}
