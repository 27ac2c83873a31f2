//! The scripts of the lab, as tests use them: one that has said what it has set up waits for the end
//! of its stdin, which comes even if the test is killed.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::sched::{CloneFlags, unshare};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use common::lab;
use common::programs;
use common::wait::wait_until;

/// The folder with scripts/ and conf/.
pub(crate) use common::programs::CHECKOUT;

/// Scripts that run, each within the one before it.
pub(crate) struct Script {
    child: Child,
    /// The environment of a command in it.
    pub(crate) env: BTreeMap<String, OsString>,
    /// A process in its namespaces.
    pub(crate) pid: u32,
}

impl Script {
    /// Starts scripts, each of which has the next one as its command.
    pub(crate) fn start(scripts: &[&[&str]], env: &BTreeMap<String, OsString>) -> Self {
        let lab = Path::new(CHECKOUT).join("scripts/lab");
        let mut words = scripts.iter().flat_map(|script| {
            let program = lab.join(script[0]).into_os_string();
            std::iter::once(program).chain(script[1..].iter().map(OsString::from))
        });
        let mut child = Command::new(words.next().unwrap())
            .args(words)
            .args([
                "sh",
                "-c",
                "printf '%s\\0' $$; env -0; printf '\\0'; exec cat",
            ])
            .envs(env)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let mut entry = || {
            let mut entry = Vec::new();
            said.read_until(0, &mut entry).unwrap();
            assert_eq!(entry.pop(), Some(0), "{scripts:?} has ended");
            entry
        };
        let pid = String::from_utf8(entry()).unwrap().parse().unwrap();
        let mut env = BTreeMap::new();
        loop {
            let mut name = entry();
            if name.is_empty() {
                break;
            }
            let sign = name.iter().position(|byte| *byte == b'=').unwrap();
            let value = OsString::from_vec(name.split_off(sign + 1));
            name.pop();
            env.insert(String::from_utf8(name).unwrap(), value);
        }
        Self { child, env, pid }
    }

    /// One of the variables that the script has set.
    pub(crate) fn variable(&self, name: &str) -> &str {
        self.env[name].to_str().unwrap()
    }

    /// Runs `work` on a thread in the machine's network and mounts.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        inside(self.pid, work)
    }

    /// Runs a program of the machine.
    pub(crate) fn output(&self, program: &str, args: &[&str]) -> Output {
        self.inside(|| {
            let mut command = Command::new("env");
            command.env_clear().envs(&self.env);
            command.arg(program).args(args);
            command.stdin(Stdio::null()).output().unwrap()
        })
    }

    /// What a program of the machine prints, which has to succeed.
    #[track_caller]
    pub(crate) fn run(&self, program: &str, args: &[&str]) -> String {
        let output = self.output(program, args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {args:?}: {stderr}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Kills one of the daemons. It is started again.
    pub(crate) fn kill(&self, daemon: &str) {
        let old = self.daemon(daemon);
        kill(old);
        self.wait_for_another(daemon, old);
    }

    /// Waits until a daemon that was killed is started again.
    pub(crate) fn wait_for_another(&self, daemon: &str, old: u32) {
        wait_until("the daemon is started again", || {
            self.find_daemon(daemon).is_some_and(|pid| pid != old)
        });
    }

    /// The process of a daemon that a script of the node keeps.
    pub(crate) fn daemon(&self, daemon: &str) -> u32 {
        self.find_daemon(daemon).expect("a daemon that runs")
    }

    fn find_daemon(&self, daemon: &str) -> Option<u32> {
        let own = fs::read_link(format!("/proc/{}/ns/mnt", self.pid)).unwrap();
        processes().find(|pid| {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let first = command.split(|byte| *byte == 0).next().unwrap_or_default();
            let namespace = fs::read_link(format!("/proc/{pid}/ns/mnt"));
            first == daemon.as_bytes() && namespace.is_ok_and(|namespace| namespace == own)
        })
    }

    /// Loads the images of a file into containerd.
    pub(crate) fn load_into_containerd(&self, file: &str) -> String {
        self.run("ctr", &["-n", "k8s.io", "images", "import", file])
    }

    /// Ends it: its daemons and their containers are killed, all at once.
    pub(crate) fn stop(&mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }

    /// Ends it as a test's end does, and sees that nothing of `folders` is left.
    pub(crate) fn end(mut self, folders: &[&str]) {
        self.stop();
        for folder in folders {
            let home = PathBuf::from(self.variable(folder));
            assert!(!home.exists(), "{folder}");
            let name = home.file_name().unwrap().to_str().unwrap();
            for process in fs::read_dir("/proc").unwrap().flatten() {
                let command = fs::read(process.path().join("cmdline")).unwrap_or_default();
                let command = String::from_utf8_lossy(&command);
                assert!(!command.contains(name), "{process:?}: {command}");
            }
            for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
                assert!(!hierarchy.path().join(name).exists(), "{hierarchy:?}");
            }
        }
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Images for the runtimes of the lab. They have to be asked for before the world begins.
pub(crate) struct Images {
    /// pausenet/pause, of the binary that Cargo has built for the tests.
    pause: PathBuf,
    /// hwchiu/netutils, nginx and busybox.
    applications: PathBuf,
}

impl Images {
    /// All of them; none, and the test skipped, where they are not to be had.
    pub(crate) fn find() -> Option<Self> {
        let applications = lab::docker()?.images;
        let pause = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kubernetes-pause.tar");
        let output = Command::new(Path::new(CHECKOUT).join("scripts/image.sh"))
            .args(["--binary", programs::pause(), "--output"])
            .arg(&pause)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "image.sh: {stderr}");
        Some(Self {
            pause,
            applications,
        })
    }

    /// Each file.
    pub(crate) fn files(&self) -> [&str; 2] {
        [&self.pause, &self.applications].map(|file| file.to_str().unwrap())
    }
}

/// Runs `work` on a thread in the network and mounts of a process.
fn inside<T: Send>(pid: u32, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // Root and working directory become this thread's own.
            unshare(CloneFlags::CLONE_FS).unwrap();
            for kind in [LinkNameSpaceType::Network, LinkNameSpaceType::Mount] {
                let name = match kind {
                    LinkNameSpaceType::Network => "net",
                    _ => "mnt",
                };
                let namespace = File::open(format!("/proc/{pid}/ns/{name}")).unwrap();
                move_into_link_name_space(namespace.as_fd(), Some(kind)).unwrap();
            }
            work()
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Ends a process at once.
#[track_caller]
pub(crate) fn kill(pid: u32) {
    kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::KILL).unwrap();
}

/// Every process of the machine.
fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}
