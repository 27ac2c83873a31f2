//! Compares two logs: each difference has to be in the table of [`allowed`](super::allowed), and each entry
//! of the table has to occur.

use std::collections::BTreeSet;

use super::Log;
use super::allowed::{ABSENT, ALLOWED, PRESENT};

/// Compares two logs of one test.
///
/// # Panics
/// When there is a difference that is not in the table, or one in the table that is not there.
#[track_caller]
pub(super) fn assert_allowed(test: &str, theirs: &Log, ours: &Log) {
    let entries: Vec<_> = ALLOWED
        .iter()
        .filter(|entry| matches(entry.on, test))
        .collect();
    let mut occurred = vec![false; entries.len()];
    let mut unexpected = Vec::new();
    for (at, theirs, ours) in differences(theirs, ours) {
        let meant = entries.iter().position(|entry| {
            matches(entry.at, &at) && matches(entry.theirs, &theirs) && matches(entry.ours, &ours)
        });
        match meant {
            Some(entry) => occurred[entry] = true,
            None => unexpected.push(format!("{at}\n    theirs: {theirs}\n    ours:   {ours}")),
        }
    }
    let gone: Vec<_> = entries
        .iter()
        .zip(&occurred)
        .filter(|(entry, occurred)| entry.seen_in == test && !**occurred)
        .map(|(entry, _)| format!("{}: {}", entry.at, entry.why))
        .collect();
    assert!(
        unexpected.is_empty() && gone.is_empty(),
        "{test}: {} differences that are not allowed:\n{}\n{} allowed ones that do not occur:\n{}\n",
        unexpected.len(),
        unexpected.join("\n"),
        gone.len(),
        gone.join("\n")
    );
}

/// The tests that have to see an allowed difference.
pub(crate) fn tests_with_allowed_differences() -> impl Iterator<Item = &'static str> {
    ALLOWED.iter().map(|entry| entry.seen_in)
}

#[test]
fn an_allowed_difference_applies_only_where_allowed() {
    for entry in ALLOWED {
        assert!(
            matches(entry.on, entry.seen_in),
            "{}: {}",
            entry.at,
            entry.why
        );
    }
}

/// Where the logs differ, with what each has there. What one of them lacks altogether (a link, a
/// route, a result) is one difference.
fn differences(theirs: &Log, ours: &Log) -> BTreeSet<(String, String, String)> {
    let mut differences = BTreeSet::new();
    for key in theirs.keys().chain(ours.keys()) {
        let [their, our] = [theirs, ours].map(|log| log.get(key).cloned());
        if their == our {
            continue;
        }
        let absent_at = |log: &Log| {
            let ends = key.match_indices(" / ").map(|(at, _)| at).skip(1);
            ends.chain([key.len()])
                .map(|end| &key[..end])
                .find(|above| !has(log, above))
                .map(str::to_owned)
        };
        let shown = |value: Option<String>, at: &str| match value {
            Some(value) if at == key => value,
            Some(_) => PRESENT.to_owned(),
            None => ABSENT.to_owned(),
        };
        let at = match (&their, &our) {
            (None, _) => absent_at(theirs),
            (_, None) => absent_at(ours),
            _ => None,
        };
        let at = at.unwrap_or_else(|| key.clone());
        let (their, our) = (shown(their, &at), shown(our, &at));
        differences.insert((at, their, our));
    }
    differences
}

/// Whether the log has the key, or one below it.
fn has(log: &Log, key: &str) -> bool {
    let below = format!("{key} / ");
    log.contains_key(key)
        || log
            .range(below.clone()..)
            .next()
            .is_some_and(|(next, _)| next.starts_with(&below))
}

/// Whether a text is of a pattern's form: `*` stands for any text, `|` between whole patterns for
/// either of them.
fn matches(pattern: &str, text: &str) -> bool {
    pattern.split('|').any(|pattern| matches_one(pattern, text))
}

fn matches_one(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(text) = text.strip_prefix(head) else {
        return false;
    };
    let mut starts = text.char_indices().map(|(at, _)| at).chain([text.len()]);
    starts.any(|at| matches_one(rest, &text[at..]))
}

#[test]
fn patterns_match_as_described() {
    for (pattern, text, outcome) in [
        ("a.*.c", "a.b.c", true),
        ("a.*.c", "a.b.b.c", true),
        ("a.*.c", "a.c", false),
        ("*", "", true),
        ("x|a*", "ab", true),
        ("x|a", "ab", false),
    ] {
        assert_eq!(matches(pattern, text), outcome, "{pattern} {text}");
    }
}
