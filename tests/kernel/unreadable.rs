//! DEL and GC with a config of which a part cannot be read: another version of the plugin, or another
//! config, has made the attachment. What can be found is removed, and stderr says the rest.

use std::os::unix::ffi::OsStringExt;

use serde_json::{Value, json};

use crate::plugins::{call_alone, call_as, script};
use common::nftables::element_count;
use common::{Container, PluginOutput, World, added, allocated, call, podnet, with};

const OWNER: &str = "pausenet podnet x eth0";

fn everything() -> Value {
    let ports = json!({"portMappings": [{"hostPort": 8080, "containerPort": 80}]});
    let rest = json!({"ipMasq": true, "macspoofchk": true, "runtimeConfig": ports});
    with(podnet(), rest)
}

/// Parts that cannot be read, and a word of the warning.
fn unreadable() -> Vec<(Value, &'static str)> {
    let ipam = |rest: Value| json!({"ipam": with(json!({"type": "host-local"}), rest)});
    vec![
        (json!({"ipam": "host-local"}), "ipam"),
        (json!({"ipam": {"type": 5}}), "ipam.type"),
        (ipam(json!({"ranges": "10.1.0.0/24"})), "ipam.ranges"),
        (
            ipam(json!({"ranges": [[{"subnet": "10.1.0.0"}]]})),
            "ipam.ranges[0][0].subnet",
        ),
        (
            ipam(json!({"ranges": [[{"subnet": "10.1.0.0/31"}]]})),
            "10.1.0.0/31",
        ),
        (
            ipam(json!({"routes": [{"dst": 5}], "subnet": "10.1.0.0/24"})),
            "ipam.routes[0].dst",
        ),
        (ipam(json!({})), "no range"),
        (json!({"prevResult": "none"}), "prevResult"),
        (json!({"prevResult": {"cniVersion": "9.9.9"}}), "9.9.9"),
        (
            json!({"prevResult": {"ips": [{"address": "10.1.0.2"}]}}),
            "prevResult.ips[0].address",
        ),
        (
            json!({"prevResult": {"interfaces": 7}, "ipam": 7}),
            "prevResult.interfaces",
        ),
        (json!({"dns": []}), "dns"),
        (json!({"isGateway": "yes"}), "isGateway"),
        (json!({"runtimeConfig": []}), "runtimeConfig"),
        (
            json!({"runtimeConfig": {"ips": ["x"]}}),
            "runtimeConfig.ips[0]",
        ),
        (json!({"args": {"cni": {"mac": 5}}}), "args.cni.mac"),
    ]
}

#[track_caller]
fn warned(output: &PluginOutput, word: &str) {
    output.ok();
    let stderr = String::from_utf8_lossy(&output.0.stderr).into_owned();
    assert!(stderr.starts_with("pausenet: warning: "), "{stderr}");
    assert!(stderr.contains(word), "no {word:?} in {stderr}");
}

#[track_caller]
fn assert_gone(world: &World, x: &Container) {
    assert!(x.link("eth0").is_none());
    let ours = world.links();
    let mut ours = ours.iter().filter_map(|link| link.alias.as_deref());
    assert!(!ours.any(|alias| alias == OWNER));
    assert_eq!(element_count(OWNER), 0);
    assert!(allocated("podnet").is_empty());
}

#[test]
fn del_removes_what_it_can_find() {
    let world = World::new();
    let x = world.container("x");
    for (changes, word) in unreadable() {
        call("ADD", &everything(), &x).run().ok();
        assert_eq!(element_count(OWNER), 6);

        let output = call("DEL", &with(everything(), changes), &x).run();

        warned(&output, word);
        assert_gone(&world, &x);
    }
}

/// The record of how many there were cannot be read, as when there are too many open files, and the
/// result is that of an earlier life.
#[test]
fn del_removes_elements_though_neither_their_record_nor_their_addresses_are_known() {
    let world = World::new();
    let x = world.container("x");
    let earlier = call("ADD", &everything(), &x).run().ok();
    call("DEL", &everything(), &x).run().ok();
    call("ADD", &everything(), &x).run().ok();
    for record in std::fs::read_dir("/run/pausenet/elements").unwrap() {
        let record = record.unwrap().path();
        std::fs::remove_file(&record).unwrap();
        std::os::unix::fs::symlink("/dev/null", &record).unwrap();
    }
    let known = with(everything(), json!({"prevResult": earlier}));
    call("DEL", &known, &x).run().ok();
    assert_gone(&world, &x);
}

/// The ADD had others: the runtime's, or a plugin's that takes them.
#[test]
fn del_goes_on_without_arguments_that_are_malformed() {
    let world = World::new();
    let x = world.container("x");
    let not_text = std::ffi::OsString::from_vec(vec![b'a', 0xff]);
    for args in [
        "IP".into(),
        "IP=10.1.0".into(),
        "GATEWAY=x".into(),
        "MAC=xx".into(),
        ";".into(),
        "FOO=bar".into(),
        "IgnoreUnknown=perhaps".into(),
        not_text,
    ] {
        let result = call("ADD", &everything(), &x).run().ok();
        assert_eq!(element_count(OWNER), 6);
        for config in [
            everything(),
            with(everything(), json!({"prevResult": result})),
        ] {
            let del = call("DEL", &config, &x).var("CNI_ARGS", args.clone());
            warned(&del.run(), "CNI_ARGS");
            assert_gone(&world, &x);
        }
    }
}

/// Of static addresses, only the arguments say which they were.
#[test]
fn del_of_addresses_in_arguments_that_are_malformed_removes_their_elements() {
    let world = World::new();
    let x = world.container("x");
    let config = with(everything(), json!({"ipam": {"type": "static"}}));
    let add = call("ADD", &config, &x).var("CNI_ARGS", "IP=10.1.0.9/24");
    add.run().ok();
    assert_eq!(element_count(OWNER), 6);

    let del = call("DEL", &config, &x).var("CNI_ARGS", "IP=10.1.0.9/24;");
    warned(&del.run(), "CNI_ARGS");

    assert_gone(&world, &x);
}

/// As other plugins make them: the kernel puts a number into `eth%d`, but finds what has that name.
#[test]
fn del_takes_names_that_add_refuses() {
    let world = World::new();
    let x = world.container("x");
    let before = world.snapshot();
    for name in ["eth%d", "all", "default", "a\u{1b}b"] {
        call("ADD", &everything(), &x)
            .ifname(name)
            .run()
            .err_code(4);
        call("DEL", &everything(), &x).ifname(name).run().ok();
    }
    assert_eq!(world.snapshot(), before);

    let store = std::path::Path::new("/var/lib/cni/networks/podnet");
    std::fs::create_dir_all(store).unwrap();
    std::fs::write(store.join("10.1.0.7"), "x\r\nall").unwrap();
    call("DEL", &podnet(), &x).ifname("all").run().ok();
    assert!(allocated("podnet").is_empty());
}

#[test]
fn del_needs_no_cni_path_without_a_delegate() {
    let world = World::new();
    let (x, _) = added(&world, &everything(), "x");
    call("DEL", &everything(), &x)
        .without("CNI_PATH")
        .run()
        .ok();
    assert_gone(&world, &x);

    let delegated = with(everything(), json!({"ipam": {"type": "my-ipam"}}));
    let error = call("DEL", &delegated, &x)
        .without("CNI_PATH")
        .run()
        .err_code(7);
    assert!(
        error["msg"].as_str().unwrap().contains("CNI_PATH"),
        "{error}"
    );
}

/// An inherited variable is not the network's.
#[test]
fn verbs_about_a_network_do_not_read_arguments() {
    let world = World::new();
    let x = world.container("x");
    for verb in ["GC", "STATUS", "VERSION"] {
        call(verb, &podnet(), &x).var("CNI_ARGS", ";").run().ok();
    }
}

#[test]
fn del_frees_addresses_in_the_store_that_the_config_names() {
    let world = World::new();
    let x = world.container("x");
    let folder = tempfile::tempdir().unwrap();
    let ipam = |ranges: Value| {
        let ipam = json!({"type": "host-local", "dataDir": folder.path(), "ranges": ranges});
        with(podnet(), json!({"ipam": ipam}))
    };
    call("ADD", &ipam(json!([[{"subnet": "10.1.0.0/24"}]])), &x)
        .run()
        .ok();
    warned(&call("DEL", &ipam(json!("all")), &x).run(), "ipam.ranges");
    assert!(common::allocated_in(&folder.path().join("podnet")).is_empty());
}

#[test]
fn del_of_static_addresses_needs_nothing_of_the_ipam_section() {
    let world = World::new();
    let x = world.container("x");
    let ipam = |addresses: Value| {
        with(
            everything(),
            json!({"ipam": {"type": "static", "addresses": addresses}}),
        )
    };
    call("ADD", &ipam(json!([{"address": "10.1.0.8/24"}])), &x)
        .run()
        .ok();
    let output = call("DEL", &ipam(json!([{"address": "10.1.0.8"}])), &x).run();
    warned(&output, "ipam.addresses[0].address");
    assert_gone(&world, &x);
}

/// The delegate judges its section itself, and what else is unreadable is none of its business.
#[test]
fn del_reaches_a_delegate_whatever_prev_result_is() {
    let world = World::new();
    let x = world.container("x");
    let folder = tempfile::tempdir().unwrap();
    let answer = r#"{"cniVersion": "1.1.0", "ips": [{"address": "10.1.0.7/24"}]}"#;
    let log = folder.path().join("calls");
    let text = format!(
        "cat >/dev/null; echo $CNI_COMMAND >>{}; [ $CNI_COMMAND != ADD ] || echo '{answer}'",
        log.display()
    );
    script(folder.path(), "my-ipam", &text);
    let config = with(
        everything(),
        json!({"ipam": {"type": "my-ipam", "own": [[5]]}}),
    );
    call("ADD", &config, &x)
        .var("CNI_PATH", folder.path())
        .run()
        .ok();
    let broken = with(config.clone(), json!({"prevResult": {"ips": 5}}));
    let output = call("DEL", &broken, &x)
        .var("CNI_PATH", folder.path())
        .run();
    warned(&output, "prevResult.ips");
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "ADD\nDEL\n");
    assert_gone(&world, &x);

    // Only the delegate can free its addresses, so a later DEL has to; the rest goes at once.
    call("ADD", &config, &x)
        .var("CNI_PATH", folder.path())
        .run()
        .ok();
    let error = call("DEL", &config, &x).run().err_code(7);
    assert!(
        error["msg"].as_str().unwrap().contains("my-ipam"),
        "{error}"
    );
    assert_gone(&world, &x);
    // A name that no plugin can have is not worth a retry.
    let impossible = with(config, json!({"ipam": {"type": "../my-ipam"}}));
    warned(&call("DEL", &impossible, &x).run(), "../my-ipam");
}

#[test]
fn del_of_chained_ports_does_not_need_prev_result() {
    let world = World::new();
    let (x, result) = added(&world, &podnet(), "x");
    let ports = json!({"type": "portmap", "prevResult": result, "runtimeConfig": {
        "portMappings": [{"hostPort": 8080, "containerPort": 80}]}});
    for broken in [
        json!({"prevResult": 5}),
        json!({"prevResult": {"ips": [{}]}}),
        json!({"runtimeConfig": {"portMappings": "8080:80"}}),
        json!({"ipam": []}),
    ] {
        let config = with(podnet(), ports.clone());
        call_as("portmap", "ADD", &config, &x).run().ok();
        assert_eq!(element_count("portmap podnet x eth0"), 3);
        let output = call_as("portmap", "DEL", &with(config, broken), &x).run();
        warned(&output, "going on without it");
        assert_eq!(element_count("portmap podnet x eth0"), 0);
    }
}

#[test]
fn host_local_frees_addresses_whatever_its_ranges_are() {
    let _world = World::new();
    let config = json!({"cniVersion": "1.1.0", "name": "podnet", "type": "bridge",
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24"}]]}});
    for broken in [
        json!({"ipam": {"type": "host-local", "ranges": [[{"subnet": "x"}]]}}),
        json!({"ipam": {"type": "host-local"}}),
        json!({"ipam": 5}),
    ] {
        call_alone("host-local", "ADD", &config).run().ok();
        assert_eq!(allocated("podnet").len(), 1);
        call_alone("host-local", "DEL", &with(config.clone(), broken.clone()))
            .run()
            .ok();
        assert!(allocated("podnet").is_empty(), "{broken}");
    }
}

#[test]
fn gc_removes_what_it_can_find() {
    let world = World::new();
    let x = world.container("x");
    for (changes, word) in unreadable() {
        // GC does not read these.
        if matches!(word, "runtimeConfig.ips[0]" | "args.cni.mac") {
            continue;
        }
        call("ADD", &everything(), &x).run().ok();
        let kept = json!({"cni.dev/valid-attachments": [{"containerID": "x", "ifname": "eth0"}]});
        let config = with(everything(), changes);
        warned(&call("GC", &with(config.clone(), kept), &x).run(), word);
        assert_eq!(element_count(OWNER), 6);
        assert_eq!(allocated("podnet").len(), 1);

        warned(&call("GC", &config, &x).run(), word);

        assert_gone(&world, &x);
        call("DEL", &everything(), &x).run().ok();
    }
}

/// A list that cannot be read must not be taken for an empty one.
#[test]
fn gc_without_a_readable_list_removes_nothing() {
    let world = World::new();
    let (x, _) = added(&world, &everything(), "x");
    let before = world.snapshot();
    for list in [json!("x"), json!([5]), json!([{"containerID": ["x"]}])] {
        let config = with(everything(), json!({"cni.dev/valid-attachments": list}));
        call("GC", &config, &x).run().err_code(6);
    }
    assert_eq!(world.snapshot(), before);
}
