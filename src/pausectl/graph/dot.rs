//! A diagram in the language of Graphviz.

use std::fmt::Write;

use super::diagram::{BridgeGroup, Diagram, Namespace};
use pausenet_host::anchor::sandbox::State;

pub(super) fn draw(diagram: &Diagram) -> String {
    let mut text = "graph pausenet {\n  rankdir=LR;\n  node [shape=box, fontname=monospace];\n  \
                    edge [fontname=monospace, fontsize=10];\n"
        .to_owned();
    // Writing to a String does not fail.
    for (at, group) in diagram.groups.iter().enumerate() {
        let _ = writeln!(
            text,
            "  group{at} [label={}, style=bold];",
            group_label(group)
        );
    }
    for (at, namespace) in diagram.namespaces.iter().enumerate() {
        let style = match namespace.state {
            State::Running => "solid",
            State::Orphaned => "dashed",
            State::Empty => "dotted",
        };
        let _ = writeln!(
            text,
            "  namespace{at} [label={}, style={style}];",
            namespace_label(namespace)
        );
    }
    for (at, group) in diagram.groups.iter().enumerate() {
        for edge in &group.links {
            let label = quoted([&edge.host_end, &edge.interface].into_iter());
            let _ = writeln!(
                text,
                "  group{at} -- namespace{} [label={label}];",
                edge.namespace
            );
        }
    }
    text.push_str("}\n");
    text
}

fn group_label(group: &BridgeGroup) -> String {
    quoted(std::iter::once(&group.title).chain(&group.details))
}

fn namespace_label(namespace: &Namespace) -> String {
    let head = namespace.head();
    quoted(std::iter::once(&head).chain(namespace.lines()))
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

    /// Parses a string of the language: its lines, and the text after it.
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
        panic!("unterminated: {text}");
    }

    proptest! {
        #[test]
        fn no_name_breaks_out_of_its_string(name in "\\PC{0,20}") {
            let text = quoted([&name].into_iter());
            prop_assert_eq!(read(&text), (format!("{name}\n"), ""));
        }
    }
}
