//! What the daemon tells of itself in numbers, as Prometheus reads them.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::desired::Problem;
use super::gc::Census;

type Labels = Vec<(&'static str, String)>;

/// All of them. Cloning gives another handle to the same numbers.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    pub nodes: Gauge,
    pub routes: Gauge,
    pub watch_errors: Counter,
    attachments: Gauge,
    stale: Gauge,
    used: Family<Labels, Gauge<f64, AtomicU64>>,
    free: Family<Labels, Gauge<f64, AtomicU64>>,
    problems: Family<Labels, Gauge>,
    errors: Family<Labels, Counter>,
    changes: Family<Labels, Counter>,
    reclaimed: Family<Labels, Counter>,
    passes: Passes,
}

/// A histogram has no default of its own.
#[derive(Debug, Clone)]
struct Passes(Histogram);

impl Default for Passes {
    fn default() -> Self {
        // From half a millisecond to 8 seconds.
        Self(Histogram::new(exponential_buckets(0.0005, 2.0, 15)))
    }
}

impl Metrics {
    /// The numbers, and the registry that writes them.
    pub fn new() -> (Self, Registry) {
        let it = Self::default();
        let mut registry = Registry::with_prefix("pausenet");
        let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
        registry.register("build", "The daemon's version", Info::new(version));
        registry.register("nodes", "Nodes of the cluster", it.nodes.clone());
        registry.register(
            "routes",
            "Routes of the daemon's on this node",
            it.routes.clone(),
        );
        registry.register(
            "watch_errors",
            "How often watching the Nodes failed",
            it.watch_errors.clone(),
        );
        registry.register(
            "attachments",
            "Pods' attachments on this node",
            it.attachments.clone(),
        );
        registry.register(
            "stale_attachments",
            "Attachments that hold an address and have no link: not yet reclaimed, or being made",
            it.stale.clone(),
        );
        registry.register(
            "addresses_used",
            "Addresses in use, by range",
            it.used.clone(),
        );
        registry.register(
            "addresses_free",
            "Addresses that are free, by range",
            it.free.clone(),
        );
        registry.register(
            "node_problems",
            "What keeps a Node's pods from being reached; 1 for each",
            it.problems.clone(),
        );
        registry.register_with_unit(
            "reconcile",
            "Time of a pass over all that the daemon sees to",
            Unit::Seconds,
            it.passes.0.clone(),
        );
        registry.register(
            "reconcile_errors",
            "Passes with an error, by part",
            it.errors.clone(),
        );
        registry.register(
            "changes",
            "Changes that were made, by part",
            it.changes.clone(),
        );
        registry.register(
            "reclaimed",
            "What was reclaimed because nobody can own it, by kind",
            it.reclaimed.clone(),
        );
        (it, registry)
    }

    /// A pass has ended.
    pub fn passed(&self, time: Duration) {
        self.passes.0.observe(time.as_secs_f64());
    }

    /// A part of a pass failed.
    pub fn failed(&self, part: &'static str) {
        let labels = vec![("part", part.to_owned())];
        self.errors.get_or_create(&labels).inc();
    }

    /// A part of a pass changed something.
    pub fn changed(&self, part: &'static str, count: usize) {
        if count > 0 {
            let labels = vec![("part", part.to_owned())];
            self.changes.get_or_create(&labels).inc_by(count as u64);
        }
    }

    /// The problems of the present; those of before are gone.
    pub fn problems(&self, problems: &[Problem]) {
        let mut counts: BTreeMap<_, i64> = BTreeMap::new();
        for problem in problems {
            let key = (problem.node.clone(), problem.kind.as_str());
            *counts.entry(key).or_default() += 1;
        }
        self.problems.clear();
        for ((node, kind), count) in counts {
            let labels = vec![("node", node), ("problem", kind.to_owned())];
            self.problems.get_or_create(&labels).set(count);
        }
    }

    /// What there is of the network on this node.
    pub fn census(&self, census: &Census) {
        self.attachments.set(census.attachments as i64);
        self.stale.set(census.stale as i64);
        for (kind, count) in [("attachment", census.reclaimed), ("address", census.freed)] {
            let labels = vec![("kind", kind.to_owned())];
            self.reclaimed.get_or_create(&labels).inc_by(count as u64);
        }
        self.used.clear();
        self.free.clear();
        for (range, (used, all)) in &census.usage {
            let labels = vec![("range", range.clone())];
            // More than 2^53 is told roughly, which is enough of an IPv6 subnet.
            self.used.get_or_create(&labels).set(*used as f64);
            let free = all.saturating_sub(*used);
            self.free.get_or_create(&labels).set(free as f64);
        }
    }
}

/// The numbers as text.
///
/// # Errors
/// None that can happen: text is written to memory.
pub fn text(registry: &Registry) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    encode(&mut text, registry)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::super::desired::ProblemKind;
    use super::*;

    fn has(registry: &Registry, line: &str) -> bool {
        let text = text(registry).unwrap();
        text.lines().any(|found| found == line)
    }

    #[test]
    fn a_problem_that_is_solved_is_not_told_any_more() {
        let (metrics, registry) = Metrics::new();
        let problem = Problem {
            node: "far".into(),
            kind: ProblemKind::NotOnLink,
            text: String::new(),
        };
        let line = r#"pausenet_node_problems{node="far",problem="not_on_link"} 1"#;
        metrics.problems(&[problem]);
        assert!(has(&registry, line));
        metrics.problems(&[]);
        assert!(!has(&registry, line));
    }

    #[test]
    fn addresses_are_told_by_range() {
        let (metrics, registry) = Metrics::new();
        let usage = BTreeMap::from([("10.1.0.0/24".to_owned(), (3, 253))]);
        metrics.census(&Census {
            attachments: 3,
            usage,
            ..Census::default()
        });
        for line in [
            "pausenet_attachments 3",
            r#"pausenet_addresses_used{range="10.1.0.0/24"} 3.0"#,
            r#"pausenet_addresses_free{range="10.1.0.0/24"} 250.0"#,
        ] {
            assert!(has(&registry, line), "{line}");
        }
    }

    #[test]
    fn time_and_errors_of_passes_are_told() {
        let (metrics, registry) = Metrics::new();
        metrics.passed(Duration::from_millis(3));
        metrics.failed("routes");
        assert!(has(&registry, "pausenet_reconcile_seconds_count 1"));
        assert!(has(
            &registry,
            r#"pausenet_reconcile_errors_total{part="routes"} 1"#
        ));
    }
}
