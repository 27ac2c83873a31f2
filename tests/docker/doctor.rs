//! `pausectl doctor` on a host with a Docker of its own bridge and firewall.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use common::docker::{Docker, OWN_BRIDGE};
use common::programs;
use common::traffic::{listen, tcp, tcp_is_blocked};
use common::{Call, Container, outside_host, podnet, run, with};

fn network() -> Value {
    let capabilities = json!({"portMappings": true});
    with(
        podnet(),
        json!({"ipMasq": true, "capabilities": capabilities}),
    )
}

/// What the doctor has to say, but for the kernel's missing options.
fn look(confs: &Path, args: &[&str]) -> (Option<i32>, Value) {
    let output = Command::new(programs::pausectl())
        .args(["doctor", "--output", "json"])
        .args(["--runtime-conf-dir", "/nonexistent", "--conf-dir"])
        .arg(confs)
        .args(args)
        .env_remove("CNI_PATH")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let mut answer: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|err| panic!("{err}: {output:?}"));
    let findings = answer["findings"].as_array_mut().unwrap();
    findings.retain(|found| found["severity"] != "ok" && found["check"] != "kernel");
    (output.status.code(), answer)
}

#[track_caller]
fn assert_healthy(confs: &Path) {
    let (status, answer) = look(confs, &[]);
    assert_eq!(status, Some(0), "{answer:#}");
    assert_eq!(answer["findings"], json!([]));
}

/// The same beside a container of Docker's, whose address Docker 28 and newer keep from others.
#[track_caller]
fn assert_only_dockers_drops(confs: &Path) {
    let (status, answer) = look(confs, &[]);
    assert_eq!(status, Some(0), "{answer:#}");
    let findings = answer["findings"].as_array().unwrap();
    let raw = Command::new("nft")
        .args(["list", "table", "ip", "raw"])
        .output()
        .unwrap();
    let drops = String::from_utf8_lossy(&raw.stdout).contains("drop");
    assert_eq!(findings.len(), usize::from(drops), "{answer:#}");
    for found in findings {
        assert_eq!(found["subject"], "chain PREROUTING of table ip raw");
        let how = found["how"].as_str().unwrap();
        assert!(how.contains("trusted_host_interfaces=cni0"), "{how}");
    }
}

/// A container without a network of Docker's, on ours.
#[track_caller]
fn attach(docker: &Docker, name: &str) -> Container {
    docker.run(&["run", "-d", "--net=none", "--name", name, "pausenet/pause"]);
    let container = docker.view(name);
    let mapping = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]);
    let config = with(
        network(),
        json!({"runtimeConfig": {"portMappings": mapping}}),
    );
    Call::new("ADD", &config)
        .netns(&container)
        .id(name)
        .run()
        .ok();
    container
}

#[test]
fn doctor_repairs_the_lost_rules_in_docker_s_firewall() {
    let Some(docker) = Docker::start(OWN_BRIDGE) else {
        return;
    };
    let confs = tempfile::tempdir().unwrap();
    let confs = confs.path();
    fs::write(confs.join("podnet.conf"), network().to_string()).unwrap();
    let outside = outside_host(&docker.world, 2);
    assert_healthy(confs);
    let web = attach(&docker, "web");
    // Docker's own containers are ignored.
    docker.run(&["run", "-d", "--name", "dockers", "pausenet/pause"]);
    assert_only_dockers_drops(confs);
    let outside_server = listen(Some(&outside), "192.0.2.2:7000");
    let server = listen(Some(&web), "10.1.0.2:80");
    let works = || {
        assert_eq!(
            tcp(&outside_server, Some(&web), "192.0.2.2:7000").to_string(),
            "192.0.2.1"
        );
        tcp(&server, Some(&outside), "192.0.2.1:8080");
    };
    works();

    // Docker's user empties the chain that is his.
    let forward = || run("iptables", ["-S", "FORWARD"]);
    let before = (forward(), run("iptables", ["-t", "nat", "-S"]));
    run("iptables", ["-F", "DOCKER-USER"]);
    tcp_is_blocked(Some(&web), "192.0.2.2:7000");
    let (status, answer) = look(confs, &[]);
    assert_eq!(status, Some(1));
    let findings = answer["findings"].as_array().unwrap().iter();
    let problems: Vec<_> = findings
        .filter(|found| found["severity"] == "problem")
        .collect();
    let [found] = problems.as_slice() else {
        panic!("{answer:#}");
    };
    assert_eq!(
        (&found["check"], &found["safe"]),
        (&json!("firewall"), &json!(true))
    );
    let what = found["what"].as_str().unwrap();
    assert!(
        what.contains("Docker's firewall") && what.contains("podnet"),
        "{what}"
    );
    let (status, answer) = look(confs, &["--fix"]);
    assert_eq!(status, Some(0), "{answer:#}");
    assert_eq!(answer["repairs"][0]["outcome"], "repaired");
    works();
    assert_eq!((forward(), run("iptables", ["-t", "nat", "-S"])), before);
    assert_only_dockers_drops(confs);
}

#[test]
fn doctor_reports_a_subnet_that_docker_uses() {
    let Some(docker) = Docker::start(OWN_BRIDGE) else {
        return;
    };
    docker.run(&["network", "create", "--subnet", "10.1.128.0/20", "theirs"]);
    let confs = tempfile::tempdir().unwrap();
    let ipam = json!({"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/16"}]]});
    let config = with(network(), json!({"ipam": ipam}));
    fs::write(confs.path().join("podnet.conf"), config.to_string()).unwrap();
    let (status, answer) = look(confs.path(), &["--check", "networks"]);
    assert_eq!(status, Some(1), "{answer:#}");
    let what = answer["findings"][0]["what"].as_str().unwrap();
    assert!(
        what.contains("br-") && what.contains("10.1.128.1/20"),
        "{what}"
    );
}
