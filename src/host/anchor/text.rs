//! Makes names of any content safe to print on a terminal.

/// Escapes every character that could move the cursor, hide text or reorder it. (Processes,
/// interfaces and containers may have any name.)
pub fn plain(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '"' | '\'' => shown.push(character),
            other => shown.extend(other.escape_debug()),
        }
    }
    shown
}

/// `a`, `a and b`, `a, b and c`.
pub fn list(names: &[String], and: &str) -> String {
    match names {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} {and} {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hostile_names_are_escaped() {
        assert_eq!(plain("web-1.x_y"), "web-1.x_y");
        assert_eq!(plain("it's \"ä\""), "it's \"ä\"");
        assert_eq!(plain("a\x1b[2Jb\nc"), "a\\u{1b}[2Jb\\nc");
        assert_eq!(plain("a\u{202e}b"), "a\\u{202e}b");
        assert_eq!(plain("a\\n"), "a\\\\n");
    }

    #[test]
    fn lists_read_like_sentences() {
        let names = |text: &str| text.chars().map(String::from).collect::<Vec<_>>();
        assert_eq!(list(&names(""), "and"), "");
        assert_eq!(list(&names("a"), "and"), "a");
        assert_eq!(list(&names("abc"), "or"), "a, b or c");
    }

    proptest! {
        #[test]
        fn no_control_character_survives(text: String) {
            prop_assert!(!plain(&text).contains(char::is_control));
        }
    }
}
