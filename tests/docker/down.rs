//! Going away: `pausectl docker down` and `pausectl network rm`.

use std::path::{Path, PathBuf};

use serde_json::json;

use common::docker::{Docker, NO_BRIDGE, OWN_BRIDGE};
use common::screen::assert_is_in_the_docs;
use common::{podnet, run, store_files, with};

#[test]
fn down_removes_an_anchor_and_all_that_is_remembered_of_it() {
    let Some(docker) = Docker::start_with_applications(NO_BRIDGE) else {
        return;
    };
    let up = [
        "docker",
        "up",
        "web",
        "--network",
        "podnet",
        "-p",
        "8080:80",
    ];
    docker.pausectl_ok(&up);
    docker.sleeper("app", "container:web");
    let said = docker.pausectl_fails(1, &["docker", "down", "web"]);
    assert!(
        said.contains("anchor web has members: app; nothing was changed"),
        "{said}"
    );
    assert_is_in_the_docs(&said);
    assert_eq!(docker.view("app").addresses("eth0"), ["10.1.0.2/24"]);
    docker.run(&["rm", "-f", "app"]);
    let said = docker.pausectl_ok(&["docker", "down", "web"]);
    assert_eq!(said, "web: detached from network podnet\nweb: removed\n");
    assert_is_in_the_docs(&said);
    assert_eq!(docker.run(&["ps", "-aq"]), "");
    docker.assert_nothing_is_left();

    // With force, what remains is named. One that is gone already goes as well.
    docker.pausectl_ok(&up);
    docker.sleeper("app", "container:web");
    docker.run(&["rm", "-f", "web"]);
    docker.pausectl_fails(1, &["docker", "down", "web"]);
    let said = docker.pausectl_ok(&["docker", "down", "--force", "web"]);
    assert!(
        said.contains("app: keeps its processes, but has no network any more"),
        "{said}"
    );
    assert!(docker.view("app").link("eth0").is_none());
    docker.run(&["rm", "-f", "app"]);
    docker.assert_nothing_is_left();

    for name in ["web", "nobody"] {
        let said = docker.pausectl_fails(1, &["docker", "down", name]);
        assert!(
            said.contains(&format!("there is no anchor {name}")),
            "{said}"
        );
    }
    docker.run(&["run", "-d", "--net=none", "--name", "job", "pausenet/pause"]);
    docker.pausectl_ok(&["docker", "attach", "job", "--network", "podnet"]);
    let said = docker.pausectl_fails(1, &["docker", "down", "job"]);
    assert!(said.contains("pausectl docker detach job"), "{said}");
    docker.pausectl_ok(&["docker", "detach", "job"]);
    docker.run(&["rm", "-f", "job"]);
    docker.stop_with_nothing_left();
}

#[test]
fn a_network_is_removed_once_it_has_no_attachments() {
    let Some(docker) = Docker::start(OWN_BRIDGE) else {
        return;
    };
    let rules = || run("nft", ["list", "ruleset"]);
    let all = json!({"portMappings": true});
    let ipam = json!({"type": "host-local", "ranges": [[{"subnet": "10.9.0.0/24"}]]});
    let network = with(
        podnet(),
        json!({"name": "shop", "bridge": "shop0", "capabilities": all, "ipMasq": true, "ipam": ipam}),
    );
    docker.network(&network);
    docker.pausectl_ok(&["docker", "up", "web", "--network", "shop", "-p", "8080:80"]);
    assert!(rules().contains("pausenet shop: "), "{}", rules());
    let rm = ["network", "rm", "shop"];
    let said = docker.pausectl_fails(1, &rm);
    assert!(
        said.contains("network shop has attachments: docker-web (eth0); nothing was changed"),
        "{said}"
    );
    assert!(run("ip", ["link", "show", "shop0"]).contains("shop0"));
    docker.pausectl_ok(&["docker", "down", "web"]);

    // The doctor knows what is left without a configuration, and no sooner.
    let doctor = || {
        let args = ["doctor", "--check", "networks", "--output", "json"];
        let output = docker.pausectl(&args).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(!doctor().contains("shop"), "{}", doctor());
    let file = docker.home().join("net.d/shop.json");
    let away = docker.home().join("shop.json");
    std::fs::rename(&file, &away).unwrap();
    for left in ["ip link delete shop0", "pausectl network rm shop"] {
        assert!(doctor().contains(left), "{left}: {}", doctor());
    }
    let said = docker.pausectl_ok(&[&rm[..], &["--conf", away.to_str().unwrap()]].concat());
    for line in [
        "shop: removed bridge shop0\n",
        "shop: removed the network's rules in firewalls\n",
        "shop: removed table inet pausenet\n",
        "shop: removed /var/lib/cni/networks/shop\n",
    ] {
        assert!(said.contains(line), "{said}");
    }
    assert!(!rules().contains("pausenet"), "{}", rules());
    assert!(!Path::new("/var/lib/cni/networks/shop").exists());
    assert!(!run("ip", ["link"]).contains("shop0"));
    assert!(!doctor().contains("shop"), "{}", doctor());
    let said = docker.pausectl_fails(1, &rm);
    assert!(said.contains("nothing is left of a network shop"), "{said}");

    // A bridge that another network names stays.
    docker.network(&with(network.clone(), json!({"name": "shop2"})));
    docker.network(&network);
    docker.pausectl_ok(&["docker", "up", "web", "--network", "shop"]);
    docker.pausectl_ok(&["docker", "down", "web"]);
    let said = docker.pausectl_ok(&rm);
    assert!(
        said.contains("shop: kept bridge shop0: network shop2 uses it\n"),
        "{said}"
    );
    docker.stop();
}

/// Everything on the host that may be ours: links, nftables, files.
fn listing(docker: &Docker) -> (Vec<String>, String, Vec<PathBuf>) {
    let links = docker.world.links().into_iter().map(|link| link.name);
    let folders = ["/run/pausenet", "/var/lib/pausenet", "/var/lib/cni"];
    let files = folders
        .into_iter()
        .flat_map(|dir| store_files(Path::new(dir)).into_keys());
    (
        links.collect(),
        run("nft", ["--stateless", "list", "ruleset"]),
        files.collect(),
    )
}

#[test]
fn after_down_network_rm_and_uninstall_nothing_is_left() {
    let Some(docker) = Docker::start(OWN_BRIDGE) else {
        return;
    };
    let before = listing(&docker);
    let all = json!({"portMappings": true});
    docker.network(&with(
        podnet(),
        json!({"capabilities": all, "ipMasq": true}),
    ));
    docker.network(&with(
        podnet(),
        json!({"name": "back", "bridge": "back0", "capabilities": all,
        "ipam": {"type": "host-local", "subnet": "10.9.0.0/24"}}),
    ));
    let (bin, conf) = (docker.home().join("bin"), docker.home().join("cni.d"));
    let [dir, conf_dir] = [&bin, &conf].map(|path| path.to_str().unwrap());
    let file = docker.home().join("net.d/podnet.json");
    let install = [
        "install",
        "--dir",
        dir,
        "--conf",
        file.to_str().unwrap(),
        "--conf-dir",
        conf_dir,
    ];
    let output = docker.pausectl(&install).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let networks = ["--network", "podnet", "--network", "back"];
    docker.pausectl_ok(&[&["docker", "up", "web"], &networks[..], &["-p", "8080:80"]].concat());
    docker.run(&["run", "-d", "--net=none", "--name", "job", "pausenet/pause"]);
    docker.pausectl_ok(&["docker", "attach", "job", "--network", "podnet"]);
    docker.pausectl_ok(&["docker", "publish", "job", "8081:80"]);
    docker.pausectl_ok(&["docker", "detach", "job"]);
    docker.run(&["rm", "-f", "job"]);
    docker.pausectl_ok(&["docker", "down", "web"]);
    for network in ["podnet", "back"] {
        docker.pausectl_ok(&["network", "rm", network]);
    }
    docker.pausectl_ok(&["install", "--uninstall", "--dir", dir]);
    assert_eq!(listing(&docker), before);
    for folder in [&bin, &conf] {
        assert_eq!(
            std::fs::read_dir(folder).unwrap().count(),
            0,
            "{}",
            folder.display()
        );
    }
    for folder in ["/run/pausenet", "/var/lib/pausenet"] {
        assert!(!Path::new(folder).exists(), "{folder}");
    }
    docker.stop();
}
