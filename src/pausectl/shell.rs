//! Quoting for commands that are printed for the user to paste into a shell.

/// The words as one line, each quoted if necessary.
pub(crate) fn line<S: AsRef<str>>(words: impl IntoIterator<Item = S>) -> String {
    let quoted: Vec<_> = words.into_iter().map(|word| quote(word.as_ref())).collect();
    quoted.join(" ")
}

fn quote(word: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./:,@%+=".contains(letter);
    // zsh expands =NAME.
    if !word.is_empty() && !word.starts_with('=') && word.chars().all(plain) {
        return word.to_owned();
    }
    if !word.contains(char::is_control) {
        return format!("'{}'", word.replace('\'', r"'\''"));
    }
    // Control characters would end the line, or confuse the terminal.
    let mut quoted = String::from("$'");
    for letter in word.chars() {
        match letter {
            '\n' => quoted.push_str(r"\n"),
            '\'' | '\\' => quoted.extend(['\\', letter]),
            letter if letter.is_control() => {
                let bytes = letter.to_string().into_bytes();
                quoted.extend(bytes.iter().map(|byte| format!("\\{byte:03o}")));
            }
            letter => quoted.push(letter),
        }
    }
    quoted.push('\'');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_are_quoted_only_if_necessary() {
        let words = [
            "docker",
            "run",
            "--net=container:web",
            "a b",
            "",
            "it's",
            "$HOME",
            "=x",
            "é",
        ];
        assert_eq!(
            line(words),
            r"docker run --net=container:web 'a b' '' 'it'\''s' '$HOME' '=x' 'é'"
        );
        assert_eq!(line(["a\n'\\\u{1b}1\u{85}"]), r"$'a\n\'\\\0331\302\205'");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_shell_reads_the_words_back(words in prop::collection::vec("[^\0]{0,12}", 1..6)) {
            let text = line(&words);
            prop_assert!(!text.contains(char::is_control), "{text:?}");
            let script = format!("printf '%s\\0' {text}");
            let output = std::process::Command::new("bash")
                .args(["-c", &script])
                .env("LC_ALL", "C.UTF-8")
                .output()
                .unwrap();
            let expected: String = words.iter().map(|word| format!("{word}\0")).collect();
            prop_assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
        }
    }
}
