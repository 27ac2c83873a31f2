//! Terminal output as tests compare it: values that differ between runs are replaced by names.

use std::os::unix::fs::MetadataExt;

use serde_json::Value;

/// Values to replace, and their names.
#[derive(Debug, Default, Clone)]
pub struct Screen(Vec<(String, String)>);

impl Screen {
    /// Replaces each word `value` by `name`.
    pub fn hide(mut self, value: &str, name: &str) -> Self {
        self.0.push((value.to_owned(), name.to_owned()));
        self
    }

    /// Replaces the inode number of a namespace.
    #[track_caller]
    pub fn hide_netns(self, path: &str) -> Self {
        let number = std::fs::metadata(path).unwrap().ino().to_string();
        self.hide(&number, "NETNS")
    }

    /// Replaces the MAC of an attachment, as its result has it.
    #[track_caller]
    pub fn hide_interface(self, made: &Value) -> Self {
        let interfaces = made["result"]["interfaces"].as_array().unwrap();
        let inside = interfaces.iter().find(|found| found["sandbox"].is_string());
        let mac = inside.unwrap()["mac"].as_str().unwrap().to_owned();
        self.hide(&mac, "MAC")
    }

    /// The text with all values and times replaced. Because column widths then differ, columns are
    /// separated by two spaces, and lines that continue the second column are indented by eight.
    pub fn show(&self, text: &str) -> String {
        let shown = self.show_exactly(text);
        shown.lines().map(|line| narrow(line) + "\n").collect()
    }

    /// The text with all values and times replaced, and its spacing kept.
    pub fn show_exactly(&self, text: &str) -> String {
        let mut shown = text.to_owned();
        for (value, name) in &self.0 {
            shown = replace_words(&shown, value, name);
        }
        for time in shown.clone().split([' ', ':', ';', '\n']).filter_map(date) {
            let at = shown.find(time).unwrap();
            shown.replace_range(at..at + "2026-11-24T11:20:03Z".len(), "TIME");
        }
        shown
    }
}

/// A word that starts an RFC 3339 time, up to the hour.
fn date(word: &str) -> Option<&str> {
    let form = |(at, byte): (usize, u8)| match at {
        4 | 7 => byte == b'-',
        10 => byte == b'T',
        _ => byte.is_ascii_digit(),
    };
    let is_date = word.len() == "2026-11-24T11".len() && word.bytes().enumerate().all(form);
    is_date.then_some(word)
}

/// Replaces whole words: letters, digits and colons belong to a word.
fn replace_words(text: &str, word: &str, by: &str) -> String {
    let goes_on = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == ':');
    let mut shown = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(word) {
        let (before, after) = (&rest[..at], &rest[at + word.len()..]);
        let colon_only = after.starts_with(": ") || after.starts_with(":\n");
        let starts = !goes_on(before.chars().next_back());
        let ends = colon_only || !goes_on(after.chars().next());
        shown.push_str(before);
        shown.push_str(if starts && ends { by } else { word });
        rest = after;
    }
    shown + rest
}

fn narrow(line: &str) -> String {
    let start = line.len() - line.trim_start().len();
    let mut shown = if start > 4 {
        " ".repeat(8)
    } else {
        line[..start].to_owned()
    };
    let mut spaces = 0;
    for character in line[start..].trim_end().chars() {
        spaces = if character == ' ' { spaces + 1 } else { 0 };
        if spaces <= 2 {
            shown.push(character);
        }
    }
    shown
}

/// Asserts that the docs page of screens contains this one literally.
#[track_caller]
pub fn assert_is_in_the_docs(screen: &str) {
    let page = include_str!("../../src/docs/screens.md");
    assert!(
        page.contains(&format!("```text\n{}\n```", screen.trim_end())),
        "{screen}"
    );
}
