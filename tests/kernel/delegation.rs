//! IPAM by another plugin: the reference's `host-local` under another name, and shell scripts
//! that record their calls and print what the test wants.

mod interface;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{Value, json};

use crate::plugins::script;
use common::nftables::ruleset;
use common::{Call, World, allocated, call, lab, podnet, with};

const RESULT: &str = r#"{"cniVersion": "1.1.0",
    "ips": [{"address": "10.1.0.7/24", "gateway": "10.1.0.1"}],
    "routes": [{"dst": "192.168.7.0/24"}], "dns": {"nameservers": ["10.1.0.53"]}}"#;

fn delegated() -> Value {
    with(
        podnet(),
        json!({"ipMasq": true, "ipam": {"type": "my-ipam", "own": ["key", 1]}}),
    )
}

/// A folder of plugins in which `my-ipam` writes down what it is asked, and then does this.
struct ScriptedPlugin(tempfile::TempDir);

impl ScriptedPlugin {
    fn new(then: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().display();
        let text = format!(
            "cat > {log}/$CNI_COMMAND.json\nenv > {log}/$CNI_COMMAND.env\n\
             echo $CNI_COMMAND >> {log}/calls\n{then}"
        );
        script(folder.path(), "my-ipam", &text);
        Self(folder)
    }

    fn call(&self, verb: &str, config: &Value) -> Call {
        let folder = self.0.path().display();
        Call::new(verb, config).var("CNI_PATH", format!("/nonexistent:{folder}"))
    }

    /// The verbs it was called with, in order.
    fn calls(&self) -> Vec<String> {
        let log = fs::read_to_string(self.0.path().join("calls")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }

    fn stdin_of(&self, verb: &str) -> Value {
        let path = self.0.path().join(format!("{verb}.json"));
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }

    fn env_of(&self, verb: &str) -> String {
        fs::read_to_string(self.0.path().join(format!("{verb}.env"))).unwrap()
    }
}

fn answering() -> ScriptedPlugin {
    ScriptedPlugin::new(&format!("[ $CNI_COMMAND != ADD ] || echo '{RESULT}'"))
}

#[test]
fn the_delegate_s_result_becomes_the_container_s_addresses_routes_and_dns() {
    let world = World::new();
    let x = world.container("x");
    let delegate = answering();

    let result = delegate.call("ADD", &delegated()).netns(&x).run().ok();

    assert_eq!(x.addresses("eth0"), ["10.1.0.7/24"]);
    assert_eq!(
        x.routes(),
        ["0.0.0.0/0 via 10.1.0.1", "192.168.7.0/24 via 10.1.0.1"]
    );
    assert_eq!(world.addresses("cni0"), ["10.1.0.1/24"]);
    assert_eq!(result["dns"], json!({"nameservers": ["10.1.0.53"]}));
    assert_eq!(result["ips"][0]["interface"], 2);
    assert!(ruleset().contains("10.1.0.7 comment"));
    assert!(allocated("podnet").is_empty());
}

/// What a delegate may rely on: our environment, the verb, and the config as it came in.
#[test]
fn every_verb_is_delegated_unchanged() {
    let world = World::new();
    let x = world.container("x");
    let delegate = answering();
    let config = with(delegated(), json!({"unknown": {"to": "us"}}));
    let result = delegate
        .call("ADD", &config)
        .netns(&x)
        .var("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAME=web")
        .run()
        .ok();
    assert_eq!(delegate.stdin_of("ADD"), config);
    let env = delegate.env_of("ADD");
    for line in [
        "CNI_COMMAND=ADD",
        "CNI_CONTAINERID=c1",
        "CNI_IFNAME=eth0",
        "CNI_NETNS=/run/netns/x",
        "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAME=web",
        "CNI_PATH=/nonexistent:",
    ] {
        assert!(
            env.lines().any(|have| have.starts_with(line)),
            "{line} in {env}"
        );
    }

    let with_result = with(config.clone(), json!({"prevResult": result}));
    delegate.call("CHECK", &with_result).netns(&x).run().ok();
    assert_eq!(delegate.stdin_of("CHECK"), with_result);
    delegate.call("STATUS", &config).run().ok();
    assert_eq!(delegate.stdin_of("STATUS"), config);
    let valid = json!([{"containerID": "c1", "ifname": "eth0"}]);
    let list = with(config.clone(), json!({"cni.dev/valid-attachments": valid}));
    delegate.call("GC", &list).run().ok();
    assert_eq!(delegate.stdin_of("GC"), list);
    assert!(x.link("eth0").is_some());
    delegate.call("DEL", &with_result).netns(&x).run().ok();
    assert_eq!(delegate.stdin_of("DEL"), with_result);
    assert!(delegate.env_of("DEL").contains("CNI_COMMAND=DEL"));
    assert_eq!(delegate.calls(), ["ADD", "CHECK", "STATUS", "GC", "DEL"]);
    assert!(!ruleset().contains("10.1.0.7"));
}

#[test]
fn a_delegate_s_error_keeps_its_code_and_message() {
    let refusal =
        r#"{"cniVersion": "1.1.0", "code": 11, "msg": "all gone", "details": "try later"}"#;
    let delegate = ScriptedPlugin::new(&format!("echo '{refusal}'; exit 1"));
    let world = World::new();
    let x = world.container("x");
    let before = world.snapshot();
    let prev = json!({"prevResult": {"cniVersion": "1.1.0"}});
    for (verb, code) in [("ADD", 11), ("DEL", 11), ("STATUS", 50), ("GC", 11)] {
        let list = json!({"cni.dev/valid-attachments": []});
        let config = with(with(delegated(), prev.clone()), list);
        let error = delegate.call(verb, &config).netns(&x).run().err_code(code);
        let message = format!("{} {}", error["msg"], error["details"]);
        for word in ["my-ipam", "all gone", "try later"] {
            assert!(message.contains(word), "{verb}: {word} in {message}");
        }
    }
    assert_eq!(
        delegate.calls()[..2],
        ["ADD", "DEL"],
        "what it took before it failed"
    );
    assert_eq!(world.snapshot().without_bridge("cni0"), before);
}

#[test]
fn check_reports_what_the_delegate_finds() {
    let world = World::new();
    let x = world.container("x");
    let delegate = answering();
    let result = delegate.call("ADD", &delegated()).netns(&x).run().ok();
    let refusal = r#"{"code": 999, "msg": "not mine"}"#;
    let sour = ScriptedPlugin::new(&format!("echo '{refusal}'; exit 1"));
    let check = with(delegated(), json!({"prevResult": result}));
    let error = sour.call("CHECK", &check).netns(&x).run().err_code(999);
    assert!(
        error["msg"].as_str().unwrap().contains("not mine"),
        "{error}"
    );
}

#[test]
fn delegate_output_that_is_not_a_result_is_code_6_and_undone() {
    for answer in [
        "",
        "echo nonsense",
        "echo []",
        r#"echo '{"ips": [{"address": "x"}]}'"#,
    ] {
        let world = World::new();
        let x = world.container("x");
        let before = world.snapshot();
        let delegate = ScriptedPlugin::new(answer);
        let error = delegate
            .call("ADD", &delegated())
            .netns(&x)
            .run()
            .err_code(6);
        assert!(
            error["msg"].as_str().unwrap().contains("my-ipam"),
            "{error}"
        );
        assert_eq!(delegate.calls(), ["ADD", "DEL"]);
        assert_eq!(world.snapshot().without_bridge("cni0"), before);
    }
}

#[test]
fn a_result_without_an_address_is_refused_and_undone() {
    let world = World::new();
    let x = world.container("x");
    let before = world.snapshot();
    let delegate = ScriptedPlugin::new(r#"echo '{"cniVersion": "1.1.0"}'"#);
    delegate
        .call("ADD", &delegated())
        .netns(&x)
        .run()
        .err_code(7);
    assert_eq!(delegate.calls(), ["ADD", "DEL"]);
    assert_eq!(world.snapshot().without_bridge("cni0"), before);
}

#[test]
fn a_delegate_that_dies_is_reported() {
    let world = World::new();
    let x = world.container("x");
    for (then, word) in [("kill -9 $$", "signal"), ("exit 3", "exit status: 3")] {
        let delegate = ScriptedPlugin::new(then);
        let error = delegate
            .call("ADD", &delegated())
            .netns(&x)
            .run()
            .err_code(999);
        let msg = error["msg"].as_str().unwrap();
        assert!(msg.contains("my-ipam") && msg.contains(word), "{msg}");
    }
}

#[test]
fn a_delegate_is_searched_in_cni_path_only_and_in_its_order() {
    let world = World::new();
    let x = world.container("x");
    let before = world.snapshot();
    let delegate = answering();
    let folder = delegate.0.path().to_owned();
    let path = |path: String| {
        Call::new("ADD", &delegated())
            .netns(&x)
            .var("CNI_PATH", path)
            .run()
    };
    let error = path("/nonexistent:/run".into()).err_code(7);
    let message = format!("{} {}", error["msg"], error["details"]);
    assert!(
        message.contains("my-ipam") && message.contains("/nonexistent, /run"),
        "{message}"
    );
    let hostile = with(delegated(), json!({"ipam": {"type": "../my-ipam"}}));
    delegate.call("ADD", &hostile).netns(&x).run().err_code(7);
    assert_eq!(world.snapshot(), before);
    assert!(delegate.calls().is_empty());

    // Not a program, and then one.
    let first = tempfile::tempdir().unwrap();
    fs::write(first.path().join("my-ipam"), "no program").unwrap();
    path(format!("{}:{}", first.path().display(), folder.display())).ok();
    assert_eq!(delegate.calls(), ["ADD"]);
}

#[test]
fn the_reference_s_host_local_works_as_delegate() {
    let folders = [lab::peers_today(), lab::peers()];
    for (folder, version) in folders.into_iter().zip(["1.1.0", "1.0.0"]) {
        let Some(theirs) = folder else { continue };
        let world = World::new();
        let path = tempfile::tempdir().unwrap();
        symlink(theirs.join("host-local"), path.path().join("my-ipam")).unwrap();
        let ranges = json!([[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]]);
        let ipam = json!({"type": "my-ipam", "ranges": ranges});
        let config = with(delegated(), json!({"cniVersion": version, "ipam": ipam}));
        let x = world.container("x");
        let run = |verb: &str, config: &Value| {
            call(verb, config, &x)
                .var("CNI_PATH", path.path().as_os_str())
                .run()
        };

        let result = run("ADD", &config).ok();

        assert_eq!(x.addresses("eth0"), ["10.1.0.2/24", "fd00::2/64"]);
        assert_eq!(allocated("podnet"), ["10.1.0.2", "fd00::2"]);
        let check = with(config.clone(), json!({"prevResult": result}));
        run("CHECK", &check).ok();
        fs::remove_dir_all(Path::new(common::STORES).join("podnet")).unwrap();
        run("CHECK", &check).err();
        run("DEL", &config).ok();
        run("ADD", &config).ok();
        run("ADD", &config).err();
        assert_eq!(x.addresses("eth0").len(), 2, "the live one is left alone");
        run("DEL", &config).ok();
        assert!(allocated("podnet").is_empty());
        assert!(!ruleset().contains("10.1.0.2"));
    }
}

#[test]
fn static_addresses_come_from_the_config_and_the_request() {
    let ipam = json!({"type": "static",
        "addresses": [{"address": "10.1.0.9/24", "gateway": "10.1.0.1"}, {"address": "fd00::9/64"}],
        "routes": [{"dst": "192.168.7.0/24"}], "dns": {"nameservers": ["10.1.0.53"]}});
    let config = with(podnet(), json!({"ipam": ipam, "ipMasq": true}));
    for (ask, args, expected) in [
        (json!({}), "", vec!["10.1.0.9/24", "fd00::9/64"]),
        (
            json!({}),
            "IP=10.1.0.10/24",
            vec!["10.1.0.9/24", "10.1.0.10/24", "fd00::9/64"],
        ),
        (
            json!({"args": {"cni": {"ips": ["10.1.0.11/24"]}}}),
            "IP=10.1.0.10/24",
            vec!["10.1.0.11/24"],
        ),
        (
            json!({"args": {"cni": {"ips": ["10.1.0.11/24"]}}, "runtimeConfig": {"ips": ["10.1.0.12/24"]}}),
            "",
            vec!["10.1.0.12/24"],
        ),
    ] {
        let world = World::new();
        let config = with(config.clone(), ask);
        let x = world.container("x");
        let run = |verb: &str, config: &Value| call(verb, config, &x).var("CNI_ARGS", args).run();

        let result = run("ADD", &config).ok();

        assert_eq!(x.addresses("eth0"), expected);
        assert_eq!(result["dns"], json!({"nameservers": ["10.1.0.53"]}));
        assert!(
            x.routes()
                .contains(&"192.168.7.0/24 via 10.1.0.1".to_owned()),
            "{:?}",
            x.routes()
        );
        assert!(!Path::new(common::STORES).exists(), "no store");
        run(
            "CHECK",
            &with(config.clone(), json!({"prevResult": result})),
        )
        .ok();
        run("STATUS", &config).ok();
        run("DEL", &config).ok();
        assert!(x.link("eth0").is_none());
        assert_eq!(common::nftables::element_count("pausenet podnet x eth0"), 0);
        run("ADD", &config).ok();
        run(
            "GC",
            &with(config, json!({"cni.dev/valid-attachments": []})),
        )
        .ok();
        assert!(x.link("eth0").is_none());
        assert_eq!(common::nftables::element_count("pausenet podnet x eth0"), 0);
    }
}

#[test]
fn a_missing_or_prefixless_static_address_is_code_7() {
    let world = World::new();
    let x = world.container("x");
    let before = world.snapshot();
    let none = with(podnet(), json!({"ipam": {"type": "static"}}));
    call("ADD", &none, &x).run().err_code(7);
    let asked = with(none, json!({"runtimeConfig": {"ips": ["10.1.0.12"]}}));
    let error = call("ADD", &asked, &x).run().err_code(7);
    assert!(
        error["msg"].as_str().unwrap().contains("10.1.0.12"),
        "{error}"
    );
    assert_eq!(world.snapshot(), before);
}
