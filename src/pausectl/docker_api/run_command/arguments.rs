//! Options of `docker run`, as words.

use std::collections::HashMap;

#[derive(Default)]
pub struct Options {
    pub words: Vec<String>,
    pub unsaid: Vec<String>,
}

impl Options {
    pub fn value(&mut self, name: &str, value: impl ToString) {
        self.words.push(format!("--{name}"));
        self.words.push(value.to_string());
    }

    /// Only when it is on: it is off for who does not say it.
    pub fn flag(&mut self, name: &str, on: Option<bool>) {
        if on == Some(true) {
            self.words.push(format!("--{name}"));
        }
    }

    /// Docker writes an empty text for none.
    pub fn text(&mut self, name: &str, value: Option<String>) {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            self.value(name, value);
        }
    }

    /// Docker writes 0 for no limit.
    pub fn number(&mut self, name: &str, value: Option<i64>) {
        if let Some(value) = value.filter(|value| *value != 0) {
            self.value(name, value);
        }
    }

    pub fn each(&mut self, name: &str, values: Option<Vec<String>>) {
        for value in values.unwrap_or_default() {
            self.value(name, value);
        }
    }

    /// `NAME=VALUE`, in the order of their names.
    pub fn pairs(&mut self, name: &str, pairs: Option<HashMap<String, String>>) {
        let mut pairs: Vec<_> = pairs.into_iter().flatten().collect();
        pairs.sort();
        for (key, value) in pairs {
            self.value(name, format!("{key}={value}"));
        }
    }

    /// There is no option for it.
    pub fn cannot_say(&mut self, what: impl Into<String>) {
        self.unsaid.push(what.into());
    }
}
