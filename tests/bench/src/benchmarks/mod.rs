//! The benchmarks, one topic per file.

pub(crate) mod addresses;
pub(crate) mod commands;
pub(crate) mod counts;
pub(crate) mod datapath;
mod footprint;
pub(crate) mod many;
pub(crate) mod pause;
mod podman;
mod verbs;
pub(crate) mod workers;

use crate::Result;
use crate::network::Tools;
use crate::series::Results;

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Every promise, in two minutes.
    Quick,
    Full,
}

impl Extent {
    /// The value for this extent.
    pub(crate) fn pick<T>(self, quick: T, full: T) -> T {
        match self {
            Self::Quick => quick,
            Self::Full => full,
        }
    }
}

/// What a benchmark gets.
pub(crate) struct Context<'a> {
    pub(crate) tools: &'a Tools,
    pub(crate) extent: Extent,
    pub(crate) results: &'a mut Results,
}

/// The order of the sides in a round. Over the rounds, each side comes first equally often, and equally
/// often after each other side, because work that a side leaves to the kernel disturbs the next one.
fn order(round: usize, sides: usize) -> impl Iterator<Item = usize> {
    let is_backward = round / sides % 2 == 1;
    (0..sides).map(move |turn| match is_backward {
        false => (round + turn) % sides,
        true => (round + sides - turn) % sides,
    })
}

/// The code of a benchmark.
type Run = dyn Fn(&mut Context) -> Result<()>;

/// A benchmark and its name.
pub(crate) struct Benchmark {
    pub(crate) name: String,
    /// Part of the quick run.
    pub(crate) quick: bool,
    run: Box<Run>,
}

impl Benchmark {
    fn new(
        name: impl Into<String>,
        quick: bool,
        run: impl Fn(&mut Context) -> Result<()> + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            quick,
            run: Box::new(run),
        }
    }

    /// Runs it.
    pub(crate) fn run(&self, context: &mut Context) -> Result<()> {
        (self.run)(context)
    }
}

/// All benchmarks, in the order of the report.
pub(crate) fn all() -> Vec<Benchmark> {
    let mut benchmarks = Vec::new();
    benchmarks.extend(verbs::benchmarks());
    benchmarks.extend(addresses::benchmarks());
    benchmarks.extend(counts::benchmarks());
    benchmarks.extend(workers::benchmarks());
    benchmarks.extend(datapath::benchmarks());
    benchmarks.extend(footprint::benchmarks());
    benchmarks.extend(pause::benchmarks());
    benchmarks.extend(podman::benchmarks());
    // Last, because the kernel needs long to destroy thousands of namespaces.
    benchmarks.extend(many::benchmarks());
    benchmarks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_side_follows_every_other_equally_often() {
        let orders: Vec<Vec<_>> = (0..6).map(|round| order(round, 3).collect()).collect();
        let mut all = orders.clone();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 6, "{orders:?}");
        let orders: Vec<Vec<_>> = (0..4).map(|round| order(round, 2).collect()).collect();
        assert_eq!(orders, [[0, 1], [1, 0], [0, 1], [1, 0]]);
    }
}
