//! The scripts for kind, as far as they can be tested without kind. [`crate::nodes`] runs them on a
//! cluster.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::script::CHECKOUT;

fn script(name: &str, args: &[&str]) -> Output {
    let mut command = Command::new(Path::new(CHECKOUT).join("scripts").join(name));
    command.args(args).current_dir("/");
    command.output().unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_owned()).unwrap()
}

/// The numbers of the steps in the output.
pub(crate) fn steps(said: &str) -> Vec<usize> {
    let number = |line: &str| line.trim_start().split_once(". ")?.0.parse().ok();
    said.lines().filter_map(number).collect()
}

#[test]
fn a_dry_run_prints_every_step_and_needs_no_programs() {
    for (name, args, last) in [
        (
            "kind-up.sh",
            &["--dry-run"][..],
            "these would be the 9 steps",
        ),
        (
            "kind-up.sh",
            &["--dry-run", "--dual-stack", "--name", "dual"],
            "these would be the 9 steps",
        ),
        (
            "kind-test.sh",
            &["--dry-run"],
            "these would be the 14 steps",
        ),
    ] {
        let output = script(name, args);
        assert!(output.status.success(), "{output:?}");
        let said = text(&output.stdout);
        let numbers = steps(&said);
        assert_eq!(numbers, (1..=numbers.len()).collect::<Vec<_>>());
        assert!(said.trim_end().ends_with(last), "{said}");
        assert_eq!(text(&output.stderr), "");
    }
}

#[test]
fn the_steps_name_existing_files() {
    for args in [&["--dry-run"][..], &["--dry-run", "--dual-stack"]] {
        let said = text(&script("kind-up.sh", args).stdout);
        let files: Vec<_> = said
            .split_whitespace()
            .filter(|word| word.starts_with("conf/") || word.starts_with("scripts/image"))
            .collect();
        assert_eq!(files.len(), 3, "{said}");
        for file in files {
            assert!(Path::new(CHECKOUT).join(file).is_file(), "{file}");
        }
    }
}

#[test]
fn a_step_that_fails_says_why_and_what_to_do() {
    // A PATH with the basic programs only.
    let bin = tempfile::tempdir().unwrap();
    for program in ["bash", "dirname", "sed"] {
        let found = text(&Command::new("which").arg(program).output().unwrap().stdout);
        std::os::unix::fs::symlink(found.trim(), bin.path().join(program)).unwrap();
    }
    for (name, missing, hint) in [
        ("kind-up.sh", "docker", "install Docker"),
        ("kind-test.sh", "kubectl", "--context"),
    ] {
        let output = Command::new("bash")
            .arg(Path::new(CHECKOUT).join("scripts").join(name))
            .env("PATH", bin.path())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let stderr = text(&output.stderr);
        assert!(stderr.contains("stopped at step 1"), "{stderr}");
        assert!(stderr.contains(&format!("no {missing} on this machine")));
        assert!(stderr.contains(hint), "{stderr}");
    }
}

#[test]
fn an_unknown_argument_is_a_usage_error() {
    for name in ["kind-up.sh", "kind-test.sh"] {
        let output = script(name, &["--now"]);
        assert_eq!(output.status.code(), Some(2));
        assert_eq!(output.stdout, b"");
        let help = script(name, &["--help"]);
        assert!(help.status.success() && text(&help.stdout).contains("Examples:"));
    }
}

#[test]
fn the_kind_configs_disable_the_default_cni() {
    for name in ["cluster.yaml", "dual-stack.yaml"] {
        let file = Path::new(CHECKOUT).join("conf/kind").join(name);
        let text = fs::read_to_string(file).unwrap();
        assert!(text.contains("disableDefaultCNI: true"), "{name}");
    }
}
