//! Screens as tests compare them: what differs from run to run is hidden.

use std::os::unix::fs::MetadataExt;

use serde_json::Value;

/// What is hidden, and what is shown instead.
#[derive(Debug, Default, Clone)]
pub struct Screen(Vec<(String, String)>);

impl Screen {
    /// Shows `name` for each word that is `value`.
    pub fn hide(mut self, value: &str, name: &str) -> Self {
        self.0.push((value.to_owned(), name.to_owned()));
        self
    }

    /// The number of a namespace.
    #[track_caller]
    pub fn hide_netns(self, path: &str) -> Self {
        let number = std::fs::metadata(path).unwrap().ino().to_string();
        self.hide(&number, "NETNS")
    }

    /// MAC and host end of an attachment, as its result has them.
    #[track_caller]
    pub fn hide_interface(self, made: &Value) -> Self {
        let interfaces = made["result"]["interfaces"].as_array().unwrap();
        let inside = interfaces.iter().find(|found| found["sandbox"].is_string());
        let mac = inside.unwrap()["mac"].as_str().unwrap().to_owned();
        self.hide(&mac, "MAC")
    }

    /// The text with all of it hidden. Columns that have become narrower or wider are two
    /// spaces apart, and what hangs below the second of them is eight spaces from the left.
    pub fn show(&self, text: &str) -> String {
        let shown = self.show_exactly(text);
        shown.lines().map(|line| narrow(line) + "\n").collect()
    }

    /// The text with all of it hidden, and moments too.
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

/// A word that begins a moment in RFC 3339, as far as the hour.
fn date(word: &str) -> Option<&str> {
    let form = |(at, byte): (usize, u8)| match at {
        4 | 7 => byte == b'-',
        10 => byte == b'T',
        _ => byte.is_ascii_digit(),
    };
    let is_date = word.len() == "2026-11-24T11".len() && word.bytes().enumerate().all(form);
    is_date.then_some(word)
}

/// A word ends where neither letters, digits nor colons go on.
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

/// Sees that the page of screens in the docs has this one, as it is.
#[track_caller]
pub fn assert_is_in_the_docs(screen: &str) {
    let page = include_str!("../../src/docs/screens.md");
    assert!(
        page.contains(&format!("```text\n{}\n```", screen.trim_end())),
        "{screen}"
    );
}
