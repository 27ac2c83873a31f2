//! The report: tables for people, and JSON for everything else.

use std::fmt::Write;

use pausectl::table::table;
use serde::Serialize;

use crate::machine::Machine;
use crate::series::{FLOOR, IPTABLES, OURS, REFERENCE, Results, Series, Side, Unit};
use crate::targets::Target;
use crate::works::pause::BUSYBOX;

/// All of a run.
#[derive(Serialize)]
pub struct Report<'a> {
    pub machine: &'a Machine,
    /// How many works are in it, and of how many.
    pub works: (usize, usize),
    pub targets: &'a [Target],
    #[serde(flatten)]
    pub results: &'a Results,
}

impl Report<'_> {
    /// As tables.
    pub fn text(&self) -> String {
        let mut text = self.machine.to_string();
        let (done, of) = self.works;
        if done < of {
            let _ = writeln!(
                text,
                "{done} of {of} works; the others were not run, or failed"
            );
        }
        let _ = writeln!(text, "\n{}", self.measured());
        for (series, note) in self.notes() {
            let _ = writeln!(text, "{series}: {note}");
        }
        let _ = write!(text, "\n{}", self.met());
        text
    }

    fn notes(&self) -> Vec<(&str, &str)> {
        vec![
            ("median (p95)", "of all samples of a side"),
            (
                "times",
                "how many times pausenet is better, sample by sample with the one taken beside it",
            ),
            (
                "of floor",
                "pausenet's time by that of a bare program that makes the same objects",
            ),
        ]
    }

    /// Every case in a row.
    fn measured(&self) -> String {
        let rows: Vec<_> = self
            .results
            .cases()
            .into_iter()
            .map(|(work, case, unit)| {
                let cell = |side| {
                    self.results
                        .get(work, case, side)
                        .map(shown)
                        .unwrap_or_default()
                };
                let other = match self.results.get(work, case, BUSYBOX) {
                    Some(series) => format!("{} ({BUSYBOX})", shown(series)),
                    None => cell(IPTABLES),
                };
                let times = |other: Side| {
                    let (one, other) = if unit.more_is_better() {
                        (OURS, other)
                    } else {
                        (other, OURS)
                    };
                    let ratio = self.results.paired_ratio(work, case, one, other);
                    ratio
                        .filter(|ratio| ratio.is_finite())
                        .map(|ratio| format!("{ratio:.1}"))
                };
                [
                    work.to_owned(),
                    case.to_owned(),
                    unit.name().to_owned(),
                    cell(REFERENCE),
                    other,
                    cell(OURS),
                    cell(FLOOR),
                    times(REFERENCE).unwrap_or_default(),
                    times(IPTABLES).unwrap_or_default(),
                    self.results
                        .paired_ratio(work, case, OURS, FLOOR)
                        .map(|ratio| format!("{ratio:.2}"))
                        .unwrap_or_default(),
                ]
            })
            .collect();
        table(
            [
                "WORK",
                "CASE",
                "UNIT",
                "REFERENCE",
                "ITS IPTABLES",
                "PAUSENET",
                "FLOOR",
                "TIMES",
                "IPTABLES",
                "OF FLOOR",
            ],
            &rows,
        )
    }

    fn met(&self) -> String {
        let rows: Vec<_> = self
            .targets
            .iter()
            .map(|target| {
                [
                    target.work.clone(),
                    target.wanted.clone(),
                    target.measured.clone().unwrap_or_default(),
                    target.met.name().to_owned(),
                ]
            })
            .collect();
        table(["TARGET", "WANTED", "MEASURED", "MET"], &rows)
    }
}

/// Median, and what 95 of 100 do not exceed (or fall below, where more is better).
fn shown(series: &Series) -> String {
    let number = |value: f64| match series.unit {
        Unit::Count | Unit::Kilobytes => format!("{value:.0}"),
        _ if value >= 100.0 => format!("{value:.0}"),
        _ if value >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    };
    if series.samples.len() == 1 {
        return number(series.median());
    }
    let worse = if series.unit.more_is_better() {
        0.05
    } else {
        0.95
    };
    format!(
        "{} ({})",
        number(series.median()),
        number(series.quantile(worse))
    )
}
