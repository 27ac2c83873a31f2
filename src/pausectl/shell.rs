//! Commands that are printed for a person to run: words as a shell takes them, on one line.

/// Words with blanks between them, each quoted where it has to be.
pub fn line<S: AsRef<str>>(words: impl IntoIterator<Item = S>) -> String {
    let quoted: Vec<_> = words.into_iter().map(|word| quote(word.as_ref())).collect();
    quoted.join(" ")
}

fn quote(word: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./:,@%+=".contains(letter);
    // zsh takes =NAME for a path.
    if !word.is_empty() && !word.starts_with('=') && word.chars().all(plain) {
        return word.to_owned();
    }
    if !word.contains(char::is_control) {
        return format!("'{}'", word.replace('\'', r"'\''"));
    }
    // A line's end would end the line, and worse things may be in an environment.
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
    fn only_what_has_to_be_is_quoted() {
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
            let said = line(&words);
            prop_assert!(!said.contains(char::is_control), "{said:?}");
            let script = format!("printf '%s\\0' {said}");
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
