//! Samples by benchmark, case and side, and statistics over them.

use serde::Serialize;

/// The implementation that is measured.
pub(crate) type Side = &'static str;

/// The reference plugins; with nftables where there is a choice.
pub(crate) const REFERENCE: Side = "reference";
/// The same with iptables.
pub(crate) const IPTABLES: Side = "reference/iptables";
pub(crate) const OURS: Side = "pausenet";
pub(crate) const FLOOR: Side = "floor";
/// An earlier commit's build of pausenet.
pub(crate) const BEFORE: Side = "before";
/// What podman makes networks with.
pub(crate) const NETAVARK: Side = "netavark";

/// The unit of samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum Unit {
    #[serde(rename = "ms")]
    Milliseconds,
    #[serde(rename = "1/s")]
    PerSecond,
    #[serde(rename = "Gbit/s")]
    Gigabits,
    #[serde(rename = "kB")]
    Kilobytes,
    #[serde(rename = "")]
    Count,
}

impl Unit {
    /// Whether more of it is better.
    pub(crate) fn more_is_better(self) -> bool {
        matches!(self, Self::PerSecond | Self::Gigabits)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Milliseconds => "ms",
            Self::PerSecond => "/s",
            Self::Gigabits => "Gbit/s",
            Self::Kilobytes => "kB",
            Self::Count => "",
        }
    }
}

/// The samples of one side for one case, in the order in which they were taken.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Series {
    pub(crate) benchmark: String,
    pub(crate) case: String,
    pub(crate) side: Side,
    pub(crate) unit: Unit,
    pub(crate) samples: Vec<f64>,
}

impl Series {
    /// See [`quantile`].
    pub(crate) fn quantile(&self, part: f64) -> f64 {
        quantile(&self.samples, part)
    }

    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }
}

/// The quantile `part` (0 to 1) of the samples, interpolated between the two nearest ranks; NaN without
/// samples.
pub(crate) fn quantile(samples: &[f64], part: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else {
        return f64::NAN;
    };
    let rank = part * last as f64;
    let (low, high) = (sorted[rank.floor() as usize], sorted[rank.ceil() as usize]);
    low + (high - low) * rank.fract()
}

/// The median ratio of samples of `one` to the samples of `other` taken beside them. The ratio of the
/// medians if they were not taken in pairs.
pub(crate) fn paired(one: &Series, other: &Series) -> f64 {
    if one.samples.len() != other.samples.len() {
        return one.median() / other.median();
    }
    let pairs = one.samples.iter().zip(&other.samples);
    let ratios: Vec<_> = pairs.map(|(one, other)| one / other).collect();
    quantile(&ratios, 0.5)
}

/// All results of a run.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Results {
    series: Vec<Series>,
}

impl Results {
    /// Adds a sample.
    pub(crate) fn add(&mut self, benchmark: &str, case: &str, side: Side, unit: Unit, sample: f64) {
        let found = self
            .series
            .iter_mut()
            .find(|found| found.benchmark == benchmark && found.case == case && found.side == side);
        match found {
            Some(series) => series.samples.push(sample),
            None => self.series.push(Series {
                benchmark: benchmark.to_owned(),
                case: case.to_owned(),
                side,
                unit,
                samples: vec![sample],
            }),
        }
    }

    pub(crate) fn get(&self, benchmark: &str, case: &str, side: Side) -> Option<&Series> {
        self.series
            .iter()
            .find(|found| found.benchmark == benchmark && found.case == case && found.side == side)
    }

    /// The ratio of the medians of `one` and `other`.
    pub(crate) fn ratio(&self, benchmark: &str, case: &str, one: Side, other: Side) -> Option<f64> {
        let (one, other) = (
            self.get(benchmark, case, one)?,
            self.get(benchmark, case, other)?,
        );
        Some(one.median() / other.median())
    }

    /// The median ratio of samples that were taken side by side: a disturbance of the machine affects
    /// both of them.
    pub(crate) fn paired_ratio(
        &self,
        benchmark: &str,
        case: &str,
        one: Side,
        other: Side,
    ) -> Option<f64> {
        let (one, other) = (
            self.get(benchmark, case, one)?,
            self.get(benchmark, case, other)?,
        );
        Some(paired(one, other))
    }

    /// All cases in order, without duplicates: benchmark, case, unit.
    pub(crate) fn cases(&self) -> Vec<(&str, &str, Unit)> {
        let mut cases: Vec<(&str, &str, Unit)> = Vec::new();
        for series in &self.series {
            let case = (series.benchmark.as_str(), series.case.as_str(), series.unit);
            if !cases.contains(&case) {
                cases.push(case);
            }
        }
        cases
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_interpolated_between_ranks() {
        assert_eq!(quantile(&[4.0, 1.0, 3.0, 2.0], 0.5), 2.5);
        assert_eq!(quantile(&[7.0], 0.95), 7.0);
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn ratios_are_taken_pair_by_pair() {
        let mut results = Results::default();
        for (theirs, ours) in [(10.0, 2.0), (100.0, 20.0), (12.0, 3.0)] {
            results.add("w", "ADD", REFERENCE, Unit::Milliseconds, theirs);
            results.add("w", "ADD", OURS, Unit::Milliseconds, ours);
        }
        assert_eq!(results.paired_ratio("w", "ADD", REFERENCE, OURS), Some(5.0));
        assert_eq!(results.ratio("w", "ADD", REFERENCE, OURS), Some(4.0));
        assert_eq!(results.ratio("w", "DEL", REFERENCE, OURS), None);
    }
}
