//! The docs' page about Docker, typed from top to bottom.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;

use common::docker::{Docker, OWN_BRIDGE};
use common::programs;
use common::programs::CHECKOUT;
use common::run;

const PAGE: &str = include_str!("../../src/docs/docker.md");

/// What the shell says when a block is done.
const DONE: &str = "-- the block is done --";

#[test]
fn each_command_of_the_docs_page_prints_the_output_shown() {
    let Some(docker) = Docker::start_with_applications(OWN_BRIDGE) else {
        return;
    };
    private_etc();
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let ours = Path::new(programs::pausectl()).parent().unwrap();
    let mut command = docker.command("bash");
    let path = docker.path_with(ours);
    command
        .arg("-m") // jobs, as in an interactive shell
        .current_dir(CHECKOUT)
        .env("PATH", path)
        .env("CARGO_TARGET_DIR", target)
        .env("CARGO_NET_OFFLINE", "true")
        .env_remove("SUDO_USER"); // what is built so far may be root's
    let mut shell = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // All that matters is on stdout; bash complains that it has no terminal.
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = shell.stdin.take().unwrap();
    let mut said = BufReader::new(shell.stdout.take().unwrap()).lines();
    writeln!(stdin, "exec 2>&1").unwrap();
    let steps = steps(PAGE);
    assert!(steps.len() > 10, "{} steps", steps.len());
    for (typed, promised) in steps {
        // From a file, so that what is run cannot read what is to be typed next.
        writeln!(stdin, "{{ {typed}\n}} </dev/null; echo '{DONE}'").unwrap();
        let mut seen = Vec::new();
        loop {
            match said.next() {
                Some(line) => seen.push(line.unwrap()),
                None => panic!("the shell has ended in:\n{typed}\nit said: {seen:#?}"),
            }
            if seen.last().is_some_and(|line| line == DONE) {
                seen.pop();
                break;
            }
        }
        let seen: Vec<_> = seen.iter().map(|line| line.trim_end()).collect();
        let expected: Vec<_> = promised.lines().map(str::trim_end).collect();
        assert!(
            all_as_promised(&expected, &seen),
            "typed:\n{typed}\npromised:\n{promised}\nseen:\n{}",
            seen.join("\n")
        );
    }
    drop(stdin);
    assert!(shell.wait().unwrap().success());
    docker.run(&["ps", "-aq"]);
    docker.assert_host_is_as_before();
    docker.stop();
}

/// The page writes to /etc, which is the machine's.
fn private_etc() {
    for part in ["upper", "work"] {
        fs::create_dir_all(Path::new("/run/etc").join(part)).unwrap();
    }
    let options = "lowerdir=/etc,upperdir=/run/etc/upper,workdir=/run/etc/work";
    run("mount", ["-t", "overlay", "overlay", "-o", options, "/etc"]);
}

/// What is typed, and what it is to answer: blocks of `sh`, each with the block of `text` that
/// follows it.
fn steps(page: &str) -> Vec<(String, String)> {
    let mut steps: Vec<(String, String)> = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(kind) = line.strip_prefix("```") else {
            continue;
        };
        let block: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
        let block = block.join("\n");
        match kind {
            "sh" => steps.push((block, String::new())),
            "text" => steps.last_mut().expect("an answer to something").1 = block,
            other => panic!("a block of {other:?}, which is not typed"),
        }
    }
    steps
}

/// `…` by itself stands for any lines, and within a line for any text.
fn all_as_promised(promised: &[&str], seen: &[&str]) -> bool {
    match (promised.split_first(), seen.split_first()) {
        (None, seen) => seen.is_none(),
        (Some((&"…", rest)), _) => {
            (0..=seen.len()).any(|skipped| all_as_promised(rest, &seen[skipped..]))
        }
        (Some((line, rest)), Some((first, others))) => {
            as_promised(line, first) && all_as_promised(rest, others)
        }
        (Some(_), None) => false,
    }
}

fn as_promised(promised: &str, seen: &str) -> bool {
    let Some((begin, rest)) = promised.split_once('…') else {
        return promised == seen;
    };
    let Some(after) = seen.strip_prefix(begin) else {
        return false;
    };
    let mut ends = after.char_indices().map(|(at, _)| at).chain([after.len()]);
    ends.any(|at| as_promised(rest, &after[at..]))
}

#[test]
fn outputs_are_compared_with_the_docs_page() {
    assert!(as_promised(
        "inet 10.77.0.…  netmask",
        "inet 10.77.0.12  netmask"
    ));
    assert!(!as_promised(
        "inet 10.77.0.…  netmask",
        "inet 10.78.0.12  netmask"
    ));
    assert!(!as_promised("web: …/16", "web: 10.77.0.2/16 on eth0"));
    assert!(all_as_promised(&["…", "b", "…"], &["a", "a", "b"]));
    assert!(all_as_promised(&["a", "…"], &["a"]));
    assert!(!all_as_promised(&["a"], &["a", "b"]));
    assert!(!all_as_promised(&["a", "…", "c"], &["a", "b"]));
    assert!(!all_as_promised(&[], &["error: something"]));
}
