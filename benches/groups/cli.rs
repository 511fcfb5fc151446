//! The program, whole: 2,000 jobs of `true` read from standard input, two at a time, against `xargs -P 2 -n 1`.

use super::build;
use crate::common::rounds::{Contest, Plan, hold as hold_rounds};
use crate::common::row::Row;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

const TARGET: f64 = 0.85;
const JOBS: usize = 2_000;

pub(crate) fn hold(group: &str, plan: &Plan) -> Vec<Row> {
    let batchyard = build::program(!plan.test, &["--features", "cli", "--bin", "batchyard"]);
    let ours = Spawner { program: batchyard, args: &["run", "-j", "2", "--"] };
    let xargs = Spawner { program: "xargs".into(), args: &["-P", "2", "-n", "1"] };
    let list = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("jobs.txt");
    let jobs = plan.size(JOBS, 8);
    fs::write(&list, (0..jobs).map(|n| format!("{n}\n")).collect::<String>())
        .expect("cargo's scratch is writable");
    for spawner in [&ours, &xargs] {
        spawner.gives_each_line_to_a_job(&list, jobs);
        spawner.tells_of_failures(&list);
    }
    let contest = Contest::new("2,000 jobs of true, -j 2", 2, TARGET, |_: &Plan| ours.cost(&list, jobs))
        .against("xargs", |_: &Plan| xargs.cost(&list, jobs))
        .passes(1);
    hold_rounds(group, &Plan { rounds: plan.rounds.min(9), ..*plan }, vec![contest])
}

/// A program that runs one command a line.
struct Spawner {
    program: PathBuf,
    args: &'static [&'static str],
}

impl Spawner {
    fn run(&self, list: &Path, job: &str, stdout: Stdio) -> Output {
        let list = File::open(list).expect("the list was just written");
        Command::new(&self.program)
            .args(self.args)
            .arg(job)
            .stdin(list)
            .stdout(stdout)
            .stderr(Stdio::null())
            .spawn()
            .and_then(std::process::Child::wait_with_output)
            .unwrap_or_else(|e| match e.kind() {
                io::ErrorKind::NotFound => panic!("this group needs {} in PATH", self.program.display()),
                _ => panic!("cannot run {}: {e}", self.program.display()),
            })
    }

    /// Nanoseconds a job, the start of the program included.
    fn cost(&self, list: &Path, jobs: usize) -> f64 {
        let start = Instant::now();
        let output = self.run(list, "true", Stdio::null());
        let took = start.elapsed();
        assert!(output.status.success(), "{}: {}", self.program.display(), output.status);
        took.as_nanos() as f64 / jobs as f64
    }

    fn gives_each_line_to_a_job(&self, list: &Path, jobs: usize) {
        let output = self.run(list, "echo", Stdio::piped());
        let mut seen: Vec<usize> = String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(|l| l.parse().expect("a job's number"))
            .collect();
        seen.sort_unstable();
        assert!(output.status.success() && seen.into_iter().eq(0..jobs), "{}", self.program.display());
    }

    fn tells_of_failures(&self, list: &Path) {
        let status = self.run(list, "false", Stdio::null()).status;
        assert!(!status.success(), "{}: {status} after failed jobs", self.program.display());
    }
}
