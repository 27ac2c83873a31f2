//! `install`: what stands under a plugin's name is whole at any moment, ours or the other's, and
//! `--uninstall` brings back what was there.

mod folders;
mod foreseen;
mod killed;
mod runtimes;
mod shared;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Stdio};

use serde_json::json;

use self::folders::{ALL, Files, InstallFolders, NEWER, said};
use common::programs;
use common::{Call, World, lab, podnet, run, with};

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    let own = |(name, action): &(&str, &str)| ((*name).to_owned(), (*action).to_owned());
    expected.iter().map(own).collect()
}

#[test]
fn the_first_install_makes_the_folder_and_the_second_does_nothing() {
    let folders = InstallFolders::new();
    let before = folders.files();
    let args = &["v1", "--as", "bridge,host-local", "--conf"];
    fs::remove_dir(folders.bin()).unwrap();
    assert_eq!(
        folders.actions(args),
        pairs(&[
            ("pausenet", "install"),
            ("bridge", "install"),
            ("host-local", "install"),
            ("10-podnet.conflist", "install"),
        ])
    );
    let inode = |name| fs::metadata(folders.bin().join(name)).unwrap().ino();
    assert_eq!(inode("pausenet"), inode("bridge"), "one file on the disk");
    let mode = fs::metadata(folders.bin().join("bridge")).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o755);
    let installed = folders.files();
    assert!(
        folders
            .actions(args)
            .iter()
            .all(|(_, action)| action == "leave")
    );
    assert_eq!(folders.files(), installed);
    assert_eq!(
        folders.actions(&["--uninstall"]),
        pairs(&[
            ("10-podnet.conflist", "remove"),
            ("bridge", "remove"),
            ("host-local", "remove"),
            ("pausenet", "remove"),
        ])
    );
    assert_eq!(folders.files(), before);
    let said = folders.ok(&["--uninstall"]);
    assert!(said.starts_with("nothing is installed in /"), "{said}");
}

#[test]
fn uninstall_restores_what_was_replaced() {
    let Some(peers) = lab::peers() else { return };
    let folders = InstallFolders::new();
    run(
        "cp",
        [
            "-a",
            &format!("{}/.", peers.display()),
            folders.bin().to_str().unwrap(),
        ],
    );
    fs::write(folders.net().join("10-podnet.conflist"), "theirs").unwrap();
    let before = folders.files();
    let all = "bridge,ptp,host-local,loopback,portmap,firewall,bandwidth,tuning";
    let said = folders.ok(&["v1", "--as", "all", "--conf"]);
    assert!(said.contains("/.pausenet-replaced/bridge"), "{said}");
    let v1 = folders.read("pausenet");
    for name in all.split(',') {
        assert_eq!(folders.read(name), v1, "{name}");
    }
    folders.ok(&["v1", "--as", all, "--conf"]);
    // A newer version takes the place of every one that we have put there.
    let renewed = folders.actions(&["v2"]);
    assert!(
        renewed.len() == 9 && renewed.iter().all(|(_, action)| action == "renew"),
        "{renewed:?}"
    );
    assert_eq!(folders.read("portmap"), folders.version("v2"));
    let restored = folders.actions(&["--uninstall"]);
    assert_eq!(restored[0], ("10-podnet.conflist".into(), "restore".into()));
    assert_eq!(folders.files(), before);
}

#[test]
fn uninstall_keeps_files_that_replaced_ours() {
    let folders = InstallFolders::with_others();
    let before = folders.files();
    let bridge = folders.bin().join("bridge");
    folders.ok(&["v1", "--as", "bridge,ptp", "--conf"]);
    fs::remove_file(&bridge).unwrap();
    fs::write(&bridge, "theirs, newer").unwrap();
    fs::write(folders.net().join("10-podnet.conflist"), "edited").unwrap();
    // It is not renewed either, unless requested.
    assert!(
        !folders
            .actions(&["v2"])
            .iter()
            .any(|(name, _)| name == "bridge")
    );
    let said = folders.ok(&["--uninstall"]);
    assert!(
        said.contains("it is not the file that pausectl installed; the previous one is kept in"),
        "{said}"
    );
    assert_eq!(folders.read("bridge"), b"theirs, newer");
    assert_eq!(
        fs::read(folders.net().join("10-podnet.conflist")).unwrap(),
        b"edited"
    );
    assert_eq!(folders.read(".pausenet-replaced/bridge"), b"theirs");

    // The newer one comes back from then on, and the older one is not lost.
    folders.ok(&["v1", "--as", "bridge"]);
    assert_eq!(
        folders.read(".pausenet-replaced/.older/bridge.1"),
        b"theirs"
    );
    let said = folders.ok(&["--uninstall"]);
    assert!(
        said.contains("kept ") && said.contains(".older/bridge.1"),
        "{said}"
    );
    assert_eq!(folders.read("bridge"), b"theirs, newer");
    let others = |mut files: Files| {
        files.retain(|path, _| path.ends_with("ptp") || path.ends_with("tuning"));
        files
    };
    assert_eq!(others(folders.files()), others(before));
}

#[test]
fn uninstall_keeps_files_that_were_there_before() {
    let folders = InstallFolders::new();
    fs::copy(folders.path("from/v1"), folders.bin().join("pausenet")).unwrap();
    fs::set_permissions(
        folders.bin().join("pausenet"),
        Permissions::from_mode(0o755),
    )
    .unwrap();
    let before = folders.files();
    let said = folders.ok(&["v1"]);
    assert!(
        said.contains("an identical file was there before"),
        "{said}"
    );
    assert_eq!(folders.files(), before);
    folders.ok(&["v2", "--as", "ptp"]);
    folders.ok(&["v1"]);
    folders.ok(&["--uninstall"]);
    assert_eq!(folders.files(), before);
}

#[test]
fn a_dry_run_reports_the_steps_and_changes_nothing() {
    let folders = InstallFolders::with_others();
    let before = folders.files();
    let said = folders.ok(&["v1", "--as", "bridge", "--conf", "--dry-run"]);
    let bin = folders.bin();
    let (bin, net) = (bin.display(), folders.net());
    assert_eq!(
        said,
        format!(
            "would install {bin}/pausenet\n\
             would replace {bin}/bridge: the previous file is kept in {bin}/.pausenet-replaced/bridge\n\
             would install {}/10-podnet.conflist\n",
            net.display()
        )
    );
    assert_eq!(folders.files(), before);
    folders.ok(&["v1", "--as", "bridge"]);
    let installed = folders.files();
    let said = folders.ok(&["--uninstall", "--dry-run"]);
    assert_eq!(
        said,
        format!("would restore {bin}/bridge\nwould remove {bin}/pausenet\n")
    );
    assert_eq!(folders.files(), installed);
}

#[test]
fn without_hard_links_files_are_copied() {
    let folders = InstallFolders::with_others();
    let before = folders.files();
    let all = ["-e", "inject=link,linkat:error=EPERM"];
    let (output, log) = folders.strace(&ALL, &all);
    assert!(
        output.status.success() && log.contains("(INJECTED)"),
        "{output:?}"
    );
    let inode = |name| fs::metadata(folders.bin().join(name)).unwrap().ino();
    assert_ne!(inode("pausenet"), inode("bridge"));
    assert_eq!(folders.read("bridge"), folders.version("v1"));
    folders.ok(&["--uninstall"]);
    assert_eq!(folders.files(), before);
}

#[test]
fn a_plugin_that_does_not_run_here_replaces_nothing() {
    let folders = InstallFolders::with_others();
    let before = folders.files();
    for (content, why) in [
        ("\x7fELF of another machine", "cannot run it"),
        ("#!/bin/sh\nexit 3\n", "exit status: 3"),
        ("", "does not work"),
    ] {
        fs::write(folders.path("from/none"), content).unwrap();
        let said = folders.fails(1, &["none", "--as", "bridge"]);
        assert!(
            said.contains(why) && said.contains("nothing was replaced"),
            "{said}"
        );
        folders.ok(&["--uninstall"]);
        assert_eq!(folders.files(), before);
    }
}

#[test]
fn impossible_installs_are_refused_with_a_hint() {
    let folders = InstallFolders::with_others();
    let before = folders.files();
    let said = folders.fails(1, &["none"]);
    assert!(
        said.contains("from/none") && said.contains("--from FILE"),
        "{said}"
    );
    let said = folders.fails(2, &["v1", "--as", "bridge,macvlan"]);
    assert!(
        said.contains("macvlan") && said.contains("host-local"),
        "{said}"
    );
    assert_eq!(folders.files(), before);
}

#[test]
fn an_invalid_network_is_not_installed() {
    let folders = InstallFolders::new();
    let before = folders.files();
    let conf = |name: &str, text: &str| {
        let file = folders.path("from").join(name);
        fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let list = fs::read_to_string(folders.path("from/10-podnet.conflist")).unwrap();
    for (file, status, why) in [
        (conf("a.conflist", "{"), 1, "a.conflist: network config"),
        (conf("a.conf", &list), 2, "ends in .conflist"),
        (
            conf("b.conflist", r#"{"name": "x", "type": "pausenet"}"#),
            2,
            ".conf or .json",
        ),
        (
            folders.path("missing").to_str().unwrap().to_owned(),
            1,
            "No such file",
        ),
    ] {
        let net = folders.net();
        let mut command = folders.command(&["v1"]);
        let output = command
            .args(["--conf", &file, "--conf-dir"])
            .arg(net)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(status), "{output:?}");
        assert!(said(&output).contains(why), "{output:?}");
        assert_eq!(folders.files(), before);
    }
}

#[test]
fn a_network_that_would_not_be_used_causes_a_warning() {
    let folders = InstallFolders::new();
    fs::write(folders.net().join("05-first.conflist"), "{}").unwrap();
    let output = folders.command(&["v1", "--conf"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = said(&output);
    assert!(
        said.contains("05-first.conflist comes before 10-podnet.conflist"),
        "{said}"
    );
}

#[test]
fn missing_write_permission_is_reported() {
    let folders = InstallFolders::with_others();
    fs::set_permissions(folders.bin(), Permissions::from_mode(0o555)).unwrap();
    let before = folders.files();
    let mut command = Command::new("setpriv");
    command.args([
        "--bounding-set=-dac_override,-dac_read_search",
        "--",
        programs::pausectl(),
    ]);
    let output = command
        .args(folders.args(&["v1", "--as", "bridge"]))
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
    assert_eq!(folders.files(), before);
}

#[test]
fn invalid_or_read_only_folders_are_named() {
    let _world = World::new();
    let folders = InstallFolders::new();
    let bin = folders.bin();
    fs::create_dir(bin.join("bridge")).unwrap();
    let said = folders.fails(1, &["v1", "--as", "bridge"]);
    assert!(said.contains("bin/bridge: it is a folder"), "{said}");
    fs::remove_dir(bin.join("bridge")).unwrap();

    run(
        "mount",
        ["-t", "tmpfs", "-o", "ro", "tmpfs", bin.to_str().unwrap()],
    );
    let said = folders.fails(1, &["v1"]);
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
    let said = folders.fails(1, &["v1"]);
    assert!(
        said.contains("cannot run it") && said.contains("noexec"),
        "{said}"
    );
    run("umount", [bin.to_str().unwrap()]);

    fs::remove_dir(&bin).unwrap();
    fs::write(&bin, "").unwrap();
    let said = folders.fails(1, &["v1"]);
    assert!(
        said.contains("cannot make the folder") && said.contains("is a file"),
        "{said}"
    );
}

#[test]
fn an_unreadable_record_stops_install_and_uninstall() {
    let folders = InstallFolders::with_others();
    folders.ok(&["v1", "--as", "bridge"]);
    fs::write(folders.bin().join(".pausenet-replaced/.record"), "{").unwrap();
    let before = folders.files();
    for args in [&["v2"][..], &["--uninstall"]] {
        let said = folders.fails(1, args);
        assert!(
            said.contains("cannot parse") && said.contains("moved back by hand"),
            "{said}"
        );
        assert_eq!(folders.files(), before);
    }
}

#[test]
fn concurrent_installs_wait_for_each_other() {
    let folders = InstallFolders::with_others();
    let before = folders.files();
    let start = |args: &[&str]| {
        let mut command = folders.command(args);
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
        folders.ok(&["--uninstall"]);
        assert_eq!(folders.files(), before);
    }
}

#[test]
fn a_pod_is_wired_by_the_installed_reference_name() {
    let world = World::new();
    let folders = InstallFolders::with_others();
    // The one beside pausectl, without --from.
    folders.ok(&["--as", "bridge,host-local"]);
    let pod = world.container("pod");
    let config = with(podnet(), json!({"type": "bridge"}));
    let call = |verb| {
        Call::new(verb, &config)
            .program(folders.bin().join("bridge"))
            .netns(&pod)
    };
    let result = call("ADD").run().ok();
    assert_eq!(result["ips"][0]["address"], "10.1.0.2/24");
    assert_eq!(pod.addresses("eth0"), ["10.1.0.2/24"]);
    call("DEL").run().ok();
}
