//! What the service says: a line for each thing that it does, and one for each thing that it
//! cannot mend, when that begins. A line is text, or one JSON object.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{Output, Result, print};

/// The lines, and what they have said.
pub struct Voice {
    output: Output,
    /// What stands, by whom and what it is about.
    standing: BTreeMap<(String, Topic), String>,
    /// The same of the round that is going on.
    now: BTreeMap<(String, Topic), String>,
}

/// What a standing complaint is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    /// A network cannot be made or removed.
    ApiError,
    /// A label asks for what cannot be had.
    Label,
    /// An anchor is gone, or elsewhere than its members.
    Anchor,
    /// A member cannot be restarted, or has to be.
    Member,
}

impl Topic {
    fn as_str(self) -> &'static str {
        match self {
            Self::ApiError => "failure",
            Self::Label => "label",
            Self::Anchor => "anchor",
            Self::Member => "member",
        }
    }
}

impl Voice {
    pub fn new(output: Output) -> Self {
        Self {
            output,
            standing: BTreeMap::new(),
            now: BTreeMap::new(),
        }
    }

    /// Something was done.
    ///
    /// # Errors
    /// When nobody can be told any more.
    pub fn done(&self, event: &str, name: &str, text: &str, more: Value) -> Result<()> {
        match self.output {
            Output::Text if name.is_empty() => print(&format!("{text}\n")),
            Output::Text => print(&format!("{name}: {text}\n")),
            Output::Json => {
                let mut line = json!({"event": event, "name": name, "text": text});
                if let (Some(line), Value::Object(more)) = (line.as_object_mut(), more) {
                    line.extend(more);
                }
                print(&format!("{line}\n"))
            }
        }
    }

    /// Something that stands; said when it begins, or changes. `repair` is the command that
    /// ends it.
    ///
    /// # Errors
    /// When nobody can be told any more.
    pub fn stands(&mut self, topic: Topic, name: &str, text: &str, repair: &str) -> Result<()> {
        let key = (name.to_owned(), topic);
        let whole = format!("{text}; {repair}");
        let is_new = self.standing.get(&key) != Some(&whole);
        self.now.insert(key, whole);
        if !is_new {
            return Ok(());
        }
        match self.output {
            Output::Text if repair.is_empty() => print(&format!("{name}: {text}\n")),
            Output::Text => print(&format!("{name}: {text}: {repair}\n")),
            Output::Json => print(&format!(
                "{}\n",
                json!({"event": topic.as_str(), "name": name, "text": text, "repair": repair})
            )),
        }
    }

    /// The round is over: what was not said in it does not stand any more.
    pub fn end_of_round(&mut self) {
        self.standing = std::mem::take(&mut self.now);
    }
}
