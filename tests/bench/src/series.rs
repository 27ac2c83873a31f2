//! What was measured: samples by work, case and side, and the figures made of them.

use serde::Serialize;

/// Who did the work.
pub type Side = &'static str;

/// The reference's plugins; with nftables where there is a choice.
pub const REFERENCE: Side = "reference";
/// The same with iptables.
pub const IPTABLES: Side = "reference/iptables";
pub const OURS: Side = "pausenet";
pub const FLOOR: Side = "floor";

/// What samples are counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Unit {
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
    pub fn more_is_better(self) -> bool {
        matches!(self, Self::PerSecond | Self::Gigabits)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Milliseconds => "ms",
            Self::PerSecond => "/s",
            Self::Gigabits => "Gbit/s",
            Self::Kilobytes => "kB",
            Self::Count => "",
        }
    }
}

/// The samples of one side at one thing, in the order in which they were taken.
#[derive(Debug, Clone, Serialize)]
pub struct Series {
    pub work: String,
    pub case: String,
    pub side: Side,
    pub unit: Unit,
    pub samples: Vec<f64>,
}

impl Series {
    /// See [`quantile`].
    pub fn quantile(&self, part: f64) -> f64 {
        quantile(&self.samples, part)
    }

    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }
}

/// The value that `part` of 1 of the samples do not exceed, linear between the two nearest ranks; NaN
/// when there are none.
pub fn quantile(samples: &[f64], part: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else {
        return f64::NAN;
    };
    let rank = part * last as f64;
    let (low, high) = (sorted[rank.floor() as usize], sorted[rank.ceil() as usize]);
    low + (high - low) * rank.fract()
}

/// How many times the samples of `one` are those of `other` that were taken beside them: the median.
/// Of the medians, where they were not taken in pairs.
pub fn paired(one: &Series, other: &Series) -> f64 {
    if one.samples.len() != other.samples.len() {
        return one.median() / other.median();
    }
    let pairs = one.samples.iter().zip(&other.samples);
    let ratios: Vec<_> = pairs.map(|(one, other)| one / other).collect();
    quantile(&ratios, 0.5)
}

/// All that was measured.
#[derive(Debug, Default, Serialize)]
pub struct Results {
    pub series: Vec<Series>,
}

impl Results {
    /// Adds a sample.
    pub fn add(&mut self, work: &str, case: &str, side: Side, unit: Unit, sample: f64) {
        let found = self
            .series
            .iter_mut()
            .find(|found| found.work == work && found.case == case && found.side == side);
        match found {
            Some(series) => series.samples.push(sample),
            None => self.series.push(Series {
                work: work.to_owned(),
                case: case.to_owned(),
                side,
                unit,
                samples: vec![sample],
            }),
        }
    }

    pub fn get(&self, work: &str, case: &str, side: Side) -> Option<&Series> {
        self.series
            .iter()
            .find(|found| found.work == work && found.case == case && found.side == side)
    }

    /// How many times the median of `one` is that of `other`.
    pub fn ratio(&self, work: &str, case: &str, one: Side, other: Side) -> Option<f64> {
        let (one, other) = (self.get(work, case, one)?, self.get(work, case, other)?);
        Some(one.median() / other.median())
    }

    /// The same pair by pair, each with the sample that was taken beside it, and the median of
    /// that: what disturbs the machine for a while disturbs both.
    pub fn paired_ratio(&self, work: &str, case: &str, one: Side, other: Side) -> Option<f64> {
        let (one, other) = (self.get(work, case, one)?, self.get(work, case, other)?);
        Some(paired(one, other))
    }

    /// Every thing that was measured once, in order: work, case, unit.
    pub fn cases(&self) -> Vec<(&str, &str, Unit)> {
        let mut cases: Vec<(&str, &str, Unit)> = Vec::new();
        for series in &self.series {
            let case = (series.work.as_str(), series.case.as_str(), series.unit);
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
    fn quantiles_lie_between_ranks() {
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
