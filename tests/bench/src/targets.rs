//! The promises about speed, each with its measured value.

use serde::Serialize;

use crate::benchmarks::datapath::Direction;
use crate::benchmarks::{Extent, addresses, commands, counts, datapath, many, pause, workers};
use crate::scenario::Scenario;
use crate::series::{BEFORE, FLOOR, IPTABLES, OURS, REFERENCE, Results, Side, paired};
use crate::traffic::Kind;

/// A row of the table.
#[derive(Debug, Serialize)]
pub(crate) struct Target {
    pub(crate) promise: String,
    pub(crate) wanted: String,
    /// None if it was not measured.
    pub(crate) measured: Option<String>,
    pub(crate) met: Met,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum Met {
    #[serde(rename = "yes")]
    Yes,
    #[serde(rename = "no")]
    No,
    #[serde(rename = "not run")]
    NotRun,
}

impl Met {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::No => "no",
            Self::NotRun => "not run",
        }
    }
}

/// The limit for a measured value.
#[derive(Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// All rows, from the medians of one run.
pub(crate) fn all(results: &Results, extent: Extent) -> Vec<Target> {
    use Bound::{AtLeast, AtMost};
    let table = Table { results };
    let mut rows = Vec::new();

    let bridge = Scenario::Bridge.name();
    let masquerade = Scenario::Masquerade.name();
    rows.push(table.faster("ADD bridge + host-local", bridge, "ADD", 6.0));
    rows.push(table.near_floor("ADD bridge + host-local", bridge, "ADD", 1.1));
    rows.push(table.faster("ADD with masquerade", masquerade, "ADD", 12.0));
    rows.push(table.row(
        "ADD with a UDP port, on a host without flows",
        "1.5 × its own without the port",
        AtMost(1.5),
        "×",
        table.own((Scenario::UdpPort.name(), "ADD"), (bridge, "ADD")),
    ));
    rows.push(table.faster("DEL", bridge, "DEL", 6.0));
    // The floor asks the kernel itself, and waits until it has freed the link.
    rows.push(table.near_floor("DEL", bridge, "DEL", 0.2));
    rows.push(table.faster("DEL with masquerade", masquerade, "DEL", 6.0));
    let kind = Scenario::Kind.name();
    rows.push(table.row(
        "ADD of kind's chain",
        "12 × reference (iptables, kind's default)",
        AtLeast(12.0),
        "×",
        results.ratio(kind, "ADD", IPTABLES, OURS),
    ));
    rows.push(table.faster("ADD of kind's chain, nftables", kind, "ADD", 12.0));
    rows.push(table.row(
        "ADD of bridge, portmap, firewall and tuning",
        "10 × reference (iptables)",
        AtLeast(10.0),
        "×",
        results.ratio(Scenario::Four.name(), "ADD", IPTABLES, OURS),
    ));

    for (scenario, verb, times) in [
        (Scenario::Bridge, "ADD", 3.5),
        (Scenario::Masquerade, "ADD", 10.0),
        (Scenario::Bridge, "DEL", 5.0),
        (Scenario::Masquerade, "DEL", 12.0),
    ] {
        let benchmark = workers::name(scenario, 200, 16);
        let ratio = results.ratio(&benchmark, &format!("{verb} rate"), OURS, REFERENCE);
        let what = format!("200 {verb}s by 16 workers, {}", scenario.name());
        rows.push(table.row(
            &what,
            &format!("{times} × reference's rate"),
            AtLeast(times),
            "×",
            ratio,
        ));
    }

    let full = addresses::name(60_000);
    for verb in ["ADD", "DEL"] {
        let (many, none) = (addresses::in_turn(verb), addresses::empty_in_turn(verb));
        let own = results
            .get(&full, &many, OURS)
            .zip(results.get(&full, &none, OURS))
            .map(|(many, none)| paired(many, none));
        let what = format!("host-local {verb} at 60,000 in use");
        rows.push(table.row(&what, "1.3 × its own at 0", AtMost(1.3), "×", own));
        rows.push(table.faster(&what, &full, verb, 150.0));
    }

    for scenario in [Scenario::Bridge, Scenario::Ptp, Scenario::DualStack] {
        let ratio = results.ratio(
            &many::name(scenario),
            &many::case("ADD", 1_000),
            OURS,
            FLOOR,
        );
        let what = format!("1,000th ADD, {}", scenario.name());
        rows.push(table.row(&what, "1.3 × the floor's 1,000th", AtMost(1.3), "×", ratio));
    }

    let [alone, dual] = [Scenario::Bridge, Scenario::DualStack].map(many::name);
    let [add, check] = ["ADD", "CHECK"].map(|verb| many::case(verb, 1_000));
    let first_check = many::case("CHECK", 1);
    for (what, than, one, other) in [
        (
            "1,000th ADD, dual-stack",
            "its own with IPv4 alone",
            (&dual, &add),
            (&alone, &add),
        ),
        (
            "CHECK of the 1,000th, dual-stack",
            "its own with IPv4 alone",
            (&dual, &check),
            (&alone, &check),
        ),
        (
            "CHECK of the 1,000th, bridge",
            "that of the first",
            (&alone, &check),
            (&alone, &first_check),
        ),
    ] {
        let growth = table.own((one.0, one.1), (other.0, other.1));
        rows.push(table.row(what, &format!("1.3 × {than}"), AtMost(1.3), "×", growth));
    }
    for command in commands::ALL {
        rows.push(table.row(
            &format!("pausectl {command} on a host with 1,000"),
            "2 × faster than the build before",
            AtLeast(2.0),
            "×",
            results.ratio(&alone, &commands::case(command, 1_000), BEFORE, OURS),
        ));
    }
    for scenario in [Scenario::Bridge, Scenario::Ptp] {
        let name = many::name(scenario);
        let count = many::steps(scenario, extent).last().copied().unwrap_or(0);
        let [half, whole] = [count / 2, 0].map(|valid| many::gc_case(count, valid));
        rows.push(table.row(
            &format!("GC of {count} of which half are valid, {}", scenario.name()),
            "1/8 of the build before",
            AtMost(0.125),
            "×",
            results.ratio(&name, &half, OURS, BEFORE),
        ));
        rows.push(table.row(
            &format!("GC of {count} of which none is valid, {}", scenario.name()),
            "1.5 × that of half of them",
            AtMost(1.5),
            "×",
            table.own((&name, &whole), (&name, &half)),
        ));
    }

    // Linear, and room for a busy machine: with work that grows by the square, ten times as many take a
    // hundred times as long.
    if let [.., less, more] = *counts::counts(extent) {
        for counted in counts::ALL {
            for verb in ["ADD", "DEL"] {
                let name = counts::name(counted);
                let [with_more, with_less] = [more, less].map(|count| counts::case(verb, count));
                let growth = table.own((&name, &with_more), (&name, &with_less));
                let times = more / less;
                rows.push(table.row(
                    &format!("{verb} with {more} {}", counted.name()),
                    &format!("{} × its own with {less}", times * 2),
                    AtMost(times as f64 * 2.0),
                    "×",
                    growth,
                ));
            }
        }
    }

    let (worst, wanted) = table.worst_traffic();
    rows.push(table.row(
        "datapath, worst of all directions",
        &wanted,
        AtLeast(0.95),
        "×",
        worst,
    ));
    let count = *datapath::counts(extent).last().unwrap_or(&0);
    let case = datapath::case(Direction::OutsideToPod, Kind::Connections, count);
    let ratio = results.ratio(datapath::NAME, &case, OURS, IPTABLES);
    let what = format!("new connections at {count} port mappings");
    let row = table.row(
        &what,
        "2 × reference with iptables, at 1000",
        AtLeast(2.0),
        "×",
        ratio,
    );
    rows.push(match count {
        1_000 => row,
        // A hundred rules cost a packet little; that says nothing about a thousand.
        _ => Target {
            met: Met::NotRun,
            ..row
        },
    });

    for (what, limit, unit) in [("private memory", 100.0, "kB"), ("wake-ups", 0.0, "")] {
        let figure = results
            .get(pause::NAME, what, OURS)
            .map(|series| series.median());
        let wanted = format!("{limit} {unit}");
        rows.push(table.row(
            &format!("pause: {what}"),
            wanted.trim_end(),
            AtMost(limit),
            unit,
            figure,
        ));
    }
    rows
}

struct Table<'a> {
    results: &'a Results,
}

impl Table<'_> {
    /// The ratio of our medians of two cases, each a benchmark and its case.
    fn own(&self, one: (&str, &str), other: (&str, &str)) -> Option<f64> {
        let median = |(benchmark, case): (&str, &str)| {
            let series = self.results.get(benchmark, case, OURS)?;
            Some(series.median())
        };
        Some(median(one)? / median(other)?)
    }

    fn faster(&self, what: &str, benchmark: &str, case: &str, times: f64) -> Target {
        let ratio = self.results.ratio(benchmark, case, REFERENCE, OURS);
        self.row(
            what,
            &format!("{times} × faster than reference"),
            Bound::AtLeast(times),
            "×",
            ratio,
        )
    }

    fn near_floor(&self, what: &str, benchmark: &str, case: &str, times: f64) -> Target {
        let ratio = self.results.ratio(benchmark, case, OURS, FLOOR);
        self.row(
            what,
            &format!("{times} × floor"),
            Bound::AtMost(times),
            "×",
            ratio,
        )
    }

    fn row(
        &self,
        what: &str,
        wanted: &str,
        bound: Bound,
        unit: &str,
        figure: Option<f64>,
    ) -> Target {
        let (sign, met) = match (bound, figure) {
            (Bound::AtLeast(_), None) => ("≥", Met::NotRun),
            (Bound::AtMost(_), None) => ("≤", Met::NotRun),
            (Bound::AtLeast(limit), Some(figure)) => ("≥", met(figure >= limit)),
            (Bound::AtMost(limit), Some(figure)) => ("≤", met(figure <= limit)),
        };
        let shown = |figure: f64| match unit {
            "×" => format!("{figure:.2} ×"),
            unit => format!("{figure} {unit}").trim_end().to_owned(),
        };
        Target {
            promise: what.to_owned(),
            wanted: format!("{sign} {wanted}"),
            measured: figure.map(shown),
            met,
        }
    }

    /// The lowest ratio of ours to the better backend of the reference, over all kinds of traffic.
    fn worst_traffic(&self) -> (Option<f64>, String) {
        let against = |case: &str, side: Side| self.results.ratio(datapath::NAME, case, OURS, side);
        let cases = self.results.cases();
        let ratios = cases
            .iter()
            .filter(|(benchmark, _, _)| *benchmark == datapath::NAME)
            .filter_map(|(_, case, _)| {
                Some((
                    against(case, REFERENCE)?.min(against(case, IPTABLES)?),
                    *case,
                ))
            });
        match ratios.min_by(|one, other| one.0.total_cmp(&other.0)) {
            Some((ratio, case)) => (Some(ratio), format!("the reference, within 5 % ({case})")),
            None => (None, "the reference, within 5 %".to_owned()),
        }
    }
}

fn met(yes: bool) -> Met {
    if yes { Met::Yes } else { Met::No }
}
