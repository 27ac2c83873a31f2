//! `install`: what stands under a plugin's name is whole at any moment, ours or the other's, and
//! `--uninstall` brings back what was there.

mod killed;
mod folders;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Stdio};

use serde_json::json;

use self::folders::{ALL, Files, NEWER, Stage, said};
use common::programs;
use common::{Call, World, lab, podnet, run, with};

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    let own = |(name, action): &(&str, &str)| ((*name).to_owned(), (*action).to_owned());
    expected.iter().map(own).collect()
}

#[test]
fn the_first_install_makes_the_folder_and_the_second_does_nothing() {
    let stage = Stage::new();
    let before = stage.files();
    let args = &["v1", "--as", "bridge,host-local", "--conf"];
    fs::remove_dir(stage.bin()).unwrap();
    assert_eq!(
        stage.actions(args),
        pairs(&[
            ("pausenet", "install"),
            ("bridge", "install"),
            ("host-local", "install"),
            ("10-podnet.conflist", "install"),
        ])
    );
    let inode = |name| fs::metadata(stage.bin().join(name)).unwrap().ino();
    assert_eq!(inode("pausenet"), inode("bridge"), "one file on the disk");
    let mode = fs::metadata(stage.bin().join("bridge")).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o755);
    let installed = stage.files();
    assert!(
        stage
            .actions(args)
            .iter()
            .all(|(_, action)| action == "leave")
    );
    assert_eq!(stage.files(), installed);
    assert_eq!(
        stage.actions(&["--uninstall"]),
        pairs(&[
            ("10-podnet.conflist", "remove"),
            ("bridge", "remove"),
            ("host-local", "remove"),
            ("pausenet", "remove"),
        ])
    );
    assert_eq!(stage.files(), before);
    let said = stage.ok(&["--uninstall"]);
    assert!(said.starts_with("nothing is installed in /"), "{said}");
}

#[test]
fn uninstall_restores_what_was_replaced() {
    let Some(peers) = lab::peers() else { return };
    let stage = Stage::new();
    run(
        "cp",
        [
            "-a",
            &format!("{}/.", peers.display()),
            stage.bin().to_str().unwrap(),
        ],
    );
    fs::write(stage.net().join("10-podnet.conflist"), "theirs").unwrap();
    let before = stage.files();
    let all = "bridge,ptp,host-local,loopback,portmap";
    let said = stage.ok(&["v1", "--as", all, "--conf"]);
    assert!(said.contains("/.pausenet-replaced/bridge"), "{said}");
    let v1 = stage.read("pausenet");
    for name in all.split(',') {
        assert_eq!(stage.read(name), v1, "{name}");
    }
    stage.ok(&["v1", "--as", all, "--conf"]);
    // A newer version takes the place of every one that we have put there.
    let renewed = stage.actions(&["v2"]);
    assert!(
        renewed.len() == 6 && renewed.iter().all(|(_, action)| action == "renew"),
        "{renewed:?}"
    );
    assert_eq!(stage.read("portmap"), stage.version("v2"));
    let restored = stage.actions(&["--uninstall"]);
    assert_eq!(restored[0], ("10-podnet.conflist".into(), "restore".into()));
    assert_eq!(stage.files(), before);
}

#[test]
fn uninstall_keeps_files_that_replaced_ours() {
    let stage = Stage::with_others();
    let before = stage.files();
    let bridge = stage.bin().join("bridge");
    stage.ok(&["v1", "--as", "bridge,ptp", "--conf"]);
    fs::remove_file(&bridge).unwrap();
    fs::write(&bridge, "theirs, newer").unwrap();
    fs::write(stage.net().join("10-podnet.conflist"), "edited").unwrap();
    // It is not renewed either, unless that is asked for.
    assert!(
        !stage
            .actions(&["v2"])
            .iter()
            .any(|(name, _)| name == "bridge")
    );
    let said = stage.ok(&["--uninstall"]);
    assert!(
        said.contains("it is not what pausectl put there; the one from before is kept in"),
        "{said}"
    );
    assert_eq!(stage.read("bridge"), b"theirs, newer");
    assert_eq!(
        fs::read(stage.net().join("10-podnet.conflist")).unwrap(),
        b"edited"
    );
    assert_eq!(stage.read(".pausenet-replaced/bridge"), b"theirs");

    // The newer one comes back from then on, and the older one is not lost.
    stage.ok(&["v1", "--as", "bridge"]);
    assert_eq!(stage.read(".pausenet-replaced/.older/bridge.1"), b"theirs");
    let said = stage.ok(&["--uninstall"]);
    assert!(
        said.contains("kept ") && said.contains(".older/bridge.1"),
        "{said}"
    );
    assert_eq!(stage.read("bridge"), b"theirs, newer");
    let others = |mut files: Files| {
        files.retain(|path, _| path.ends_with("ptp") || path.ends_with("tuning"));
        files
    };
    assert_eq!(others(stage.files()), others(before));
}

#[test]
fn uninstall_keeps_files_that_were_there_before() {
    let stage = Stage::new();
    fs::copy(stage.path("from/v1"), stage.bin().join("pausenet")).unwrap();
    fs::set_permissions(stage.bin().join("pausenet"), Permissions::from_mode(0o755)).unwrap();
    let before = stage.files();
    let said = stage.ok(&["v1"]);
    assert!(
        said.contains("the same was there before pausectl came"),
        "{said}"
    );
    assert_eq!(stage.files(), before);
    stage.ok(&["v2", "--as", "ptp"]);
    stage.ok(&["v1"]);
    stage.ok(&["--uninstall"]);
    assert_eq!(stage.files(), before);
}

#[test]
fn a_dry_run_reports_the_steps_and_changes_nothing() {
    let stage = Stage::with_others();
    let before = stage.files();
    let said = stage.ok(&["v1", "--as", "bridge", "--conf", "--dry-run"]);
    let bin = stage.bin();
    let (bin, net) = (bin.display(), stage.net());
    assert_eq!(
        said,
        format!(
            "would install {bin}/pausenet\n\
             would replace {bin}/bridge: what was there is kept in {bin}/.pausenet-replaced/bridge\n\
             would install {}/10-podnet.conflist\n",
            net.display()
        )
    );
    assert_eq!(stage.files(), before);
    stage.ok(&["v1", "--as", "bridge"]);
    let installed = stage.files();
    let said = stage.ok(&["--uninstall", "--dry-run"]);
    assert_eq!(
        said,
        format!("would restore {bin}/bridge\nwould remove {bin}/pausenet\n")
    );
    assert_eq!(stage.files(), installed);
}

#[test]
fn without_hard_links_files_are_copied() {
    let stage = Stage::with_others();
    let before = stage.files();
    let all = ["-e", "inject=link,linkat:error=EPERM"];
    let (output, log) = stage.strace(&ALL, &all);
    assert!(
        output.status.success() && log.contains("(INJECTED)"),
        "{output:?}"
    );
    let inode = |name| fs::metadata(stage.bin().join(name)).unwrap().ino();
    assert_ne!(inode("pausenet"), inode("bridge"));
    assert_eq!(stage.read("bridge"), stage.version("v1"));
    stage.ok(&["--uninstall"]);
    assert_eq!(stage.files(), before);
}

#[test]
fn a_plugin_that_does_not_run_here_replaces_nothing() {
    let stage = Stage::with_others();
    let before = stage.files();
    for (content, why) in [
        ("\x7fELF of another machine", "cannot run it"),
        ("#!/bin/sh\nexit 3\n", "exit status: 3"),
        ("", "does not work"),
    ] {
        fs::write(stage.path("from/none"), content).unwrap();
        let said = stage.fails(1, &["none", "--as", "bridge"]);
        assert!(
            said.contains(why) && said.contains("nothing was replaced"),
            "{said}"
        );
        stage.ok(&["--uninstall"]);
        assert_eq!(stage.files(), before);
    }
}

#[test]
fn impossible_installs_are_refused_with_a_hint() {
    let stage = Stage::with_others();
    let before = stage.files();
    let said = stage.fails(1, &["none"]);
    assert!(
        said.contains("from/none") && said.contains("--from FILE"),
        "{said}"
    );
    let said = stage.fails(2, &["v1", "--as", "bridge,tuning"]);
    assert!(
        said.contains("tuning") && said.contains("host-local"),
        "{said}"
    );
    assert_eq!(stage.files(), before);
}

#[test]
fn an_invalid_network_is_not_installed() {
    let stage = Stage::new();
    let before = stage.files();
    let conf = |name: &str, text: &str| {
        let file = stage.path("from").join(name);
        fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let list = fs::read_to_string(stage.path("from/10-podnet.conflist")).unwrap();
    for (file, status, why) in [
        (conf("a.conflist", "{"), 1, "a.conflist: network config"),
        (conf("a.conf", &list), 2, "ends in .conflist"),
        (
            conf("b.conflist", r#"{"name": "x", "type": "pausenet"}"#),
            2,
            ".conf or .json",
        ),
        (
            stage.path("missing").to_str().unwrap().to_owned(),
            1,
            "No such file",
        ),
    ] {
        let net = stage.net();
        let mut command = stage.command(&["v1"]);
        let output = command
            .args(["--conf", &file, "--conf-dir"])
            .arg(net)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(status), "{output:?}");
        assert!(said(&output).contains(why), "{output:?}");
        assert_eq!(stage.files(), before);
    }
}

#[test]
fn a_network_that_would_not_be_used_causes_a_warning() {
    let stage = Stage::new();
    fs::write(stage.net().join("05-first.conflist"), "{}").unwrap();
    let list = json!({"name": "x", "plugins": [{"type": "pausenet"}, {"type": "tuning"}]});
    fs::write(stage.path("from/10-podnet.conflist"), list.to_string()).unwrap();
    let output = stage.command(&["v1", "--conf"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = said(&output);
    assert!(
        said.contains("05-first.conflist comes before 10-podnet.conflist"),
        "{said}"
    );
    assert!(said.contains("needs the plugin tuning"), "{said}");
}

#[test]
fn missing_write_permission_is_reported() {
    let stage = Stage::with_others();
    fs::set_permissions(stage.bin(), Permissions::from_mode(0o555)).unwrap();
    let before = stage.files();
    let mut command = Command::new("setpriv");
    command.args([
        "--bounding-set=-dac_override,-dac_read_search",
        "--",
        programs::pausectl(),
    ]);
    let output = command
        .args(stage.args(&["v1", "--as", "bridge"]))
        .output()
        .unwrap();
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("cannot make the folder")
            && said.contains("Permission denied")
            && said.contains("hint: sudo"),
        "{said}"
    );
    assert_eq!(stage.files(), before);
}

#[test]
fn invalid_or_read_only_folders_are_named() {
    let _world = World::new();
    let stage = Stage::new();
    let bin = stage.bin();
    fs::create_dir(bin.join("bridge")).unwrap();
    let said = stage.fails(1, &["v1", "--as", "bridge"]);
    assert!(said.contains("bin/bridge: it is a folder"), "{said}");
    fs::remove_dir(bin.join("bridge")).unwrap();

    run(
        "mount",
        ["-t", "tmpfs", "-o", "ro", "tmpfs", bin.to_str().unwrap()],
    );
    let said = stage.fails(1, &["v1"]);
    assert!(
        said.contains("Read-only file system") && said.contains("remount,rw"),
        "{said}"
    );
    run("umount", [bin.to_str().unwrap()]);
    run(
        "mount",
        [
            "-t",
            "tmpfs",
            "-o",
            "noexec",
            "tmpfs",
            bin.to_str().unwrap(),
        ],
    );
    let said = stage.fails(1, &["v1"]);
    assert!(
        said.contains("cannot run it") && said.contains("noexec"),
        "{said}"
    );
    run("umount", [bin.to_str().unwrap()]);

    fs::remove_dir(&bin).unwrap();
    fs::write(&bin, "").unwrap();
    let said = stage.fails(1, &["v1"]);
    assert!(
        said.contains("cannot make the folder") && said.contains("is a file"),
        "{said}"
    );
}

#[test]
fn an_unreadable_record_stops_install_and_uninstall() {
    let stage = Stage::with_others();
    stage.ok(&["v1", "--as", "bridge"]);
    fs::write(stage.bin().join(".pausenet-replaced/.record"), "{").unwrap();
    let before = stage.files();
    for args in [&["v2"][..], &["--uninstall"]] {
        let said = stage.fails(1, args);
        assert!(
            said.contains("cannot make out") && said.contains("moved back by hand"),
            "{said}"
        );
        assert_eq!(stage.files(), before);
    }
}

#[test]
fn concurrent_installs_wait_for_each_other() {
    let stage = Stage::with_others();
    let before = stage.files();
    let start = |args: &[&str]| {
        let mut command = stage.command(args);
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    for _ in 0..5 {
        let all = [
            start(&ALL),
            start(&NEWER),
            start(&["--uninstall"]),
            start(&ALL),
        ];
        for child in all {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{output:?}");
        }
        stage.ok(&["--uninstall"]);
        assert_eq!(stage.files(), before);
    }
}

#[test]
fn a_pod_is_wired_by_the_installed_reference_name() {
    let world = World::new();
    let stage = Stage::with_others();
    // The one beside pausectl, as nobody says --from.
    stage.ok(&["--as", "bridge,host-local"]);
    let pod = world.container("pod");
    let config = with(podnet(), json!({"type": "bridge"}));
    let call = |verb| {
        Call::new(verb, &config)
            .program(stage.bin().join("bridge"))
            .netns(&pod)
    };
    let result = call("ADD").run().ok();
    assert_eq!(result["ips"][0]["address"], "10.1.0.2/24");
    assert_eq!(pod.addresses("eth0"), ["10.1.0.2/24"]);
    call("DEL").run().ok();
}
