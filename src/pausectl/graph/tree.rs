//! A diagram as a tree of text.

use super::diagram::{Diagram, Namespace};

/// A line, and the lines below it.
struct Node {
    text: String,
    below: Vec<Node>,
}

pub(super) fn draw(diagram: &Diagram) -> String {
    let mut drawn = vec![false; diagram.namespaces.len()];
    let mut groups: Vec<Node> = Vec::new();
    for group in &diagram.groups {
        let mut below = Vec::new();
        for edge in &group.links {
            let namespace = &diagram.namespaces[edge.namespace];
            let again = std::mem::replace(&mut drawn[edge.namespace], true);
            let namespace = match again {
                true => leaf(format!("{} (see above)", namespace.head())),
                false => branch(namespace),
            };
            below.push(Node {
                text: edge.label(),
                below: vec![namespace],
            });
        }
        let title = std::iter::once(&group.title).chain(&group.details);
        groups.push(Node {
            text: title.map(String::as_str).collect::<Vec<_>>().join("  "),
            below,
        });
    }
    let unlinked: Vec<_> = diagram.unlinked().map(branch).collect();
    if !unlinked.is_empty() {
        groups.push(Node {
            text: "no link to the host".to_owned(),
            below: unlinked,
        });
    }
    if groups.is_empty() {
        return "host: no bridge, and no other network namespace\n".to_owned();
    }
    let mut text = "host\n".to_owned();
    write(&groups, "", &mut text);
    text
}

fn leaf(text: String) -> Node {
    Node {
        text,
        below: Vec::new(),
    }
}

fn branch(namespace: &Namespace) -> Node {
    Node {
        text: namespace.head(),
        below: namespace.lines().cloned().map(leaf).collect(),
    }
}

fn write(nodes: &[Node], indent: &str, text: &mut String) {
    for (at, node) in nodes.iter().enumerate() {
        let is_last = at + 1 == nodes.len();
        let (fork, stem) = match is_last {
            true => ("└─ ", "   "),
            false => ("├─ ", "│  "),
        };
        text.push_str(&format!("{indent}{fork}{}\n", node.text));
        write(&node.below, &format!("{indent}{stem}"), text);
    }
}
