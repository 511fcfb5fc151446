//! Runs the real program. A run that hangs is killed and fails its test.

#![allow(dead_code, unreachable_pub)]

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Once};
use std::thread;
use std::time::Duration;

/// Far more than any of these runs takes on a busy machine.
const HANGS: Duration = Duration::from_secs(60);

/// `batchyard run` with these arguments, split at blanks.
pub fn run(options: &str) -> Command {
    batchyard(&format!("run {options}"))
}

/// `batchyard run` with this journal, and these arguments.
pub fn kept(journal: &Path, options: &str) -> Command {
    let mut command = run("--journal");
    command.arg(journal).args(options.split_whitespace());
    command
}

/// `batchyard COMMAND --journal` with these arguments, split at blanks.
pub fn of(journal: &Path, command: &str) -> Command {
    let mut command = batchyard(command);
    command.arg("--journal").arg(journal);
    command
}

fn batchyard(arguments: &str) -> Command {
    static HEEDED: Once = Once::new();
    HEEDED.call_once(heed_signals);
    let mut command = Command::new(env!("CARGO_BIN_EXE_batchyard"));
    command.args(arguments.split_whitespace());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What our caller has had us ignore (`nohup`, a job in the background of a script), the program would ignore too. What is
/// caught, exec sets back.
fn heed_signals() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    use rustix::process::Signal;
    for signal in [Signal::HUP, Signal::INT, Signal::QUIT].map(Signal::as_raw) {
        if ignored & (1 << (signal - 1)) != 0 {
            signal_hook::flag::register(signal, Arc::default()).expect("these may be caught");
        }
    }
}

pub trait CommandExt {
    /// Its output when fed `stdin`.
    fn fed(&mut self, stdin: impl AsRef<[u8]>) -> Ran;
    /// Its output.
    fn ran(&mut self) -> Ran;
    /// `-- sh -c SCRIPT sh`: the items are `$1`.
    fn sh(&mut self, script: &str) -> &mut Command;
    /// `::: ITEMS`
    fn items(&mut self, items: &[&str]) -> &mut Command;
}

impl CommandExt for Command {
    fn fed(&mut self, stdin: impl AsRef<[u8]>) -> Ran {
        let mut child = self.stdin(Stdio::piped()).spawn().unwrap();
        let mut pipe = child.stdin.take().unwrap();
        let bytes = stdin.as_ref().to_vec();
        thread::Builder::new().spawn(move || pipe.write_all(&bytes)).unwrap();
        collect(child)
    }

    fn ran(&mut self) -> Ran {
        collect(self.spawn().unwrap())
    }

    fn sh(&mut self, script: &str) -> &mut Command {
        self.args(["--", "sh", "-c", script, "sh"])
    }

    fn items(&mut self, items: &[&str]) -> &mut Command {
        self.arg(":::").args(items)
    }
}

/// What a run left behind.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Ran {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    /// The lines of stdout, sorted: jobs end in any order.
    pub fn sorted(&self) -> Vec<&str> {
        let mut lines: Vec<_> = self.text().lines().collect();
        lines.sort_unstable();
        lines
    }

    /// The objects of `--json`, by `seq`.
    pub fn objects(&self) -> Vec<serde_json::Value> {
        let mut all: Vec<serde_json::Value> =
            self.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        all.sort_by_key(|object| object["seq"].as_u64());
        all
    }

    #[track_caller]
    pub fn exits(&self, code: i32) -> &Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(!self.stderr.contains("internal error"), "{self:?}");
        self
    }

    /// One line on stderr, with this in it.
    #[track_caller]
    pub fn says(&self, text: &str) -> &Self {
        assert_eq!(self.stderr.lines().count(), 1, "{self:?}");
        assert!(self.stderr.contains(text), "{self:?}");
        self
    }
}

/// Waits for the end of a program.
pub fn collect(child: Child) -> Ran {
    let pid = rustix::process::Pid::from_child(&child);
    let (send, receive) = channel();
    thread::Builder::new().spawn(move || send.send(child.wait_with_output())).unwrap();
    match receive.recv_timeout(HANGS) {
        Ok(output) => {
            let Output { status, stdout, stderr } = output.unwrap();
            Ran { code: status.code(), stdout, stderr: String::from_utf8_lossy(&stderr).into_owned() }
        }
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            panic!("the run hangs");
        }
    }
}

/// A program that does not outlive its test, even if that fails.
pub struct Running(Option<Child>);

impl Running {
    fn into_inner(mut self) -> Child {
        self.0.take().expect("it is taken once")
    }
}

impl std::ops::Deref for Running {
    type Target = Child;

    fn deref(&self) -> &Child {
        self.0.as_ref().expect("it is taken with the whole of it")
    }
}

impl std::ops::DerefMut for Running {
    fn deref_mut(&mut self) -> &mut Child {
        self.0.as_mut().expect("it is taken with the whole of it")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(child) = &mut self.0 else { return };
        // SIGQUIT has it kill its jobs first.
        let pid = rustix::process::Pid::from_child(child);
        for signal in [rustix::process::Signal::QUIT, rustix::process::Signal::KILL] {
            let _ = rustix::process::kill_process(pid, signal);
            for _ in 0..200 {
                if !matches!(child.try_wait(), Ok(None)) {
                    return;
                }
                thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

/// A program that runs while the test talks to it.
pub struct Live {
    pub child: Running,
    pub stdout: BufReader<std::process::ChildStdout>,
    pub stderr: BufReader<std::process::ChildStderr>,
}

impl Live {
    pub fn new(command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let stderr = BufReader::new(child.stderr.take().unwrap());
        Self { child: Running(Some(child)), stdout, stderr }
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).unwrap();
    }

    /// The next line of stderr, which must hold this.
    #[track_caller]
    pub fn says(&mut self, text: &str) {
        let mut line = String::new();
        self.stderr.read_line(&mut line).unwrap();
        assert!(line.contains(text), "{line:?}");
    }

    pub fn end(self) -> Ran {
        let Live { child, mut stdout, mut stderr } = self;
        let mut ran = collect(child.into_inner());
        stdout.read_to_end(&mut ran.stdout).unwrap();
        let mut said = Vec::new();
        stderr.read_to_end(&mut said).unwrap();
        ran.stderr = String::from_utf8_lossy(&said).into_owned();
        ran
    }
}

/// A directory that goes when the test ends.
pub struct Dir(PathBuf);

impl Dir {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("batchyard-test-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.join(name)).unwrap_or_default()
    }

    /// A pipe with a name: who opens one end waits for the other.
    pub fn fifo(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Whether the process lives.
pub fn lives(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

pub fn bytes(text: &[u8]) -> &OsStr {
    OsStr::from_bytes(text)
}
