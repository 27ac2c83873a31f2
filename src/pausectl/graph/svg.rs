//! The picture for a browser: places on the left, rooms on the right, a line for each link.

use std::fmt::Write;

use super::diagram::Picture;
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
    .place { fill: #eef3fb; stroke: #3465a4; }
    .alive { stroke: #3a7d34; }
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

/// Draws it.
pub fn draw(picture: &Picture) -> String {
    let mut places: Vec<_> = picture
        .places
        .iter()
        .map(|place| {
            let lines = std::iter::once(&place.title).chain(&place.details);
            Block::new("place", lines.cloned().collect())
        })
        .collect();
    let mut rooms: Vec<_> = picture
        .rooms
        .iter()
        .map(|room| {
            let class = match room.state {
                State::Alive => "alive",
                State::Orphaned => "orphaned",
                State::Empty => "empty",
            };
            let head = room.head();
            let lines = std::iter::once(&head).chain(room.lines());
            Block::new(class, lines.cloned().collect())
        })
        .collect();

    let cables = || picture.places.iter().flat_map(|place| &place.links);
    let longest = cables().map(|cable| cable.label().chars().count()).max();
    let left = places.iter().map(|block| block.width).max().unwrap_or(0);
    let gap = longest.unwrap_or(0) * CHARACTER + 6 * MARGIN;
    let mut y = MARGIN;
    for at in order(picture) {
        rooms[at].x = MARGIN + left + gap;
        rooms[at].y = y;
        // Each of its links has a label above its line.
        let links = cables().filter(|cable| cable.room == at).count();
        y += rooms[at].height().max((links + 1) * LINE) + MARGIN;
    }
    let mut below = MARGIN;
    for (block, place) in places.iter_mut().zip(&picture.places) {
        let middles = place.links.iter().map(|cable| rooms[cable.room].middle());
        let (first, last) = (middles.clone().min(), middles.max());
        let middle = first
            .zip(last)
            .map_or(0, |(first, last)| (first + last) / 2);
        block.x = MARGIN;
        block.y = middle.saturating_sub(block.height() / 2).max(below);
        below = block.y + block.height() + MARGIN;
    }

    let right = rooms
        .iter()
        .chain(&places)
        .map(|block| block.x + block.width)
        .max();
    let (width, height) = (right.unwrap_or(0) + MARGIN, y.max(below));
    let mut text = String::new();
    let _ = writeln!(
        text,
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">"#
    );
    text.push_str(STYLE);
    let mut ports = vec![0; rooms.len()];
    for (block, place) in places.iter().zip(&picture.places) {
        for cable in &place.links {
            let room = &rooms[cable.room];
            let port = room.y + LINE + ports[cable.room] * LINE;
            ports[cable.room] += 1;
            let start = block.x + block.width;
            let bend = room.x - gap + 3 * MARGIN;
            let label = bend + 2 * MARGIN;
            let (middle, end) = (block.middle(), room.x);
            let _ = writeln!(
                text,
                r#"  <path d="M {start} {middle} C {bend} {middle} {bend} {port} {label} {port} H {end}"/>"#
            );
            let above = port - 4;
            let words = escaped(&cable.label());
            let _ = writeln!(
                text,
                r#"  <text class="link" x="{label}" y="{above}">{words}</text>"#
            );
        }
    }
    places
        .iter()
        .chain(&rooms)
        .for_each(|block| block.write(&mut text));
    text.push_str("</svg>\n");
    text
}

/// Rooms from top to bottom: in the order of the places, so that few lines cross.
fn order(picture: &Picture) -> Vec<usize> {
    let mut order: Vec<usize> = Vec::new();
    let linked = picture.places.iter().flat_map(|place| &place.links);
    for room in linked.map(|cable| cable.room).chain(0..picture.rooms.len()) {
        if !order.contains(&room) {
            order.push(room);
        }
    }
    order
}

/// Text as XML has it. Control characters are none that XML could have, in whatever form.
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
    use super::super::diagram::{Cable, Place, Room};
    use super::*;
    use proptest::prelude::*;

    fn picture(name: &str) -> Picture {
        let cable = |room| Cable {
            host_end: name.to_owned(),
            interface: name.to_owned(),
            room,
        };
        let room = Room {
            title: name.to_owned(),
            state: State::Alive,
            members: vec![name.to_owned()],
            others: Vec::new(),
        };
        let place = Place {
            title: name.to_owned(),
            details: vec![name.to_owned()],
            links: vec![cable(0), cable(1), cable(0)],
        };
        Picture {
            places: vec![place.clone(), place],
            rooms: vec![room.clone(), room.clone(), room],
        }
    }

    #[test]
    fn an_empty_picture_is_one_too() {
        let drawn = draw(&Picture::default());
        roxmltree::Document::parse(&drawn).unwrap();
    }

    proptest! {
        #[test]
        fn whatever_names_there_are_it_is_xml_and_shows_them(name: String) {
            let drawn = draw(&picture(&name));
            let document = roxmltree::Document::parse(&drawn).unwrap();
            let texts = document.descendants().filter(|node| node.has_tag_name("text"));
            prop_assert_eq!(texts.count(), 2 * 2 + 3 * 2 + 6);
            prop_assert!(!document.descendants().any(|node| node.has_tag_name("script")));
        }

        #[test]
        fn boxes_do_not_overlap(name in "[a-z]{0,30}") {
            let drawn = draw(&picture(&name));
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
