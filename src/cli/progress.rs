//! The line on stderr that says how far the run is: finished of all, failures, rate, time left.

use super::args::When;
use super::tally::{Counts, Tally};
use crate::sync::{Arc, OnceLock};
use crate::time::{Clock, Timestamp};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

/// The line on the terminal, for those who say something while it stands there.
static DRAWN: OnceLock<ProgressBar> = OnceLock::new();

/// Runs `say` with the line, if there is one, out of its way.
pub(super) fn aside<R>(say: impl FnOnce() -> R) -> R {
    match DRAWN.get() {
        Some(bar) => bar.suspend(say),
        None => say(),
    }
}

const TICK: Duration = Duration::from_millis(100);
/// In a pipe, where lines stay.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// The progress line, or none.
pub(crate) enum Progress {
    Off,
    /// A terminal: a line that is drawn over and over, by a thread of its own.
    Drawn,
    /// `--progress always` in a pipe: a line now and then.
    Lines {
        line: Line,
        last: Timestamp,
    },
}

impl Progress {
    pub(crate) fn new(when: When, tally: &Arc<Tally>, clock: &Clock) -> Self {
        let terminal = io::stderr().is_terminal();
        let line = Line { tally: Arc::clone(tally), clock: clock.clone(), began: clock.now() };
        match (when, terminal) {
            (When::Never, _) | (When::Auto, false) => Progress::Off,
            (When::Always, false) => Progress::Lines { last: line.began, line },
            (_, true) => {
                let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
                let style = ProgressStyle::with_template("{spinner} {line}").expect("a valid template");
                bar.set_style(style.with_key("line", move |_: &_, to: &mut dyn std::fmt::Write| {
                    // A line that cannot be drawn is drawn next time.
                    let _ = to.write_str(&line.text());
                }));
                bar.enable_steady_tick(TICK);
                DRAWN.get_or_init(|| bar);
                Progress::Drawn
            }
        }
    }

    pub(crate) fn is_on(&self) -> bool {
        !matches!(self, Progress::Off)
    }

    /// Another item has been settled.
    pub(crate) fn moved(&mut self) {
        if let Progress::Lines { line, last } = self {
            let now = line.clock.now();
            if now - *last >= LINE_EVERY {
                *last = now;
                line.print();
            }
        }
    }

    pub(crate) fn finish(&self) {
        match self {
            Progress::Off => {}
            Progress::Drawn => DRAWN.get().into_iter().for_each(ProgressBar::finish_and_clear),
            Progress::Lines { line, .. } => line.print(),
        }
    }
}

/// What the line says, and since when.
#[derive(Clone)]
pub(crate) struct Line {
    tally: Arc<Tally>,
    clock: Clock,
    began: Timestamp,
}

impl Line {
    fn text(&self) -> String {
        let before = self.tally.before();
        describe(&self.tally.counts(), before, self.clock.now() - self.began)
    }

    fn print(&self) {
        let _ = writeln!(io::stderr(), "batchyard: {}", self.text());
    }
}

/// `before`: items that had finished before this run.
fn describe(counts: &Counts, before: u64, elapsed: Duration) -> String {
    let now = counts.done + counts.dead;
    let finished = before + now;
    let mut text = match counts.all_read {
        true => format!("{finished}/{} finished", counts.read),
        false => format!("{finished}/{}+ finished", counts.read),
    };
    if counts.dead > 0 {
        text += &format!(", {} failed", counts.dead);
    }
    let rate = now as f64 / elapsed.as_secs_f64().max(1e-3);
    text += &match rate {
        r if r >= 100.0 => format!(", {r:.0}/s"),
        r if r >= 1.0 => format!(", {r:.1}/s"),
        r => format!(", {:.1}/min", r * 60.0),
    };
    if counts.all_read && now > 0 {
        let left = counts.read.saturating_sub(finished + counts.cancelled) as f64 / rate;
        text += &format!(", {} left", short(Duration::from_secs_f64(left.min(1e9))));
    }
    text
}

fn short(time: Duration) -> String {
    match time.as_secs() {
        s if s >= 3600 => format!("{}h{:02}m", s / 3600, s / 60 % 60),
        s if s >= 60 => format!("{}m{:02}s", s / 60, s % 60),
        s => format!("{s}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_tells_what_is_known() {
        let mut counts = Counts { read: 10, done: 3, dead: 1, ..Counts::default() };
        assert_eq!(describe(&counts, 0, Duration::from_secs(2)), "4/10+ finished, 1 failed, 2.0/s");
        counts.all_read = true;
        assert_eq!(describe(&counts, 0, Duration::from_secs(2)), "4/10 finished, 1 failed, 2.0/s, 3s left");
        let resumed = "8/10 finished, 1 failed, 2.0/s, 1s left";
        assert_eq!(describe(&counts, 4, Duration::from_secs(2)), resumed);
        let none = Counts { all_read: true, ..Counts::default() };
        assert_eq!(describe(&none, 0, Duration::ZERO), "0/0 finished, 0.0/min");
    }

    #[test]
    fn times_are_short() {
        let text = |secs| short(Duration::from_secs(secs));
        assert_eq!([text(0), text(75), text(7260)], ["0s", "1m15s", "2h01m"]);
    }
}
