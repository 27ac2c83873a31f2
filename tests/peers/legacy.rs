//! Rules that the reference's plugins made with iptables-legacy, which nf_tables does not show: a
//! DEL of ours names the chains that stay, and `pausectl doctor` how to remove them.

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use common::programs;
use common::{Call, Container, World, lab, podnet, run, with};

const PROGRAMS: [(&str, &str); 2] = [
    ("iptables", "iptables-legacy"),
    ("ip6tables", "ip6tables-legacy"),
];

fn network() -> Value {
    let ranges = json!([[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00:1::/64"}]]);
    let changes = json!({
        "cniVersion": "1.0.0",
        "type": "bridge",
        "ipMasq": true,
        "ipMasqBackend": "iptables",
        "ipam": {"type": "host-local", "ranges": ranges}
    });
    with(podnet(), changes)
}

fn ports(port: u16, result: &Value) -> Value {
    let mapping = json!({"hostPort": port, "containerPort": 80, "protocol": "tcp"});
    json!({
        "cniVersion": "1.0.0",
        "name": "podnet",
        "type": "portmap",
        "backend": "iptables",
        "capabilities": {"portMappings": true},
        "runtimeConfig": {"portMappings": [mapping]},
        "prevResult": result
    })
}

/// A pod with a port, wired by the reference on a host whose iptables is the old one.
fn wire(plugins: &Path, path: &Path, container: &Container, port: u16) -> Value {
    let call = |plugin: &str, config: &Value| {
        Call::new("ADD", config)
            .program(plugins.join(plugin))
            .netns(container)
            .id(container.name())
            .var("CNI_PATH", plugins.as_os_str())
            .var("PATH", path.as_os_str())
            .run()
            .ok()
    };
    let result = call("bridge", &network());
    call("portmap", &ports(port, &result))
}

/// The table as the old iptables shows it, without counters.
fn shown(program: &str) -> Vec<String> {
    let text = run(program, ["-t", "nat", "-S"]);
    text.lines().map(str::to_owned).collect()
}

/// The chains of single pods: program, chain.
fn chains_of_pods() -> BTreeSet<(String, String)> {
    let mut chains = BTreeSet::new();
    for (_, program) in PROGRAMS {
        let names = shown(program).into_iter().filter_map(|line| {
            let name = line.strip_prefix("-N ")?.to_owned();
            (name.starts_with("CNI-") && !name.starts_with("CNI-HOSTPORT-")).then_some(name)
        });
        chains.extend(names.map(|name| (program.to_owned(), name)));
    }
    chains
}

fn doctor(args: &[&str]) -> Output {
    let mut command = Command::new(programs::pausectl());
    command.args(["doctor", "--check", "legacy"]);
    command.args(args).output().unwrap()
}

/// The chains that the doctor found of one severity, if what it says names the container.
fn found(severity: &str, container: &str) -> BTreeSet<(String, String)> {
    let output = doctor(&["--output", "json"]);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let chains = answer["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|found| {
            let what = found["what"].as_str().unwrap();
            found["severity"] == severity && what.contains(container)
        });
    let read = |found: &Value| {
        let (chain, program) = found["subject"]
            .as_str()?
            .strip_prefix("chain ")?
            .split_once(" of ")?;
        Some((program.to_owned(), chain.to_owned()))
    };
    chains.filter_map(read).collect()
}

/// What removes the chains that are left, as the doctor says.
fn commands() -> BTreeSet<String> {
    let output = doctor(&["--output", "json"]);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = answer["findings"].as_array().unwrap();
    let left = findings
        .iter()
        .filter(|found| found["severity"] == "problem");
    left.map(|found| found["how"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn chains_of_iptables_legacy_are_named_with_the_command_that_removes_them() {
    let Some(plugins) = lab::peers_today() else {
        return;
    };
    let old = tempfile::tempdir().unwrap();
    for (name, program) in PROGRAMS {
        let Some(file) = which(program) else {
            return lab::skip("there is no iptables-legacy");
        };
        symlink(file, old.path().join(name)).unwrap();
    }
    let ours = tempfile::tempdir().unwrap();
    for name in ["bridge", "portmap"] {
        symlink(programs::pausenet(), ours.path().join(name)).unwrap();
    }
    let world = World::new();

    let nothing = doctor(&[]);
    assert!(nothing.status.success(), "{nothing:?}");
    let said = String::from_utf8(nothing.stdout).unwrap();
    assert!(
        said.ends_with("other plugins left no chains behind\n"),
        "{said}"
    );

    let (gone, staying) = (world.container("gone"), world.container("staying"));
    let result = wire(&plugins, old.path(), &gone, 8080);
    let of_gone = chains_of_pods();
    wire(&plugins, old.path(), &staying, 8081);
    let of_staying: BTreeSet<_> = chains_of_pods().difference(&of_gone).cloned().collect();
    // Masquerade and ports, in both families.
    assert_eq!((of_gone.len(), of_staying.len()), (4, 4));
    assert_eq!(found("ok", "container gone of network podnet"), of_gone);
    assert_eq!(
        found("ok", "container staying of network podnet"),
        of_staying
    );
    assert!(doctor(&[]).status.success());

    // The node changes to ours, and the pod ends.
    let mut said = String::new();
    let network = with(network(), json!({"prevResult": result}));
    for (plugin, config) in [("portmap", &ports(8080, &result)), ("bridge", &network)] {
        let answer = Call::new("DEL", config)
            .program(ours.path().join(plugin))
            .netns(&gone)
            .id("gone")
            .run();
        answer.ok();
        said.push_str(&String::from_utf8_lossy(&answer.0.stderr));
    }
    for (program, chain) in &of_gone {
        let warned = said
            .lines()
            .any(|line| line.contains(chain) && line.contains(&format!("with {program},")));
        assert!(warned, "{program} {chain}: {said}");
    }
    for (_, chain) in &of_staying {
        assert!(!said.contains(chain), "{chain}: {said}");
    }
    assert_eq!(found("problem", "another plugin made it"), of_gone);
    assert_eq!(
        found("ok", "container staying of network podnet"),
        of_staying
    );

    let output = doctor(&[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let commands = commands();
    assert_eq!(commands.len(), 2, "one for each family: {commands:?}");
    let of_others = |program| {
        let mut lines = shown(program);
        lines.retain(|line| !of_gone.iter().any(|(_, chain)| line.contains(chain)));
        lines
    };
    let expected = PROGRAMS.map(|(_, program)| of_others(program));
    for command in &commands {
        run("sh", ["-ec", command]);
    }
    assert_eq!(PROGRAMS.map(|(_, program)| shown(program)), expected);
    assert_eq!(chains_of_pods(), of_staying);
    assert!(doctor(&[]).status.success());
}

/// Where a program is.
fn which(program: &str) -> Option<String> {
    let script = format!("command -v {program}");
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    let file = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (!file.is_empty()).then_some(file)
}
