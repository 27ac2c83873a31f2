//! The conflist of the daemon, used by the real plugin.

use pausenetd::conflist::render;
use pausenetd::options::Options;
use serde_json::{Value, json};

use common::{Call, World, with};

fn config(args: &[&str], pods: &[&str]) -> Value {
    use clap::Parser;
    let args = [&["pausenetd", "--store-dir", "/run/store"], args].concat();
    let options = Options::try_parse_from(args).unwrap();
    let pods: Vec<_> = pods.iter().map(|net| net.parse().unwrap()).collect();
    let list: Value =
        serde_json::from_str(&render(&options.settings(), &pods, Some(1450))).unwrap();
    let more = json!({"name": list["name"], "cniVersion": "1.1.0"});
    with(list["plugins"][0].clone(), more)
}

#[test]
fn with_all_addresses_in_use_status_succeeds_and_add_fails_with_try_again_later() {
    let world = World::new();
    let (x, y) = (world.container("x"), world.container("y"));
    // Network, gateway, one address, broadcast.
    let config = config(&[], &["10.244.1.0/30"]);
    let add = Call::new("ADD", &config);
    add.clone().netns(&x).run().ok();
    Call::new("STATUS", &config)
        .without("CNI_CONTAINERID")
        .run()
        .ok();
    add.clone().id("c2").netns(&y).run().err_code(11);
    Call::new("DEL", &config).netns(&x).run().ok();
    add.id("c2").netns(&y).run().ok();
}

#[test]
fn both_modes_give_pods_addresses_and_default_routes_of_both_families() {
    for mode in ["ptp", "bridge"] {
        std::thread::spawn(move || {
            let world = World::new();
            let pod = world.container("pod");
            let config = config(&["--mode", mode], &["10.244.1.0/24", "fd00:10:244:1::/64"]);
            let result = Call::new("ADD", &config).netns(&pod).run().ok();
            assert_eq!(
                pod.addresses("eth0"),
                ["10.244.1.2/24", "fd00:10:244:1::2/64"],
                "{mode}"
            );
            assert_eq!(pod.link("eth0").unwrap().mtu, 1450, "{mode}");
            let routes = pod.routes();
            for route in ["0.0.0.0/0 via 10.244.1.1", "::/0 via fd00:10:244:1::1"] {
                assert!(routes.iter().any(|it| it == route), "{mode}: {routes:?}");
            }
            let check = with(config, json!({"prevResult": result}));
            Call::new("CHECK", &check).netns(&pod).run().ok();
        })
        .join()
        .unwrap();
    }
}
