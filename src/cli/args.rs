//! The command line as clap reads it. What the values mean is in `values.rs`.

use super::args_journal::{At, Keep, Outputs, Revive};
use super::values::{self, ExitSet, Jobs};
use crate::job::{HaltRule, Retry};
use crate::limit::Rate;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

const EXIT_CODES: &str = "\
Placeholders in CMD and its arguments:
  {}    the item                 {.}   the item without its extension
  {/}   its file name            {/.}  its file name without the extension
  {//}  its directory            {#}   its number, from 1
  {%}   the number of the job slot, from 1 to the number of jobs
Without any, the item is appended as the last argument.

A job finds in its environment: BATCHYARD_KEY, BATCHYARD_ATTEMPT (from 1), BATCHYARD_IDEMPOTENCY_KEY (the same in
every attempt), if a timeout is set, BATCHYARD_DEADLINE_MS (milliseconds since 1970), and with a journal
BATCHYARD_OWNER, by which what a killed run leaves behind is found and killed before its items run again. Its stdin is
/dev/null.

A job that exits with 0 is done, with 75 is tried again later (at most 20 times, no try counted), with 126, 127 or
a code of --fatal-exit is dead at once; with anything else, or killed by a signal, it is tried again while
--retries lasts.

With a journal an item's output is printed when its result is committed, and once: after kill -9 the same line prints
what had not been printed yet. With -k the order is that in which the items were given for the first time. Output above
16 KiB goes into the journal in pieces, so `results` prints all of it. Of an attempt that was broken off nothing is kept
or printed; its item stays pending. An item that took the program down with it three times is dead, and tried again
only after `batchyard retry`.

Ctrl-C: once, no job starts any more; twice (or SIGTERM), running jobs are terminated; three times (or Ctrl-\\),
they are killed.

Exit codes: 0 all done, 1 some dead, 2 wrong usage, unreadable input, a file that is no journal, another command under
the same name or an item twice under --duplicates error, 3 halted by --halt or --batch-timeout, 4 cancelled by a
signal, a closed stdout or `batchyard cancel`, 5 the journal is in use, 6 internal error or full disk.";

const RETRY: &str = "\
What was dead is pending afterwards, with all its tries before it. A run of the batch in another process tries it before
it ends, if it has the item in its input; otherwise the next run of the batch does (the same line again).

Exit codes: 0 done, 2 no such journal, batch or key, 5 the owner of the journal does not answer.";

const STEERING: &str = "\
A run in another process is asked, and answers within a second or so. Without one the batch itself is changed: a paused
batch starts paused; a cancelled one is as a run leaves it that was cancelled: what has not ended stays pending, and the
same line again goes on.

Exit codes: 0 it is so, 2 no such journal or batch, 5 the owner of the journal does not answer.";

/// Runs a command for every item: rate-limited, retried, resumable, with its output kept together.
#[derive(Debug, Parser)]
#[command(name = "batchyard", version, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Run(Box<Run>),
    /// Tell how far the batches of a journal are
    Status(At),
    /// List the items that were given up, with the error of every attempt
    Dead(At),
    /// Let items that were given up be tried again
    #[command(after_help = RETRY)]
    Retry(Revive),
    /// Print the stored outputs
    Results(Outputs),
    /// Let no further job of a batch start
    #[command(after_help = STEERING)]
    Pause(At),
    /// End a pause
    #[command(after_help = STEERING)]
    Resume(At),
    /// End a batch: running jobs are terminated
    #[command(after_help = STEERING)]
    Cancel(At),
    /// Tell the counts, timings and failures of a batch
    Report(At),
}

/// Run a command for every item of `:::`, of a file or of stdin
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES, override_usage = "batchyard run [OPTIONS] -- CMD [ARGS…] [::: ITEM…]")]
pub(crate) struct Run {
    /// Jobs at a time: a number, 0 for all cores, or a share of the cores like 50%
    #[arg(short = 'j', long, value_name = "N|0|N%", default_value = "0", value_parser = values::jobs,
        allow_hyphen_values = true)]
    pub(crate) jobs: Jobs,

    /// Start at most this many jobs per time, like 2/s, 0.5/s, 100/m or 2/s,burst=5 (burst is 1 unless said)
    #[arg(long, value_name = "N/s[,burst=N]", value_parser = values::rate, allow_hyphen_values = true)]
    pub(crate) rate: Option<Rate>,

    /// Time between the starts of two jobs, at least
    #[arg(long, value_name = "TIME", value_parser = values::delay)]
    pub(crate) delay: Option<Duration>,

    /// Further tries for an item whose job fails
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) retries: u32,

    /// Wait between tries: grows from the first to the second time, with full jitter
    #[arg(long, value_name = "MIN..MAX", default_value = "200ms..30s", value_parser = values::backoff)]
    pub(crate) backoff: Retry,

    /// Terminate a job (its process group) that runs longer
    #[arg(long, value_name = "TIME", value_parser = values::time)]
    pub(crate) timeout: Option<Duration>,

    /// Time between TERM and KILL for a job that is terminated
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = values::time_or_zero)]
    pub(crate) kill_after: Duration,

    /// Halt the run after this time
    #[arg(long, value_name = "TIME", value_parser = values::time)]
    pub(crate) batch_timeout: Option<Duration>,

    /// Halt when N items, or more than N percent of at least 20 finished ones, are dead: `soon` lets running jobs
    /// finish, `now` terminates them
    #[arg(long, value_name = "now|soon,fail=N|N%", value_parser = values::halt)]
    pub(crate) halt: Option<HaltRule>,

    /// Read the items from this file (- is stdin)
    #[arg(short = 'a', long = "arg-file", value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,

    /// Items end with a NUL byte, not with a newline; nothing is skipped
    #[arg(short = '0', long, conflicts_with = "delimiter")]
    pub(crate) null: bool,

    /// Items end with this byte: one character or \n, \t, \r, \0, \\, \xHH; nothing is skipped
    #[arg(short = 'd', long, value_name = "DELIM", value_parser = values::delimiter, allow_hyphen_values = true)]
    pub(crate) delimiter: Option<u8>,

    /// Write STR for the item instead of {}
    #[arg(short = 'I', long, value_name = "STR", value_parser = values::not_empty, allow_hyphen_values = true)]
    pub(crate) replace: Option<OsString>,

    /// Print the output in the order of the items
    #[arg(short = 'k', long)]
    pub(crate) keep_order: bool,

    /// Begin each line of output with the item and a tab
    #[arg(long, conflicts_with = "json")]
    pub(crate) tag: bool,

    /// Also write DIR/N/stdout, DIR/N/stderr and DIR/N/exit for each item, N being its number from 1; `exit`
    /// holds the exit code or `signal N`
    #[arg(long, value_name = "DIR")]
    pub(crate) results: Option<PathBuf>,

    /// Print one JSON object a line instead of the output: seq, key, item, status (done, dead, cancelled),
    /// exit_code or signal or error, attempts, run_ms, stdout, stderr. Bytes that are no UTF-8 are replaced, and
    /// come whole in item_base64, stdout_base64, stderr_base64
    #[arg(long)]
    pub(crate) json: bool,

    /// Show progress on stderr: auto is on a terminal only
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = When::Auto)]
    pub(crate) progress: When,

    /// Exit codes that are not worth another try, like 2,64-78
    #[arg(long, value_name = "LIST", value_parser = values::exit_set)]
    pub(crate) fatal_exit: Option<ExitSet>,

    /// Hand CMD and its arguments, joined by blanks, to sh -c; items stay data there, whatever is in them
    #[arg(long)]
    pub(crate) shell: bool,

    /// Print the commands instead of running them
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// The command and its arguments, then the items after `:::`
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,

    #[command(flatten)]
    pub(crate) keep: Keep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum When {
    Auto,
    Always,
    Never,
}

/// Where items come from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Arguments(Vec<OsString>),
    File(PathBuf),
    Stdin,
}

/// What ends an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Separator {
    Lines,
    Byte(u8),
}

impl Run {
    /// The command words and where the items come from.
    ///
    /// # Errors
    ///
    /// The sentence to print: no command before `:::`, two of them, or items from two places.
    pub(crate) fn command_and_source(&self) -> Result<(&[OsString], Source), String> {
        let mut parts = self.command.split(|word| word == ":::");
        let words = parts.next().unwrap_or_default();
        let items = parts.next();
        if words.is_empty() {
            return Err("there is no command before `:::`".into());
        }
        if parts.next().is_some() {
            return Err("there is more than one `:::`".into());
        }
        let source = match (items, &self.file) {
            (Some(_), Some(_)) => return Err("items come either from `:::` or from -a, not from both".into()),
            (Some(items), None) => Source::Arguments(items.to_vec()),
            (None, Some(path)) if path.as_os_str() == "-" => Source::Stdin,
            (None, Some(path)) => Source::File(path.clone()),
            (None, None) => Source::Stdin,
        };
        Ok((words, source))
    }

    pub(crate) fn separator(&self) -> Separator {
        match (self.null, self.delimiter) {
            (true, _) => Separator::Byte(0),
            (false, Some(byte)) => Separator::Byte(byte),
            (false, None) => Separator::Lines,
        }
    }

    /// The rates that the starts of jobs must keep, all of them.
    pub(crate) fn rates(&self) -> Vec<Rate> {
        self.rate.into_iter().chain(self.delay.map(|delay| Rate::per(1, delay))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &str) -> Run {
        let words = ["batchyard", "run"].into_iter().chain(line.split(' '));
        match Cli::try_parse_from(words).unwrap().command {
            Command::Run(run) => *run,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn clap_accepts_the_definition() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn items_after_the_colons() {
        let run = run("-j 3 -- echo -n ::: a b");
        let (words, source) = run.command_and_source().unwrap();
        assert_eq!(words, ["echo", "-n"]);
        assert_eq!(source, Source::Arguments(vec!["a".into(), "b".into()]));
    }

    #[test]
    fn sources() {
        assert_eq!(run("-- true").command_and_source().unwrap().1, Source::Stdin);
        assert_eq!(run("-a - -- true").command_and_source().unwrap().1, Source::Stdin);
        assert_eq!(run("-a f -- true").command_and_source().unwrap().1, Source::File("f".into()));
        assert_eq!(run("-- true :::").command_and_source().unwrap().1, Source::Arguments(vec![]));
        assert!(run("-- ::: a").command_and_source().is_err());
        assert!(run("-- true ::: a ::: b").command_and_source().is_err());
        assert!(run("-a f -- true ::: a").command_and_source().is_err());
    }

    #[test]
    fn what_goes_with_a_journal_needs_one() {
        for option in ["--name x", "--durability power-loss", "--disk-wait 1s"] {
            let words = |more: &str| format!("batchyard run {option} {more} -- true");
            let parsed =
                |line: String| Cli::try_parse_from(line.split_whitespace().map(str::to_owned)).is_ok();
            assert!(!parsed(words("")), "{option}");
            assert!(parsed(words("--journal j")), "{option}");
        }
    }

    #[test]
    fn separators() {
        assert_eq!(run("-- true").separator(), Separator::Lines);
        assert_eq!(run("-0 -- true").separator(), Separator::Byte(0));
        assert_eq!(run("-d , -- true").separator(), Separator::Byte(b','));
    }

    #[test]
    fn rate_and_delay_are_two_rates() {
        let rates = run("--rate 2/s,burst=5 --delay 3s -- true").rates();
        assert_eq!(rates, [Rate::per_second(2).burst(5), Rate::per(1, Duration::from_secs(3))]);
    }
}
