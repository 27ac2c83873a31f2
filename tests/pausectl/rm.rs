//! `pod rm`: down it comes, however little is left of it.

use std::fs;

use rustix::process::Signal;
use serde_json::json;

use crate::host::{PodHost, is_alive, kill, signal};
use common::{allocated, run};

#[test]
fn a_pod_whose_pause_process_was_killed_is_removed_like_any_other() {
    let host = PodHost::new();
    let made = host.create("web");
    kill(made["pause"].as_u64().unwrap() as u32);
    host.ok(&["pod", "rm", "web"]);
    host.assert_nothing_is_left();
}

#[test]
fn a_stopped_pause_process_is_still_ended() {
    let host = PodHost::new();
    let pause = host.create("web")["pause"].as_u64().unwrap() as u32;
    signal(pause, Signal::STOP);
    host.ok(&["pod", "rm", "web"]);
    assert!(!is_alive(pause));
    host.assert_nothing_is_left();
}

#[test]
fn a_pod_in_use_is_not_removed_unless_forced() {
    let host = PodHost::new();
    host.create("web");
    let mut member = host.member("web");
    let said = host.fails(1, &["pod", "rm", "web"]);
    assert!(
        said.contains(&format!("{} (sleep)", member.pid())),
        "{said}"
    );
    assert_eq!(member.view().addresses("eth0"), ["10.1.0.2/24"]);
    assert_eq!(host.ok(&["pod", "rm", "--force", "web"]), "web: removed\n");
    assert!(member.has_ended());
    host.assert_nothing_is_left();
}

#[test]
fn an_unknown_pod_is_an_error_unless_forced() {
    let host = PodHost::new();
    host.create("db");
    let said = host.fails(1, &["pod", "rm", "web"]);
    assert!(
        said.contains("no pod web") && said.contains("pods: db"),
        "{said}"
    );
    assert_eq!(host.ok(&["pod", "rm", "--force", "web"]), "");
    let json = host.ok(&["pod", "rm", "--force", "web", "db", "-o", "json"]);
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&json).unwrap(),
        json!({"removed": ["db"]})
    );
    host.assert_nothing_is_left();
}

#[test]
fn a_pod_that_cannot_be_removed_does_not_block_the_others() {
    let host = PodHost::new();
    host.create("a");
    host.create("b");
    let output = host.output(&["pod", "rm", "a", "nope", "b"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "a: removed\nb: removed\n"
    );
    host.assert_nothing_is_left();
}

#[test]
fn after_a_reboot_address_and_name_are_free_again() {
    let host = PodHost::new();
    for verb in ["rm", "create"] {
        let made = host.create("web");
        // The boot takes /run and every namespace; /var stays.
        kill(made["pause"].as_u64().unwrap() as u32);
        run("umount", ["/run/pausenet/netns/web"]);
        fs::remove_dir_all("/run/pausenet").unwrap();
        common::wait::wait_until("the kernel has taken the pair away", || {
            host.world
                .link(made["result"]["interfaces"][1]["name"].as_str().unwrap())
                .is_none()
        });
        assert_eq!(allocated("podnet").len(), 1);
        host.ok(&["pod", verb, "web"]);
    }
    assert_eq!(allocated("podnet").len(), 1);
    host.ok(&["pod", "rm", "web"]);
    host.assert_nothing_is_left();
}

#[test]
fn without_a_cached_result_the_network_is_found_by_its_name() {
    let host = PodHost::new();
    host.create("web");
    fs::remove_dir_all("/var/lib/cni/results").unwrap();
    let args = ["pod", "rm", "web", "--conf-dir"];
    let empty = tempfile::tempdir().unwrap();
    let said = host.fails(1, &[&args[..], &[empty.path().to_str().unwrap()]].concat());
    assert!(said.contains("no network configuration"), "{said}");
    host.ok(&["pod", "rm", "web"]);
    host.assert_nothing_is_left();
}

#[test]
fn force_removes_a_pod_of_an_unknown_network() {
    let host = PodHost::new();
    let made = host.create("web");
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
    let output = host.output(&args);
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("warning: "));
    let host_end = made["result"]["interfaces"][1]["name"].as_str().unwrap();
    assert!(host.world.link(host_end).is_none());
    assert!(host.pods().is_empty());
}

#[test]
fn a_pod_whose_del_fails_is_kept_for_a_retry() {
    let host = PodHost::new();
    let result = json!({"cniVersion": "1.0.0"});
    let script = format!(
        "[ $CNI_COMMAND = ADD ] && echo '{result}' && exit
         [ ! -e \"$log/broken\" ] || {{ echo '{{\"code\": 11, \"msg\": \"not now\"}}'; exit 1; }}"
    );
    host.plugin("moody", &script);
    let file = host.chain(&["moody"]);
    host.ok(&["pod", "create", "web", "--conf", file.to_str().unwrap()]);
    run(
        "touch",
        [file.parent().unwrap().parent().unwrap().join("log/broken")],
    );
    let said = host.fails(1, &["pod", "rm", "web"]);
    assert!(
        said.contains("code 11: not now") && said.contains("moody"),
        "{said}"
    );
    assert_eq!(host.pods()[0]["state"], "running");
    fs::remove_file(file.parent().unwrap().parent().unwrap().join("log/broken")).unwrap();
    host.ok(&["pod", "rm", "web"]);
    host.assert_nothing_is_left();
}
