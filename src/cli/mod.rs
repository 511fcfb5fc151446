//! Floor 7: the command line program.
//!
//! | file | what it knows |
//! |---|---|
//! | `args.rs`, `args_journal.rs`, `values.rs` | what may be written, and what it means |
//! | `input.rs`, `template.rs`, `bytes.rs` | items, and the command for one of them |
//! | `job.rs` | an attempt: run it, judge its end |
//! | `child.rs`, `group.rs`, `capture.rs`, `descriptors.rs` | a process, its group, its output, room for its files |
//! | `drive.rs` | items to the scheduler, results from it |
//! | `kept.rs`, `left.rs`, `desk.rs`, `marks.rs`, `orphans.rs` | the same with a journal |
//! | `look.rs`, `steer.rs` | the commands about journals |
//! | `report.rs`, `order.rs`, `json.rs`, `progress.rs`, `tally.rs`, `joblog.rs` | what is printed |
//! | `controls.rs`, `signals.rs` | how a run is stopped |
//! | `run.rs` | all of it together |
//! | `exit.rs` | how the program ends |

mod args;
mod args_journal;
mod bytes;
mod capture;
mod child;
mod controls;
mod descriptors;
mod desk;
mod drive;
mod exit;
mod group;
mod input;
mod job;
mod joblog;
mod json;
mod kept;
mod left;
mod look;
mod marks;
mod order;
mod orphans;
mod progress;
mod report;
mod run;
mod signals;
mod steer;
mod tally;
mod template;
mod values;

use clap::Parser;
use clap::error::ErrorKind;
use exit::Exit;
use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

/// The program `batchyard`: reads the arguments of this process, does what they say, prints, and returns the exit code.
pub fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        // Not `say`: the panic may be in what it calls.
        let text = panic.to_string().replace('\n', " ");
        let _ = writeln!(io::stderr(), "batchyard: internal error, please report it: {text}");
        std::process::exit(Exit::Internal as i32);
    }));
    let cli = match args::Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // Help goes to stdout with 0, a mistake to stderr with 2.
            match e.kind() {
                ErrorKind::DisplayHelp
                | ErrorKind::DisplayVersion
                | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => drop(e.print()),
                _ => say(one_line(&e.to_string())),
            }
            return ExitCode::from(if e.use_stderr() { Exit::Usage } else { Exit::Done });
        }
    };
    use args::Command;
    let done = match cli.command {
        Command::Run(args) => run::run(*args),
        Command::Status(at) => look::status(&at),
        Command::Dead(at) => look::dead(&at),
        Command::Results(outputs) => look::results(outputs),
        Command::Report(at) => look::report(&at),
        Command::Retry(revive) => steer::retry(revive),
        Command::Pause(at) => steer::steer(&at, "pause"),
        Command::Resume(at) => steer::steer(&at, "resume"),
        Command::Cancel(at) => steer::steer(&at, "cancel"),
    };
    let exit = done.unwrap_or_else(|trouble| {
        say(&trouble);
        trouble.exit
    });
    exit.into()
}

/// clap's error without its heading, its usage and its hints, which --help tells better.
fn one_line(error: &str) -> String {
    let first = error.split("\n\n").next().unwrap_or(error);
    let words: Vec<_> = first.trim_start_matches("error: ").split_whitespace().collect();
    format!("{} (--help tells more)", words.join(" "))
}

/// A line of our own on stderr.
fn say(line: impl Display) {
    // A file name may hold anything.
    let line = line.to_string().replace('\n', "\\n");
    // Nobody may be listening.
    let _ = progress::aside(|| writeln!(io::stderr(), "batchyard: {line}"));
}
