//! The compose example, with `pausectl docker watch` beside it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::recreate::shell;
use crate::watch::Watcher;
use common::docker::{Docker, NO_BRIDGE};
use common::programs::CHECKOUT;
use common::wait::wait_until;
use common::{lab, run};

#[test]
fn compose_services_share_an_anchor_and_keep_its_address_when_recreated() {
    let Some(program) = lab::compose() else {
        return;
    };
    let Some(docker) = Docker::start_with_applications(NO_BRIDGE) else {
        return;
    };
    let folder = Path::new(CHECKOUT)
        .join("conf/docker")
        .canonicalize()
        .unwrap();
    let plugins = docker.home().join("client/cli-plugins");
    fs::create_dir(&plugins).unwrap();
    symlink(program, plugins.join("docker-compose")).unwrap();
    let compose = |args: &[&str]| {
        let mut command = docker.command("docker");
        let command = command.current_dir(&folder).args(["compose", "-p", "shop"]);
        let output = command.args(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
    };
    let serves = |port: &str| {
        let wget = [
            "-q",
            "-T",
            "5",
            "-t",
            "1",
            "-O",
            "-",
            &format!("127.0.0.1:{port}"),
        ];
        let output = docker.command("wget").args(wget).output().unwrap();
        String::from_utf8_lossy(&output.stdout).contains("Welcome to nginx!")
    };
    let watch = Watcher::start(&docker, &[]);
    compose(&["up", "-d"]);
    watch.says("shop-anchor: attached to network podnet: 10.1.0.2/24 on eth0");
    wait_until("nginx answers by the host's port", || serves("8080"));
    assert_eq!(
        docker.view("shop-client-1").addresses("eth0"),
        ["10.1.0.2/24"]
    );
    docker.pausectl_ok(&["docker", "publish", "shop-anchor", "9090:80"]);
    wait_until("nginx answers by the new port", || serves("9090"));

    compose(&["up", "-d", "--force-recreate", "--timeout", "0"]);
    wait_until("all are where they were", || {
        ["shop-anchor", "shop-client-1", "shop-www-1"]
            .iter()
            .all(|name| docker.view(name).addresses("eth0") == ["10.1.0.2/24"])
    });
    wait_until("nginx answers again", || serves("8080"));

    // Without the anchor, and from any folder.
    docker.run(&["rm", "-f", "shop-anchor"]);
    let line = watch.says("shop-client-1: cannot be restarted");
    let (_, repair) = line.split_once("is lost): ").unwrap();
    let compose_file = folder.join("compose.yaml");
    let expected = format!(
        "pausectl docker reanchor shop-anchor && docker compose -p shop --project-directory {} -f {} \
         up -d --force-recreate --no-deps client",
        folder.display(),
        compose_file.display()
    );
    assert_eq!(repair, expected);
    let (old, www) = (docker.pid("shop-client-1"), docker.pid("shop-www-1"));
    shell(&docker, "/", repair);
    assert_ne!(docker.pid("shop-client-1"), old);
    assert_eq!(docker.pid("shop-www-1"), www);
    assert_eq!(
        docker.view("shop-client-1").addresses("eth0"),
        ["10.1.0.2/24"]
    );
    docker.run(&["restart", "--time=0", "shop-client-1"]);
    assert!(serves("8080"));
    compose(&["down", "--timeout", "0"]);
    watch.until(|| docker.nothing_is_left());
    watch.stop();
    let rules = run("nft", ["list", "ruleset"]);
    assert!(
        !rules.contains("docker-shop") && !rules.contains("podnet shop"),
        "{rules}"
    );
    docker.stop();
}
