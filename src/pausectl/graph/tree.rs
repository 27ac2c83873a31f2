//! The picture as a tree of text.

use super::diagram::{Picture, Room};

/// A line, and those that hang below it.
struct Node {
    text: String,
    below: Vec<Node>,
}

/// Draws it.
pub fn draw(picture: &Picture) -> String {
    let mut drawn = vec![false; picture.rooms.len()];
    let mut places: Vec<Node> = Vec::new();
    for place in &picture.places {
        let mut below = Vec::new();
        for cable in &place.links {
            let room = &picture.rooms[cable.room];
            let again = std::mem::replace(&mut drawn[cable.room], true);
            let room = match again {
                true => leaf(format!("{} (see above)", room.head())),
                false => branch(room),
            };
            below.push(Node {
                text: cable.label(),
                below: vec![room],
            });
        }
        let title = std::iter::once(&place.title).chain(&place.details);
        places.push(Node {
            text: title.map(String::as_str).collect::<Vec<_>>().join("  "),
            below,
        });
    }
    let apart: Vec<_> = picture.apart().map(branch).collect();
    if !apart.is_empty() {
        places.push(Node {
            text: "no link to the host".to_owned(),
            below: apart,
        });
    }
    if places.is_empty() {
        return "host: no bridge, and no other network namespace\n".to_owned();
    }
    let mut text = "host\n".to_owned();
    write(&places, "", &mut text);
    text
}

fn leaf(text: String) -> Node {
    Node {
        text,
        below: Vec::new(),
    }
}

fn branch(room: &Room) -> Node {
    Node {
        text: room.head(),
        below: room.lines().cloned().map(leaf).collect(),
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
