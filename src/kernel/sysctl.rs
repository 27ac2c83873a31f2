//! Kernel settings under /proc/sys/net. They belong to the network namespace of the thread
//! that opens them.

use std::fs;
use std::io;
use std::path::PathBuf;

use crate::cni::IfName;
use crate::cni::Result;
use crate::cni::error::io as io_error;

/// A setting that somebody here writes.
#[derive(Debug, Clone, Copy)]
pub enum Sysctl<'a> {
    /// The host forwards IPv4.
    ForwardIpv4,
    /// The host forwards IPv6.
    ForwardIpv6,
    /// An interface takes routes from router advertisements. (CVE-2020-10749: a container
    /// must not be able to send the host any.)
    AcceptRa(&'a IfName),
    /// An interface's IPv6 addresses are first probed for duplicates.
    AcceptDad(&'a IfName),
    /// An interface has no IPv6.
    DisableIpv6(&'a IfName),
    /// IPv6 addresses outlive the interface being switched off.
    KeepAddrOnDown(&'a IfName),
    /// A gratuitous ARP is sent when the interface comes up.
    ArpNotify(&'a IfName),
    /// An unsolicited neighbour advertisement is sent for a new address.
    NdiscNotify(&'a IfName),
    /// 127.0.0.0/8 may be routed out of an interface.
    RouteLocalnet(&'a IfName),
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
            Self::ArpNotify(link) => ("ipv4", link, "arp_notify"),
            Self::NdiscNotify(link) => ("ipv6", link, "ndisc_notify"),
            Self::RouteLocalnet(link) => ("ipv4", link, "route_localnet"),
        };
        format!("/proc/sys/net/{family}/conf/{scope}/{key}").into()
    }

    /// Writes a value.
    ///
    /// # Errors
    /// Code 5, naming the file.
    pub fn set(self, value: &str) -> Result<()> {
        let path = self.path();
        fs::write(&path, value)
            .map_err(|err| io_error(&format!("cannot write {value:?} to"), &path, err))
    }

    /// Writes a value where the setting exists; a host without IPv6 has no IPv6 settings.
    ///
    /// # Errors
    /// Code 5, naming the file.
    pub fn set_if_there(self, value: &str) -> Result<()> {
        let path = self.path();
        match fs::write(&path, value) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => {
                Err(io_error(&format!("cannot write {value:?} to"), &path, err))
            }
            _ => Ok(()),
        }
    }

    /// Writes a value unless it is set already: writing would be work for the kernel (it goes
    /// over all interfaces when forwarding changes), and /proc/sys may be read-only.
    ///
    /// # Errors
    /// Code 5, naming the file.
    pub fn ensure(self, value: &str) -> Result<()> {
        let path = self.path();
        match fs::read_to_string(&path) {
            Ok(current) if current.trim() == value => Ok(()),
            _ => self.set(value),
        }
    }
}
