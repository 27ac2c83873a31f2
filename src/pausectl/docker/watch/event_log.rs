//! The service's output: a line for each thing that it did, and one for each problem that it cannot
//! fix, when the problem begins or changes. A line is text, or one JSON object.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::command::{Output, Result, print};

/// Prints events and problems; a problem that persists is printed once.
pub(super) struct EventLog {
    output: Output,
    /// The problems of the last pass, by container and kind.
    previous: BTreeMap<(String, ProblemKind), String>,
    /// The same of this pass.
    current: BTreeMap<(String, ProblemKind), String>,
}

/// What a problem is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ProblemKind {
    /// A network could not be made or removed.
    Failure,
    /// A label that cannot be honoured.
    Label,
    /// An anchor that is gone, or not with its members.
    Anchor,
    /// A member that cannot be restarted, or must be.
    Member,
}

impl ProblemKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Failure => "failure",
            Self::Label => "label",
            Self::Anchor => "anchor",
            Self::Member => "member",
        }
    }
}

impl EventLog {
    pub(super) fn new(output: Output) -> Self {
        Self {
            output,
            previous: BTreeMap::new(),
            current: BTreeMap::new(),
        }
    }

    /// Prints an event: something was done.
    pub(super) fn event(&self, event: &str, name: &str, text: &str, more: Value) -> Result<()> {
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

    /// Reports a problem; prints it if it is new, or has changed since the last pass. `repair` is the
    /// command that fixes it, or empty.
    pub(super) fn problem(
        &mut self,
        topic: ProblemKind,
        name: &str,
        text: &str,
        repair: &str,
    ) -> Result<()> {
        let key = (name.to_owned(), topic);
        let whole = format!("{text}; {repair}");
        let is_new = self.previous.get(&key) != Some(&whole);
        self.current.insert(key, whole);
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

    /// Ends a pass: problems that it did not report are over.
    pub(super) fn end_pass(&mut self) {
        self.previous = std::mem::take(&mut self.current);
    }
}
