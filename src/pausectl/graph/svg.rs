//! A diagram for a browser: bridges on the left, namespaces on the right, a curve for each link.

use std::fmt::Write;

use super::diagram::Diagram;
use pausenet_host::anchor::sandbox::State;

/// Sizes, in pixels.
const CHARACTER: usize = 8;
const LINE: usize = 18;
const MARGIN: usize = 20;
const PADDING: usize = 10;

const STYLE: &str = "\
  <style>
    text { font: 13px monospace; fill: #222; white-space: pre; }
    rect { fill: #fff; stroke: #555; rx: 4px; }
    path { fill: none; stroke: #888; }
    .bridge { fill: #eef3fb; stroke: #3465a4; }
    .running { stroke: #3a7d34; }
    .orphaned { stroke: #b3261e; stroke-dasharray: 6 3; }
    .empty { stroke: #999; stroke-dasharray: 2 3; }
    .head { font-weight: bold; }
    .link { font-size: 11px; fill: #555; }
  </style>
";

/// A box of text.
struct Block {
    class: &'static str,
    lines: Vec<String>,
    x: usize,
    y: usize,
    width: usize,
}

impl Block {
    fn new(class: &'static str, lines: Vec<String>) -> Self {
        let longest = lines.iter().map(|line| line.chars().count()).max();
        Self {
            class,
            width: longest.unwrap_or(0) * CHARACTER + 2 * PADDING,
            lines,
            x: 0,
            y: 0,
        }
    }

    fn height(&self) -> usize {
        self.lines.len() * LINE + PADDING
    }

    fn middle(&self) -> usize {
        self.y + self.height() / 2
    }

    fn write(&self, text: &mut String) {
        let (x, y, width, height) = (self.x, self.y, self.width, self.height());
        let class = self.class;
        // Writing to a String does not fail.
        let _ = writeln!(
            text,
            r#"  <rect class="{class}" x="{x}" y="{y}" width="{width}" height="{height}"/>"#
        );
        for (at, line) in self.lines.iter().enumerate() {
            let class = if at == 0 { "head" } else { "line" };
            let (x, y) = (x + PADDING, y + (at + 1) * LINE);
            let _ = writeln!(
                text,
                r#"  <text class="{class}" x="{x}" y="{y}">{}</text>"#,
                escaped(line)
            );
        }
    }
}

pub(super) fn draw(diagram: &Diagram) -> String {
    let mut groups: Vec<_> = diagram
        .groups
        .iter()
        .map(|group| {
            let lines = std::iter::once(&group.title).chain(&group.details);
            Block::new("bridge", lines.cloned().collect())
        })
        .collect();
    let mut namespaces: Vec<_> = diagram
        .namespaces
        .iter()
        .map(|namespace| {
            let class = match namespace.state {
                State::Running => "running",
                State::Orphaned => "orphaned",
                State::Empty => "empty",
            };
            let head = namespace.head();
            let lines = std::iter::once(&head).chain(namespace.lines());
            Block::new(class, lines.cloned().collect())
        })
        .collect();

    let edges = || diagram.groups.iter().flat_map(|group| &group.links);
    let longest = edges().map(|edge| edge.label().chars().count()).max();
    let left = groups.iter().map(|block| block.width).max().unwrap_or(0);
    let gap = longest.unwrap_or(0) * CHARACTER + 6 * MARGIN;
    let mut y = MARGIN;
    for at in order(diagram) {
        namespaces[at].x = MARGIN + left + gap;
        namespaces[at].y = y;
        // Each link has a label above its curve.
        let links = edges().filter(|edge| edge.namespace == at).count();
        y += namespaces[at].height().max((links + 1) * LINE) + MARGIN;
    }
    let mut below = MARGIN;
    for (block, group) in groups.iter_mut().zip(&diagram.groups) {
        let middles = group
            .links
            .iter()
            .map(|edge| namespaces[edge.namespace].middle());
        let (first, last) = (middles.clone().min(), middles.max());
        let middle = first
            .zip(last)
            .map_or(0, |(first, last)| (first + last) / 2);
        block.x = MARGIN;
        block.y = middle.saturating_sub(block.height() / 2).max(below);
        below = block.y + block.height() + MARGIN;
    }

    let right = namespaces
        .iter()
        .chain(&groups)
        .map(|block| block.x + block.width)
        .max();
    let (width, height) = (right.unwrap_or(0) + MARGIN, y.max(below));
    let mut text = String::new();
    let _ = writeln!(
        text,
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">"#
    );
    text.push_str(STYLE);
    let mut ports = vec![0; namespaces.len()];
    for (block, group) in groups.iter().zip(&diagram.groups) {
        for edge in &group.links {
            let namespace = &namespaces[edge.namespace];
            let port = namespace.y + LINE + ports[edge.namespace] * LINE;
            ports[edge.namespace] += 1;
            let start = block.x + block.width;
            let bend = namespace.x - gap + 3 * MARGIN;
            let label = bend + 2 * MARGIN;
            let (middle, end) = (block.middle(), namespace.x);
            let _ = writeln!(
                text,
                r#"  <path d="M {start} {middle} C {bend} {middle} {bend} {port} {label} {port} H {end}"/>"#
            );
            let above = port - 4;
            let text_label = escaped(&edge.label());
            let _ = writeln!(
                text,
                r#"  <text class="link" x="{label}" y="{above}">{text_label}</text>"#
            );
        }
    }
    groups
        .iter()
        .chain(&namespaces)
        .for_each(|block| block.write(&mut text));
    text.push_str("</svg>\n");
    text
}

/// Namespaces from top to bottom, in the order of the bridges, so that few curves cross.
fn order(diagram: &Diagram) -> Vec<usize> {
    let mut order: Vec<usize> = Vec::new();
    let linked = diagram.groups.iter().flat_map(|group| &group.links);
    for namespace in linked
        .map(|edge| edge.namespace)
        .chain(0..diagram.namespaces.len())
    {
        if !order.contains(&namespace) {
            order.push(namespace);
        }
    }
    order
}

/// Text escaped for XML, which has no form for control characters.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '&' => safe.push_str("&amp;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&apos;"),
            other if other.is_control() || matches!(other, '\u{fffe}' | '\u{ffff}') => {
                safe.push('\u{fffd}');
            }
            other => safe.push(other),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::super::diagram::{BridgeGroup, Edge, Namespace};
    use super::*;
    use proptest::prelude::*;

    fn diagram(name: &str) -> Diagram {
        let edge = |namespace| Edge {
            host_end: name.to_owned(),
            interface: name.to_owned(),
            namespace,
        };
        let namespace = Namespace {
            title: name.to_owned(),
            state: State::Running,
            members: vec![name.to_owned()],
            others: Vec::new(),
        };
        let group = BridgeGroup {
            title: name.to_owned(),
            details: vec![name.to_owned()],
            links: vec![edge(0), edge(1), edge(0)],
        };
        Diagram {
            groups: vec![group.clone(), group],
            namespaces: vec![namespace.clone(), namespace.clone(), namespace],
        }
    }

    #[test]
    fn an_empty_diagram_is_valid() {
        let drawn = draw(&Diagram::default());
        roxmltree::Document::parse(&drawn).unwrap();
    }

    proptest! {
        #[test]
        fn any_names_give_valid_xml_that_shows_them(name: String) {
            let drawn = draw(&diagram(&name));
            let document = roxmltree::Document::parse(&drawn).unwrap();
            let texts = document.descendants().filter(|node| node.has_tag_name("text"));
            prop_assert_eq!(texts.count(), 2 * 2 + 3 * 2 + 6);
            prop_assert!(!document.descendants().any(|node| node.has_tag_name("script")));
        }

        #[test]
        fn boxes_do_not_overlap(name in "[a-z]{0,30}") {
            let drawn = draw(&diagram(&name));
            let document = roxmltree::Document::parse(&drawn).unwrap();
            let number = |node: &roxmltree::Node, key| node.attribute(key).unwrap().parse::<usize>().unwrap();
            let boxes: Vec<_> = document
                .descendants()
                .filter(|node| node.has_tag_name("rect"))
                .map(|node| ["x", "y", "width", "height"].map(|key| number(&node, key)))
                .collect();
            for (at, [x, y, width, height]) in boxes.iter().enumerate() {
                for [other_x, other_y, other_width, other_height] in &boxes[at + 1..] {
                    let apart = x + width <= *other_x || other_x + other_width <= *x
                        || y + height <= *other_y || other_y + other_height <= *y;
                    prop_assert!(apart, "{}", drawn);
                }
            }
        }
    }
}
