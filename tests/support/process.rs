//! Tests that start themselves as another process, which may be killed, and what that process writes down.

use super::HANG;
use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Whether the long version of a test was asked for: `BATCHYARD_NIGHTLY=1`.
pub(crate) fn nightly() -> bool {
    std::env::var("BATCHYARD_NIGHTLY").is_ok_and(|on| on == "1")
}

/// `BATCHYARD_SEED`, or a new one; printed, so that a failure can be repeated.
pub(crate) fn seed(test: &str) -> u64 {
    let given = std::env::var("BATCHYARD_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| RandomState::new().build_hasher().finish());
    println!("{test}: BATCHYARD_SEED={seed}");
    seed
}

/// SplitMix64.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 up to and not including `n`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}

/// The file of what happened, in the order in which it happened: each line is one write at its end, by whatever
/// process, and outlives that process. A kill may cut a write short where a page ends: a line that has not its end was
/// not said.
pub(crate) struct Witness(File);

impl Witness {
    pub(crate) fn open(path: &Path) -> Witness {
        Witness(OpenOptions::new().create(true).append(true).open(path).expect("the witness file"))
    }

    pub(crate) fn say(&self, line: &str) {
        (&self.0).write_all(format!("\n{line} .").as_bytes()).expect("a line of the witness file");
    }

    /// What was said, each line by its words.
    pub(crate) fn read(path: &Path) -> Vec<Vec<String>> {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let whole = text.lines().filter_map(|line| line.strip_suffix(" ."));
        whole.map(|line| line.split(' ').map(str::to_owned).collect()).collect()
    }
}

/// What a child was told, under this name.
pub(crate) fn told(name: &str) -> Option<String> {
    std::env::var(format!("BATCHYARD_CHILD_{name}")).ok()
}

/// Another process that runs the test `name` of this program, killed when dropped.
pub(crate) struct Other(Child);

impl Other {
    pub(crate) fn start(name: &str, tell: &[(&str, String)]) -> Other {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["--exact", name, "--ignored", "--nocapture", "--test-threads", "1"]);
        command.stdout(Stdio::null()).stdin(Stdio::null());
        for (name, value) in tell {
            command.env(format!("BATCHYARD_CHILD_{name}"), value);
        }
        Other(command.spawn().expect("another process of this program"))
    }

    /// Whether it has ended by itself.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().expect("the child's state")
    }

    /// Looks again and again, until `enough` or it has ended. True: it has ended.
    pub(crate) fn watch(&mut self, mut enough: impl FnMut() -> bool) -> bool {
        let began = Instant::now();
        loop {
            if self.ended().is_some() {
                return true;
            }
            if enough() {
                return false;
            }
            assert!(began.elapsed() < HANG * 2, "the other process hangs");
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// SIGKILL, now.
    pub(crate) fn kill(mut self) {
        self.0.kill().expect("a signal to the child");
        self.0.wait().expect("the child's end");
    }

    /// Its end, which must come.
    #[track_caller]
    pub(crate) fn wait(mut self) -> ExitStatus {
        self.watch(|| false);
        self.ended().expect("it has ended")
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the program `name` again and again, each time with another `ROUND`, and kills it at a random instant, until it
/// has come to its end, which it does at the latest when it was killed `most` times. How often it was. Its witness file is
/// `witness` in `dir`.
pub(crate) fn kill_until_it_ends(
    name: &str,
    dir: &Path,
    tell: &[(&str, String)],
    rng: &mut Rng,
    most: u32,
) -> u32 {
    let path = dir.join("witness");
    let length = || std::fs::metadata(&path).map_or(0, |meta| meta.len());
    let mut kills = 0;
    loop {
        let mut tell = tell.to_vec();
        tell.extend([("DIR", dir.display().to_string()), ("ROUND", rng.next().to_string())]);
        let mut other = Other::start(name, &tell);
        let from = length();
        // Sometimes while it opens; mostly when it has got somewhere; now and then it comes to its end.
        let (by_time, to_the_end) = (rng.below(4) == 0, rng.below(10) == 0 || kills >= most);
        let (grown, wait) = (rng.below(60_000), Duration::from_micros(rng.below(40_000)));
        let began = Instant::now();
        let over = other
            .watch(|| !to_the_end && if by_time { began.elapsed() > wait } else { length() > from + grown });
        if over {
            let status = other.wait();
            assert!(status.success(), "{status}, {}", dir.display());
            return kills;
        }
        other.kill();
        kills += 1;
    }
}

/// The signal that ended it.
pub(crate) fn signal(status: ExitStatus) -> Option<i32> {
    status.signal()
}
