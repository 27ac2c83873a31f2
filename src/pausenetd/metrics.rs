//! Metrics, in the format that Prometheus reads.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::desired::Problem;
use super::gc::GcReport;

type Labels = Vec<(&'static str, String)>;

/// All metrics. A clone is another handle to the same values.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    pub(crate) nodes: Gauge,
    pub(crate) routes: Gauge,
    pub(crate) watch_errors: Counter,
    last_news: Gauge<f64, AtomicU64>,
    attachments: Gauge,
    stale: Gauge,
    used: Family<Labels, Gauge<f64, AtomicU64>>,
    free: Family<Labels, Gauge<f64, AtomicU64>>,
    problems: Family<Labels, Gauge>,
    errors: Family<Labels, Counter>,
    changes: Family<Labels, Counter>,
    reclaimed: Family<Labels, Counter>,
    pass_duration: PassDuration,
}

/// `Histogram` has no `Default`.
#[derive(Debug, Clone)]
struct PassDuration(Histogram);

impl Default for PassDuration {
    fn default() -> Self {
        // From half a millisecond to 8 seconds.
        Self(Histogram::new(exponential_buckets(0.0005, 2.0, 15)))
    }
}

impl Metrics {
    /// The metrics, and the registry that [`text`] encodes.
    pub fn new() -> (Self, Registry) {
        let it = Self::default();
        let mut registry = Registry::with_prefix("pausenet");
        let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
        registry.register("build", "The daemon's version", Info::new(version));
        registry.register("nodes", "Nodes of the cluster", it.nodes.clone());
        registry.register(
            "routes",
            "Routes to pods that the daemon keeps on this node",
            it.routes.clone(),
        );
        registry.register(
            "watch_errors",
            "Failures to watch the Nodes",
            it.watch_errors.clone(),
        );
        registry.register(
            "api_last_news_timestamp_seconds",
            "When the API server last sent something, in seconds since 1970; 0: not yet",
            it.last_news.clone(),
        );
        registry.register(
            "attachments",
            "Attachments of pods on this node",
            it.attachments.clone(),
        );
        registry.register(
            "stale_attachments",
            "Attachments with an address and without a link: not reclaimed yet, or in the middle of an ADD",
            it.stale.clone(),
        );
        registry.register(
            "addresses_used",
            "Addresses in use, by range",
            it.used.clone(),
        );
        registry.register(
            "addresses_free",
            "Free addresses, by range",
            it.free.clone(),
        );
        registry.register(
            "node_problems",
            "Reasons why a Node's pods are not reachable, by kind",
            it.problems.clone(),
        );
        registry.register_with_unit(
            "reconcile",
            "Duration of a reconcile pass",
            Unit::Seconds,
            it.pass_duration.0.clone(),
        );
        registry.register(
            "reconcile_errors",
            "Failed passes, by part",
            it.errors.clone(),
        );
        registry.register("changes", "Changes made, by part", it.changes.clone());
        registry.register(
            "reclaimed",
            "Reclaimed addresses and attachments that no pod owned, by kind",
            it.reclaimed.clone(),
        );
        (it, registry)
    }

    /// The API server has sent something.
    pub(crate) fn has_news(&self) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        self.last_news.set(now.unwrap_or_default().as_secs_f64());
    }

    /// A pass has ended.
    pub(crate) fn pass_ended(&self, time: Duration) {
        self.pass_duration.0.observe(time.as_secs_f64());
    }

    /// A part of a pass failed.
    pub(crate) fn part_failed(&self, part: &'static str) {
        let labels = vec![("part", part.to_owned())];
        self.errors.get_or_create(&labels).inc();
    }

    /// A part of a pass changed something.
    pub(crate) fn part_changed(&self, part: &'static str, count: usize) {
        if count > 0 {
            let labels = vec![("part", part.to_owned())];
            self.changes.get_or_create(&labels).inc_by(count as u64);
        }
    }

    /// Sets the current problems; earlier ones disappear.
    pub(crate) fn problems(&self, problems: &[Problem]) {
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

    /// Sets the number of attachments.
    pub(crate) fn count_attachments(&self, count: usize) {
        self.attachments.set(count as i64);
    }

    /// Sets what garbage collection counted.
    pub(crate) fn gc_report(&self, report: &GcReport) {
        self.count_attachments(report.attachments);
        self.stale.set(report.stale as i64);
        for (kind, count) in [("attachment", report.reclaimed), ("address", report.freed)] {
            let labels = vec![("kind", kind.to_owned())];
            self.reclaimed.get_or_create(&labels).inc_by(count as u64);
        }
        self.used.clear();
        self.free.clear();
        for (range, (used, all)) in &report.usage {
            let labels = vec![("range", range.clone())];
            // Rounded above 2^53, which is accurate enough for an IPv6 subnet.
            self.used.get_or_create(&labels).set(*used as f64);
            let free = all.saturating_sub(*used);
            self.free.get_or_create(&labels).set(free as f64);
        }
    }
}

/// The metrics in the OpenMetrics text format.
///
/// # Errors
/// None in practice: it writes to memory.
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
    fn a_solved_problem_disappears() {
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
    fn addresses_are_counted_by_range() {
        let (metrics, registry) = Metrics::new();
        let usage = BTreeMap::from([("10.1.0.0/24".to_owned(), (3, 253))]);
        metrics.gc_report(&GcReport {
            attachments: 3,
            usage,
            ..GcReport::default()
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
    fn passes_and_their_errors_are_counted() {
        let (metrics, registry) = Metrics::new();
        metrics.pass_ended(Duration::from_millis(3));
        metrics.part_failed("routes");
        assert!(has(&registry, "pausenet_reconcile_seconds_count 1"));
        assert!(has(
            &registry,
            r#"pausenet_reconcile_errors_total{part="routes"} 1"#
        ));
    }
}
