//! `pausectl doctor`: each check with the trouble that it is for, and a healthy host, of which it
//! has nothing to say. What `--fix` does is seen by what works again, and by what is untouched.

mod attachments;
mod firewall;
mod kernel;
mod links;
mod networks;
mod plugins;
mod rules;
mod store;
mod sysctls;

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::host::PodHost;
use common::programs;
use common::screen::assert_is_in_the_docs;
use common::{Call, Container, lab, podnet, run, with};

/// A host to examine. No runtime has networks here, but `podnet` is configured.
struct DoctorHost {
    host: PodHost,
    runtime: tempfile::TempDir,
    confs: PathBuf,
    plugins: tempfile::TempDir,
}

/// The exit status of `doctor`, its findings other than `ok`, and its repairs.
#[derive(Debug)]
struct Report {
    status: i32,
    findings: Vec<Value>,
    repairs: Vec<Value>,
}

impl DoctorHost {
    fn new() -> Self {
        let host = PodHost::new();
        let confs = host.network(&network()).parent().unwrap().to_owned();
        let plugins = tempfile::tempdir().unwrap();
        for name in ["pausenet", "portmap"] {
            symlink(programs::pausenet(), plugins.path().join(name)).unwrap();
        }
        Self {
            host,
            runtime: tempfile::tempdir().unwrap(),
            confs,
            plugins,
        }
    }

    /// The folder of the runtimes' configurations.
    fn runtime_confs(&self) -> &Path {
        self.runtime.path()
    }

    /// The folder of `pausectl pod`'s configurations.
    fn confs(&self) -> &Path {
        &self.confs
    }

    /// The folder of plugins.
    fn plugins(&self) -> &Path {
        self.plugins.path()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(programs::pausectl());
        command
            .arg("doctor")
            .arg("--runtime-conf-dir")
            .arg(self.runtime.path())
            .args(args)
            .env("PAUSENET_CONF_DIR", &self.confs)
            .env("CNI_PATH", self.plugins.path())
            .stdin(Stdio::null());
        command
    }

    /// What these checks report, or all of them if none is named.
    #[track_caller]
    fn check(&self, checks: &[&str]) -> Report {
        self.run(checks, &[])
    }

    /// What is still reported after `--fix`, and its repairs.
    #[track_caller]
    fn fix(&self, checks: &[&str]) -> Report {
        self.run(checks, &["--fix"])
    }

    #[track_caller]
    fn run(&self, checks: &[&str], args: &[&str]) -> Report {
        let mut command = self.command(args);
        command.args(["--output", "json"]);
        for check in checks {
            command.args(["--check", check]);
        }
        let output = command.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        let mut answer: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|err| panic!("{err}: {stderr}{output:?}"));
        let mut take = |key: &str| match answer[key].take() {
            Value::Array(values) => values,
            other => panic!("{key}: {other}"),
        };
        let (mut findings, repairs) = (take("findings"), take("repairs"));
        findings.retain(|found| found["severity"] != "ok");
        let report = Report {
            status: output.status.code().unwrap(),
            findings,
            repairs,
        };
        let problems = report.of("problem").len();
        assert_eq!(answer["problems"], problems, "{report:#?}");
        assert_eq!(report.status, i32::from(problems > 0), "{report:#?}");
        assert_eq!(stderr.is_empty(), problems == 0, "{stderr}");
        report
    }

    /// No findings except missing kernel options, which no test can help.
    #[track_caller]
    fn assert_healthy(&self) {
        let mut report = self.check(&[]);
        assert_eq!(report.status, 0, "{report:#?}");
        report.findings.retain(|found| found["check"] != "kernel");
        assert!(report.findings.is_empty(), "{report:#?}");
    }

    /// A container on a network, attached by cnitool, which remembers it as libcni does.
    #[track_caller]
    fn attach(&self, cnitool: &Path, name: &str, network: &str, ports: Value) -> Container {
        let container = self.host.world.container(name);
        self.cnitool(cnitool, "add", network, &container, &ports);
        container
    }

    /// DEL of the same.
    #[track_caller]
    fn detach(&self, cnitool: &Path, network: &str, container: &Container) {
        self.cnitool(cnitool, "del", network, container, &json!([]));
    }

    #[track_caller]
    fn cnitool(
        &self,
        cnitool: &Path,
        verb: &str,
        network: &str,
        container: &Container,
        ports: &Value,
    ) {
        let output = Command::new(cnitool)
            .args([verb, network, container.path.to_str().unwrap()])
            .env("NETCONFPATH", &self.confs)
            .env("CNI_PATH", self.plugins.path())
            .env("CAP_ARGS", json!({"portMappings": ports}).to_string())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

impl Report {
    /// The findings of one severity.
    fn of(&self, severity: &str) -> Vec<&Value> {
        let of = |found: &&Value| found["severity"] == severity;
        self.findings.iter().filter(of).collect()
    }

    /// The one finding that there is: a problem that says all of these words.
    #[track_caller]
    fn problem(&self, words: &[&str]) -> &Value {
        self.only("problem", words)
    }

    /// The one finding that there is: a note.
    #[track_caller]
    fn note(&self, words: &[&str]) -> &Value {
        self.only("note", words)
    }

    #[track_caller]
    fn only(&self, severity: &str, words: &[&str]) -> &Value {
        let [found] = self.findings.as_slice() else {
            panic!("not one finding: {self:#?}");
        };
        assert_eq!(found["severity"], severity, "{found:#}");
        says(found, words);
        found
    }

    /// What each repair came to.
    fn outcomes(&self) -> Vec<&str> {
        let outcomes = self
            .repairs
            .iter()
            .map(|repair| repair["outcome"].as_str().unwrap());
        outcomes.collect()
    }
}

/// A finding says all of these words, and what they come to.
#[track_caller]
fn says(found: &Value, words: &[&str]) {
    let text = ["subject", "what", "means", "how"].map(|key| found[key].as_str().unwrap());
    let text = text.join("\n");
    for word in words {
        assert!(text.contains(word), "no {word:?} in:\n{text}");
    }
    assert_ne!(found["means"], "", "{found:#}");
}

/// The network podnet: masquerade, and ports if a runtime requests some.
fn network() -> Value {
    let capabilities = json!({"portMappings": true, "bandwidth": true});
    with(
        podnet(),
        json!({"ipMasq": true, "capabilities": capabilities}),
    )
}

/// The port of the host that leads to a container's port 80.
fn port(host: u16) -> Value {
    json!([{"hostPort": host, "containerPort": 80, "protocol": "tcp"}])
}

/// ADD without a runtime: no result cache has it.
#[track_caller]
fn added(doctor: &DoctorHost, config: &Value, name: &str) -> Container {
    let container = doctor.host.world.container(name);
    let add = Call::new("ADD", config).netns(&container).id(name);
    add.run().ok();
    container
}

#[test]
fn a_healthy_host_has_no_findings() {
    let Some(cnitool) = lab::cnitool() else {
        return;
    };
    let doctor = DoctorHost::new();
    doctor.assert_healthy();

    let web = doctor.attach(&cnitool, "web", "podnet", port(8080));
    let other = doctor.attach(&cnitool, "other", "podnet", json!([]));
    doctor.host.create("pod");
    let before = doctor.host.world.snapshot();
    let rules = run("nft", ["list", "ruleset"]);
    doctor.assert_healthy();

    // And nothing to repair.
    let report = doctor.fix(&[]);
    assert!(report.repairs.is_empty(), "{report:#?}");
    assert_eq!(doctor.host.world.snapshot(), before);
    assert_eq!(run("nft", ["list", "ruleset"]), rules);

    doctor.host.ok(&["pod", "rm", "pod"]);
    for container in [&web, &other] {
        doctor.detach(&cnitool, "podnet", container);
    }
    doctor.assert_healthy();
}

#[test]
fn an_empty_host_has_no_findings() {
    let doctor = DoctorHost::new();
    std::fs::remove_file(doctor.confs().join("podnet.json")).unwrap();
    let report = doctor.check(&["sysctls", "plugins", "store", "rules", "links", "legacy"]);
    assert!(report.findings.is_empty(), "{report:#?}");
    doctor
        .check(&["networks"])
        .note(&["no network is configured"]);
}

#[test]
fn each_finding_shows_problem_consequence_and_repair() {
    let doctor = DoctorHost::new();
    let _web = added(&doctor, &network(), "c1");
    store::leave_behind("podnet", "10.1.0.77", "dead\r\neth0", store::HOUR);
    run("nft", ["flush", "ruleset"]);

    let screen = |args: &[&str]| {
        let mut command = doctor.command(args);
        for check in ["store", "rules", "links"] {
            command.args(["--check", check]);
        }
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    let (status, stdout, stderr) = screen(&[]);
    assert_eq!(status, Some(1));
    insta::assert_snapshot!(stdout, @r"
    problem     store     network podnet: no interface has 10.1.0.77 (dead eth0)
                          means: reserved for containers that are gone; ADD frees them only when the range is full
                          do: pausectl doctor --fix, which is safe; or: once their containers are gone, remove their files in /var/lib/cni/networks/podnet
    problem     rules     shared chains: rules of postrouting_10.1.0.0/24 are gone from nftables
                          means: no pod has what they do: masquerade, published ports, MAC guards
                          do: pausectl doctor --fix, which is safe; or: DEL and ADD again (nft monitor shows what flushes the ruleset)
    problem     rules     network podnet, container c1, interface eth0: gone from nftables: masquerade
                          means: its traffic is not as its network requires, or its ports do not answer; it is in no runtime's cache, so its published ports cannot be put back
                          do: pausectl doctor --fix, which is safe; or: DEL and ADD again
    ok          links     every host end is complete, and has a process behind it
    ");
    insta::assert_snapshot!(stderr, @r"
    error: 3 problems found
    hint: pausectl doctor --fix repairs 3 of them safely
    ");
    assert_is_in_the_docs(&(stdout + &stderr));
    let (status, stdout, stderr) = screen(&["--fix"]);
    assert_eq!(status, Some(0));
    insta::assert_snapshot!(stdout, @r"
    repaired    store     network podnet: freed the addresses
    repaired    rules     shared chains: put back
    repaired    rules     network podnet, container c1, interface eth0: put back masquerade

    ok          store     every reserved address has an interface, and every interface a reservation
    ok          rules     nftables holds what the attachments need, and nothing stale of ours
    ok          links     every host end is complete, and has a process behind it
    ");
    assert_is_in_the_docs(&stdout);
    assert_eq!(stderr, "");
}

/// Nonsense is reported, and does not stop the other checks.
#[test]
fn nonsense_in_the_inspected_files_does_not_stop_doctor() {
    let doctor = DoctorHost::new();
    let _web = added(&doctor, &network(), "web");
    let file = doctor.confs().join("podnet.json");
    for args in [
        ["--runtime-conf-dir", file.to_str().unwrap()],
        ["--runtime-conf-dir", "/dev/null"],
        ["--data-dir", file.to_str().unwrap()],
        ["--data-dir", "/nonexistent"],
        ["--cni-path", "/nonexistent:/dev/null:"],
    ] {
        let mut command = Command::new(programs::pausectl());
        command.args(["doctor", "--output", "json"]).args(args);
        command.env("PAUSENET_CONF_DIR", doctor.confs());
        command.env("CNI_PATH", doctor.plugins());
        let output = command.output().unwrap();
        let answer: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|err| panic!("{args:?}: {err}: {output:?}"));
        let of_links = |found: &Value| found["check"] == "links" && found["severity"] == "ok";
        assert!(
            answer["findings"].as_array().unwrap().iter().any(of_links),
            "{answer:#}"
        );
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
}

#[test]
fn checks_are_listed_and_selected_by_name() {
    let doctor = DoctorHost::new();
    let list = doctor.command(&["--list"]).output().unwrap();
    assert!(list.status.success());
    let list = String::from_utf8(list.stdout).unwrap();
    let names = list
        .lines()
        .skip(1)
        .map(|line| line.split("  ").next().unwrap());
    for name in names {
        let output = doctor
            .command(&["--check", name, "--output", "json"])
            .output()
            .unwrap();
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        let findings = answer["findings"].as_array().unwrap();
        assert!(!findings.is_empty(), "{name}");
        assert!(
            findings.iter().all(|found| found["check"] == name),
            "{answer:#}"
        );
    }
    for wrong in [&["--check", "weather"][..], &["--list", "--fix"], &["now"]] {
        let output = doctor.command(wrong).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(output.stdout.is_empty());
    }
}

/// Everything half made or half removed belongs to a running call.
#[test]
fn concurrent_repairs_do_not_harm_adds_and_dels() {
    let doctor = DoctorHost::new();
    let steady = added(&doctor, &network(), "steady");
    let names: Vec<_> = (0..4).map(|n| format!("busy{n}")).collect();
    let containers: Vec<_> = names
        .iter()
        .map(|name| doctor.host.world.container(name))
        .collect();
    std::thread::scope(|scope| {
        for container in &containers {
            scope.spawn(|| {
                for _ in 0..10 {
                    for verb in ["ADD", "DEL"] {
                        let call = Call::new(verb, &network()).netns(container);
                        call.id(container.name()).run().ok();
                    }
                }
                let add = Call::new("ADD", &network()).netns(container);
                add.id(container.name()).run().ok();
            });
        }
        for _ in 0..8 {
            let report = doctor.fix(&["store", "rules", "links"]);
            assert_eq!(report.status, 0, "{report:#?}");
            // Between the creation of a lock file and its locking it is not held. Whoever
            // finds it gone then makes another.
            let harms = |repair: &Value| {
                let subject = repair["subject"].as_str().unwrap();
                repair["outcome"] != "not needed" && !subject.starts_with("/run/pausenet/lock/")
            };
            assert!(!report.repairs.iter().any(harms), "{report:#?}");
        }
    });
    doctor.assert_healthy();
    assert_eq!(common::allocated("podnet").len(), 5);
    assert_eq!(steady.addresses("eth0"), ["10.1.0.2/24"]);
}

/// A container cannot see everything: that is reported, and is no failure.
#[test]
fn a_container_that_cannot_be_inspected_is_reported_without_failing() {
    let doctor = DoctorHost::new();
    let _web = added(&doctor, &network(), "c1");
    let command = doctor.command(&["--output", "json", "--fix"]);
    let mut inside = Command::new("unshare");
    inside
        .args(["--user", "--map-root-user", "--"])
        .arg(command.get_program())
        .args(command.get_args())
        .envs(
            command
                .get_envs()
                .filter_map(|(key, value)| Some((key, value?))),
        )
        .stdin(Stdio::null());
    let output = inside.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let answer: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|err| panic!("{err}: {stderr}"));
    assert_eq!(output.status.code(), Some(0), "{answer:#}\n{stderr}");
    let findings = answer["findings"].as_array().unwrap();
    let unseen: Vec<_> = findings
        .iter()
        .filter(|found| found["what"].as_str().unwrap().contains("not checked"))
        .collect();
    assert!(!unseen.is_empty(), "{answer:#}");
    assert!(
        unseen.iter().all(|found| found["severity"] == "note"),
        "{answer:#}"
    );
    assert_eq!(answer["repairs"], json!([]));
}
