//! Folders for `install`: plugins, networks, and the files to install.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use common::programs;

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

/// The arguments of an install of all there is, and of an upgrade.
pub(super) const ALL: [&str; 4] = ["v1", "--as", "bridge,ptp", "--conf"];
pub(super) const NEWER: [&str; 4] = ["v2", "--as", "bridge,ptp", "--conf"];

/// A folder of plugins and one of networks, and what there is to put there.
pub(super) struct InstallFolders {
    root: tempfile::TempDir,
}

/// Every file of both folders: mode, time of change, and content, or where the link leads.
pub(super) type Files = BTreeMap<PathBuf, (u32, i64, Vec<u8>)>;

impl InstallFolders {
    pub(super) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let folders = Self { root };
        for dir in [folders.bin(), folders.net(), folders.path("from")] {
            fs::create_dir(dir).unwrap();
        }
        folders.version("v1");
        folders.version("v2");
        let list =
            json!({"cniVersion": "1.0.0", "name": "podnet", "plugins": [{"type": "pausenet"}]});
        fs::write(folders.path("from/10-podnet.conflist"), list.to_string()).unwrap();
        folders
    }

    /// Folders with foreign plugins: a program with an unusual mode, and a link.
    pub(super) fn with_others() -> Self {
        let folders = Self::new();
        fs::write(folders.bin().join("bridge"), "theirs").unwrap();
        fs::set_permissions(folders.bin().join("bridge"), Permissions::from_mode(0o4751)).unwrap();
        symlink("bridge", folders.bin().join("ptp")).unwrap();
        fs::write(folders.bin().join("tuning"), "theirs too").unwrap();
        folders
    }

    pub(super) fn path(&self, below: &str) -> PathBuf {
        self.root.path().join(below)
    }

    pub(super) fn bin(&self) -> PathBuf {
        self.path("bin")
    }

    pub(super) fn net(&self) -> PathBuf {
        self.path("net.d")
    }

    /// A plugin that can say its version and no more, small enough to be hashed a thousand times.
    pub(super) fn version(&self, name: &str) -> Vec<u8> {
        let text = format!("#!/bin/sh\n# {name}\necho '{{\"supportedVersions\": [\"1.0.0\"]}}'\n");
        fs::write(self.path("from").join(name), &text).unwrap();
        text.into_bytes()
    }

    /// `install` of a version, or whatever the arguments say.
    pub(super) fn args(&self, args: &[&str]) -> Vec<String> {
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

    pub(super) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(programs::pausectl());
        command.args(self.args(args)).stdin(Stdio::null());
        command
    }

    #[track_caller]
    pub(super) fn ok(&self, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        let (_, said) = forecast(&said(&output));
        assert_eq!(said, "", "{args:?}");
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What was done with each file, by its name.
    #[track_caller]
    pub(super) fn actions(&self, args: &[&str]) -> Vec<(String, String)> {
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
    pub(super) fn fails(&self, status: i32, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{args:?}: {output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{args:?}");
        said(&output)
    }

    pub(super) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.bin().join(name)).unwrap()
    }

    pub(super) fn files(&self) -> Files {
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
    pub(super) fn strace(&self, args: &[&str], options: &[&str]) -> (Output, String) {
        let log = self.path("log");
        let mut command = Command::new("strace");
        command
            .args(["--quiet=all", "--decode-fds=path"])
            .arg("--output")
            .arg(&log)
            .args(options);
        command
            .arg("--")
            .arg(programs::pausectl())
            .args(self.args(args))
            .stdin(Stdio::null());
        let output = command.output().unwrap();
        (output, fs::read_to_string(&log).unwrap())
    }

    /// Does `what` to a command at each of its steps in these folders; `prepare` comes before, `judge` after.
    pub(super) fn at_each_step(
        &self,
        args: &[&str],
        what: &str,
        prepare: impl Fn(),
        judge: impl Fn(&str, &Output),
    ) -> usize {
        prepare();
        let (_, log) = self.strace(args, &[]);
        self.ok(&["--uninstall"]);
        let steps = self.steps(&log);
        for (name, nth) in &steps {
            prepare();
            let inject = format!("inject={name}:{what}:when={nth}");
            let (output, log) = self.strace(args, &["-e", &format!("trace={name}"), "-e", &inject]);
            let struck = output.status.signal() == Some(9) || log.contains("(INJECTED)");
            assert!(struck, "{what} at {name} number {nth}\n{log}");
            judge(&format!("{what} at {name} number {nth}\n{log}"), &output);
            self.ok(&["--uninstall"]);
        }
        steps.len()
    }

    /// The system calls in a log that are steps in these folders: the name of each, and the how manieth
    /// of its name it is.
    fn steps(&self, log: &str) -> Vec<(String, u32)> {
        let root = self.root.path().to_str().unwrap();
        let mut counts = BTreeMap::new();
        let mut steps = Vec::new();
        for line in log.lines() {
            let Some((name, _)) = line.split_once('(') else {
                continue;
            };
            let count = counts.entry(name).or_insert(0);
            *count += 1;
            if STEPS.contains(&name) && line.contains(root) {
                steps.push((name.to_owned(), *count));
            }
        }
        steps
    }
}

pub(super) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What an install printed on stderr: what the doctor will find, and the rest.
pub(super) fn forecast(said: &str) -> (String, String) {
    let (forecast, rest): (Vec<_>, Vec<_>) = said
        .lines()
        .partition(|line| line.starts_with("  ") || *line == "pausectl doctor will find:");
    (forecast.join("\n"), rest.join("\n"))
}
