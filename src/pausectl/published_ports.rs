//! Published ports, in docker's notation: `[HOSTIP:]HOSTPORT:PORT[/PROTOCOL]`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use serde::{Deserialize, Serialize};

use pausenet::cni::ports::Protocol;
use pausenet_host::Error;

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
    /// # Errors
    /// A message that shows the notation.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let invalid = |why: &str| {
            format!(
                "{text:?} {why}; the form is [HOSTIP:]HOSTPORT:PORT[/tcp|udp|sctp], such as 8080:80"
            )
        };
        let (rest, protocol) = match text.split_once('/') {
            None => (text, Protocol::Tcp),
            Some((rest, name)) => {
                let protocol = Protocol::parse(name).filter(|_| !name.is_empty());
                let unknown = || invalid("has an unknown protocol");
                (rest, protocol.ok_or_else(unknown)?)
            }
        };
        let number = |text: &str| {
            let number = text.parse::<u16>().ok().filter(|port| *port != 0);
            // Not "+80", which Rust would take.
            number.filter(|_| text.bytes().all(|c| c.is_ascii_digit()))
        };
        let (rest, container) = rest
            .rsplit_once(':')
            .ok_or_else(|| invalid("has no host port"))?;
        let (host_ip, host) = match rest.rsplit_once(':') {
            None => (None, rest),
            Some((ip, host)) => (Some(ip), host),
        };
        let not_a_port = || invalid("has an invalid port (1 to 65535 are valid)");
        let host_ip = match host_ip {
            None => None,
            Some(ip) => {
                let bare = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']'));
                let parsed = match bare {
                    Some(bare) => bare.parse().ok().filter(IpAddr::is_ipv6),
                    None => ip.parse().ok().filter(IpAddr::is_ipv4),
                };
                let no_ip = || invalid("has an invalid host address (IPv6 goes in [ ])");
                Some(parsed.ok_or_else(no_ip)?)
            }
        };
        Ok(Self {
            host_port: number(host).ok_or_else(not_a_port)?,
            container_port: number(container).ok_or_else(not_a_port)?,
            protocol,
            host_ip,
        })
    }

    /// Parses several; a host port may occur once.
    pub(crate) fn parse_all<'a>(
        texts: impl IntoIterator<Item = &'a str>,
    ) -> Result<Vec<Self>, String> {
        let mut ports: Vec<Self> = Vec::new();
        for text in texts {
            let port = Self::parse(text)?;
            if ports.iter().any(|other| other.has_same_host_side(&port)) {
                return Err(format!("host port {} is given twice", port.host_side()));
            }
            ports.push(port);
        }
        Ok(ports)
    }

    /// True when both use the same port of the host.
    pub(crate) fn has_same_host_side(&self, other: &Self) -> bool {
        (self.host_port, self.protocol, self.host_ip)
            == (other.host_port, other.protocol, other.host_ip)
    }

    /// The host's side, such as `127.0.0.1:8080/tcp`.
    pub(crate) fn host_side(&self) -> String {
        let protocol = self.protocol;
        match self.host_ip {
            Some(ip) => format!("{}/{protocol}", SocketAddr::new(ip, self.host_port)),
            None => format!("{}/{protocol}", self.host_port),
        }
    }

    /// Refuses a port on which a program of the host listens: a published port takes precedence,
    /// and publishing port 22 by mistake would lock the user out.
    pub(crate) fn refuse_if_in_use(&self) -> Result<(), Error> {
        let at = SocketAddr::new(
            self.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED.into()),
            self.host_port,
        );
        let bound = match self.protocol {
            Protocol::Tcp => TcpListener::bind(at).map(drop),
            Protocol::Udp => UdpSocket::bind(at).map(drop),
            Protocol::Sctp => return Ok(()),
        };
        match bound {
            Err(err) if err.kind() == std::io::ErrorKind::AddrInUse => Err(Error::new(format!(
                "a program on this host already listens on port {}",
                self.host_side()
            ))
            .hint(
                "publishing the port would cut it off; find the program with: ss -lnp; or choose another port",
            )),
            _ => Ok(()),
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

    #[test]
    fn ports_have_docker_s_notation() {
        for (text, shown) in [
            ("8080:80", "8080:80/tcp"),
            ("8080:80/udp", "8080:80/udp"),
            ("127.0.0.1:8080:80", "127.0.0.1:8080:80/tcp"),
            ("[::1]:8080:80/sctp", "[::1]:8080:80/sctp"),
        ] {
            assert_eq!(PublishedPort::parse(text).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn an_invalid_port_is_refused_with_the_notation() {
        for text in [
            "",
            "80",
            ":80",
            "80:",
            "0:80",
            "80:0",
            "65536:80",
            "8080:80/icmp",
            "8080:80/",
            "x:8080:80",
            "::1:8080:80",
            "[127.0.0.1]:1:1",
            "+80:80",
            "8080-8081:80",
            "1:2:3:4",
        ] {
            let why = PublishedPort::parse(text).unwrap_err();
            assert!(why.contains("such as 8080:80"), "{text}: {why}");
        }
        let why = PublishedPort::parse_all(["1:2", "1:3"]).unwrap_err();
        assert!(why.contains("twice"), "{why}");
        PublishedPort::parse_all(["1:2", "1:2/udp", "127.0.0.1:1:2"]).unwrap();
    }

    #[test]
    fn a_port_in_use_on_the_host_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let port = PublishedPort::parse(&format!("127.0.0.1:{port}:80")).unwrap();
        let err = port.refuse_if_in_use().unwrap_err();
        assert!(err.message.contains("listens on port"), "{err}");
        drop(listener);
        port.refuse_if_in_use().unwrap();
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
            prop_assert_eq!(PublishedPort::parse(&port.to_string()), Ok(port));
        }
    }
}
