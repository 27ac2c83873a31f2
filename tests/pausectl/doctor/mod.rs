//! `pausectl doctor`: each check with the trouble that it is for, and a healthy host, of which it
//! has nothing to say. What `--fix` does is seen by what works again, and by what is untouched.

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

use crate::host::Site;
use common::programs;
use common::screen::assert_is_in_the_docs;
use common::{Call, Container, lab, podnet, run, with};

/// A host to be looked at. No runtime has networks here, but `podnet` is configured.
pub struct Ward {
    pub site: Site,
    runtime: tempfile::TempDir,
    confs: PathBuf,
    plugins: tempfile::TempDir,
}

/// What the doctor said: its exit status, and what is not `ok`.
#[derive(Debug)]
pub struct Seen {
    pub status: i32,
    pub findings: Vec<Value>,
    pub repairs: Vec<Value>,
}

impl Ward {
    pub fn new() -> Self {
        let site = Site::new();
        let confs = site.network(&network()).parent().unwrap().to_owned();
        let plugins = tempfile::tempdir().unwrap();
        for name in ["pausenet", "portmap"] {
            symlink(programs::pausenet(), plugins.path().join(name)).unwrap();
        }
        Self {
            site,
            runtime: tempfile::tempdir().unwrap(),
            confs,
            plugins,
        }
    }

    /// The folder of the runtimes' configurations.
    pub fn runtime_confs(&self) -> &Path {
        self.runtime.path()
    }

    /// The folder of `pausectl pod`'s configurations.
    pub fn confs(&self) -> &Path {
        &self.confs
    }

    /// The folder of plugins.
    pub fn plugins(&self) -> &Path {
        self.plugins.path()
    }

    pub fn command(&self, args: &[&str]) -> Command {
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

    /// What is to be seen, by these checks or by all of them.
    #[track_caller]
    pub fn look(&self, checks: &[&str]) -> Seen {
        self.run(checks, &[])
    }

    /// What is left to be seen after `--fix`, and what that did.
    #[track_caller]
    pub fn fix(&self, checks: &[&str]) -> Seen {
        self.run(checks, &["--fix"])
    }

    #[track_caller]
    fn run(&self, checks: &[&str], args: &[&str]) -> Seen {
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
        let seen = Seen {
            status: output.status.code().unwrap(),
            findings,
            repairs,
        };
        let problems = seen.of("problem").len();
        assert_eq!(answer["problems"], problems, "{seen:#?}");
        assert_eq!(seen.status, i32::from(problems > 0), "{seen:#?}");
        assert_eq!(stderr.is_empty(), problems == 0, "{stderr}");
        seen
    }

    /// Nothing to say but of the kernel's missing options, which are not this host's trouble.
    #[track_caller]
    pub fn assert_healthy(&self) {
        let mut seen = self.look(&[]);
        assert_eq!(seen.status, 0, "{seen:#?}");
        seen.findings.retain(|found| found["check"] != "kernel");
        assert!(seen.findings.is_empty(), "{seen:#?}");
    }

    /// A container on a network, attached by cnitool, which remembers it as libcni does.
    #[track_caller]
    pub fn attach(&self, cnitool: &Path, name: &str, network: &str, ports: Value) -> Container {
        let container = self.site.world.container(name);
        self.cnitool(cnitool, "add", network, &container, &ports);
        container
    }

    /// DEL of the same.
    #[track_caller]
    pub fn detach(&self, cnitool: &Path, network: &str, container: &Container) {
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

impl Seen {
    /// The findings of one severity.
    pub fn of(&self, severity: &str) -> Vec<&Value> {
        let of = |found: &&Value| found["severity"] == severity;
        self.findings.iter().filter(of).collect()
    }

    /// The one finding that there is: a problem that says all of these words.
    #[track_caller]
    pub fn problem(&self, words: &[&str]) -> &Value {
        self.only("problem", words)
    }

    /// The one finding that there is: a note.
    #[track_caller]
    pub fn note(&self, words: &[&str]) -> &Value {
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
    pub fn outcomes(&self) -> Vec<&str> {
        let outcomes = self
            .repairs
            .iter()
            .map(|repair| repair["outcome"].as_str().unwrap());
        outcomes.collect()
    }
}

/// A finding says all of these words, and what they come to.
#[track_caller]
pub fn says(found: &Value, words: &[&str]) {
    let text = ["subject", "what", "means", "how"].map(|key| found[key].as_str().unwrap());
    let text = text.join("\n");
    for word in words {
        assert!(text.contains(word), "no {word:?} in:\n{text}");
    }
    assert_ne!(found["means"], "", "{found:#}");
}

/// The network podnet: masquerade, and ports if a runtime asks for some.
pub fn network() -> Value {
    let capabilities = json!({"portMappings": true, "bandwidth": true});
    with(
        podnet(),
        json!({"ipMasq": true, "capabilities": capabilities}),
    )
}

/// The port of the host that leads to a container's port 80.
pub fn port(host: u16) -> Value {
    json!([{"hostPort": host, "containerPort": 80, "protocol": "tcp"}])
}

/// ADD without a runtime: nobody remembers it.
#[track_caller]
pub fn added(ward: &Ward, config: &Value, name: &str) -> Container {
    let container = ward.site.world.container(name);
    let add = Call::new("ADD", config).netns(&container).id(name);
    add.run().ok();
    container
}

#[test]
fn a_healthy_host_has_no_findings() {
    let Some(cnitool) = lab::cnitool() else {
        return;
    };
    let ward = Ward::new();
    ward.assert_healthy();

    let web = ward.attach(&cnitool, "web", "podnet", port(8080));
    let other = ward.attach(&cnitool, "other", "podnet", json!([]));
    ward.site.create("pod");
    let before = ward.site.world.snapshot();
    let rules = run("nft", ["list", "ruleset"]);
    ward.assert_healthy();

    // And nothing to repair.
    let seen = ward.fix(&[]);
    assert!(seen.repairs.is_empty(), "{seen:#?}");
    assert_eq!(ward.site.world.snapshot(), before);
    assert_eq!(run("nft", ["list", "ruleset"]), rules);

    ward.site.ok(&["pod", "rm", "pod"]);
    for container in [&web, &other] {
        ward.detach(&cnitool, "podnet", container);
    }
    ward.assert_healthy();
}

#[test]
fn an_empty_host_has_no_findings() {
    let ward = Ward::new();
    std::fs::remove_file(ward.confs().join("podnet.json")).unwrap();
    let seen = ward.look(&["sysctls", "plugins", "store", "rules", "links", "legacy"]);
    assert!(seen.findings.is_empty(), "{seen:#?}");
    ward.look(&["networks"]).note(&["no network is configured"]);
}

#[test]
fn each_finding_shows_problem_consequence_and_repair() {
    let ward = Ward::new();
    let _web = added(&ward, &network(), "c1");
    store::leave_behind("podnet", "10.1.0.77", "dead\r\neth0", store::HOUR);
    run("nft", ["flush", "ruleset"]);

    let screen = |args: &[&str]| {
        let mut command = ward.command(args);
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
                          means: held for containers that are gone; ADD takes them back only when the range has run out
                          do: pausectl doctor --fix, which is safe; or: once their containers are gone, remove their files in /var/lib/cni/networks/podnet
    problem     rules     shared chains: rules of postrouting_10.1.0.0/24 are gone from nftables
                          means: no pod has what they do: masquerade, ports, guards
                          do: pausectl doctor --fix, which is safe; or: DEL and ADD again (nft monitor shows who flushes the ruleset)
    problem     rules     network podnet, container c1, interface eth0: gone from nftables: masquerade
                          means: its traffic is not what its network promises, or its ports do not answer; no runtime remembers it, so ports that it had cannot be put back
                          do: pausectl doctor --fix, which is safe; or: DEL and ADD again
    ok          links     every host end is whole, and somebody is behind it
    ");
    insta::assert_snapshot!(stderr, @r"
    error: 3 problems were found
    hint: pausectl doctor --fix repairs 3 safely
    ");
    assert_is_in_the_docs(&(stdout + &stderr));
    let (status, stdout, stderr) = screen(&["--fix"]);
    assert_eq!(status, Some(0));
    insta::assert_snapshot!(stdout, @r"
    repaired    store     network podnet: the addresses are free again
    repaired    rules     shared chains: put back
    repaired    rules     network podnet, container c1, interface eth0: put back: masquerade

    ok          store     every held address has an interface, and every interface its address
    ok          rules     nftables holds what the attachments need, and nothing else of ours
    ok          links     every host end is whole, and somebody is behind it
    ");
    assert_is_in_the_docs(&stdout);
    assert_eq!(stderr, "");
}

/// What is not what it should be is told of, and none of it stops the other checks.
#[test]
fn nonsense_in_the_inspected_files_does_not_stop_doctor() {
    let ward = Ward::new();
    let _web = added(&ward, &network(), "web");
    let file = ward.confs().join("podnet.json");
    for args in [
        ["--runtime-conf-dir", file.to_str().unwrap()],
        ["--runtime-conf-dir", "/dev/null"],
        ["--data-dir", file.to_str().unwrap()],
        ["--data-dir", "/nonexistent"],
        ["--cni-path", "/nonexistent:/dev/null:"],
    ] {
        let mut command = Command::new(programs::pausectl());
        command.args(["doctor", "--output", "json"]).args(args);
        command.env("PAUSENET_CONF_DIR", ward.confs());
        command.env("CNI_PATH", ward.plugins());
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
    let ward = Ward::new();
    let list = ward.command(&["--list"]).output().unwrap();
    assert!(list.status.success());
    let list = String::from_utf8(list.stdout).unwrap();
    let names = list
        .lines()
        .skip(1)
        .map(|line| line.split("  ").next().unwrap());
    for name in names {
        let output = ward
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
        let output = ward.command(wrong).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(output.stdout.is_empty());
    }
}

/// Whatever it sees half made or half gone is somebody's work.
#[test]
fn concurrent_repairs_do_not_harm_adds_and_dels() {
    let ward = Ward::new();
    let steady = added(&ward, &network(), "steady");
    let names: Vec<_> = (0..4).map(|n| format!("busy{n}")).collect();
    let containers: Vec<_> = names
        .iter()
        .map(|name| ward.site.world.container(name))
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
            let seen = ward.fix(&["store", "rules", "links"]);
            assert_eq!(seen.status, 0, "{seen:#?}");
            // Between the making of a lock's file and the taking of the lock nobody holds it. Whoever
            // finds it gone then makes another.
            let harms = |repair: &Value| {
                let subject = repair["subject"].as_str().unwrap();
                repair["outcome"] != "not needed" && !subject.starts_with("/run/pausenet/lock/")
            };
            assert!(!seen.repairs.iter().any(harms), "{seen:#?}");
        }
    });
    ward.assert_healthy();
    assert_eq!(common::allocated("podnet").len(), 5);
    assert_eq!(steady.addresses("eth0"), ["10.1.0.2/24"]);
}

/// In a container there is much that cannot be seen. That is said, and is no failure.
#[test]
fn what_cannot_be_inspected_is_reported_and_is_no_failure() {
    let ward = Ward::new();
    let _web = added(&ward, &network(), "c1");
    let command = ward.command(&["--output", "json", "--fix"]);
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
        .filter(|found| found["what"].as_str().unwrap().contains("not looked at"))
        .collect();
    assert!(!unseen.is_empty(), "{answer:#}");
    assert!(
        unseen.iter().all(|found| found["severity"] == "note"),
        "{answer:#}"
    );
    assert_eq!(answer["repairs"], json!([]));
}
