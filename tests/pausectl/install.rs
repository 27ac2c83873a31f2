//! `install`: what stands under a plugin's name is whole at any moment, ours or the other's, and
//! `--uninstall` brings back what was there; also when any of it was killed or refused half way.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::common::{Call, World, lab, podnet, run, with};
use crate::site::PAUSECTL;

/// The steps of an install that can be seen afterwards; strace shows which of them there are.
const STEPS: &[&str] = &[
    "chown",
    "fchmod",
    "fchown",
    "fdatasync",
    "fsync",
    "ftruncate",
    "link",
    "linkat",
    "mkdir",
    "mkdirat",
    "openat",
    "rename",
    "renameat",
    "renameat2",
    "rmdir",
    "symlink",
    "symlinkat",
    "unlink",
    "unlinkat",
    "utimensat",
    "write",
];

/// A folder of plugins and one of networks, and what there is to put there.
struct Stage {
    root: tempfile::TempDir,
}

/// Every file of both folders: mode, time of change, and content, or where the link leads.
type Files = BTreeMap<PathBuf, (u32, i64, Vec<u8>)>;

impl Stage {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let stage = Self { root };
        for dir in [stage.bin(), stage.net(), stage.path("from")] {
            fs::create_dir(dir).unwrap();
        }
        stage.version("v1");
        stage.version("v2");
        let list =
            json!({"cniVersion": "1.0.0", "name": "podnet", "plugins": [{"type": "pausenet"}]});
        fs::write(stage.path("from/10-podnet.conflist"), list.to_string()).unwrap();
        stage
    }

    /// One with plugins of somebody else's: a program with an unusual mode, and a link.
    fn with_others() -> Self {
        let stage = Self::new();
        fs::write(stage.bin().join("bridge"), "theirs").unwrap();
        fs::set_permissions(stage.bin().join("bridge"), Permissions::from_mode(0o4751)).unwrap();
        symlink("bridge", stage.bin().join("ptp")).unwrap();
        fs::write(stage.bin().join("tuning"), "theirs too").unwrap();
        stage
    }

    fn path(&self, below: &str) -> PathBuf {
        self.root.path().join(below)
    }

    fn bin(&self) -> PathBuf {
        self.path("bin")
    }

    fn net(&self) -> PathBuf {
        self.path("net.d")
    }

    /// A plugin that can say its version and no more, small enough to be hashed a thousand times.
    fn version(&self, name: &str) -> Vec<u8> {
        let text = format!("#!/bin/sh\n# {name}\necho '{{\"supportedVersions\": [\"1.0.0\"]}}'\n");
        fs::write(self.path("from").join(name), &text).unwrap();
        text.into_bytes()
    }

    /// `install` of a version, or whatever the arguments say.
    fn args(&self, args: &[&str]) -> Vec<String> {
        let mut all = vec![
            "install".to_owned(),
            "--dir".into(),
            self.bin().to_str().unwrap().into(),
        ];
        for arg in args {
            match *arg {
                "v1" | "v2" | "none" => {
                    all.push("--from".into());
                    all.push(self.path("from").join(arg).to_str().unwrap().into());
                }
                "--conf" => {
                    let file = self.path("from/10-podnet.conflist");
                    for word in [
                        "--conf",
                        file.to_str().unwrap(),
                        "--conf-dir",
                        self.net().to_str().unwrap(),
                    ] {
                        all.push(word.into());
                    }
                }
                other => all.push(other.into()),
            }
        }
        all
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(PAUSECTL);
        command.args(self.args(args)).stdin(Stdio::null());
        command
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        assert_eq!(said(&output), "", "{args:?}");
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What was done with each file, by its name.
    #[track_caller]
    fn actions(&self, args: &[&str]) -> Vec<(String, String)> {
        let answer: Value =
            serde_json::from_str(&self.ok(&[args, &["-o", "json"]].concat())).unwrap();
        let files = answer["files"].as_array().unwrap().iter();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let name = |value: &Value| text(value).rsplit_once('/').unwrap().1.to_owned();
        files
            .map(|file| (name(&file["file"]), text(&file["action"])))
            .collect()
    }

    #[track_caller]
    fn fails(&self, status: i32, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{args:?}: {output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{args:?}");
        said(&output)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.bin().join(name)).unwrap()
    }

    fn files(&self) -> Files {
        let mut files = Files::new();
        let mut open = vec![self.bin(), self.net()];
        while let Some(dir) = open.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                let meta = fs::symlink_metadata(&path).unwrap();
                let content = if meta.is_dir() {
                    open.push(path.clone());
                    Vec::new()
                } else if meta.is_symlink() {
                    fs::read_link(&path)
                        .unwrap()
                        .into_os_string()
                        .into_encoded_bytes()
                } else {
                    fs::read(&path).unwrap()
                };
                let changed = if meta.is_file() { meta.mtime_nsec() } else { 0 };
                files.insert(path, (meta.mode(), changed, content));
            }
        }
        files
    }

    /// `strace` of a command, its answer and its log.
    fn strace(&self, args: &[&str], options: &[&str]) -> (Output, String) {
        let log = self.path("log");
        let mut command = Command::new("strace");
        command
            .args(["--quiet=all", "--decode-fds=path"])
            .arg("--output")
            .arg(&log)
            .args(options);
        command
            .arg("--")
            .arg(PAUSECTL)
            .args(self.args(args))
            .stdin(Stdio::null());
        let output = command.output().unwrap();
        (output, fs::read_to_string(&log).unwrap())
    }

    /// Does `what` to a command at each of its steps; `prepare` comes before, `judge` after.
    fn at_each_step(
        &self,
        args: &[&str],
        what: &str,
        prepare: impl Fn(),
        judge: impl Fn(&str, &Output),
    ) -> usize {
        prepare();
        let (_, log) = self.strace(args, &[]);
        let called: BTreeSet<_> = log
            .lines()
            .filter_map(|line| Some(line.split_once('(')?.0))
            .collect();
        self.ok(&["--uninstall"]);
        let mut count = 0;
        for name in STEPS.iter().filter(|name| called.contains(**name)) {
            for nth in 1.. {
                prepare();
                let inject = format!("inject={name}:{what}:when={nth}");
                let (output, log) =
                    self.strace(args, &["-e", &format!("trace={name}"), "-e", &inject]);
                let struck = output.status.signal() == Some(9) || log.contains("(INJECTED)");
                judge(&format!("{what} at {name} number {nth}\n{log}"), &output);
                self.ok(&["--uninstall"]);
                if !struck {
                    break;
                }
                count += 1;
            }
        }
        count
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

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
fn what_was_replaced_comes_back_as_it_was() {
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
fn what_somebody_has_put_over_ours_stays() {
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
fn one_that_was_there_before_is_not_ours_to_remove() {
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
fn a_dry_run_says_what_would_be_and_changes_nothing() {
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

/// Under each name there is a whole file: theirs, or one of these versions.
#[track_caller]
fn assert_whole(stage: &Stage, versions: &[&str], after: &str) {
    let mut known: Vec<_> = versions.iter().map(|name| stage.version(name)).collect();
    known.push(b"theirs".to_vec());
    // ptp is theirs while it leads to bridge, whichever that is.
    for name in ["bridge", "ptp"] {
        assert!(known.contains(&stage.read(name)), "{after}: {name}");
    }
    if stage.net().join("10-podnet.conflist").exists() {
        let mode = fs::metadata(stage.bin().join("pausenet")).unwrap().mode();
        assert_eq!(mode & 0o777, 0o755, "{after}: the network came first");
    }
}

const ALL: [&str; 4] = ["v1", "--as", "bridge,ptp", "--conf"];
const NEWER: [&str; 4] = ["v2", "--as", "bridge,ptp", "--conf"];

#[test]
fn killed_at_any_step_an_install_can_be_undone() {
    let stage = Stage::with_others();
    let before = stage.files();
    let prepare = || assert_eq!(stage.files(), before);
    let kills = stage.at_each_step(&ALL, "signal=KILL", prepare, |after, _| {
        assert_whole(&stage, &["v1"], after);
    });
    prepare();
    assert!(kills > 40, "{kills}");
}

#[test]
fn killed_at_any_step_an_install_can_be_done_again() {
    let stage = Stage::with_others();
    let before = stage.files();
    let prepare = || assert_eq!(stage.files(), before);
    stage.at_each_step(&ALL, "signal=KILL", prepare, |after, _| {
        stage.ok(&NEWER);
        let v2 = stage.version("v2");
        for name in ["pausenet", "bridge", "ptp"] {
            assert_eq!(stage.read(name), v2, "{after}: {name}");
        }
        assert_eq!(
            stage.read(".pausenet-replaced/bridge"),
            b"theirs",
            "{after}"
        );
    });
    prepare();
}

#[test]
fn killed_at_any_step_an_upgrade_loses_nothing() {
    let stage = Stage::with_others();
    let before = stage.files();
    let prepare = || {
        assert_eq!(stage.files(), before);
        stage.ok(&ALL);
    };
    let kills = stage.at_each_step(&NEWER, "signal=KILL", prepare, |after, _| {
        assert_whole(&stage, &["v1", "v2"], after);
        assert_eq!(
            stage.read(".pausenet-replaced/bridge"),
            b"theirs",
            "{after}"
        );
    });
    assert_eq!(stage.files(), before);
    assert!(kills > 20, "{kills}");
}

#[test]
fn killed_at_any_step_an_uninstall_can_be_finished() {
    let stage = Stage::with_others();
    let before = stage.files();
    let prepare = || {
        assert_eq!(stage.files(), before);
        stage.ok(&ALL);
    };
    let kills = stage.at_each_step(&["--uninstall"], "signal=KILL", prepare, |after, _| {
        assert_whole(&stage, &["v1"], after);
    });
    assert_eq!(stage.files(), before);
    assert!(kills > 10, "{kills}");
}

#[test]
fn refused_at_any_step_it_says_so_and_loses_nothing() {
    let stage = Stage::with_others();
    let before = stage.files();
    let prepare = || assert_eq!(stage.files(), before);
    stage.at_each_step(&ALL, "error=ENOSPC", prepare, |after, output| {
        assert_whole(&stage, &["v1"], after);
        // Of what is no file, the disk cannot be full.
        let on_disk = !["<anon_inode:", "<socket:", "<pipe:", "<UNIX"]
            .iter()
            .any(|other| after.contains(other));
        if on_disk && !output.status.success() {
            let said = said(output);
            assert_eq!(output.status.code(), Some(1), "{after}: {said}");
            assert!(said.contains("error: "), "{after}: {said}");
        }
    });
    prepare();
}

#[test]
fn without_hard_links_there_are_copies() {
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
fn what_cannot_be_is_refused_with_a_way_out() {
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
fn a_network_that_is_none_is_not_installed() {
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
fn a_network_that_would_not_be_used_is_warned_of() {
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
fn who_may_not_write_there_is_told_so() {
    let stage = Stage::with_others();
    fs::set_permissions(stage.bin(), Permissions::from_mode(0o555)).unwrap();
    let before = stage.files();
    let mut command = Command::new("setpriv");
    command.args([
        "--bounding-set=-dac_override,-dac_read_search",
        "--",
        PAUSECTL,
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
fn folders_that_are_none_or_read_only_are_named() {
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
fn a_record_that_cannot_be_read_stops_everything() {
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
fn at_the_same_time_they_wait_for_each_other() {
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
fn a_pod_is_wired_by_the_name_of_the_reference_s_plugin() {
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
