//! The pages for readers: their links lead somewhere, and the files they name exist.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Every page, relative to the root of the checkout.
fn pages() -> Vec<PathBuf> {
    let folders = ["", "conf", "conf/docker", "scripts", "src/docs"];
    let mut pages: Vec<PathBuf> = folders
        .iter()
        .flat_map(|folder| files(folder))
        .filter(|file| file.extension().is_some_and(|extension| extension == "md"))
        .collect();
    pages.sort();
    assert!(pages.len() > 15, "{pages:?}");
    pages
}

fn files(folder: &str) -> Vec<PathBuf> {
    fs::read_dir(root().join(folder))
        .unwrap()
        .map(|entry| Path::new(folder).join(entry.unwrap().file_name()))
        .filter(|file| root().join(file).is_file())
        .collect()
}

/// The lines of a page that are not in a block of code.
fn prose(page: &Path) -> Vec<String> {
    let text = fs::read_to_string(root().join(page)).unwrap();
    let mut in_code = false;
    let mut lines = Vec::new();
    for line in text.lines() {
        if line.starts_with("```") {
            in_code = !in_code;
        } else if !in_code {
            lines.push(line.to_owned());
        }
    }
    assert!(!in_code, "{}: a block does not end", page.display());
    lines
}

/// What the links of a line lead to: `[text](target)`.
fn targets(line: &str) -> Vec<&str> {
    line.split("](")
        .skip(1)
        .map(|rest| rest.split(')').next().unwrap())
        .collect()
}

/// The anchors that a code host gives to a page's headings.
fn anchors(page: &Path) -> Vec<String> {
    let heading = |line: &String| Some(line.trim_start_matches('#').strip_prefix(' ')?.to_owned());
    prose(page)
        .iter()
        .filter(|line| line.starts_with('#'))
        .filter_map(heading)
        .map(|heading| {
            let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
            let kept: String = heading.to_lowercase().chars().filter(kept).collect();
            kept.replace(' ', "-")
        })
        .collect()
}

#[test]
fn every_relative_link_leads_to_a_file_and_a_heading() {
    let mut links = 0;
    for page in pages() {
        for line in prose(&page) {
            for target in targets(&line) {
                if target.contains("://") {
                    continue;
                }
                links += 1;
                let (file, anchor) = match target.split_once('#') {
                    Some((file, anchor)) => (file, Some(anchor)),
                    None => (target, None),
                };
                let at = format!("{}: {target}", page.display());
                let file = match file {
                    "" => page.clone(),
                    file => page.parent().unwrap().join(file),
                };
                assert!(root().join(&file).exists(), "{at}: no such file");
                if let Some(anchor) = anchor {
                    let anchors = anchors(&file);
                    assert!(
                        anchors.iter().any(|it| it == anchor),
                        "{at}: the headings are {anchors:?}"
                    );
                }
            }
        }
    }
    assert!(links > 50, "{links}");
}

#[test]
fn every_path_in_backticks_exists() {
    let mut paths = 0;
    for page in pages() {
        for line in prose(&page) {
            for quoted in line.split('`').skip(1).step_by(2) {
                let path = quoted.split(' ').next().unwrap();
                let ours = ["src/", "tests/", "scripts/", "conf/", ".ci/"];
                if !ours.iter().any(|folder| path.starts_with(folder)) {
                    continue;
                }
                // A pattern, or a place in a file.
                if path.contains(['*', '<', '…']) {
                    continue;
                }
                paths += 1;
                assert!(
                    root().join(path).exists(),
                    "{}: no such file: {path}",
                    page.display()
                );
            }
        }
    }
    assert!(paths > 10, "{paths}");
}

#[test]
fn the_index_has_every_page() {
    let index = prose(Path::new("src/docs/README.md")).join("\n");
    for page in files("src/docs") {
        let name = page.file_name().unwrap().to_str().unwrap();
        assert!(
            name == "README.md" || index.contains(&format!("]({name})")),
            "{name} is not in src/docs/README.md"
        );
    }
}

#[test]
fn the_table_of_scripts_has_every_script() {
    let table = prose(Path::new("scripts/README.md")).join("\n");
    for folder in ["scripts", "scripts/lab"] {
        for script in files(folder) {
            let name = script.strip_prefix("scripts").unwrap().to_str().unwrap();
            assert!(
                name == "README.md" || table.contains(&format!("]({name})")),
                "{name} is not in scripts/README.md"
            );
        }
    }
}

#[test]
fn the_glossary_has_at_most_forty_entries_in_one_sentence_each() {
    let rows: Vec<_> = prose(Path::new("src/docs/glossary.md"))
        .into_iter()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| ---"))
        .skip(1)
        .collect();
    assert!((20..=40).contains(&rows.len()), "{}", rows.len());
    for row in rows {
        assert!(!row.contains(". "), "more than a sentence: {row}");
    }
}
