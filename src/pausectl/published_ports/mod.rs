//! Published ports: their notation ([`notation`]), who has a port already ([`in_use`]), and the list
//! of all ([`list`]).

pub(crate) mod in_use;
pub(crate) mod list;
mod listeners;
mod notation;

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

pub(crate) use notation::Notation;
use pausenet::cni::ports::Protocol;

/// A published port. Its JSON is an element of the capability `portMappings`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PublishedPort {
    pub(crate) host_port: u16,
    pub(crate) container_port: u16,
    pub(crate) protocol: Protocol,
    #[serde(rename = "hostIP", default, skip_serializing_if = "Option::is_none")]
    pub(crate) host_ip: Option<IpAddr>,
}

impl PublishedPort {
    /// Parses several, with ranges. Of a range of host ports for one container port, the first that
    /// `is_free` accepts is taken, as docker does. A host port may occur once.
    ///
    /// # Errors
    /// A message that shows the notation, or names the port.
    pub(crate) fn parse_all<'a>(
        texts: impl IntoIterator<Item = &'a str>,
        mut is_free: impl FnMut(&Self) -> bool,
    ) -> Result<Vec<Self>, String> {
        let (mut ports, mut host_sides) = (Vec::new(), HashSet::new());
        for text in texts {
            let wanted = Notation::parse(text)?;
            let chosen = match wanted.each() {
                Some(each) => each,
                None => {
                    let is_new = |port: &Self| !host_sides.contains(&port.host_key());
                    let mut candidates = wanted.candidates();
                    let found = candidates.find(|port| is_new(port) && is_free(port));
                    let found =
                        found.ok_or_else(|| format!("{text}: no port of the range is free"));
                    vec![found?]
                }
            };
            for port in chosen {
                if !host_sides.insert(port.host_key()) {
                    return Err(format!("host port {} is given twice", port.host_side()));
                }
                ports.push(port);
            }
        }
        Ok(ports)
    }

    fn host_key(&self) -> (u16, Protocol, Option<IpAddr>) {
        (self.host_port, self.protocol, self.host_ip)
    }

    /// True when both use the same port of the host.
    pub(crate) fn has_same_host_side(&self, other: &Self) -> bool {
        self.host_key() == other.host_key()
    }

    /// The host's side, such as `127.0.0.1:8080/tcp`.
    pub(crate) fn host_side(&self) -> String {
        let protocol = self.protocol;
        match self.host_ip {
            Some(ip) => format!("{}/{protocol}", SocketAddr::new(ip, self.host_port)),
            None => format!("{}/{protocol}", self.host_port),
        }
    }
}

/// In the notation of the command line.
impl fmt::Display for PublishedPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host_ip {
            Some(ip) => write!(f, "{}", SocketAddr::new(ip, self.host_port))?,
            None => write!(f, "{}", self.host_port)?,
        }
        write!(f, ":{}/{}", self.container_port, self.protocol)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse_all(texts: &[&str]) -> Result<Vec<String>, String> {
        let ports = PublishedPort::parse_all(texts.iter().copied(), |port| port.host_port != 8000);
        Ok(ports?.iter().map(PublishedPort::to_string).collect())
    }

    #[test]
    fn ranges_are_one_port_each_and_a_range_for_one_port_is_a_choice() {
        for (texts, expected) in [
            (
                &["8000-8002:80-82"][..],
                &["8000:80/tcp", "8001:81/tcp", "8002:82/tcp"][..],
            ),
            (
                &["127.0.0.1:53-54:53-54/udp"],
                &["127.0.0.1:53:53/udp", "127.0.0.1:54:54/udp"],
            ),
            (&["[::1]:8080-8080:80/sctp"], &["[::1]:8080:80/sctp"]),
            (&["8000-8010:80"], &["8001:80/tcp"]),
            (
                &["8000-8010:80", "8000-8010:81"],
                &["8001:80/tcp", "8002:81/tcp"],
            ),
        ] {
            assert_eq!(parse_all(texts).unwrap(), expected, "{texts:?}");
        }
        let none = parse_all(&["8000-8001:80", "8000-8001:81"]).unwrap_err();
        assert_eq!(none, "8000-8001:81: no port of the range is free");
    }

    #[test]
    fn a_host_port_may_occur_once() {
        for texts in [["1:2", "1:3"], ["1-5:1-5", "5:6"]] {
            let why = parse_all(&texts).unwrap_err();
            assert!(why.contains("twice"), "{why}");
        }
        parse_all(&["1:2", "1:2/udp", "127.0.0.1:1:2"]).unwrap();
    }

    proptest! {
        #[test]
        fn a_displayed_port_parses_back(host in 1u16.., container in 1u16.., ip: Option<IpAddr>) {
            let port = PublishedPort {
                host_port: host,
                container_port: container,
                protocol: Protocol::Udp,
                host_ip: ip,
            };
            let again = Notation::parse(&port.to_string()).unwrap().each();
            prop_assert_eq!(again, Some(vec![port]));
        }
    }
}
