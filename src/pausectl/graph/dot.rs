//! The picture for Graphviz.

use std::fmt::Write;

use super::diagram::{Picture, Place, Room};
use pausenet_host::anchor::sandbox::State;

/// Draws it.
pub fn draw(picture: &Picture) -> String {
    let mut text = "graph pausenet {\n  rankdir=LR;\n  node [shape=box, fontname=monospace];\n  \
                    edge [fontname=monospace, fontsize=10];\n"
        .to_owned();
    // Writing to a String does not fail.
    for (at, place) in picture.places.iter().enumerate() {
        let _ = writeln!(text, "  place{at} [label={}, style=bold];", of_place(place));
    }
    for (at, room) in picture.rooms.iter().enumerate() {
        let style = match room.state {
            State::Alive => "solid",
            State::Orphaned => "dashed",
            State::Empty => "dotted",
        };
        let _ = writeln!(text, "  room{at} [label={}, style={style}];", of_room(room));
    }
    for (at, place) in picture.places.iter().enumerate() {
        for cable in &place.links {
            let label = quoted([&cable.host_end, &cable.interface].into_iter());
            let _ = writeln!(text, "  place{at} -- room{} [label={label}];", cable.room);
        }
    }
    text.push_str("}\n");
    text
}

fn of_place(place: &Place) -> String {
    quoted(std::iter::once(&place.title).chain(&place.details))
}

fn of_room(room: &Room) -> String {
    let head = room.head();
    quoted(std::iter::once(&head).chain(room.lines()))
}

/// Lines, to the left, as a string of the language.
fn quoted<'a>(lines: impl Iterator<Item = &'a String>) -> String {
    let escaped = |line: &String| line.replace('\\', "\\\\").replace('"', "\\\"") + "\\l";
    format!("\"{}\"", lines.map(escaped).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Reads a string of the language back: what is left behind it, and its lines.
    fn read(text: &str) -> (String, &str) {
        let mut lines = String::new();
        let mut characters = text.strip_prefix('"').unwrap().char_indices();
        while let Some((at, character)) = characters.next() {
            match character {
                '"' => return (lines, &text[at + 2..]),
                '\\' => match characters.next().unwrap().1 {
                    'l' => lines.push('\n'),
                    other => lines.push(other),
                },
                other => lines.push(other),
            }
        }
        panic!("it has no end: {text}");
    }

    proptest! {
        #[test]
        fn no_name_breaks_out_of_its_string(name in "\\PC{0,20}") {
            let text = quoted([&name].into_iter());
            prop_assert_eq!(read(&text), (format!("{name}\n"), ""));
        }
    }
}
