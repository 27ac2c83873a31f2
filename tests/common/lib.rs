//! What every test of the real kernel shares: a world of its own, containers in it, and the
//! built plugin, called as a runtime calls it.
//!
//! A [`World`] is a fresh network and mount namespace for the test's thread: whatever a test
//! does, the host stays as it is. That takes root; `scripts/test.sh` sees to it, in a user
//! namespace where the caller is not root.

pub mod daemon;
pub mod lab;
pub mod programs;
pub mod screen;
pub mod started;
pub mod traffic;
pub mod wait;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use ipnetwork::IpNetwork;
use nix::sched::{CloneFlags, unshare};
use pausenet::cni::IfName;
use pausenet::kernel::link::{Link, Which};
use pausenet::kernel::netns::Netns;
use pausenet::kernel::route::Present;
use pausenet::kernel::{RouteSocket, address, link, route};
use serde_json::{Value, json};

/// Where the plugin keeps addresses when the config says nothing else.
pub const STORES: &str = "/var/lib/cni/networks";

/// The host end's name for network `podnet`, container `c1`, interface `eth0`. Frozen: see
/// `plan::identity`.
pub const HOST_END: &str = "vethkqtm6rbkqlw";

/// The link group of all that pausenet makes, in the words of `ip`.
pub const GROUP: &str = "1885435251";

/// A fresh host for the calling thread.
pub struct World {
    _private: (),
}

impl World {
    /// Leaves the machine's network and mounts for ones of the test's own.
    pub fn new() -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests need root, or: scripts/test.sh, which makes a user namespace"
        );
        // Threads that this one starts later begin in the new ones, too.
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
            .expect("unshare the network and mounts");
        run("mount", ["--make-rprivate", "/"]);
        for dir in ["/run", "/var/lib"] {
            run("mount", ["-t", "tmpfs", "tmpfs", dir]);
        }
        fs::create_dir_all("/run/netns").unwrap();
        run("ip", ["link", "set", "lo", "up"]);
        Self { _private: () }
    }

    /// A container: a network namespace with a path under /run/netns, its lo up.
    pub fn container(&self, name: &str) -> Container {
        run("ip", ["netns", "add", name]);
        run("ip", ["-n", name, "link", "set", "lo", "up"]);
        let path = PathBuf::from("/run/netns").join(name);
        Container { path }
    }

    /// The host as netlink and the store show it.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            net: NetState::read(),
            store: store_files(Path::new(STORES)),
        }
    }

    /// Every link on the host.
    pub fn links(&self) -> Vec<Link> {
        link::list(&mut RouteSocket::open().unwrap()).unwrap()
    }

    /// One link on the host.
    pub fn link(&self, name: &str) -> Option<Link> {
        self.links().into_iter().find(|link| link.name == name)
    }

    /// The host's own address store of `podnet`, as if a runtime had put a file there.
    pub fn put_address(&self, ip: &str, holder: &str) {
        let dir = Path::new(STORES).join("podnet");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(ip), holder).unwrap();
    }

    /// Addresses of a link on the host, the kernel's own link-local ones left out.
    pub fn addresses(&self, name: &str) -> Vec<String> {
        addresses_of(name)
    }
}

/// A container of a [`World`]. It ends with the world.
pub struct Container {
    pub path: PathBuf,
}

impl Container {
    /// What `ip netns` calls it.
    pub fn name(&self) -> &str {
        self.path.file_name().unwrap().to_str().unwrap()
    }

    /// Runs `ip` inside the container.
    #[track_caller]
    pub fn ip(&self, args: &str) -> String {
        ip(&format!("-n {} {args}", self.name()))
    }

    /// A setting under /proc/sys/net, as the container sees it.
    pub fn sysctl(&self, key: &str) -> String {
        self.enter(|| sysctl(key))
    }

    /// Runs `work` inside the container, on this thread.
    pub fn enter<T>(&self, work: impl FnOnce() -> T) -> T {
        let home = Netns::own().unwrap();
        let inside = Netns::open(&self.path).unwrap();
        inside.enter(&home, || Ok(work())).unwrap()
    }

    /// What the container looks like from inside.
    pub fn state(&self) -> NetState {
        self.enter(NetState::read)
    }

    /// One link inside.
    pub fn link(&self, name: &str) -> Option<Link> {
        self.enter(|| {
            let name = IfName::parse(name).unwrap();
            link::get(&mut RouteSocket::open().unwrap(), Which::Name(&name)).unwrap()
        })
    }

    /// Addresses of a link inside, the kernel's own link-local ones left out.
    pub fn addresses(&self, name: &str) -> Vec<String> {
        self.enter(|| addresses_of(name))
    }

    /// `destination via next-hop` of every route in the main table that the kernel did not
    /// make itself, sorted.
    pub fn routes(&self) -> Vec<String> {
        let shown = |route: Present| match route.via {
            Some(via) => format!("{} via {via}", route.dst),
            None => route.dst.to_string(),
        };
        let present = self.enter(|| route::list(&mut RouteSocket::open().unwrap()).unwrap());
        let mut routes: Vec<_> = present
            .into_iter()
            .filter(|route| route.table == route::MAIN_TABLE && route.via.is_some())
            .map(shown)
            .collect();
        routes.sort();
        routes
    }

    /// A command that runs inside the container.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.path.display()))
            .arg(program);
        command
    }

    /// The namespace is gone for everybody who did not hold it open.
    pub fn destroy(self) {
        ip(&format!("netns del {}", self.name()));
    }
}

/// RT_TABLE_LOCAL: what the kernel makes of the addresses, in its own time.
const LOCAL_TABLE: u32 = 255;

/// Links, addresses and routes of one namespace. Counters and ages are not part of it, nor what
/// the kernel does by itself and in its own time: IPv6's link-local addresses and their routes,
/// and whether a link is `running`.
#[derive(Debug, Clone, PartialEq)]
pub struct NetState {
    pub links: Vec<Link>,
    pub addresses: BTreeMap<String, Vec<IpNetwork>>,
    pub routes: Vec<Present>,
}

impl NetState {
    /// Reads the calling thread's namespace.
    pub fn read() -> Self {
        let mut socket = RouteSocket::open().unwrap();
        // A link may go after it was listed: then all of it is looked at again.
        let (links, addresses) = wait::wait_for("the links stay while they are read", || {
            let mut links = link::list(&mut socket).unwrap();
            let mut addresses = BTreeMap::new();
            for link in &mut links {
                link.running = false;
                let mut present = match address::of_link(&mut socket, link.index) {
                    Err(refusal) if refusal.is(rustix::io::Errno::NODEV) => return None,
                    present => present.unwrap(),
                };
                present.retain(|net| !is_link_local(net));
                addresses.insert(link.name.clone(), present);
            }
            Some((links, addresses))
        });
        let mut routes = route::list(&mut socket).unwrap();
        routes.retain(|route| !is_link_local(&route.dst) && route.table != LOCAL_TABLE);
        Self {
            links,
            addresses,
            routes,
        }
    }
}

/// The host of a [`World`] at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    pub net: NetState,
    /// Path below the store's root, and content.
    pub store: BTreeMap<PathBuf, Vec<u8>>,
}

impl Snapshot {
    /// The same without a bridge and what comes with it: it may stay after a failed ADD.
    pub fn without_bridge(mut self, name: &str) -> Self {
        let index = self
            .net
            .links
            .iter()
            .find(|link| link.name == name)
            .map(|link| link.index);
        self.net.links.retain(|link| link.name != name);
        self.net.addresses.remove(name);
        self.net
            .routes
            .retain(|route| route.link != index || index.is_none());
        self
    }

    /// The same without locks, cursors and empty folders of stores: what is left are addresses.
    pub fn addresses_only(mut self) -> Self {
        self.store.retain(|path, _| {
            path.file_name()
                .and_then(OsStr::to_str)
                .is_some_and(|name| name.parse::<IpAddr>().is_ok())
        });
        self
    }
}

/// Every file below a folder, with its content. One that goes while it is looked at is not among them.
pub fn store_files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else {
                let content = match fs::read(&path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    content => content.unwrap(),
                };
                let below = path.strip_prefix(root).unwrap().to_owned();
                files.insert(below, content);
            }
        }
    }
    files
}

/// What there is in /run for attachments that are, or are being worked on: all but what tells of the
/// time before the host's start.
pub fn run_files() -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = store_files(Path::new("/run/pausenet"));
    files.retain(|path, _| !path.starts_with("earlier"));
    files
}

/// Names of the address files of a network's store, sorted.
pub fn allocated(network: &str) -> Vec<String> {
    allocated_in(&Path::new(STORES).join(network))
}

/// The same of a store that lies elsewhere.
pub fn allocated_in(store: &Path) -> Vec<String> {
    store_files(store)
        .into_keys()
        .filter_map(|path| path.to_str().map(str::to_owned))
        .filter(|name| name.parse::<IpAddr>().is_ok())
        .collect()
}

/// One call of the plugin, as a runtime makes it.
#[derive(Debug, Clone)]
pub struct Call {
    program: PathBuf,
    vars: BTreeMap<&'static str, OsString>,
    stdin: Vec<u8>,
}

impl Call {
    /// A call of the built plugin with a config: container `c1`, interface `eth0`.
    pub fn new(verb: &str, config: &Value) -> Self {
        let call = Self {
            program: programs::pausenet().into(),
            vars: BTreeMap::new(),
            stdin: config.to_string().into_bytes(),
        };
        call.var("CNI_COMMAND", verb)
            .var("CNI_CONTAINERID", "c1")
            .var("CNI_IFNAME", "eth0")
            .var("CNI_PATH", "/nonexistent")
    }

    /// Another program than the built plugin.
    pub fn program(mut self, program: impl Into<PathBuf>) -> Self {
        self.program = program.into();
        self
    }

    /// Sets or replaces a variable.
    pub fn var(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.vars.insert(name, value.into());
        self
    }

    /// Leaves a variable out.
    pub fn without(mut self, name: &str) -> Self {
        self.vars.remove(name);
        self
    }

    /// The container by its namespace.
    pub fn netns(self, container: &Container) -> Self {
        self.var("CNI_NETNS", container.path.as_os_str())
    }

    /// CNI_CONTAINERID.
    pub fn id(self, id: &str) -> Self {
        self.var("CNI_CONTAINERID", id)
    }

    /// CNI_IFNAME.
    pub fn ifname(self, name: &str) -> Self {
        self.var("CNI_IFNAME", name)
    }

    /// Other bytes on stdin than the config.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// The call as a command that has not been started, its stdin still to be written.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .envs(&self.vars)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs it to its end.
    pub fn run(&self) -> Answer {
        self.run_as(self.command())
    }

    /// Runs `command`, which leads to this call, with its stdin.
    pub fn run_as(&self, mut command: Command) -> Answer {
        let mut child = command.spawn().expect("start the plugin");
        // A plugin may answer without having read everything.
        let _ = child.stdin.take().unwrap().write_all(&self.stdin);
        Answer(child.wait_with_output().expect("wait for the plugin"))
    }
}

/// What a call brought back.
#[derive(Debug)]
pub struct Answer(pub Output);

impl Answer {
    /// The result of a call that has to succeed; Null when it says nothing.
    #[track_caller]
    pub fn ok(&self) -> Value {
        assert!(self.0.status.success(), "{}", self.shown());
        if self.0.stdout.is_empty() {
            return Value::Null;
        }
        serde_json::from_slice(&self.0.stdout).unwrap_or_else(|_| panic!("{}", self.shown()))
    }

    /// The error object of a call that has to fail: exit status 1, and JSON alone on stdout.
    #[track_caller]
    pub fn err(&self) -> Value {
        assert_eq!(self.0.status.code(), Some(1), "{}", self.shown());
        let error: Value =
            serde_json::from_slice(&self.0.stdout).unwrap_or_else(|_| panic!("{}", self.shown()));
        for key in ["cniVersion", "code", "msg"] {
            assert!(error.get(key).is_some(), "no {key:?}: {error}");
        }
        error
    }

    /// The same, of which the code is known.
    #[track_caller]
    pub fn err_code(&self, code: u32) -> Value {
        let error = self.err();
        assert_eq!(error["code"], code, "{error}");
        error
    }

    fn shown(&self) -> String {
        format!(
            "{}\nstdout: {}\nstderr: {}",
            self.0.status,
            String::from_utf8_lossy(&self.0.stdout),
            String::from_utf8_lossy(&self.0.stderr)
        )
    }
}

/// A config of our plugin: a bridge that is the default gateway of one IPv4 subnet.
pub fn podnet() -> Value {
    json!({
        "cniVersion": "1.1.0",
        "name": "podnet",
        "type": "pausenet",
        "bridge": "cni0",
        "isDefaultGateway": true,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24"}]]}
    })
}

/// The config with some keys replaced (or removed, by null).
pub fn with(mut config: Value, changes: Value) -> Value {
    let target = config.as_object_mut().unwrap();
    for (key, value) in changes.as_object().unwrap() {
        if value.is_null() {
            target.remove(key);
        } else {
            target.insert(key.clone(), value.clone());
        }
    }
    config
}

/// Runs a program that has to succeed, and gives back what it printed.
#[track_caller]
pub fn run<S: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = S>) -> String {
    let output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|err| panic!("{program}: {err}"));
    assert!(
        output.status.success(),
        "{program}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs `ip`, which has to succeed, with arguments between spaces.
#[track_caller]
pub fn ip(args: &str) -> String {
    run("ip", args.split_whitespace())
}

/// A setting under /proc/sys/net, in the calling thread's namespace.
#[track_caller]
pub fn sysctl(key: &str) -> String {
    let path = Path::new("/proc/sys/net").join(key);
    fs::read_to_string(&path)
        .unwrap_or_else(|err| panic!("{}: {err}", path.display()))
        .trim()
        .to_owned()
}

/// Changes a setting under /proc/sys/net, in the calling thread's namespace.
#[track_caller]
pub fn set_sysctl(key: &str, value: &str) {
    let path = Path::new("/proc/sys/net").join(key);
    fs::write(&path, value).unwrap_or_else(|err| panic!("{}: {err}", path.display()));
}

/// Link-local or multicast: what the kernel gives every IPv6 interface.
fn is_link_local(net: &IpNetwork) -> bool {
    match net {
        IpNetwork::V6(net) => net.ip().is_unicast_link_local() || net.ip().is_multicast(),
        IpNetwork::V4(_) => false,
    }
}

fn addresses_of(name: &str) -> Vec<String> {
    let mut socket = RouteSocket::open().unwrap();
    let name = IfName::parse(name).unwrap();
    let Some(found) = link::get(&mut socket, Which::Name(&name)).unwrap() else {
        return Vec::new();
    };
    address::of_link(&mut socket, found.index)
        .unwrap()
        .into_iter()
        .filter(|net| !is_link_local(net))
        .map(|net| net.to_string())
        .collect()
}
