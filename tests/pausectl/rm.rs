//! `pod rm`: down it comes, however little is left of it.

use std::fs;

use rustix::process::Signal;
use serde_json::json;

use crate::host::{Site, is_alive, kill, signal};
use common::{allocated, run};

#[test]
fn a_pod_whose_pause_process_was_killed_is_removed_like_any_other() {
    let site = Site::new();
    let made = site.create("web");
    kill(made["pause"].as_u64().unwrap() as u32);
    site.ok(&["pod", "rm", "web"]);
    site.assert_nothing_is_left();
}

#[test]
fn a_stopped_pause_process_is_still_ended() {
    let site = Site::new();
    let pause = site.create("web")["pause"].as_u64().unwrap() as u32;
    signal(pause, Signal::STOP);
    site.ok(&["pod", "rm", "web"]);
    assert!(!is_alive(pause));
    site.assert_nothing_is_left();
}

#[test]
fn a_pod_in_use_is_not_removed_unless_forced() {
    let site = Site::new();
    site.create("web");
    let mut member = site.member("web");
    let said = site.fails(1, &["pod", "rm", "web"]);
    assert!(
        said.contains(&format!("{} (sleep)", member.pid())),
        "{said}"
    );
    assert_eq!(member.view().addresses("eth0"), ["10.1.0.2/24"]);
    assert_eq!(site.ok(&["pod", "rm", "--force", "web"]), "web: removed\n");
    assert!(member.has_ended());
    site.assert_nothing_is_left();
}

#[test]
fn an_unknown_pod_is_an_error_unless_forced() {
    let site = Site::new();
    site.create("db");
    let said = site.fails(1, &["pod", "rm", "web"]);
    assert!(
        said.contains("no pod web") && said.contains("pods: db"),
        "{said}"
    );
    assert_eq!(site.ok(&["pod", "rm", "--force", "web"]), "");
    let json = site.ok(&["pod", "rm", "--force", "web", "db", "-o", "json"]);
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&json).unwrap(),
        json!({"removed": ["db"]})
    );
    site.assert_nothing_is_left();
}

#[test]
fn a_pod_that_cannot_be_removed_does_not_block_the_others() {
    let site = Site::new();
    site.create("a");
    site.create("b");
    let output = site.output(&["pod", "rm", "a", "nope", "b"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "a: removed\nb: removed\n"
    );
    site.assert_nothing_is_left();
}

#[test]
fn after_a_reboot_address_and_name_are_free_again() {
    let site = Site::new();
    for verb in ["rm", "create"] {
        let made = site.create("web");
        // The boot takes /run and every namespace; /var stays.
        kill(made["pause"].as_u64().unwrap() as u32);
        run("umount", ["/run/pausenet/netns/web"]);
        fs::remove_dir_all("/run/pausenet").unwrap();
        common::wait::wait_until("the kernel has taken the pair away", || {
            site.world
                .link(made["result"]["interfaces"][1]["name"].as_str().unwrap())
                .is_none()
        });
        assert_eq!(allocated("podnet").len(), 1);
        site.ok(&["pod", verb, "web"]);
    }
    assert_eq!(allocated("podnet").len(), 1);
    site.ok(&["pod", "rm", "web"]);
    site.assert_nothing_is_left();
}

#[test]
fn without_a_cached_result_the_network_is_found_by_its_name() {
    let site = Site::new();
    site.create("web");
    fs::remove_dir_all("/var/lib/cni/results").unwrap();
    let args = ["pod", "rm", "web", "--conf-dir"];
    let empty = tempfile::tempdir().unwrap();
    let said = site.fails(1, &[&args[..], &[empty.path().to_str().unwrap()]].concat());
    assert!(said.contains("no network configuration"), "{said}");
    site.ok(&["pod", "rm", "web"]);
    site.assert_nothing_is_left();
}

#[test]
fn force_removes_a_pod_of_an_unknown_network() {
    let site = Site::new();
    let made = site.create("web");
    fs::remove_dir_all("/var/lib/cni/results").unwrap();
    let empty = tempfile::tempdir().unwrap();
    let args = [
        "pod",
        "rm",
        "-f",
        "web",
        "--conf-dir",
        empty.path().to_str().unwrap(),
    ];
    let output = site.output(&args);
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("warning: "));
    let host_end = made["result"]["interfaces"][1]["name"].as_str().unwrap();
    assert!(site.world.link(host_end).is_none());
    assert!(site.pods().is_empty());
}

#[test]
fn a_pod_whose_del_fails_is_kept_for_a_retry() {
    let site = Site::new();
    let result = json!({"cniVersion": "1.0.0"});
    let script = format!(
        "[ $CNI_COMMAND = ADD ] && echo '{result}' && exit
         [ ! -e \"$log/broken\" ] || {{ echo '{{\"code\": 11, \"msg\": \"not now\"}}'; exit 1; }}"
    );
    site.plugin("moody", &script);
    let file = site.chain(&["moody"]);
    site.ok(&["pod", "create", "web", "--conf", file.to_str().unwrap()]);
    run(
        "touch",
        [file.parent().unwrap().parent().unwrap().join("log/broken")],
    );
    let said = site.fails(1, &["pod", "rm", "web"]);
    assert!(
        said.contains("code 11: not now") && said.contains("moody"),
        "{said}"
    );
    assert_eq!(site.pods()[0]["state"], "running");
    fs::remove_file(file.parent().unwrap().parent().unwrap().join("log/broken")).unwrap();
    site.ok(&["pod", "rm", "web"]);
    site.assert_nothing_is_left();
}
