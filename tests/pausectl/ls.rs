//! `pod ls`: the kernel's story, whatever has happened.

use serde_json::json;

use crate::host::{PodHost, kill};

#[test]
fn ls_shows_one_complete_line_per_pod() {
    let host = PodHost::new();
    assert_eq!(host.ok(&["pod", "ls"]), "no pods\n");
    let made = host.create("web");
    let member = host.member("web");
    let pods = host.pods();
    let host_end = &made["result"]["interfaces"][1]["name"];
    assert_eq!(pods.len(), 1);
    assert_eq!(pods[0]["pause"], made["pause"]);
    assert_eq!(
        pods[0]["members"],
        json!([{"pid": member.pid(), "name": "sleep"}])
    );
    let interface = &pods[0]["interfaces"][0];
    assert_eq!(interface["network"], "podnet");
    assert_eq!(interface["name"], "eth0");
    assert_eq!(interface["addresses"], json!(["10.1.0.2/24"]));
    assert_eq!(&interface["hostEnd"], host_end);
    let table = host.ok(&["pod", "ls"]);
    let cells: Vec<_> = table.lines().nth(1).unwrap().split_whitespace().collect();
    let pause = made["pause"].to_string();
    let expected = [
        "web",
        "running",
        &pause,
        "1",
        "podnet",
        "eth0",
        "10.1.0.2/24",
    ];
    assert_eq!(cells[..7], expected);
    assert_eq!(cells[7], host_end.as_str().unwrap());
}

#[test]
fn the_state_follows_the_pause_process_and_the_members() {
    let host = PodHost::new();
    let state = || host.pods()[0]["state"].as_str().unwrap().to_owned();
    let made = host.create("web");
    let member = host.member("web");
    assert_eq!(state(), "running");
    kill(made["pause"].as_u64().unwrap() as u32);
    assert_eq!(state(), "orphaned");
    // The name holds the namespace, so the members keep their network.
    assert_eq!(member.view().addresses("eth0"), ["10.1.0.2/24"]);
    member.kill();
    assert_eq!(state(), "empty");
    std::fs::write("/run/pausenet/netns/db", "").unwrap();
    let pods = host.pods();
    assert_eq!(
        (&pods[0]["name"], &pods[0]["state"]),
        (&json!("db"), &json!("incomplete"))
    );
}
