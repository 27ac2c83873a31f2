//! Host ends that are not what they should be.

use std::fs;

use pausenet::apply::try_lock;
use pausenet::kernel::netns::Netns;
use serde_json::json;

use super::store::host_end;
use super::{Ward, added, network};
use common::{Call, GROUP, allocated, ip, with};

#[test]
fn debris_of_a_killed_add_is_removed_unless_an_add_is_running() {
    let ward = Ward::new();
    let _web = added(&ward, &network(), "web");
    let debris = host_end("killed");
    ip(&format!(
        "link add {debris} group {GROUP} type veth peer name far"
    ));
    // Somebody else's, without our mark.
    ip("link add foreign type veth peer name far2");
    let with_debris = ward.site.world.snapshot();

    let lock = try_lock(&debris).unwrap().unwrap();
    let seen = ward.fix(&["links"]);
    assert!(
        seen.findings.is_empty() && seen.repairs.is_empty(),
        "{seen:#?}"
    );
    drop(lock);
    ward.look(&["links"])
        .problem(&[debris.as_str(), "killed half way"]);
    assert_eq!(ward.site.world.snapshot(), with_debris);

    let seen = ward.fix(&["links"]);
    assert_eq!(seen.outcomes(), ["repaired"]);
    assert!(seen.findings.is_empty(), "{seen:#?}");
    assert!(ward.site.world.link(debris.as_str()).is_none());
    for kept in ["foreign", host_end("web").as_str()] {
        assert!(ward.site.world.link(kept).is_some(), "{kept}");
    }
}

#[test]
fn a_host_end_without_its_bridge_is_reported() {
    let ward = Ward::new();
    let _web = added(&ward, &network(), "web");
    let end = host_end("web");
    for (breaks, mends, words) in [
        (
            format!("link set {end} nomaster"),
            format!("link set {end} master cni0"),
            "no port of its bridge cni0",
        ),
        (
            format!("link set {end} down"),
            format!("link set {end} up"),
            "switched off",
        ),
    ] {
        ip(&breaks);
        let seen = ward.look(&["links"]);
        let found = seen.problem(&[end.as_str(), words, "container web"]);
        assert_eq!(found["how"], format!("ip {mends}"));
        ip(&mends);
        assert!(ward.look(&["links"]).findings.is_empty());
    }
    ip("link delete cni0");
    ward.look(&["links"])
        .problem(&[end.as_str(), "its bridge cni0 is gone"]);
}

#[test]
fn a_namespace_without_process_and_name_is_reported_and_kept() {
    let ward = Ward::new();
    let web = added(&ward, &network(), "web");
    assert!(ward.look(&["links"]).findings.is_empty(), "it has a name");
    let mut process = web.command("sleep").arg("600").spawn().unwrap();
    let open = Netns::open(&web.path).unwrap();
    common::wait::wait_until("it lives there", || {
        let there = Netns::open(format!("/proc/{}/ns/net", process.id()).as_ref());
        there.is_ok_and(|there| there.is_same(&open).unwrap())
    });
    web.destroy();
    assert!(
        ward.look(&["links"]).findings.is_empty(),
        "a process lives there"
    );
    process.kill().unwrap();
    process.wait().unwrap();

    let seen = ward.fix(&["links"]);
    let end = host_end("web");
    let words = [end.as_str(), "container web", "no process"];
    let comm = fs::read_to_string("/proc/2/comm").unwrap_or_default();
    if comm == "kthreadd\n" && fs::metadata("/proc/1/ns/net").is_ok() {
        seen.problem(&words);
        assert_eq!(seen.outcomes(), ["not safe"]);
    } else {
        seen.note(&words);
    }
    assert!(ward.site.world.link(end.as_str()).is_some());
    assert_eq!(allocated("podnet"), ["10.1.0.2"]);
    drop(open);
}

#[test]
fn an_ifb_that_outlived_its_container_is_removed() {
    let ward = Ward::new();
    let limits = json!({"bandwidth": {"egressRate": 8_000_000, "egressBurst": 800_000}});
    let config = with(network(), json!({"runtimeConfig": limits}));
    let web = ward.site.world.container("web");
    Call::new("ADD", &config).netns(&web).id("web").run().ok();
    assert!(ward.look(&["links"]).findings.is_empty());
    let end = host_end("web");
    let ifb = end.as_str().replace("veth", "ifb");
    ip(&format!("link delete {end}"));
    assert!(ward.site.world.link(&ifb).is_some());

    ward.look(&["links"])
        .problem(&[ifb.as_str(), "container web"]);
    assert_eq!(ward.fix(&["links"]).outcomes(), ["repaired"]);
    assert!(ward.site.world.link(&ifb).is_none());
}
