//! What is wrong in the variables of a call: the verb, whose attachment, which namespace.

use std::fs;
use std::os::unix::ffi::OsStringExt;

use serde_json::{Value, json};

use super::{add, refused, refused_unnamed};
use common::{Call, Container, World, podnet, run, with};

#[test]
fn a_hostile_container_id_is_code_4() {
    let world = World::new();
    let x = world.container("x");
    for id in ["../x", "a/b", ".", "..", "-a", "a b", "a\nb", "é"] {
        let call = add(&x, &podnet()).id(id);
        refused_unnamed(&world, &x, &call, 4, &["CNI_CONTAINERID", "network podnet"]);
    }
}

#[test]
fn an_invalid_interface_name_is_code_4() {
    let world = World::new();
    let x = world.container("x");
    for name in [
        ".",
        "..",
        "a/b",
        "a:b",
        "a b",
        "a\tb",
        "a\nb",
        "sixteen-bytes-xx",
        "eth%d",
        "%",
        "all",
        "default",
        "à",
    ] {
        let call = add(&x, &podnet()).ifname(name);
        refused_unnamed(&world, &x, &call, 4, &["CNI_IFNAME", "network podnet"]);
    }
}

#[test]
fn variables_that_are_not_utf8_are_code_4() {
    let world = World::new();
    let x = world.container("x");
    let not_text = || std::ffi::OsString::from_vec(vec![b'a', 0xff]);
    for name in ["CNI_CONTAINERID", "CNI_IFNAME", "CNI_ARGS", "CNI_COMMAND"] {
        let call = add(&x, &podnet()).var(name, not_text());
        refused_unnamed(&world, &x, &call, 4, &[name]);
    }
}

#[test]
fn all_missing_variables_are_named_at_once() {
    let world = World::new();
    let x = world.container("x");
    let needed = [
        (
            "ADD",
            &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"][..],
        ),
        (
            "CHECK",
            &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"],
        ),
        ("DEL", &["CNI_CONTAINERID", "CNI_IFNAME"]),
    ];
    for (verb, names) in needed {
        let whole = Call::new(verb, &podnet()).netns(&x);
        let mut none = whole.clone().without("CNI_NETNS");
        for name in names {
            let without = whole.clone().without(name);
            refused_unnamed(&world, &x, &without, 4, &[verb, name, "network podnet"]);
            let empty = whole.clone().var(name, "");
            refused_unnamed(&world, &x, &empty, 4, &[verb, name, "network podnet"]);
            none = none.without(name);
        }
        refused_unnamed(&world, &x, &none, 4, names);
    }
}

#[test]
fn an_unknown_verb_is_code_4() {
    let world = World::new();
    let x = world.container("x");
    for verb in ["add", "UPDATE", "ADD ", "ADD\n", "\u{1b}[2J"] {
        refused(
            &world,
            &x,
            &Call::new(verb, &podnet()).netns(&x),
            4,
            &["CNI_COMMAND"],
        );
    }
}

#[test]
fn a_path_that_is_not_a_netns_is_code_8_and_named() {
    let world = World::new();
    let x = world.container("x");
    fs::write("/run/file", "").unwrap();
    run("mkfifo", ["/run/fifo"]);
    std::os::unix::fs::symlink("/run/loop", "/run/loop").unwrap();
    for path in [
        "/run/file",
        "/run",
        "/run/fifo",
        "/run/gone",
        "/run/loop",
        "/run/file/x",
        "/dev/null",
        "/proc/self/ns/mnt",
        "/proc/self/ns/user",
        "/proc/self/stat",
        "relative",
    ] {
        for verb in ["ADD", "CHECK"] {
            let config = with(podnet(), json!({"prevResult": {"cniVersion": "1.1.0"}}));
            let call = Call::new(verb, &config).var("CNI_NETNS", path);
            refused(&world, &x, &call, 8, &[path]);
        }
    }
    let long = "/x".repeat(100_000 / 2);
    refused_long_netns(&world, &x, &long);
}

/// A path over PATH_MAX: still code 8, however the message shows it.
fn refused_long_netns(world: &World, container: &Container, path: &str) {
    let before = world.snapshot();
    Call::new("ADD", &podnet())
        .var("CNI_NETNS", path)
        .run()
        .err_code(8);
    assert_eq!(world.snapshot(), before);
    assert!(container.link("eth0").is_none());
}

#[test]
fn the_plugin_s_own_netns_is_refused_unless_overridden() {
    let world = World::new();
    let x = world.container("x");
    run("touch", ["/run/netns/own"]);
    run(
        "mount",
        ["--bind", "/proc/thread-self/ns/net", "/run/netns/own"],
    );
    let config = with(podnet(), json!({"prevResult": {"cniVersion": "1.1.0"}}));
    for path in [
        "/proc/self/ns/net",
        "/proc/thread-self/ns/net",
        "/run/netns/own",
    ] {
        // To CHECK it is not the one that was attached.
        for (verb, code) in [("ADD", 8), ("CHECK", 102)] {
            let call = Call::new(verb, &config).var("CNI_NETNS", path);
            refused(&world, &x, &call, code, &[path, "own"]);
            for no in ["", "0", "false", "yes"] {
                refused(
                    &world,
                    &x,
                    &call.clone().var("CNI_NETNS_OVERRIDE", no),
                    code,
                    &["own"],
                );
            }
        }
    }
    for yes in ["1", "true", "TRUE"] {
        let config = with(podnet(), json!({"isDefaultGateway": null}));
        let call = |verb, config: &Value| {
            Call::new(verb, config)
                .var("CNI_NETNS", "/run/netns/own")
                .var("CNI_NETNS_OVERRIDE", yes)
        };
        let result = call("ADD", &config).run().ok();
        assert_eq!(world.addresses("eth0").len(), 1);
        let checked = with(config.clone(), json!({"prevResult": result}));
        call("CHECK", &checked).run().ok();
        call("DEL", &config).run().ok();
        assert!(world.link("eth0").is_none());
    }
}

#[test]
fn malformed_arguments_are_code_4() {
    let world = World::new();
    let x = world.container("x");
    for args in [
        "IP",
        "IP=10.1.0",
        "IP=10.1.0.5;",
        ";",
        "=x",
        "IP=10.1.0.5=7",
        "MAC=xx",
        "MAC=01:00:5e:00:00:01",
        "IgnoreUnknown=perhaps",
        "FOO=bar",
        "IgnoreUnknown=0;FOO=bar",
    ] {
        refused(
            &world,
            &x,
            &add(&x, &podnet()).var("CNI_ARGS", args),
            4,
            &["CNI_ARGS"],
        );
    }
    let kubelet = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;FOO=bar";
    add(&x, &podnet()).var("CNI_ARGS", kubelet).run().ok();
}
