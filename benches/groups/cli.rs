//! The program, whole: 2,000 jobs of `true` read from standard input, two at a time, against `xargs -P 2 -n 1`; and with
//! a journal, a new one each time, against the same and against GNU parallel with its log.

use super::build;
use super::place::{Place, remove};
use crate::common::rounds::{Contest, Plan, hold as hold_rounds};
use crate::common::row::Row;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

const TARGET: f64 = 0.85;
const JOURNAL_TARGET: f64 = 0.9;
const PARALLEL_TARGET: f64 = 0.2;
const JOBS: usize = 2_000;

pub(crate) fn hold(group: &str, plan: &Plan) -> Vec<Row> {
    let batchyard = build::program(!plan.test, &["--features", "cli", "--bin", "batchyard"]);
    let place = Place::of(group);
    if !plan.test {
        place.tell(group);
    }
    let list = place.file("jobs.txt");
    let jobs = plan.size(JOBS, 8);
    fs::write(&list, (0..jobs).map(|n| format!("{n}\n")).collect::<String>())
        .expect("cargo's scratch is writable");

    let (journal, log) = (place.file("run.db"), place.file("joblog"));
    let ours = Spawner::new(&batchyard, &["run", "-j", "2", "--"]);
    let kept =
        Spawner::new(&batchyard, &["run", "-j", "2", "--journal", path(&journal), "--"]).afresh(&journal);
    let xargs = Spawner::new("xargs".as_ref(), &["-P", "2", "-n", "1"]);
    let parallel = Spawner::new("parallel".as_ref(), &["-j", "2", "--joblog", path(&log)]).afresh(&log);
    let parallel = Some(parallel).filter(|_| is_gnu_parallel());
    if parallel.is_none() {
        eprintln!("{group}: no row against GNU parallel: `parallel --version` does not tell of one");
    }
    for spawner in [&ours, &kept, &xargs].into_iter().chain(&parallel) {
        spawner.gives_each_line_to_a_job(&list, jobs);
        spawner.tells_of_failures(&list);
    }

    let list = &list;
    let cost = |spawner| move |_: &Plan| Spawner::cost(spawner, list, jobs);
    let mut contests = vec![
        Contest::new("2,000 jobs of true, -j 2", 2, TARGET, cost(&ours)).against("xargs", cost(&xargs)),
        Contest::new("2,000 jobs of true, -j 2, journal", 2, JOURNAL_TARGET, cost(&kept))
            .against("xargs", cost(&xargs)),
    ];
    if let Some(parallel) = &parallel {
        contests.push(
            Contest::new("2,000 jobs of true, -j 2, journal", 2, PARALLEL_TARGET, cost(&kept))
                .against("parallel --joblog", cost(parallel)),
        );
    }
    let contests = contests.into_iter().map(|contest| contest.passes(1)).collect();
    let rows = hold_rounds(group, &Plan { rounds: plan.rounds.min(9), ..*plan }, contests);
    place.clear();
    rows
}

fn path(path: &Path) -> &str {
    path.to_str().expect("cargo's scratch has a name in UTF-8")
}

/// There is another program of this name.
fn is_gnu_parallel() -> bool {
    let asked = Command::new("parallel").arg("--version").stdin(Stdio::null()).output();
    asked.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).starts_with("GNU parallel"))
}

/// A program that runs one command a line.
struct Spawner {
    program: PathBuf,
    args: Vec<String>,
    /// What a run before has left, and would go on with.
    left: Option<PathBuf>,
}

impl Spawner {
    fn new(program: &Path, args: &[&str]) -> Spawner {
        Spawner { program: program.into(), args: args.iter().map(ToString::to_string).collect(), left: None }
    }

    /// Removes the file before each run, with what lies beside it.
    fn afresh(self, left: &Path) -> Spawner {
        Spawner { left: Some(left.into()), ..self }
    }

    fn run(&self, list: &Path, job: &str, stdout: Stdio) -> Output {
        if let Some(left) = &self.left {
            remove(left);
        }
        let list = File::open(list).expect("the list was just written");
        Command::new(&self.program)
            .args(&self.args)
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
