//! A row of the summary: its JSON, its line in the table.

use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::path::Path;
use std::{fs, io};

/// The name of the peer where the measure is a fixed bound.
pub(crate) const ABSOLUTE: &str = "absolute";

/// Ours over the peer's, in cost: below 1 we are cheaper.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Row {
    pub(crate) group: String,
    pub(crate) case: String,
    pub(crate) threads: usize,
    pub(crate) peer: String,
    /// Median over the rounds.
    pub(crate) ratio: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
    pub(crate) target: f64,
    pub(crate) met: bool,
}

impl Row {
    /// # Panics
    /// When a round gave something that is no number: JSON would turn it into a null.
    pub(crate) fn of_rounds(
        (group, case, threads): (&str, &str, usize),
        peer: &str,
        ratios: &[f64],
        target: f64,
    ) -> Row {
        assert!(ratios.iter().all(|r| r.is_finite()), "{group}, {case}: rounds without a ratio: {ratios:?}");
        let ratio = four_digits(median(ratios));
        Row {
            group: group.into(),
            case: case.into(),
            threads,
            peer: peer.into(),
            ratio,
            low: four_digits(ratios.iter().copied().fold(f64::INFINITY, f64::min)),
            high: four_digits(ratios.iter().copied().fold(0.0, f64::max)),
            target,
            met: ratio <= target,
        }
    }
}

/// The middle value; of an even number of values, the mean of the two in the middle.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

fn four_digits(x: f64) -> f64 {
    format!("{x:.3e}").parse().expect("a printed number")
}

/// The rows as a table for people.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut cells =
        vec![["group", "case", "threads", "peer", "ratio", "low to high", "target", "met"].map(String::from)];
    cells.extend(rows.iter().map(|r| {
        [
            r.group.clone(),
            r.case.clone(),
            r.threads.to_string(),
            r.peer.clone(),
            short(r.ratio),
            format!("{} to {}", short(r.low), short(r.high)),
            short(r.target),
            if r.met { "yes" } else { "NO" }.into(),
        ]
    }));
    let widths: [usize; 8] =
        std::array::from_fn(|c| cells.iter().map(|row| row[c].chars().count()).max().unwrap_or(0));
    let mut out = String::new();
    for row in &cells {
        let mut line = String::from("|");
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, " {cell:<width$} |");
        }
        out.push_str(&line);
        out.push('\n');
        if out.lines().count() == 1 {
            out.push('|');
            for width in widths {
                let _ = write!(out, "{}|", "-".repeat(width + 2));
            }
            out.push('\n');
        }
    }
    out
}

/// Three significant digits, without an exponent while that stays readable.
pub(crate) fn short(x: f64) -> String {
    match x.abs() {
        0.0 => "0".into(),
        a if a < 0.001 => format!("{x:.1e}"),
        a if a < 1.0 => format!("{x:.3}"),
        a if a < 10.0 => format!("{x:.2}"),
        a if a < 100.0 => format!("{x:.1}"),
        _ => format!("{x:.0}"),
    }
}

/// Replaces the summary: a JSON list, one row a line.
pub(crate) fn write(path: &Path, rows: &[Row]) -> io::Result<()> {
    let lines: Vec<String> = rows.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
    fs::write(path, format!("[\n{}\n]\n", lines.join(",\n")))
}
