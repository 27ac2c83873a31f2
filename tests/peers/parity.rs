//! `src/docs/parity.md` is true: every row says same or different, and names tests that exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::compare::tests_with_allowed_differences;

/// Names of all tests below a folder of sources.
fn tests_in(folder: &Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            names.append(&mut tests_in(&path));
            continue;
        }
        let text = fs::read_to_string(&path).unwrap_or_default();
        let mut lines = text.lines().map(str::trim_start);
        while let Some(line) = lines.next() {
            if line != "#[test]" {
                continue;
            }
            let name = lines.find_map(|line| line.strip_prefix("fn "));
            let name = name.and_then(|rest| rest.split('(').next());
            names.extend(name.map(str::to_owned));
        }
    }
    names
}

fn root() -> &'static Path {
    Path::new(common::programs::CHECKOUT)
}

/// The rows of all tables: what they are about, the verdict, and the tests named.
fn rows() -> Vec<[String; 3]> {
    let text = fs::read_to_string(root().join("src/docs/parity.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with('|'));
    rows.map(|line| {
        let cells: Vec<_> = line.trim_matches('|').split('|').collect();
        let cells = <[&str; 3]>::try_from(cells).unwrap_or_else(|_| panic!("columns: {line}"));
        cells.map(|cell| cell.trim().to_owned())
    })
    .filter(|[_, verdict, _]| verdict != "verdict" && !verdict.starts_with('-'))
    .collect()
}

fn named(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

#[test]
fn every_row_of_the_parity_table_names_tests_that_exist() {
    let tests = tests_in(&root().join("tests"));
    let rows = rows();
    assert!(rows.len() > 50, "{}", rows.len());
    for [about, verdict, cell] in &rows {
        assert!(
            verdict.starts_with("same") || verdict.starts_with("different"),
            "{about}: {verdict}"
        );
        assert!(named(cell).next().is_some(), "{about}: no test");
        for test in named(cell) {
            assert!(tests.contains(test), "{about}: there is no test {test}");
        }
    }
}

#[test]
fn every_comparison_is_in_the_parity_table() {
    let rows = rows();
    let named: BTreeSet<_> = rows.iter().flat_map(|[_, _, cell]| named(cell)).collect();
    for test in tests_in(&root().join("tests/peers")) {
        let compares = [
            "bridge_",
            "ptp_",
            "host_local_",
            "loopback_",
            "portmap_",
            "traffic_",
            "chain_",
            "check_of",
            "conflist_",
        ];
        if compares.iter().any(|start| test.starts_with(start)) {
            assert!(named.contains(test.as_str()), "{test} is in no row");
        }
    }
}

#[test]
fn every_allowed_difference_names_a_test_that_exists() {
    let tests = tests_in(&root().join("tests/peers"));
    for test in tests_with_allowed_differences() {
        assert!(tests.contains(test), "{test}");
    }
}
