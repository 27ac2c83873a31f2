//! A delegated IPAM finds the interface that it allocates for, as `dhcp` needs it: made and switched on
//! before its ADD, and there until after its DEL.

use std::fs;

use serde_json::{Value, json};

use super::{RESULT, ScriptedPlugin, delegated};
use crate::plugins::{call_as, folder};
use common::nftables::{element_count, ruleset};
use common::{Container, HOST_END, World, ip, podnet, with};

/// A plugin that writes down what it sees of the links, and then does this.
fn watching(then: &str) -> ScriptedPlugin {
    ScriptedPlugin::new(&format!(
        "folder=$(dirname $0)\n\
         ip -o link show {HOST_END} > $folder/$CNI_COMMAND.host 2>&1\n\
         ip -n x -o addr show eth0 > $folder/$CNI_COMMAND.addresses 2>&1\n\
         ip -n x -o link show eth0 > $folder/$CNI_COMMAND.link 2>&1\n\
         nft list ruleset > $folder/$CNI_COMMAND.ruleset\n{then}"
    ))
}

fn answering(result: &str) -> ScriptedPlugin {
    watching(&format!("[ $CNI_COMMAND != ADD ] || echo '{result}'"))
}

impl ScriptedPlugin {
    /// What it saw: `link`, `host`, `addresses` or `ruleset`.
    fn saw(&self, verb: &str, what: &str) -> String {
        fs::read_to_string(self.0.path().join(format!("{verb}.{what}"))).unwrap()
    }

    #[track_caller]
    fn saw_both_ends(&self, verb: &str) {
        for what in ["link", "host"] {
            let shown = self.saw(verb, what);
            assert!(shown.contains("state UP"), "{verb}, {what}: {shown}");
        }
    }
}

/// A route that the kernel refuses, after the address was added.
fn with_bad_route() -> String {
    RESULT.replace(
        r#"{"dst": "192.168.7.0/24"}"#,
        r#"{"dst": "192.168.7.0/24", "gw": "172.31.0.1"}"#,
    )
}

fn routed() -> Value {
    with(
        delegated(),
        json!({"mode": "ptp", "bridge": null, "isDefaultGateway": null}),
    )
}

#[test]
fn a_delegate_finds_the_interface_switched_on_in_every_mode() {
    for (name, config) in [
        ("pausenet", delegated()),
        ("pausenet", routed()),
        ("bridge", delegated()),
        ("ptp", with(routed(), json!({"mode": null}))),
    ] {
        let world = World::new();
        let x = world.container("x");
        let delegate = answering(RESULT);
        let path = format!("{}:{}", delegate.0.path().display(), folder().display());
        let run = |verb: &str, config: &Value| {
            let config = with(config.clone(), json!({"type": name}));
            let call = match name {
                "pausenet" => delegate.call(verb, &config).netns(&x),
                name => call_as(name, verb, &config, &x).id("c1"),
            };
            call.var("CNI_PATH", &path).run()
        };

        let result = run("ADD", &config).ok();

        delegate.saw_both_ends("ADD");
        assert!(!delegate.saw("ADD", "addresses").contains("inet 10."));
        assert_eq!(x.addresses("eth0"), ["10.1.0.7/24"], "{name}");
        let inside = x.link("eth0").unwrap();
        let mac = inside.mac.unwrap().to_string();
        assert!(
            delegate.saw("ADD", "link").contains(&mac),
            "it kept its MAC"
        );
        let at = result["ips"][0]["interface"].as_u64().unwrap() as usize;
        assert_eq!(result["interfaces"][at]["mac"], mac);

        let known = with(config.clone(), json!({"prevResult": result}));
        run("CHECK", &known).ok();
        delegate.saw_both_ends("CHECK");
        run("DEL", &known).ok();
        delegate.saw_both_ends("DEL");
        assert!(delegate.saw("DEL", "addresses").contains("10.1.0.7/24"));
        assert!(x.link("eth0").is_none());
        assert!(!ruleset().contains("10.1.0.7"));
    }
}

/// Hairpin mode, isolation, the guard: what holds for the first packet that a delegate sends.
#[test]
fn a_delegate_finds_the_port_as_it_will_stay() {
    let world = World::new();
    let x = world.container("x");
    let config = with(
        delegated(),
        json!({"macspoofchk": true, "portIsolation": true, "mtu": 1300}),
    );
    let delegate = answering(RESULT);
    delegate.call("ADD", &config).netns(&x).run().ok();
    assert!(delegate.saw("ADD", "host").contains("mtu 1300"));
    assert!(delegate.saw("ADD", "ruleset").contains(HOST_END));
    assert!(ip(&format!("-d link show {HOST_END}")).contains("isolated on"));
    let count = element_count("pausenet podnet c1 eth0");
    assert_eq!(count, 3, "masquerade, and two of the guard");
}

#[test]
fn a_requested_mac_is_there_before_the_delegate() {
    let world = World::new();
    let x = world.container("x");
    let delegate = answering(RESULT);
    let mac = "02:00:00:00:00:ab";
    let config = with(delegated(), json!({"runtimeConfig": {"mac": mac}}));
    delegate.call("ADD", &config).netns(&x).run().ok();
    assert!(delegate.saw("ADD", "link").contains(mac));
    assert_eq!(x.link("eth0").unwrap().mac.unwrap().to_string(), mac);
}

/// It gives its addresses back while the interface is there, and then that goes too.
#[test]
fn an_add_that_fails_after_the_delegate_is_undone_there_too() {
    for config in [with(delegated(), json!({"macspoofchk": true})), routed()] {
        let world = World::new();
        let x = world.container("x");
        let (before, inside) = (world.snapshot().without_bridge("cni0"), x.state());
        let delegate = answering(&with_bad_route());

        let error = delegate.call("ADD", &config).netns(&x).run().err_code(101);

        assert!(
            error["msg"].as_str().unwrap().contains("172.31.0.1"),
            "{error}"
        );
        assert_eq!(delegate.calls(), ["ADD", "DEL"]);
        delegate.saw_both_ends("DEL");
        assert_eq!(world.snapshot().without_bridge("cni0"), before);
        assert_eq!(x.state(), inside);
        assert!(!ruleset().contains("podnet c1"), "{}", ruleset());
    }
}

#[test]
fn a_delegate_that_fails_leaves_no_interface() {
    for config in [with(delegated(), json!({"macspoofchk": true})), routed()] {
        let world = World::new();
        let x = world.container("x");
        let (before, inside) = (world.snapshot().without_bridge("cni0"), x.state());
        let delegate = watching(r#"echo '{"code": 11, "msg": "all gone"}'; exit 1"#);
        delegate.call("ADD", &config).netns(&x).run().err_code(11);
        delegate.saw_both_ends("ADD");
        assert_eq!(world.snapshot().without_bridge("cni0"), before);
        assert_eq!(x.state(), inside);
        assert!(!ruleset().contains("podnet c1"), "{}", ruleset());
    }
}

/// Neither for a second attachment of the name nor for an interface of somebody else is anything
/// allocated, let alone taken back from the one that lives.
#[test]
fn a_delegate_is_not_asked_where_the_interface_exists() {
    let world = World::new();
    let x = world.container("x");
    let delegate = answering(RESULT);
    delegate.call("ADD", &delegated()).netns(&x).run().ok();
    delegate
        .call("ADD", &delegated())
        .netns(&x)
        .run()
        .err_code(100);
    assert_eq!(delegate.calls(), ["ADD"]);
    assert_eq!(x.addresses("eth0"), ["10.1.0.7/24"]);

    let y: Container = world.container("y");
    y.ip("link add eth0 type veth peer name other");
    let (before, inside) = (world.snapshot(), y.state());
    let call = delegate.call("ADD", &delegated()).netns(&y).id("c2");
    call.run().err_code(100);
    assert_eq!(delegate.calls(), ["ADD"]);
    assert_eq!(world.snapshot(), before);
    assert_eq!(y.state(), inside);
}

/// DEL removes the links whatever the delegate says, and reports what it said.
#[test]
fn a_delegate_that_cannot_release_does_not_keep_the_interface() {
    let world = World::new();
    let x = world.container("x");
    let delegate = watching(&format!(
        "[ $CNI_COMMAND != ADD ] || echo '{RESULT}'\n\
         [ $CNI_COMMAND != DEL ] || {{ echo '{{\"code\": 5, \"msg\": \"no daemon\"}}'; exit 1; }}"
    ));
    let result = delegate.call("ADD", &delegated()).netns(&x).run().ok();
    let known = with(delegated(), json!({"prevResult": result}));
    let error = delegate.call("DEL", &known).netns(&x).run().err_code(5);
    assert!(
        error["msg"].as_str().unwrap().contains("no daemon"),
        "{error}"
    );
    assert!(x.link("eth0").is_none() && world.link(HOST_END).is_none());
    assert!(!ruleset().contains("10.1.0.7"));
}

/// GC as DEL: the delegate before the links.
#[test]
fn gc_asks_the_delegate_while_the_interfaces_are_there() {
    let world = World::new();
    let x = world.container("x");
    let delegate = answering(RESULT);
    delegate.call("ADD", &delegated()).netns(&x).run().ok();
    let none = with(delegated(), json!({"cni.dev/valid-attachments": []}));
    delegate.call("GC", &none).run().ok();
    delegate.saw_both_ends("GC");
    assert!(x.link("eth0").is_none());
}

/// What comes from our own store is written down before any link exists: nobody looks at them.
#[test]
fn an_exhausted_host_local_makes_no_interface() {
    let world = World::new();
    let x = world.container("x");
    let ipam = json!({"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/30"}]]});
    let config = with(podnet(), json!({"ipam": ipam}));
    world.put_address("10.1.0.2", "other\r\neth0");
    let before = world.snapshot().net;
    common::call("ADD", &config, &x).run().err_code(11);
    assert_eq!(world.snapshot().net, before);
}
