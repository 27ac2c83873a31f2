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

/// How many names a sentence lists before it only counts them.
const LISTED: usize = 8;

/// `a`, `a and b`, `a, b and c`; of many, the first ones and how many more there are.
pub fn list(names: &[String], and: &str) -> String {
    match names {
        [] => String::new(),
        [one] => one.clone(),
        many if many.len() > LISTED + 1 => {
            let (first, more) = many.split_at(LISTED);
            format!("{} {and} {} more", first.join(", "), more.len())
        }
        [first @ .., last] => format!("{} {and} {last}", first.join(", ")),
    }
}

/// The first few, with something between them, and how many more there are.
pub fn few(all: &[String], most: usize, between: &str) -> String {
    let first = all.get(..most).unwrap_or(all).join(between);
    match all.len().saturating_sub(most) {
        0 => first,
        more => format!("{first} and {more} more"),
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
        assert_eq!(
            list(&names("abcdefghi"), "or"),
            "a, b, c, d, e, f, g, h or i"
        );
        let many: Vec<_> = (1..=300).map(|n| n.to_string()).collect();
        assert_eq!(list(&many, "and"), "1, 2, 3, 4, 5, 6, 7, 8 and 292 more");
    }

    #[test]
    fn of_many_the_first_few_are_shown() {
        let many: Vec<_> = (1..=5000).map(|n| n.to_string()).collect();
        assert_eq!(few(&many, 3, ","), "1,2,3 and 4997 more");
        assert_eq!(few(&many[..3], 3, ","), "1,2,3");
    }

    proptest! {
        #[test]
        fn no_control_character_survives(text: String) {
            prop_assert!(!plain(&text).contains(char::is_control));
        }
    }
}
