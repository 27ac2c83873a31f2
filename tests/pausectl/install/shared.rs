//! `--uninstall` and what others use too: a network of two installs, a bridge that another configuration
//! names; and nothing else of ours is left.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::folders::InstallFolders;
use common::{Call, STORES, World, podnet, programs, run, store_files, with};

/// Everything of ours that can be on a host: links, nftables, files.
fn listing(world: &World) -> (Vec<String>, String, BTreeMap<PathBuf, Vec<u8>>) {
    let links = world.links().into_iter().map(|link| link.name).collect();
    let mut files = BTreeMap::new();
    for dir in ["/run/pausenet", "/var/lib/pausenet", "/var/lib/cni"] {
        files.extend(store_files(Path::new(dir)));
    }
    (links, run("nft", ["list", "ruleset"]), files)
}

/// A network with all that attachments share: a bridge, masquerade, published ports.
fn network() -> Value {
    let runtime =
        json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]});
    let keys =
        json!({"ipMasq": true, "capabilities": {"portMappings": true}, "runtimeConfig": runtime});
    with(podnet(), keys)
}

fn add_and_delete(world: &World) {
    let pod = world.container("pod");
    let call = |verb| Call::new(verb, &network()).netns(&pod);
    call("ADD").run().ok();
    call("DEL").run().ok();
    pod.destroy();
}

#[test]
fn after_uninstall_nothing_of_ours_is_left() {
    let world = World::new();
    let folders = InstallFolders::new();
    let before = (listing(&world), folders.files());
    folders.ok(&["--from", programs::pausenet(), "--conf"]);
    add_and_delete(&world);
    let (links, rules, files) = listing(&world);
    assert!(links.contains(&"cni0".to_owned()), "{links:?}");
    assert!(rules.contains("table inet pausenet"), "{rules}");
    assert!(!files.is_empty());

    // While there is an attachment, all of it stays.
    let pod = world.container("pod");
    Call::new("ADD", &network()).netns(&pod).run().ok();
    let said = folders.ok(&["--uninstall"]);
    assert!(
        !said.contains("cni0") && said.contains("removed "),
        "{said}"
    );
    assert!(world.link("cni0").is_some());
    Call::new("DEL", &network()).netns(&pod).run().ok();
    pod.destroy();

    let said = folders.ok(&["--uninstall"]);
    for line in [
        "removed bridge cni0\n",
        "removed table inet pausenet\n",
        "removed /var/lib/cni/networks/podnet\n",
    ] {
        assert!(said.contains(line), "{said}");
    }
    assert_eq!((listing(&world), folders.files()), before);
    for folder in ["/run/pausenet", "/var/lib/pausenet"] {
        assert!(!Path::new(folder).exists(), "{folder}");
    }
}

#[test]
fn what_another_configuration_names_stays() {
    let world = World::new();
    let folders = InstallFolders::new();
    folders.ok(&["--from", programs::pausenet(), "--conf"]);
    add_and_delete(&world);
    let theirs = folders.net().join("20-theirs.conflist");
    let plugin = with(network(), json!({"cniVersion": null, "name": null}));
    let list = json!({"cniVersion": "1.0.0", "name": "theirs", "plugins": [plugin]});
    fs::write(&theirs, list.to_string()).unwrap();
    fs::create_dir(Path::new(STORES).join("another")).unwrap();
    fs::write(
        Path::new(STORES).join("another/last_reserved_ip.0"),
        "10.7.0.2",
    )
    .unwrap();
    let said = folders.ok(&["--uninstall"]);
    assert!(
        said.contains("kept bridge cni0: network theirs uses it\n"),
        "{said}"
    );
    assert!(
        said.contains("removed /var/lib/cni/networks/podnet\n"),
        "{said}"
    );
    assert!(world.link("cni0").is_some());
    let kept = store_files(Path::new(STORES));
    assert!(
        kept.contains_key(Path::new("another/last_reserved_ip.0")),
        "{kept:?}"
    );
    fs::remove_file(theirs).unwrap();
    let said = folders.ok(&["--uninstall", "--conf-dir", folders.net().to_str().unwrap()]);
    assert!(said.contains("removed bridge cni0\n"), "{said}");
    assert!(world.link("cni0").is_none());
}

#[test]
fn a_network_of_two_installs_stays_until_the_last_is_gone() {
    let _world = World::new();
    let (one, other) = (InstallFolders::new(), InstallFolders::new());
    let conf = one.net().join("10-podnet.conflist");
    let install = || {
        let paths = [
            other.bin(),
            other.path("from/v1"),
            one.path("from/10-podnet.conflist"),
            one.net(),
        ];
        let options = ["--dir", "--from", "--conf", "--conf-dir"].map(PathBuf::from);
        let options = options
            .into_iter()
            .zip(paths)
            .flat_map(<[PathBuf; 2]>::from);
        run(
            programs::pausectl(),
            std::iter::once("install".into()).chain(options),
        )
    };
    let before = (one.files(), other.files());
    one.ok(&["v1", "--conf"]);
    install();
    let left = format!(
        "left {}: the install in {} uses it too\n",
        conf.display(),
        other.bin().display()
    );
    let said = one.ok(&["--uninstall", "--dry-run"]);
    assert!(
        said.contains(&left.replace("left ", "would leave ")),
        "{said}"
    );
    let said = one.ok(&["--uninstall"]);
    assert!(said.contains(&left), "{said}");
    assert!(conf.exists() && !one.bin().join("pausenet").exists());
    other.ok(&["--uninstall"]);
    assert_eq!((one.files(), other.files()), before);

    // One that was removed without --uninstall does not count.
    one.ok(&["v1", "--conf"]);
    install();
    fs::remove_dir_all(other.bin()).unwrap();
    one.ok(&["--uninstall"]);
    assert_eq!(one.files(), before.0);
}
