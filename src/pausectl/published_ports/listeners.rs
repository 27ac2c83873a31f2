//! Which program of the host has a port: a bind(2) tells whether one has, and /proc which.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, ipproto, sockopt};

use super::PublishedPort;
use pausenet::cni::ports::Protocol;

/// A process that has a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listener {
    pub(super) pid: u32,
    pub(super) name: String,
}

/// Whether a program of the host has the port, at an address where the port would be published.
pub(super) fn is_bound(port: &PublishedPort) -> bool {
    let at = match port.host_ip {
        Some(ip) => vec![ip],
        None => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
    };
    let mut at = at.into_iter();
    at.any(|ip| {
        try_bind(port.protocol, SocketAddr::new(ip, port.host_port)) == Err(Errno::ADDRINUSE)
    })
}

/// Binds a socket, and closes it again. A listener on another address of the host takes the port as well,
/// if `at` is all addresses.
fn try_bind(protocol: Protocol, at: SocketAddr) -> Result<(), Errno> {
    let family = match at {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let (kind, number) = match protocol {
        Protocol::Tcp => (SocketType::STREAM, ipproto::TCP),
        Protocol::Udp => (SocketType::DGRAM, ipproto::UDP),
        // Without the kernel's module, nothing can listen.
        Protocol::Sctp => (SocketType::STREAM, ipproto::SCTP),
    };
    let socket = net::socket_with(family, kind, SocketFlags::CLOEXEC, Some(number))?;
    if family == AddressFamily::INET6 {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if protocol != Protocol::Udp {
        // Connections that have ended do not matter.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    net::bind(&socket, &at)
}

/// The process that has the port. None if it cannot be found.
pub(super) fn find(port: &PublishedPort) -> Option<Listener> {
    let sockets = sockets(port).ok()?;
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut pids: Vec<_> = pids.collect();
    pids.sort_unstable();
    let has_one = |pid: &&u32| {
        let files = fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten();
        files.flatten().any(|file| {
            let target = fs::read_link(file.path()).unwrap_or_default();
            let target = target.to_string_lossy();
            sockets
                .iter()
                .any(|socket| target == format!("socket:[{socket}]"))
        })
    };
    let pid = pids.iter().find(has_one)?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(Listener {
        pid: *pid,
        name: name.trim().to_owned(),
    })
}

/// The inodes of the host's sockets that have the port.
fn sockets(port: &PublishedPort) -> io::Result<Vec<String>> {
    if port.protocol == Protocol::Sctp {
        let table = fs::read_to_string("/proc/self/net/sctp/eps")?;
        let sockets = table.lines().skip(1).filter_map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            let is_it = words.get(5)?.parse() == Ok(port.host_port);
            is_it.then(|| words.get(7).map(|inode| (*inode).to_owned()))?
        });
        return Ok(sockets.collect());
    }
    let mut found = Vec::new();
    for suffix in ["", "6"] {
        let file = format!("/proc/self/net/{}{suffix}", port.protocol);
        let table = fs::read_to_string(file).unwrap_or_default();
        found.extend(table.lines().skip(1).filter_map(|line| of_line(line, port)));
    }
    Ok(found)
}

/// The inode in a line of /proc/net/tcp or udp, if the socket has the port.
fn of_line(line: &str, port: &PublishedPort) -> Option<String> {
    const LISTENING: &str = "0A";
    let words: Vec<_> = line.split_whitespace().collect();
    let (address, number) = words.get(1)?.split_once(':')?;
    if u16::from_str_radix(number, 16) != Ok(port.host_port)
        || port.protocol == Protocol::Tcp && *words.get(3)? != LISTENING
    {
        return None;
    }
    let address = address_of(address)?;
    // A socket at [::] serves IPv4 too, as a rule.
    let is_there = port.host_ip.is_none_or(|ip| {
        let same_family = address.is_ipv4() == ip.is_ipv4();
        let at_all = address.is_unspecified() && (same_family || address.is_ipv6());
        at_all || ip.is_unspecified() && same_family || ip == address
    });
    is_there.then(|| words.get(9).map(|inode| (*inode).to_owned()))?
}

/// An address as the kernel writes it: words of 32 bits in the host's byte order.
fn address_of(text: &str) -> Option<IpAddr> {
    let mut bytes = Vec::new();
    for at in (0..text.len()).step_by(8) {
        let word = u32::from_str_radix(text.get(at..at + 8)?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    let v4 = <[u8; 4]>::try_from(bytes.as_slice()).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes.as_slice()).map(IpAddr::from))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::published_ports::Notation;
    use std::net::{TcpListener, UdpSocket};

    fn port(text: &str) -> PublishedPort {
        Notation::parse(text).unwrap().each().unwrap().remove(0)
    }

    #[test]
    fn a_listener_s_process_is_found_at_each_address_that_it_serves() {
        let own = Some(std::process::id());
        for (at, busy, free) in [
            (
                "127.0.0.1:0",
                &["", "127.0.0.1:", "0.0.0.0:"][..],
                &["127.0.0.2:"][..],
            ),
            ("0.0.0.0:0", &["", "127.0.0.1:"], &["[::1]:"]),
        ] {
            let listener = TcpListener::bind(at).unwrap();
            let number = listener.local_addr().unwrap().port();
            for address in busy {
                let port = port(&format!("{address}{number}:80"));
                assert!(is_bound(&port), "{port}");
                assert_eq!(find(&port).map(|found| found.pid), own, "{port}");
                let udp = PublishedPort {
                    protocol: Protocol::Udp,
                    ..port
                };
                assert!(!is_bound(&udp), "{udp}");
            }
            for address in free {
                let port = port(&format!("{address}{number}:80"));
                assert!(!is_bound(&port), "{port}");
                assert_eq!(find(&port), None, "{port}");
            }
        }
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let number = socket.local_addr().unwrap().port();
        let udp = port(&format!("{number}:80/udp"));
        assert!(is_bound(&udp));
        assert_eq!(find(&udp).map(|found| found.pid), own);
    }

    #[test]
    fn addresses_are_read_as_the_kernel_writes_them() {
        if cfg!(target_endian = "little") {
            assert_eq!(address_of("0100007F"), Some(Ipv4Addr::LOCALHOST.into()));
            let loopback = "00000000000000000000000001000000";
            assert_eq!(address_of(loopback), Some(Ipv6Addr::LOCALHOST.into()));
        }
        for bad in ["", "0", "0100007", "zz00007F", "0100007F0100007F"] {
            assert_eq!(address_of(bad), None, "{bad}");
        }
    }
}
