//! One process serves a call: nothing is executed on any way but a delegate's.

use std::fs;

use serde_json::{Value, json};

use crate::plugins::{call_as, script, under};
use common::{Call, World, call, podnet, with};

/// Everything that other plugins call iptables, nft, tc, ip or sysctl for.
fn everything() -> Value {
    let ipam = json!({"type": "host-local",
        "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]]});
    with(
        podnet(),
        json!({
        "ipMasq": true, "ipMasqBackend": "iptables", "macspoofchk": true, "hairpinMode": true,
        "portIsolation": true, "ipam": ipam,
        "runtimeConfig": {"portMappings": [
            {"hostPort": 8080, "containerPort": 80},
            {"hostPort": 8080, "containerPort": 80, "protocol": "udp"}]}}),
    )
}

/// What a call executes, itself included, and its answer.
fn executed(call: &Call) -> (Vec<String>, Value) {
    let log = tempfile::NamedTempFile::new().unwrap();
    let path = log.path().to_str().unwrap();
    // Without fork, which musl's call of that name is and glibc's is not: DEL has a child that executes nothing.
    let trace = "--trace=execve,execveat,vfork";
    let answer = under(
        &["strace", "-f", "-qq", "--signal=none", "-o", path, trace],
        call,
    )
    .ok();
    let log = fs::read_to_string(path).unwrap();
    (log.lines().map(str::to_owned).collect(), answer)
}

#[test]
fn no_verb_executes_anything() {
    let world = World::new();
    for plugin in ["pausenet", "bridge", "ptp"] {
        let x = world.container(plugin);
        let call = |verb: &str, config: &Value| match plugin {
            "pausenet" => call(verb, config, &x),
            name => call_as(name, verb, &with(config.clone(), json!({"type": name})), &x),
        };
        let own = |verb: &str, config: &Value| {
            let (executed, answer) = executed(&call(verb, config));
            assert_eq!(executed.len(), 1, "{plugin} {verb}: {executed:#?}");
            answer
        };
        let result = own("ADD", &everything());
        let with_result = with(everything(), json!({"prevResult": result}));
        own("CHECK", &with_result);
        own("STATUS", &everything());
        let valid = json!([{"containerID": plugin, "ifname": "eth0"}]);
        own(
            "GC",
            &with(everything(), json!({"cni.dev/valid-attachments": valid})),
        );
        own("DEL", &with_result);
        own("DEL", &everything());
        own(
            "GC",
            &with(everything(), json!({"cni.dev/valid-attachments": []})),
        );
    }
}

#[test]
fn chained_plugins_execute_nothing_either() {
    let world = World::new();
    let x = world.container("x");
    let mut result = json!(null);
    for verb in ["ADD", "CHECK", "DEL"] {
        for plugin in ["bridge", "host-local", "portmap", "loopback"] {
            let mut config = with(everything(), json!({"prevResult": result}));
            if plugin == "host-local" {
                config = with(config, json!({"name": "othernet"}));
            }
            let (executed, answer) = executed(&call_as(plugin, verb, &config, &x));
            assert_eq!(executed.len(), 1, "{plugin} {verb}: {executed:#?}");
            if plugin == "bridge" && verb == "ADD" {
                result = answer;
            }
        }
    }
}

/// That the trace would show it.
#[test]
fn a_delegate_costs_one_process() {
    let world = World::new();
    let x = world.container("x");
    let path = tempfile::tempdir().unwrap();
    script(
        path.path(),
        "my-ipam",
        r#"echo '{"ips": [{"address": "10.1.0.7/24"}]}'"#,
    );
    let config = with(
        everything(),
        json!({"ipam": {"type": "my-ipam"}, "ipMasq": false}),
    );
    let call = call("ADD", &config, &x).var("CNI_PATH", path.path().as_os_str());
    let (executed, _) = executed(&call);
    let programs = executed.iter().filter(|line| line.contains("exec")).count();
    assert_eq!(programs, 2, "{executed:#?}");
}
