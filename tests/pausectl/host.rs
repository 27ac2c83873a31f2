//! A host to make pods on, that cleans up behind a test which failed half way.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use common::programs;
use common::wait::{wait_same, wait_until};
use common::{Container, Snapshot, World, podnet, run, run_files, store_files, with};

/// A world with a folder of configurations, network podnet among them, and one of plugins.
pub(crate) struct PodHost {
    pub(crate) world: World,
    dir: tempfile::TempDir,
    before: HostState,
}

/// Whatever a pod may leave behind.
#[derive(Debug, Clone, PartialEq)]
struct HostState {
    host: Snapshot,
    run: BTreeMap<PathBuf, Vec<u8>>,
    mounts: Vec<String>,
    remembered: BTreeMap<PathBuf, Vec<u8>>,
}

impl HostState {
    fn read(world: &World) -> Self {
        let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap();
        Self {
            host: world.snapshot().without_bridge("cni0").addresses_only(),
            run: run_files(),
            mounts: mounts.lines().map(str::to_owned).collect(),
            remembered: store_files(Path::new("/var/lib/cni/results")),
        }
    }
}

impl PodHost {
    pub(crate) fn new() -> Self {
        let world = World::new();
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("net.d")).unwrap();
        fs::create_dir(dir.path().join("plugins")).unwrap();
        let before = HostState::read(&world);
        let host = Self { world, dir, before };
        host.network(&podnet());
        host
    }

    /// Writes a network into the folder of configurations, and gives back the file.
    pub(crate) fn network(&self, config: &Value) -> PathBuf {
        let name = config["name"].as_str().unwrap();
        let file = self.dir.path().join("net.d").join(format!("{name}.json"));
        fs::write(&file, config.to_string()).unwrap();
        file
    }

    /// A network with ours first, and other plugins behind it.
    pub(crate) fn chain(&self, others: &[&str]) -> PathBuf {
        let ours = with(podnet(), json!({"cniVersion": null, "name": null}));
        let others = others.iter().map(|name| json!({"type": name}));
        let plugins: Vec<_> = std::iter::once(ours).chain(others).collect();
        self.network(&json!({"cniVersion": "1.0.0", "name": "chain", "plugins": plugins}))
    }

    /// Makes a plugin of a shell script. It sees its stdin in $config, and has a folder $log.
    pub(crate) fn plugin(&self, name: &str, script: &str) {
        let log = self.log();
        let text = format!(
            "#!/bin/sh\nlog={}\nconfig=$(cat)\necho \"{name} $CNI_COMMAND\" >>\"$log/calls\"\n\
             printf %s \"$config\" >\"$log/{name}.$CNI_COMMAND\"\n{script}\n",
            log.display()
        );
        fs::create_dir_all(&log).unwrap();
        let source = self.dir.path().join(format!("{name}.sh"));
        fs::write(&source, text).unwrap();
        // By another process: a file that this one has open for writing, if only in a child of
        // another test's thread, could not be executed (ETXTBSY).
        let target = self.dir.path().join("plugins").join(name);
        run(
            "install",
            [
                "-m",
                "755",
                source.to_str().unwrap(),
                target.to_str().unwrap(),
            ],
        );
    }

    /// Puts our binary among the plugins, under this name.
    pub(crate) fn plugin_of_ours(&self, name: &str) {
        let target = self.dir.path().join("plugins").join(name);
        std::os::unix::fs::symlink(programs::pausenet(), target).unwrap();
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// A file that a plugin of ours has left in its folder.
    pub(crate) fn logged(&self, file: &str) -> Option<String> {
        fs::read_to_string(self.log().join(file)).ok()
    }

    /// The config that a plugin got with a verb.
    pub(crate) fn config_of(&self, plugin: &str, verb: &str) -> Value {
        serde_json::from_str(&self.logged(&format!("{plugin}.{verb}")).unwrap()).unwrap()
    }

    /// pausectl with these arguments, on this host's configurations and plugins.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let beside = Path::new(programs::pausectl()).parent().unwrap();
        let plugins = self.dir.path().join("plugins");
        let mut command = Command::new(programs::pausectl());
        command
            .args(args)
            .env("PAUSENET_CONF_DIR", self.dir.path().join("net.d"))
            .env(
                "CNI_PATH",
                std::env::join_paths([beside, &plugins]).unwrap(),
            )
            .env_remove("PAUSENET_PAUSE")
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn output(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// The stdout of a call that has to succeed, with nothing on stderr.
    #[track_caller]
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let output = self.output(args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {stderr}");
        assert_eq!(stderr, "", "{args:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The stderr of a call that has to fail with this status and say nothing on stdout.
    #[track_caller]
    pub(crate) fn fails(&self, status: i32, args: &[&str]) -> String {
        let output = self.output(args);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{args:?}: {stderr}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{args:?}");
        stderr
    }

    /// Makes a pod on network podnet, and gives back what was said of it.
    #[track_caller]
    pub(crate) fn create(&self, pod: &str) -> Value {
        let args = [
            "pod",
            "create",
            pod,
            "--network",
            "podnet",
            "--output",
            "json",
        ];
        serde_json::from_str(&self.ok(&args)).unwrap()
    }

    /// All pods, by `ls`.
    #[track_caller]
    pub(crate) fn pods(&self) -> Vec<Value> {
        let mut json: Value = serde_json::from_str(&self.ok(&["pod", "ls", "-o", "json"])).unwrap();
        serde_json::from_value(json["pods"].take()).unwrap()
    }

    /// A process that joins a pod and stays, as a member that can be killed.
    pub(crate) fn member(&self, pod: &str) -> Member {
        let args = ["pod", "exec", pod, "--", "sleep", "600"];
        let member = Member(self.command(&args).spawn().unwrap());
        wait_until("it has become a sleep", || {
            let name = fs::read_to_string(format!("/proc/{}/comm", member.pid()));
            name.is_ok_and(|name| name == "sleep\n")
        });
        member
    }

    /// The host is as it was before the first pod, but for the bridge.
    #[track_caller]
    pub(crate) fn assert_nothing_is_left(&self) {
        // The kernel destroys a namespace asynchronously.
        wait_same("nothing is left", || {
            (HostState::read(&self.world), self.before.clone())
        });
    }
}

impl Drop for PodHost {
    fn drop(&mut self) {
        for name in fs::read_dir("/run/pausenet/netns").into_iter().flatten() {
            let name = name.unwrap().file_name();
            let _ = self
                .command(&["pod", "rm", "--force", name.to_str().unwrap()])
                .output();
        }
    }
}

/// A member of a pod, which ends with its test.
pub(crate) struct Member(Child);

impl Member {
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// The network as this member sees it.
    pub(crate) fn view(&self) -> Container {
        Container {
            path: format!("/proc/{}/ns/net", self.pid()).into(),
        }
    }

    /// What the kernel has counted on eth0, as this member sees it.
    pub(crate) fn counters(&self) -> String {
        let text = fs::read_to_string(format!("/proc/{}/net/dev", self.pid())).unwrap();
        let line = text.lines().find(|line| line.contains("eth0:"));
        line.expect("eth0").to_owned()
    }

    /// kill -9.
    pub(crate) fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The stdout of a call that looks at every namespace of the machine, and has to succeed. Others'
/// may change so much meanwhile that it says so on stderr.
#[track_caller]
pub(crate) fn seen(host: &PodHost, args: &[&str]) -> String {
    let output = host.output(args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {stderr}");
    let is_warning = |line: &str| line.starts_with("warning: ") || line.starts_with("hint: ");
    assert!(stderr.lines().all(is_warning), "{args:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid as i32).unwrap(), signal).unwrap();
}

/// Whether a process lives. (One that waits to be reaped does not, and has no namespaces.)
pub(crate) fn is_alive(pid: u32) -> bool {
    fs::metadata(format!("/proc/{pid}/ns/net")).is_ok()
}

/// kill -9 of a process that is not our child.
pub(crate) fn kill(pid: u32) {
    signal(pid, Signal::KILL);
    wait_until("it is dead", || !is_alive(pid));
}

/// Writes to a child's stdin and closes it.
pub(crate) fn feed(child: &mut Child, text: &str) {
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(text.as_bytes()).unwrap();
}
