//! The options of `docker run`, collected as arguments.

use std::collections::HashMap;

#[derive(Default)]
pub(super) struct Options {
    pub(super) args: Vec<String>,
    pub(super) not_reproduced: Vec<String>,
}

impl Options {
    pub(super) fn value(&mut self, name: &str, value: impl ToString) {
        self.args.push(format!("--{name}"));
        self.args.push(value.to_string());
    }

    /// A switch that is off by default.
    pub(super) fn flag(&mut self, name: &str, on: Option<bool>) {
        if on == Some(true) {
            self.args.push(format!("--{name}"));
        }
    }

    /// The API has an empty string for unset.
    pub(super) fn text(&mut self, name: &str, value: Option<String>) {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            self.value(name, value);
        }
    }

    /// The API has 0 for no limit.
    pub(super) fn number(&mut self, name: &str, value: Option<i64>) {
        if let Some(value) = value.filter(|value| *value != 0) {
            self.value(name, value);
        }
    }

    pub(super) fn each(&mut self, name: &str, values: Option<Vec<String>>) {
        for value in values.unwrap_or_default() {
            self.value(name, value);
        }
    }

    /// `NAME=VALUE`, sorted by name.
    pub(super) fn pairs(&mut self, name: &str, pairs: Option<HashMap<String, String>>) {
        let mut pairs: Vec<_> = pairs.into_iter().flatten().collect();
        pairs.sort();
        for (key, value) in pairs {
            self.value(name, format!("{key}={value}"));
        }
    }

    /// Notes a setting that no option reproduces.
    pub(super) fn not_reproducible(&mut self, what: impl Into<String>) {
        self.not_reproduced.push(what.into());
    }
}
