//! A podman with networks, processes, storage and cgroups of its own, and what is left of its
//! containers.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::programs;
use common::wait::{wait_for, wait_until};
use common::{World, allocated, lab, run};

const SOON: Duration = Duration::from_secs(60);

pub(crate) const BUSYBOX: &str = "localhost/lab/busybox";
pub(crate) const ANCHOR: &str = "localhost/lab/pause";

pub(crate) struct Podman {
    pub(crate) world: World,
    program: PathBuf,
    /// Keeps a PID namespace: when the test ends, so does all that podman has started.
    unshare: Child,
    /// The first process there, by its PID here.
    init: String,
    cgroup: String,
    links: Vec<String>,
    _dir: tempfile::TempDir,
}

impl Podman {
    /// None, and the test skipped, where podman cannot run.
    pub(crate) fn new() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let program = lab::podman(dir.path())?;
        let world = World::new();
        let unshare = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--pid", "--mount-proc"])
            .args(["--fork", "--kill-child", programs::pause()])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let init = only_child(unshare.id());
        let name = dir.path().file_name().unwrap().to_str().unwrap();
        let podman = Self {
            links: link_names(&world),
            cgroup: format!("pausenet-podman-{}", name.trim_start_matches('.')),
            world,
            program,
            unshare,
            init,
            _dir: dir,
        };
        podman.import(&podman.dir().join("busybox.tar"), "/bin/busybox", BUSYBOX);
        let image = podman.dir().join("pause.tar");
        let folder = Path::new(programs::pause())
            .parent()
            .unwrap()
            .to_str()
            .unwrap();
        run(
            "tar",
            ["-C", folder, "-c", "-f", image.to_str().unwrap(), "pause"],
        );
        podman.import(&image, "/pause", ANCHOR);
        Some(podman)
    }

    fn dir(&self) -> &Path {
        self.program.parent().unwrap()
    }

    fn import(&self, tar: &Path, entrypoint: &str, image: &str) {
        let change = format!("ENTRYPOINT [\"{entrypoint}\"]");
        self.run(&["import", "--change", &change, tar.to_str().unwrap(), image]);
    }

    /// The conflist that podman uses.
    pub(crate) fn conflist(&self) -> String {
        fs::read_to_string(self.dir().join("net.d/87-podman-bridge.conflist")).unwrap()
    }

    /// podman with these arguments, which has to succeed; what it said, without the newline.
    #[track_caller]
    pub(crate) fn run(&self, args: &[&str]) -> String {
        let podman = self.program.to_str().unwrap();
        self.inside(&[&[podman], args].concat())
    }

    /// `podman run -d` or `podman pod create`, with a cgroup to find it by.
    #[track_caller]
    pub(crate) fn start(&self, args: &[&str]) -> String {
        let at = args.iter().position(|arg| arg.starts_with('-')).unwrap();
        let (verb, rest) = args.split_at(at);
        let parent = format!("--cgroup-parent=/{}", self.cgroup);
        let in_pod = rest.contains(&"--pod");
        let own: &[&str] = if in_pod { &[] } else { &[&parent] };
        self.run(&[verb, own, rest].concat())
    }

    /// A command among podman's processes and mounts.
    #[track_caller]
    pub(crate) fn inside(&self, command: &[&str]) -> String {
        let enter = ["-t", &self.init, "-p", "-m", "--"];
        let said = run("nsenter", enter.iter().chain(command));
        said.trim().to_owned()
    }

    /// A container's process, by its PID there.
    pub(crate) fn pid(&self, container: &str) -> String {
        self.run(&["inspect", "--format", "{{.State.Pid}}", container])
    }

    /// A command in a container's network, with the programs of the machine.
    #[track_caller]
    pub(crate) fn in_network(&self, container: &str, command: &[&str]) -> String {
        let pid = self.pid(container);
        self.inside(&[&["nsenter", "-t", &pid, "-n", "--"], command].concat())
    }

    /// eth0's addresses, IPv4 alone.
    pub(crate) fn address(&self, container: &str) -> String {
        let shown = self.in_network(container, &["ip", "-4", "-o", "address", "show", "eth0"]);
        shown
            .split_whitespace()
            .nth(3)
            .unwrap_or_default()
            .to_owned()
    }

    /// The container's network namespace.
    pub(crate) fn netns(&self, container: &str) -> String {
        let pid = self.pid(container);
        self.inside(&["readlink", &format!("/proc/{pid}/ns/net")])
    }

    /// The processes that podman has started, but for the one that holds their namespace: that
    /// is our pause, and reaps those that have ended.
    pub(crate) fn processes(&self) -> Vec<String> {
        let listed = self.inside(&["sh", "-c", "echo /proc/[0-9]*/cmdline"]);
        let own = |path: &&str| **path != *"/proc/1/cmdline";
        let running = listed.split(' ').filter(own).filter_map(|path| {
            // The shell that looked is gone by now.
            let path = format!("/proc/{}/root{path}", self.init);
            let line = fs::read_to_string(path).ok()?;
            Some(match line.is_empty() {
                true => "a zombie".to_owned(),
                false => line.replace('\0', " "),
            })
        });
        running.collect()
    }

    /// Nothing of any container: links, addresses, rules, namespaces, processes.
    #[track_caller]
    pub(crate) fn assert_nothing_left(&self) {
        wait_until("no process is left", || self.processes().is_empty());
        let mut links = link_names(&self.world);
        links.retain(|name| name != "cni-podman0");
        assert_eq!(links, self.links);
        assert_eq!(allocated("podman"), [""; 0]);
        for folder in ["/run/netns", "/var/lib/cni/results"] {
            let files: Vec<_> = fs::read_dir(folder).unwrap().flatten().collect();
            assert!(files.is_empty(), "{files:?}");
        }
        let rules = run("nft", ["list", "ruleset"]);
        // Elements have their owner as comment, the firewall's rules the address.
        for sign in ["comment", "10.88.0.2", "10.88.0.3"] {
            assert!(!rules.contains(sign), "{rules}");
        }
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        for controller in fs::read_dir("/sys/fs/cgroup")
            .into_iter()
            .flatten()
            .flatten()
        {
            remove_cgroup(&controller.path().join(&self.cgroup));
        }
        remove_cgroup(&Path::new("/sys/fs/cgroup").join(&self.cgroup));
    }
}

/// A cgroup with those below it, once their processes are gone.
fn remove_cgroup(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_cgroup(&entry.path());
        }
    }
    let _ = fs::remove_dir(path);
}

fn link_names(world: &World) -> Vec<String> {
    world.links().into_iter().map(|link| link.name).collect()
}

fn only_child(pid: u32) -> String {
    wait_for("it has a child, the anchor", || {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let child = children.unwrap_or_default().trim().to_owned();
        let image = fs::read_link(format!("/proc/{child}/exe"));
        // Before it has become the anchor, its /proc may not be mounted yet.
        let is_anchor =
            image.is_ok_and(|image| image == Path::new(programs::pause()).canonicalize().unwrap());
        is_anchor.then_some(child)
    })
}

/// The page at a port of the host.
#[track_caller]
pub(crate) fn page(at: &str) -> String {
    let at: SocketAddr = at.parse().unwrap();
    // The port is open before the server in the container is.
    let mut server = wait_for("the server responds", || {
        TcpStream::connect_timeout(&at, SOON).ok()
    });
    server.set_read_timeout(Some(SOON)).unwrap();
    server.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut page = String::new();
    server.read_to_string(&mut page).unwrap();
    page
}
