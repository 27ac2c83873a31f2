//! Hosts and containers to measure in. A [`World`] is a host with its own network and mounts, and with
//! the state of plugins on tmpfs; containers are network namespaces in it.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use pausenet::cni::{During, IfName, MacAddr};
use pausenet::kernel::RouteSocket;
use pausenet::kernel::link::{self, NewVeth, Which};
use pausenet::kernel::netns::Netns;

use crate::Result;

/// The folder of named network namespaces, as runtimes use it.
const NAMESPACES: &str = "/run/netns";

/// A folder in each world that contains only the program nft.
pub(crate) const NFT_ONLY: &str = "/run/nft-alone";

/// A host: its network and mounts. It ends with this value and its last process.
pub(crate) struct World {
    net: File,
    mounts: File,
}

impl World {
    /// Creates a host with a loopback only.
    pub(crate) fn new() -> Result<Self> {
        on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)?;
            mount(
                None::<&str>,
                "/",
                None::<&str>,
                MsFlags::MS_REC | MsFlags::MS_PRIVATE,
                None::<&str>,
            )?;
            for dir in ["/run", "/var/lib"] {
                mount(
                    Some("tmpfs"),
                    dir,
                    Some("tmpfs"),
                    MsFlags::empty(),
                    None::<&str>,
                )?;
            }
            // The kernel caches entries of /proc/sys/net per mount, under names that all network
            // namespaces share: with one /proc for all, each side would search through the entries of
            // the others.
            mount(
                Some("proc"),
                "/proc",
                Some("proc"),
                MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
                None::<&str>,
            )?;
            fs::create_dir(NAMESPACES)?;
            fs::create_dir(NFT_ONLY)?;
            std::os::unix::fs::symlink("/usr/sbin/nft", format!("{NFT_ONLY}/nft"))?;
            set_link_up("lo")?;
            Ok(Self {
                net: File::open("/proc/thread-self/ns/net")?,
                mounts: File::open("/proc/thread-self/ns/mnt")?,
            })
        })
    }

    /// Moves the calling thread here. Processes it starts later start here too.
    pub(crate) fn enter(&self) -> Result<()> {
        // A thread that shares its working directory with others may not change mounts.
        unshare(CloneFlags::CLONE_FS)?;
        setns(self.mounts.as_fd(), CloneFlags::CLONE_NEWNS)?;
        setns(self.net.as_fd(), CloneFlags::CLONE_NEWNET)?;
        Ok(())
    }

    /// Runs `work` here, on a thread of its own.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        on_thread(|| {
            self.enter()?;
            work()
        })
    }

    /// Creates containers named `PREFIX0`, `PREFIX1` and so on. Their loopback is up.
    pub(crate) fn containers(&self, prefix: &str, count: usize) -> Result<Vec<PathBuf>> {
        self.inside(|| {
            let make = |at| {
                let path = Path::new(NAMESPACES).join(format!("{prefix}{at}"));
                File::create(&path)?;
                on_thread(|| {
                    unshare(CloneFlags::CLONE_NEWNET)?;
                    let own = Some("/proc/thread-self/ns/net");
                    mount(own, &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
                    set_link_up("lo")
                })?;
                Ok(path)
            };
            (0..count).map(make).collect()
        })
    }
}

/// Runs `work` on a thread that may move to other namespaces.
fn on_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| match scope.spawn(work).join() {
        Ok(outcome) => outcome,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// Runs `work` in a container of the world of the calling thread.
pub(crate) fn in_container<T: Send>(
    path: &Path,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    on_thread(|| {
        setns(File::open(path)?.as_fd(), CloneFlags::CLONE_NEWNET)?;
        work()
    })
}

/// Sets a link of the calling thread's namespace up.
pub(crate) fn set_link_up(name: &str) -> Result<()> {
    let mut socket = RouteSocket::open()?;
    let index = index_of(name)?;
    link::set_up(&mut socket, index, false).during_with(|| format!("switch on {name}"))?;
    Ok(())
}

/// The index of a link of the calling thread's namespace.
pub(crate) fn index_of(name: &str) -> Result<u32> {
    let name = IfName::parse(name)?;
    let found = link::get(&mut RouteSocket::open()?, Which::Name(&name))
        .during_with(|| format!("look up {name}"))?;
    Ok(found.ok_or_else(|| format!("there is no {name}"))?.index)
}

/// Waits until the children have ended that plugins have left, which this process adopts. It must have no others.
pub(crate) fn await_orphans() -> Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    while !matches!(
        rustix::process::wait(rustix::process::WaitOptions::empty()),
        Err(rustix::io::Errno::CHILD)
    ) {}
    Ok(())
}

/// Waits until the kernel has destroyed all unused namespaces. It does so one after the other, and a
/// measurement in the meantime would wait for its locks. To find out, a link with one end in a namespace
/// that is released last is watched: it goes when that namespace does.
pub(crate) fn settle() -> Result<()> {
    const LIMIT: Duration = Duration::from_secs(60);
    on_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let last = on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Ok(Netns::own()?)
        })?;
        let (here, there) = (IfName::parse("here")?, IfName::parse("there")?);
        let new = NewVeth {
            host_name: &here,
            container_name: &there,
            container_netns: last.as_fd(),
            container_mac: MacAddr::random()?,
            host_mac: MacAddr::random()?,
            mtu: None,
            controller: None,
            group: 0,
        };
        let mut socket = RouteSocket::open()?;
        let attempt = "wait for namespaces to end";
        let link = link::create_veth(&mut socket, &new).during(attempt)?;
        let mut events = RouteSocket::open()?;
        events.subscribe(pausenet::kernel::Group::Links)?;
        drop(last);
        let deadline = std::time::Instant::now() + LIMIT;
        while link::get(&mut socket, Which::Index(link.index))
            .during(attempt)?
            .is_some()
        {
            if !events.wait_event(deadline)? {
                return Err("the kernel did not take down namespaces within a minute".into());
            }
        }
        Ok(())
    })
}
