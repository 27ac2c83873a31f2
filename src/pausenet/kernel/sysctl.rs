//! Kernel settings under /proc/sys/net. They apply to the network namespace of the thread that
//! opens the file.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use crate::cni::IfName;
use crate::cni::Result;
use crate::cni::error::io as io_error;

/// Where proc(5) is.
const PROC: &str = "/proc";

/// The settings of IPv6, where the kernel has it.
const IPV6: &str = "/proc/sys/net/ipv6";

/// A proc(5) of our own, mounted nowhere and gone with the last of its files, for the settings of a container.
///
/// The kernel looks a namespace's `net/ipv6` up among those of all namespaces that anybody has looked into by the same
/// mount: by the host's /proc, each container makes the next one's ADD slower, and itself stays in that list.
pub(crate) struct ProcOfOurOwn(Option<OwnedFd>);

impl ProcOfOurOwn {
    /// Where the kernel or its security module does not let us mount one, the files are those of /proc.
    pub(crate) fn mount() -> Self {
        let mount = || {
            let kind = rustix::mount::fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
            rustix::mount::fsconfig_create(&kind)?;
            let flags = MountAttrFlags::MOUNT_ATTR_NOSUID
                | MountAttrFlags::MOUNT_ATTR_NODEV
                | MountAttrFlags::MOUNT_ATTR_NOEXEC;
            rustix::mount::fsmount(&kind, FsMountFlags::FSMOUNT_CLOEXEC, flags)
        };
        Self(mount().ok())
    }

    /// Opens the file of this path, which is one below /proc.
    fn open(&self, path: &Path, flags: OFlags) -> io::Result<File> {
        let flags = flags | OFlags::CLOEXEC;
        let file = match (&self.0, path.strip_prefix(PROC)) {
            (Some(root), Ok(below)) => rustix::fs::openat(root, below, flags, Mode::empty()),
            _ => rustix::fs::open(path, flags, Mode::empty()),
        };
        Ok(file?.into())
    }
}

/// What to do about a kernel without IPv6, if this is one.
pub(crate) fn no_ipv6() -> Option<&'static str> {
    (!Path::new(IPV6).exists()).then_some(
        "the kernel has no IPv6: boot it without ipv6.disable=1, build it with CONFIG_IPV6, or use \
         IPv4 addresses",
    )
}

/// A setting that pausenet reads or writes.
#[derive(Debug, Clone, Copy)]
pub enum Sysctl<'a> {
    /// The host forwards IPv4.
    ForwardIpv4,
    /// The host forwards IPv6.
    ForwardIpv6,
    /// An interface accepts router advertisements. (CVE-2020-10749: a container must not be able to
    /// give the host routes this way.)
    AcceptRa(&'a IfName),
    /// An interface's new IPv6 addresses are probed for duplicates.
    AcceptDad(&'a IfName),
    /// An interface has no IPv6.
    DisableIpv6(&'a IfName),
    /// An interface keeps its IPv6 addresses when it is switched off.
    KeepAddrOnDown(&'a IfName),
    /// An interface announces its IPv6 addresses (unsolicited neighbour advertisements) when it is switched on and
    /// when its MAC changes.
    NdiscNotify(&'a IfName),
    /// What comes by an interface is forwarded, if it is IPv4.
    Forwarding(&'a IfName),
    /// 127.0.0.0/8 may be routed out of an interface.
    RouteLocalnet(&'a IfName),
    /// Packets that arrive on another interface than the one towards their source are dropped.
    RpFilter(&'a IfName),
}

impl Sysctl<'_> {
    fn path(self) -> PathBuf {
        let (family, scope, key) = match self {
            Self::ForwardIpv4 => return "/proc/sys/net/ipv4/ip_forward".into(),
            Self::ForwardIpv6 => return "/proc/sys/net/ipv6/conf/all/forwarding".into(),
            Self::AcceptRa(link) => ("ipv6", link, "accept_ra"),
            Self::AcceptDad(link) => ("ipv6", link, "accept_dad"),
            Self::DisableIpv6(link) => ("ipv6", link, "disable_ipv6"),
            Self::KeepAddrOnDown(link) => ("ipv6", link, "keep_addr_on_down"),
            Self::NdiscNotify(link) => ("ipv6", link, "ndisc_notify"),
            Self::Forwarding(link) => ("ipv4", link, "forwarding"),
            Self::RouteLocalnet(link) => ("ipv4", link, "route_localnet"),
            Self::RpFilter(link) => ("ipv4", link, "rp_filter"),
        };
        format!("/proc/sys/net/{family}/conf/{scope}/{key}").into()
    }

    /// Its name as sysctl(8) takes it: dots in the interface's name become slashes.
    pub fn name(self) -> String {
        let path = self.path();
        let below = path.strip_prefix("/proc/sys").unwrap_or(&path);
        let swap = |c| match c {
            '/' => '.',
            '.' => '/',
            other => other,
        };
        below.to_string_lossy().chars().map(swap).collect()
    }

    /// Reads its value.
    ///
    /// # Errors
    /// The kernel's: ENOENT where the setting does not exist.
    pub fn get(self) -> io::Result<String> {
        File::open(self.path()).and_then(read)
    }

    /// Writes a value.
    ///
    /// # Errors
    /// Code 5, naming the setting and how to set it by hand.
    pub fn set(self, value: &str) -> Result<()> {
        let path = self.path();
        fs::write(&path, value).map_err(|err| {
            let name = self.name();
            let what = format!("cannot set {name} to {value}: cannot write");
            let hint = match no_ipv6().filter(|_| path.starts_with(IPV6)) {
                Some(hint) => hint.to_owned(),
                None => format!(
                    "where the plugin may not write /proc/sys, it has to be set beforehand: \
                     sysctl -w {name}={value}"
                ),
            };
            io_error(&what, &path, err).hint(hint)
        })
    }

    /// Writes a value if the setting exists and may be written: for what works without it too. A host
    /// without IPv6 has no IPv6 settings.
    pub(crate) fn prefer(self, value: &str) {
        let _ = fs::write(self.path(), value);
    }

    /// Opens it to write it, maybe later, when the thread is in another namespace. None where it does not exist
    /// or may not be written.
    pub(crate) fn open(self, proc: &ProcOfOurOwn) -> Option<File> {
        proc.open(&self.path(), OFlags::WRONLY).ok()
    }

    /// Like [`Sysctl::ensure`].
    pub(crate) fn ensure_in(self, proc: &ProcOfOurOwn, value: &str) -> Result<()> {
        let current = proc.open(&self.path(), OFlags::RDONLY);
        if current.and_then(read).is_ok_and(|current| current == value) {
            return Ok(());
        }
        let written = self
            .open(proc)
            .map(|mut file| file.write_all(value.as_bytes()));
        match written {
            Some(Ok(())) => Ok(()),
            _ => self.set(value),
        }
    }

    /// Like [`Sysctl::ensure`] for a setting that may not exist.
    pub(crate) fn ensure_if_there(self, value: &str) -> Result<()> {
        match fs::write(self.path(), value) {
            Ok(()) => Ok(()),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(_) => self.ensure(value),
        }
    }

    /// Writes a value unless it is already set: writing is expensive (when forwarding changes, the
    /// kernel visits all interfaces), and /proc/sys may be read-only.
    pub(crate) fn ensure(self, value: &str) -> Result<()> {
        match self.get() {
            Ok(current) if current == value => Ok(()),
            _ => self.set(value),
        }
    }
}

/// Reads once: the kernel returns a setting whole, and all of ours are short numbers.
fn read(mut setting: File) -> io::Result<String> {
    let mut text = [0; 64];
    let length = setting.read(&mut text)?;
    Ok(String::from_utf8_lossy(&text[..length]).trim().to_owned())
}
