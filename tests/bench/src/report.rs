//! The report: as tables and as JSON.

use std::fmt::Write;

use pausenet_host::table::table;
use serde::Serialize;

use crate::benchmarks::pause::BUSYBOX;
use crate::machine::Machine;
use crate::series::{
    BEFORE, FLOOR, IPTABLES, NETAVARK, OURS, REFERENCE, Results, Series, Side, Unit,
};
use crate::targets::Target;

/// A whole run.
#[derive(Serialize)]
pub(crate) struct Report<'a> {
    pub machine: &'a Machine,
    /// How many benchmarks are in it, and out of how many.
    pub benchmarks: (usize, usize),
    pub targets: &'a [Target],
    #[serde(flatten)]
    pub results: &'a Results,
}

impl Report<'_> {
    /// As tables.
    pub(crate) fn text(&self) -> String {
        let mut text = self.machine.to_string();
        let (done, of) = self.benchmarks;
        if done < of {
            let _ = writeln!(
                text,
                "{done} of {of} benchmarks; the others did not run, or failed"
            );
        }
        let _ = writeln!(text, "\n{}", self.measured());
        for (series, note) in self.notes() {
            let _ = writeln!(text, "{series}: {note}");
        }
        if let Some(before) = self.beside_before() {
            let _ = writeln!(text, "\n{before}");
        }
        let _ = write!(text, "\n{}", self.met());
        text
    }

    fn notes(&self) -> Vec<(&str, &str)> {
        vec![
            ("median (p95)", "over all samples of a side"),
            (
                "times",
                "pausenet is this many times better: the median over pairs of samples taken side by side",
            ),
            (
                "of floor",
                "pausenet's time divided by that of a bare program that makes the same objects",
            ),
        ]
    }

    /// One row per case.
    fn measured(&self) -> String {
        let rows: Vec<_> = self
            .results
            .cases()
            .into_iter()
            .map(|(benchmark, case, unit)| {
                let cell = |side| {
                    self.results
                        .get(benchmark, case, side)
                        .map(shown)
                        .unwrap_or_default()
                };
                let named = [BUSYBOX, NETAVARK]
                    .into_iter()
                    .find_map(|side| Some((side, self.results.get(benchmark, case, side)?)));
                let (beside, other) = match named {
                    Some((side, series)) => (side, format!("{} ({side})", shown(series))),
                    None => (IPTABLES, cell(IPTABLES)),
                };
                let times = |other| self.times_better(benchmark, case, unit, other);
                [
                    benchmark.to_owned(),
                    case.to_owned(),
                    unit.name().to_owned(),
                    cell(REFERENCE),
                    other,
                    cell(OURS),
                    cell(FLOOR),
                    times(REFERENCE).unwrap_or_default(),
                    times(beside).unwrap_or_default(),
                    self.results
                        .paired_ratio(benchmark, case, OURS, FLOOR)
                        .map(|ratio| format!("{ratio:.2}"))
                        .unwrap_or_default(),
                ]
            })
            .collect();
        table(
            [
                "BENCHMARK",
                "CASE",
                "UNIT",
                "REFERENCE",
                "REF. IPTABLES, OTHERS",
                "PAUSENET",
                "FLOOR",
                "TIMES",
                "OTHERS",
                "OF FLOOR",
            ],
            &rows,
        )
    }

    /// How many times better pausenet is than another side, if both were measured.
    fn times_better(&self, benchmark: &str, case: &str, unit: Unit, other: Side) -> Option<String> {
        let (one, other) = if unit.more_is_better() {
            (OURS, other)
        } else {
            (other, OURS)
        };
        let ratio = self.results.paired_ratio(benchmark, case, one, other);
        ratio
            .filter(|ratio| ratio.is_finite())
            .map(|ratio| format!("{ratio:.1}"))
    }

    /// The cases in which an earlier commit's build was measured, one row each.
    fn beside_before(&self) -> Option<String> {
        let rows: Vec<_> = self
            .results
            .cases()
            .into_iter()
            .filter_map(|(benchmark, case, unit)| {
                Some([
                    benchmark.to_owned(),
                    case.to_owned(),
                    unit.name().to_owned(),
                    shown(self.results.get(benchmark, case, BEFORE)?),
                    shown(self.results.get(benchmark, case, OURS)?),
                    self.times_better(benchmark, case, unit, BEFORE)?,
                ])
            })
            .collect();
        let before = format!("BEFORE ({})", self.machine.before.as_ref()?);
        let header = ["BENCHMARK", "CASE", "UNIT", &before, "PAUSENET", "TIMES"];
        Some(table(header, &rows))
    }

    fn met(&self) -> String {
        let rows: Vec<_> = self
            .targets
            .iter()
            .map(|target| {
                [
                    target.promise.clone(),
                    target.wanted.clone(),
                    target.measured.clone().unwrap_or_default(),
                    target.met.name().to_owned(),
                ]
            })
            .collect();
        table(["PROMISE", "REQUIRED", "MEASURED", "MET"], &rows)
    }
}

/// The median, and the 95th percentile in brackets (the 5th, where more is better).
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
