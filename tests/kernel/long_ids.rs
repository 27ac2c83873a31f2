//! Container IDs and network names that are longer than a link's alias has room for.

use serde_json::{Value, json};

use common::nftables::ruleset;
use common::{Call, Container, STORES, World, allocated, podnet, with};

fn everything() -> Value {
    let ports = json!({"portMappings": [{"hostPort": 8080, "containerPort": 80}]});
    let rest = json!({"ipMasq": true, "macspoofchk": true, "runtimeConfig": ports});
    with(podnet(), rest)
}

fn call(verb: &str, config: &Value, container: &Container, id: &str) -> Call {
    Call::new(verb, config).netns(container).id(id)
}

#[test]
fn a_container_with_a_long_id_is_attached_and_removed() {
    let world = World::new();
    let (x, y) = (world.container("x"), world.container("y"));
    let before = world.snapshot();
    for length in [129, 200, 5_000] {
        let long = "c".repeat(length);
        // The same head, and of another length.
        let other = format!("{long}d");
        let result = call("ADD", &everything(), &x, &long).run().ok();
        let without_ports = with(everything(), json!({"runtimeConfig": null}));
        call("ADD", &without_ports, &y, &other).run().ok();
        call("ADD", &everything(), &x, &long).run().err_code(100);

        let file = format!("{STORES}/podnet/10.1.0.2");
        let held = std::fs::read_to_string(file).unwrap();
        assert_eq!(
            held,
            format!("{long}\r\neth0"),
            "as the reference writes it"
        );
        let previous = with(everything(), json!({"prevResult": result}));
        call("CHECK", &previous, &x, &long).run().ok();

        let listed = |id: &str| {
            let list = json!([{"containerID": id, "ifname": "eth0"}]);
            with(everything(), json!({"cni.dev/valid-attachments": list}))
        };
        call("GC", &listed(&long), &x, &long).run().ok();
        assert!(x.link("eth0").is_some() && y.link("eth0").is_none());
        call("CHECK", &previous, &x, &long).run().ok();

        call("DEL", &everything(), &x, &long).run().ok();
        assert!(x.link("eth0").is_none());
        assert!(allocated("podnet").is_empty());
        assert!(!ruleset().contains("ccc"), "{}", ruleset());
        call("ADD", &everything(), &x, &long).run().ok();
        call("GC", &listed(&other), &x, &long).run().ok();
        assert!(x.link("eth0").is_none());
        let store = std::fs::read_dir(format!("{STORES}/podnet")).unwrap();
        for file in store {
            std::fs::remove_file(file.unwrap().path()).unwrap();
        }
    }
    let after = world.snapshot().addresses_only();
    let before = before.addresses_only();
    assert_eq!(after.without_bridge("cni0"), before.without_bridge("cni0"));
}

/// As long as the name of a folder may be: the address store has one of that name.
#[test]
fn a_network_with_a_long_name_is_used_like_any_other() {
    let world = World::new();
    let x = world.container("x");
    for length in [101, 255] {
        let name = "n".repeat(length);
        let config = with(everything(), json!({"name": name, "bridge": "br-long"}));
        let result = call("ADD", &config, &x, "c").run().ok();
        assert_eq!(allocated(&name).len(), 1);
        let previous = with(config.clone(), json!({"prevResult": result}));
        call("CHECK", &previous, &x, "c").run().ok();
        call("ADD", &config, &x, "c").run().err_code(100);
        let listed = |ids: Value| with(config.clone(), json!({"cni.dev/valid-attachments": ids}));
        let alive = json!([{"containerID": "c", "ifname": "eth0"}]);
        call("GC", &listed(alive), &x, "c").run().ok();
        call("CHECK", &previous, &x, "c").run().ok();
        for removal in [
            call("DEL", &config, &x, "c"),
            call("GC", &listed(json!([])), &x, "c"),
        ] {
            removal.run().ok();
            assert!(x.link("eth0").is_none() && allocated(&name).is_empty());
            assert!(!ruleset().contains("nnn"), "{}", ruleset());
            call("ADD", &config, &x, "c").run().ok();
        }
        call("DEL", &config, &x, "c").run().ok();
    }
    // The folder would have no name.
    let config = with(everything(), json!({"name": "n".repeat(256)}));
    call("ADD", &config, &x, "c").run().err_code(7);
    call("DEL", &config, &x, "c").run().ok();
}
