//! `install` says before its first change what `doctor` finds after it.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use super::folders::{InstallFolders, forecast, said};
use common::{World, ip, podnet, programs, with};

/// A finding: its check, its severity, its subject and what was found.
type Found = [String; 4];

fn found(finding: &Value) -> Found {
    ["check", "severity", "subject", "what"].map(|key| finding[key].as_str().unwrap().to_owned())
}

/// What the doctor finds now in the folders of an install.
fn doctor(folders: &InstallFolders) -> Vec<Found> {
    let (bin, net) = (folders.bin(), folders.net());
    let mut command = Command::new(programs::pausectl());
    command
        .args(["doctor", "--output", "json", "--cni-path"])
        .arg(bin);
    let output = command.arg("--runtime-conf-dir").arg(net).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = report["findings"].as_array().unwrap().iter().map(found);
    findings
        .filter(|[_, severity, ..]| severity != "ok")
        .collect()
}

/// Installs a network and returns what was foreseen of it, having seen that `doctor` finds exactly that after
/// it, and that it did not find the problems before.
fn foreseen(folders: &InstallFolders, config: &Value) -> Vec<Found> {
    fs::write(folders.path("from/10-podnet.conflist"), config.to_string()).unwrap();
    let before = (folders.files(), doctor(folders));
    let beside = programs::pausenet();
    let install = ["--conf", "--from", beside];
    let json = |more: &[&str]| {
        let output = folders
            .command(&[&install[..], more, &["-o", "json"]].concat())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let findings: Vec<_> = report["expected"]
            .as_array()
            .unwrap()
            .iter()
            .map(found)
            .collect();
        let (text, rest) = forecast(&said(&output));
        assert_eq!(rest, "", "nothing else is said");
        for [_, _, subject, what] in &findings {
            assert!(text.contains(&format!("{subject}: {what}")), "{text}");
        }
        findings
    };
    let planned = json(&["--dry-run"]);
    assert_eq!(folders.files(), before.0);
    assert_eq!(json(&[]), planned);
    let after = doctor(folders);
    let missed: Vec<_> = after
        .iter()
        .filter(|found| !planned.contains(found) && !before.1.contains(found))
        .collect();
    assert!(missed.is_empty(), "not foreseen: {missed:?}");
    for found in &planned {
        assert!(
            after.contains(found),
            "foreseen, but not so: {found:?}, but {after:?}"
        );
    }
    folders.ok(&["--uninstall"]);
    planned
}

/// A list of network podnet whose first plugin differs in these keys, with these plugins behind it.
fn list(keys: Value, behind: &[&str]) -> Value {
    let first = with(podnet(), json!({"cniVersion": null, "name": null}));
    let behind = behind.iter().map(|name| json!({"type": name}));
    let plugins: Vec<_> = std::iter::once(with(first, keys)).chain(behind).collect();
    json!({"cniVersion": "1.0.0", "name": "podnet", "plugins": plugins})
}

#[track_caller]
fn assert_one_of(found: &[Found], severity: &str, words: &str) {
    let is_it = |[_, is, subject, what]: &Found| {
        is == severity && format!("{subject}: {what}").contains(words)
    };
    assert!(found.iter().any(is_it), "{words:?} is not in {found:#?}");
}

#[test]
fn install_says_first_what_doctor_will_find() {
    let _world = World::new();
    let folders = InstallFolders::new();
    let other = json!({"cniVersion": "1.0.0", "name": "other", "plugins": [
        with(podnet(), json!({"bridge": "other0", "cniVersion": null, "name": null}))]});
    fs::write(folders.net().join("20-other.conflist"), other.to_string()).unwrap();
    let found = foreseen(&folders, &list(json!({}), &[]));
    assert_one_of(
        &found,
        "problem",
        "networks podnet (10.1.0.0/24) and other (10.1.0.0/24) overlap",
    );

    let net = |subnet: &str| json!({"ipam": {"type": "host-local", "subnet": subnet}});
    let found = foreseen(
        &folders,
        &with(list(net("10.2.0.0/24"), &[]), json!({"name": "other"})),
    );
    assert_one_of(&found, "problem", "each describes a network \"other\"");

    ip("link add up0 type veth peer name up1");
    ip("addr add 10.3.0.9/24 dev up0");
    ip("link set up0 up");
    let found = foreseen(&folders, &list(net("10.3.0.0/24"), &[]));
    assert_one_of(&found, "problem", "the host has 10.3.0.9/24 on up0");

    let keys = with(net("10.4.0.0/24"), json!({"isMasq": true}));
    let mut config = list(keys, &[]);
    config["CNIVersion"] = json!("1.1.0");
    let found = foreseen(&folders, &config);
    assert_one_of(
        &found,
        "note",
        "plugin 1 (pausenet) does not know the key \"isMasq\"",
    );
    assert_one_of(
        &found,
        "note",
        "a runtime does not know the key \"CNIVersion\"",
    );

    let found = foreseen(&folders, &list(net("10.4.0.0/24"), &["tuning"]));
    assert_one_of(&found, "problem", "\"tuning\"");
    let found = foreseen(
        &folders,
        &list(with(net("10.4.0.0/24"), json!({"bridge": "up0"})), &[]),
    );
    assert_one_of(&found, "problem", "its bridge up0 exists, but is a veth");
    let found = foreseen(
        &folders,
        &list(with(net("10.4.0.0/24"), json!({"mtu": "much"})), &[]),
    );
    assert_one_of(&found, "problem", "plugin 1 (pausenet) would refuse it");

    // The plugins that come along are not missing, and a network in order is none to speak of.
    assert_eq!(
        foreseen(&folders, &list(net("10.4.0.0/24"), &[])),
        Vec::<Found>::new()
    );
    // A file in place of another: what was wrong with that one is wrong no more.
    fs::write(folders.net().join("10-podnet.conflist"), "{").unwrap();
    assert_eq!(
        foreseen(&folders, &list(net("10.4.0.0/24"), &[])),
        Vec::<Found>::new()
    );
    let output = folders.command(&["v1"]).output().unwrap();
    assert!(output.status.success());
}
