//! The works: what is measured, one kind of it in each file.

pub mod addresses;
pub mod datapath;
pub mod footprint;
pub mod many;
pub mod pause;
pub mod verbs;
pub mod workers;

use crate::Result;
use crate::network::Tools;
use crate::series::Results;

/// How much is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Every row of the table of targets, in two minutes.
    Quick,
    Full,
}

impl Extent {
    /// One of two values.
    pub fn pick<T>(self, quick: T, full: T) -> T {
        match self {
            Self::Quick => quick,
            Self::Full => full,
        }
    }
}

/// What a work is given.
pub struct Bench<'a> {
    pub tools: &'a Tools,
    pub extent: Extent,
    pub results: &'a mut Results,
}

/// The order of so many sides in a round. Each comes first as often as the others, and after each of
/// the others as often: what a side leaves to the kernel to do disturbs who comes next.
pub fn order(round: usize, sides: usize) -> impl Iterator<Item = usize> {
    let is_backward = round / sides % 2 == 1;
    (0..sides).map(move |turn| match is_backward {
        false => (round + turn) % sides,
        true => (round + sides - turn) % sides,
    })
}

/// What a work does.
type Run = dyn Fn(&mut Bench) -> Result<()>;

/// A work by name.
pub struct Work {
    pub name: String,
    /// Whether it is part of the quick run.
    pub quick: bool,
    run: Box<Run>,
}

impl Work {
    fn new(
        name: impl Into<String>,
        quick: bool,
        run: impl Fn(&mut Bench) -> Result<()> + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            quick,
            run: Box::new(run),
        }
    }

    /// Does it.
    pub fn run(&self, bench: &mut Bench) -> Result<()> {
        (self.run)(bench)
    }
}

/// All works, in the order of the report.
pub fn all() -> Vec<Work> {
    let mut works = Vec::new();
    works.extend(verbs::works());
    works.extend(addresses::works());
    works.extend(workers::works());
    works.extend(datapath::works());
    works.extend(footprint::works());
    works.extend(pause::works());
    // Last: the kernel takes its time to take down thousands of namespaces.
    works.extend(many::works());
    works
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_side_comes_after_every_other_as_often() {
        let orders: Vec<Vec<_>> = (0..6).map(|round| order(round, 3).collect()).collect();
        let mut all = orders.clone();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 6, "{orders:?}");
        let orders: Vec<Vec<_>> = (0..4).map(|round| order(round, 2).collect()).collect();
        assert_eq!(orders, [[0, 1], [1, 0], [0, 1], [1, 0]]);
    }
}
