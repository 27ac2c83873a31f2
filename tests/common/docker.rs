//! A [`World`] with a Docker daemon of its own, and helpers for its containers.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;

use pausectl::docker_api::Socket;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::programs::{self, CHECKOUT};
use crate::wait::wait_until;
use crate::{Container, Snapshot, World, lab, podnet, run, run_files, store_files, with};

/// Options of `docker.sh run`: a daemon without docker0, for tests that attach another network.
pub const NO_BRIDGE: &[&str] = &["--bridge", "none"];
/// Docker with its defaults, docker0 included.
pub const OWN_BRIDGE: &[&str] = &[];

/// Containers live through a restart of the daemon.
pub const LIVE_RESTORE: &[&str] = &["--bridge", "none", "--live-restore"];

/// Folders of the result cache and of pausectl's records.
const REMEMBERED: [&str; 2] = ["/var/lib/cni/results", "/var/lib/pausenet/docker"];

/// A daemon that ends with its test, and its world.
pub struct Docker {
    pub world: World,
    /// The host when the daemon was up.
    before: Snapshot,
    daemon: Child,
    /// The value for DOCKER_HOST.
    host: String,
    path: OsString,
}

impl Docker {
    /// Starts a daemon with the pause image, or none and the test skipped.
    pub fn start(options: &[&str]) -> Option<Self> {
        Self::start_with(options, &[pause_image])
    }

    /// Starts a daemon with hwchiu/netutils, nginx and busybox too.
    pub fn start_with_applications(options: &[&str]) -> Option<Self> {
        Self::start_with(options, &[pause_image, applications])
    }

    fn start_with(options: &[&str], images: &[fn() -> PathBuf]) -> Option<Self> {
        // All that needs the machine as it is comes before the world.
        let tools = lab::docker()?.tools;
        let images: Vec<_> = images.iter().map(|image| image()).collect();
        let world = World::new();
        let mut daemon = Command::new(Path::new(CHECKOUT).join("scripts/lab/docker.sh"))
            .arg("run")
            .args(options)
            // Until the end of its stdin, which comes even if this process is killed.
            .args(["sh", "-c", "echo \"$DOCKER_HOST\"; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut host = String::new();
        BufReader::new(daemon.stdout.take().unwrap())
            .read_line(&mut host)
            .unwrap();
        let host = host.trim().to_owned();
        assert!(host.starts_with("unix:///"), "no daemon: {host:?}");
        let old = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths([tools].into_iter().chain(std::env::split_paths(&old)));
        let docker = Self {
            before: host_of(&world),
            world,
            daemon,
            host,
            path: path.unwrap(),
        };
        for image in images {
            docker.run(&["load", "--quiet", "--input", image.to_str().unwrap()]);
        }
        Some(docker)
    }

    /// The daemon's folder.
    pub fn home(&self) -> &Path {
        self.socket_path().parent().unwrap()
    }

    /// The path of the daemon's socket.
    pub fn socket_path(&self) -> &Path {
        Path::new(self.host.strip_prefix("unix://").unwrap())
    }

    /// The daemon's socket.
    pub fn socket(&self) -> Socket {
        Socket::parse(&self.host).unwrap()
    }

    /// A program, one of Docker's own if there is one of that name.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("DOCKER_HOST", &self.host)
            .env("DOCKER_CONFIG", self.home().join("client"))
            .env("PATH", &self.path)
            .stdin(Stdio::null());
        command
    }

    /// The daemon's PATH, with another folder first.
    pub fn path_with(&self, folder: &Path) -> OsString {
        let folders = [folder.to_owned()].into_iter();
        std::env::join_paths(folders.chain(std::env::split_paths(&self.path))).unwrap()
    }

    /// `docker` with these arguments.
    pub fn output(&self, args: &[&str]) -> Output {
        self.command("docker").args(args).output().unwrap()
    }

    /// What `docker` prints, which has to succeed.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> String {
        let output = self.output(args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "docker {args:?}: {stderr}");
        let said = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        let starts = ["start", "restart"].contains(&args[0])
            || args[0] == "run" && ["-d", "--detach"].iter().any(|it| args.contains(it));
        if starts {
            for container in said.split_whitespace() {
                self.await_program(container);
            }
        }
        said
    }

    /// Waits until a container is its own program: Docker says that it runs when runc is about to
    /// become that.
    fn await_program(&self, container: &str) {
        let output = self.output(&["inspect", "--format", "{{.State.Pid}}", container]);
        let pid = String::from_utf8(output.stdout).unwrap();
        let exe = format!("/proc/{}/exe", pid.trim());
        wait_until("runc has become the program", || {
            let program = fs::read_link(&exe).unwrap_or_default();
            !program.to_string_lossy().contains("runc")
        });
    }

    /// `pausectl` with these arguments, for this daemon. Its networks are those of
    /// [`Docker::network`], and podnet.
    pub fn pausectl(&self, args: &[&str]) -> Command {
        let dir = self.home().join("net.d");
        if !dir.join("podnet.json").exists() {
            let all = json!({"ips": true, "mac": true, "portMappings": true});
            self.network(&with(podnet(), json!({"capabilities": all})));
        }
        let mut command = self.command(programs::pausectl());
        command.args(args).env("PAUSENET_CONF_DIR", dir);
        command
    }

    /// Writes a network into the folder of configurations.
    pub fn network(&self, config: &Value) {
        let dir = self.home().join("net.d");
        fs::create_dir_all(&dir).unwrap();
        let file = format!("{}.json", config["name"].as_str().unwrap());
        fs::write(dir.join(file), config.to_string()).unwrap();
    }

    /// What `pausectl` prints, which has to succeed with an empty stderr.
    #[track_caller]
    pub fn pausectl_ok(&self, args: &[&str]) -> String {
        let output = self.pausectl(args).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "pausectl {args:?}: {stderr}");
        assert_eq!(stderr, "", "pausectl {args:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The stderr of `pausectl`, which has to fail with this status and an empty stdout.
    #[track_caller]
    pub fn pausectl_fails(&self, status: i32, args: &[&str]) -> String {
        let output = self.pausectl(args).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            output.status.code(),
            Some(status),
            "pausectl {args:?}: {stderr}"
        );
        assert_eq!(output.stdout, b"", "pausectl {args:?}");
        stderr
    }

    /// Starts an application that does nothing, in a network such as `container:web`. It stops
    /// at once on request.
    pub fn sleeper(&self, name: &str, network: &str) {
        let run = [
            "run",
            "-d",
            "--stop-signal=KILL",
            "--net",
            network,
            "--name",
            name,
        ];
        self.run(&[&run[..], &["hwchiu/netutils"]].concat());
    }

    /// Restarts the daemon, and waits until it responds again.
    pub fn restart_daemon(&self) {
        let pid = || fs::read_to_string(self.home().join("pid")).unwrap_or_default();
        let before = pid();
        let script = Pid::from_raw(self.daemon.id() as i32).unwrap();
        kill_process(script, Signal::USR1).unwrap();
        wait_until("the daemon is another", || {
            !pid().is_empty() && pid() != before && self.output(&["ps"]).status.success()
        });
    }

    /// What `ctr` prints about the daemon's containerd, in a namespace of the test's own; it has to
    /// succeed.
    #[track_caller]
    pub fn ctr(&self, args: &[&str]) -> String {
        let socket = self.home().join("exec/containerd/containerd.sock");
        let mut command = self.command("ctr");
        command.arg("--address").arg(socket);
        command.args(["--namespace", "lab"]).args(args);
        let output = command.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ctr {args:?}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Options of `ctr run` for this machine: the lab's runc, and a cgroup of the daemon's.
    pub fn ctr_run_options(&self, container: &str) -> [String; 2] {
        let runc = format!("--runc-binary={CHECKOUT}/scripts/lab/runc.sh");
        let home = self.home().file_name().unwrap().to_str().unwrap();
        [runc, format!("--cgroup=/{home}/{container}")]
    }

    /// One value of `docker inspect`, as a template names it.
    #[track_caller]
    pub fn inspect(&self, what: &str, format: &str) -> String {
        self.run(&["inspect", "--format", &format!("{{{{{format}}}}}"), what])
    }

    #[track_caller]
    pub fn pid(&self, container: &str) -> u32 {
        let pid = self.inspect(container, ".State.Pid").parse().unwrap();
        assert_ne!(pid, 0, "{container} does not run");
        pid
    }

    /// The network as a container's process sees it.
    #[track_caller]
    pub fn view(&self, container: &str) -> Container {
        Container {
            path: format!("/proc/{}/ns/net", self.pid(container)).into(),
        }
    }

    /// What the kernel has counted on eth0, as a container's process sees it.
    #[track_caller]
    pub fn counters(&self, container: &str) -> String {
        let path = format!("/proc/{}/net/dev", self.pid(container));
        let text = fs::read_to_string(path).unwrap();
        let line = text.lines().find(|line| line.contains("eth0:"));
        line.expect("eth0").to_owned()
    }

    /// What is on the host now is nothing that a network leaves.
    pub fn take_host_as_it_is(&mut self) {
        self.before = host_of(&self.world);
    }

    /// Asserts that the host has no link, address or route that it had not at first.
    #[track_caller]
    pub fn assert_host_is_as_before(&self) {
        assert_eq!(host_of(&self.world), self.before);
    }

    /// True when nothing of any network is left.
    pub fn nothing_is_left(&self) -> bool {
        let is_empty = |dir| store_files(Path::new(dir)).is_empty();
        host_of(&self.world) == self.before
            && REMEMBERED.into_iter().all(is_empty)
            && run_files().is_empty()
    }

    /// Asserts that nothing of any network is left: links, addresses, records, nftables.
    #[track_caller]
    pub fn assert_nothing_is_left(&self) {
        self.assert_host_is_as_before();
        for dir in REMEMBERED {
            assert_eq!(store_files(Path::new(dir)), BTreeMap::new(), "{dir}");
        }
        assert_eq!(run_files(), BTreeMap::new());
        let rules = run("nft", ["list", "ruleset"]);
        // Each of an attachment's elements ends with its interface; what is for all stays.
        assert!(!rules.contains(" eth"), "{rules}");
    }

    /// The end of a test: nothing of any network is left, and then nothing of the daemon.
    #[track_caller]
    pub fn stop_with_nothing_left(self) {
        self.assert_nothing_is_left();
        self.stop();
    }

    /// Stops the daemon, and asserts that nothing of it is left.
    pub fn stop(mut self) {
        let home = self.home().to_owned();
        drop(self.daemon.stdin.take());
        assert!(self.daemon.wait().unwrap().success());
        let name = home.file_name().unwrap().to_str().unwrap();
        assert!(!home.exists());
        let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap();
        assert!(!mounts.contains(name), "{mounts}");
        assert_eq!(cgroups_named(name), Vec::<PathBuf>::new());
        for process in fs::read_dir("/proc").unwrap().flatten() {
            let command = fs::read(process.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command);
            assert!(!command.contains(name), "{process:?}: {command}");
        }
    }
}

/// The host, but for what stays for the next attachment: the bridges, and the stores' folders.
fn host_of(world: &World) -> Snapshot {
    let bridges = ["cni0", "store0", "back0", "pausenet0"].into_iter();
    let snapshot = bridges.fold(world.snapshot(), Snapshot::without_bridge);
    snapshot.addresses_only()
}

/// All cgroups with this name. Others come and go meanwhile.
fn cgroups_named(name: &str) -> Vec<PathBuf> {
    let mut folders = vec![PathBuf::from("/sys/fs/cgroup")];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().contains(name) {
                found.push(entry.path());
            } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            }
        }
    }
    found
}

impl Drop for Docker {
    fn drop(&mut self) {
        drop(self.daemon.stdin.take());
        let _ = self.daemon.wait();
    }
}

/// The pause image of this checkout, made once.
pub fn pause_image() -> PathBuf {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    let make = || {
        let file = programs::scratch().join("pause-image.tar");
        make_image(Path::new(CHECKOUT), &file);
        file
    };
    MADE.get_or_init(make).clone()
}

/// Runs a checkout's scripts/image.sh, with what Cargo has built for this one.
pub fn make_image(checkout: &Path, file: &Path) {
    let scratch = programs::scratch();
    let target = scratch.parent().unwrap();
    let output = Command::new(checkout.join("scripts/image.sh"))
        .arg("--output")
        .arg(file)
        .env("CARGO_TARGET_DIR", target)
        .env("CARGO_NET_OFFLINE", "true")
        .env_remove("SUDO_USER") // what is built so far may be root's
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "image.sh: {stderr}");
}

fn applications() -> PathBuf {
    lab::docker().unwrap().images
}

/// One line of /proc/PID/status.
#[track_caller]
pub fn status_field(pid: u32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let value = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
    value.expect("a field of /proc/PID/status").to_owned()
}
