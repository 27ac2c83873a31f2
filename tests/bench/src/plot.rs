//! The chart: one group of bars per benchmark.

use std::path::Path;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::Result;
use crate::benchmarks::addresses;
use crate::scenario::Scenario;
use crate::series::{FLOOR, IPTABLES, OURS, REFERENCE, Results, Side};

const WIDTH: u32 = 860;
const BAR: i32 = 13;
const GROUP: i32 = 22;
const LEFT: i32 = 220;
const RIGHT: i32 = 110;
const TOP: i32 = 64;

fn colour(side: Side) -> RGBColor {
    match side {
        REFERENCE => RGBColor(0x9a, 0xa5, 0xb1),
        IPTABLES => RGBColor(0xc8, 0xcf, 0xd6),
        OURS => RGBColor(0x1f, 0x77, 0xb4),
        _ => RGBColor(0x2c, 0xa0, 0x5a),
    }
}

const SIDES: [(Side, &str); 4] = [
    (REFERENCE, "reference (nftables)"),
    (IPTABLES, "reference (iptables)"),
    (OURS, "pausenet"),
    (FLOOR, "floor: the kernel alone"),
];

/// A group of bars: its label, and the median of each side in milliseconds.
struct Group {
    label: String,
    bars: Vec<(Side, f64)>,
}

/// Draws the medians of the benchmarks that ran; nothing if none did.
pub(crate) fn draw(results: &Results, path: &Path) -> Result<()> {
    let groups = groups(results);
    let bars: usize = groups.iter().map(|group| group.bars.len()).sum();
    if bars == 0 {
        return Ok(());
    }
    let height = TOP + bars as i32 * BAR + groups.len() as i32 * GROUP;
    let area = SVGBackend::new(path, (WIDTH, height as u32)).into_drawing_area();
    area.fill(&WHITE)?;
    let font = |size: i32| ("sans-serif", size).into_font().color(&BLACK);
    area.draw(&Text::new(
        "median time in ms, logarithmic",
        (LEFT, 10),
        font(14),
    ))?;
    let mut x = 16;
    for (side, name) in SIDES {
        area.draw(&Rectangle::new(
            [(x, 36), (x + 12, 48)],
            colour(side).filled(),
        ))?;
        area.draw(&Text::new(name, (x + 18, 36), font(13)))?;
        x += 210;
    }
    let all = || {
        groups
            .iter()
            .flat_map(|group| group.bars.iter().map(|bar| bar.1))
    };
    let (least, most) = (
        all().fold(f64::MAX, f64::min) / 2.0,
        all().fold(0.0, f64::max),
    );
    let room = f64::from(WIDTH as i32 - LEFT - RIGHT);
    let length = |value: f64| ((value / least).ln() / (most / least).ln() * room) as i32;
    let mut y = TOP;
    let at_right = Pos::new(HPos::Right, VPos::Center);
    let at_left = Pos::new(HPos::Left, VPos::Center);
    for group in &groups {
        let middle = y + group.bars.len() as i32 * BAR / 2;
        area.draw(&Text::new(
            group.label.as_str(),
            (LEFT - 10, middle),
            font(13).pos(at_right),
        ))?;
        for (side, value) in &group.bars {
            let end = LEFT + length(*value);
            area.draw(&Rectangle::new(
                [(LEFT, y), (end, y + BAR - 2)],
                colour(side).filled(),
            ))?;
            let shown = format!("{value:.2}");
            area.draw(&Text::new(
                shown,
                (end + 5, y + BAR / 2),
                font(11).pos(at_left),
            ))?;
            y += BAR;
        }
        y += GROUP;
    }
    area.present()?;
    Ok(())
}

fn groups(results: &Results) -> Vec<Group> {
    let mut wanted: Vec<(String, &str, String)> = Vec::new();
    for scenario in [
        Scenario::Bridge,
        Scenario::Masquerade,
        Scenario::Ports,
        Scenario::Ptp,
        Scenario::Kind,
    ] {
        for verb in ["ADD", "DEL"] {
            wanted.push((
                scenario.name().into(),
                verb,
                format!("{verb}, {}", scenario.name()),
            ));
        }
    }
    for in_use in [0, 60_000] {
        let label = format!("ADD, host-local, {in_use} in use");
        wanted.push((addresses::name(in_use), "ADD", label));
    }
    wanted
        .into_iter()
        .map(|(benchmark, case, label)| {
            let median = |side| Some((side, results.get(&benchmark, case, side)?.median()));
            let bars = SIDES.iter().filter_map(|(side, _)| median(*side)).collect();
            Group { label, bars }
        })
        .filter(|group| !group.bars.is_empty())
        .collect()
}
