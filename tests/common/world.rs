//! A host and containers of the test's own: fresh network and mount namespaces.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sched::{CloneFlags, unshare};
use pausenet::cni::IfName;
use pausenet::kernel::link::{Link, Which};
use pausenet::kernel::netns::Netns;
use pausenet::kernel::route::Present;
use pausenet::kernel::{RouteSocket, address, link, route};

use crate::commands::{ip, run, sysctl};
use crate::state::{NetState, Snapshot, is_link_local};
use crate::store::{STORES, store_files};

/// A fresh host for the calling thread.
pub struct World {
    _private: (),
}

impl World {
    #[expect(clippy::new_without_default, reason = "it changes where the thread is")]
    /// Moves the calling thread into fresh network and mount namespaces.
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

    /// Writes an address file into the store of `podnet`, as another plugin would.
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

    /// Removes the namespace, unless something else holds it open.
    pub fn destroy(self) {
        ip(&format!("netns del {}", self.name()));
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

/// A host outside of the node, in the networks 192.0.N.0/24 and fd99:N::/64: the node is .1 there and
/// it is .2. Its only route is a default route to the node.
pub fn outside_host(world: &World, n: u8) -> Container {
    let container = world.container(&format!("beyond{n}"));
    let there = container.name();
    ip(&format!(
        "link add up{n} up type veth peer name eth0 netns {there}"
    ));
    container.ip("link set eth0 up");
    for (ip_of, prefix) in [(format!("192.0.{n}."), 24), (format!("fd99:{n}::"), 64)] {
        ip(&format!("addr add {ip_of}1/{prefix} dev up{n} nodad"));
        container.ip(&format!("addr add {ip_of}2/{prefix} dev eth0 nodad"));
        container.ip(&format!("route add default via {ip_of}1"));
    }
    container
}
