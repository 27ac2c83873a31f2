//! Why a value could not be read, and where it is.

use std::fmt;

/// A value that is not what its key needs, with the path of the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// The innermost step first.
    path: Vec<Step>,
    what: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Key(String),
    Item(usize),
}

impl Fault {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self {
            path: Vec::new(),
            what: what.into(),
        }
    }

    /// The same as seen from the object that has the value under this key.
    pub(super) fn under(mut self, key: &str) -> Self {
        self.path.push(Step::Key(key.to_owned()));
        self
    }

    /// The same as seen from the list that has the value at this place, counted from 0.
    pub(super) fn in_item(mut self, at: usize) -> Self {
        self.path.push(Step::Item(at));
        self
    }
}

/// `ipam.ranges[0][1].subnet: what is wrong`.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (depth, step) in self.path.iter().rev().enumerate() {
            match step {
                Step::Key(key) if depth == 0 => write!(f, "{}", key.escape_debug())?,
                Step::Key(key) => write!(f, ".{}", key.escape_debug())?,
                Step::Item(at) => write!(f, "[{at}]")?,
            }
        }
        let colon = if self.path.is_empty() { "" } else { ": " };
        write!(f, "{colon}{}", self.what)
    }
}

impl std::error::Error for Fault {}

impl serde::de::Error for Fault {
    fn custom<T: fmt::Display>(what: T) -> Self {
        Self::new(what.to_string())
    }

    fn missing_field(key: &'static str) -> Self {
        Self::new("missing").under(key)
    }
}
