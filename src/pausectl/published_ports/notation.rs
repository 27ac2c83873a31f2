//! docker's notation of published ports: `[HOSTIP:]HOSTPORT:PORT[/PROTOCOL]`, where a port may be a
//! range.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use super::PublishedPort;
use pausenet::cni::ports::Protocol;

/// The ports of one text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Notation {
    host_ip: Option<IpAddr>,
    hosts: RangeInclusive<u16>,
    containers: RangeInclusive<u16>,
    protocol: Protocol,
}

impl Notation {
    /// # Errors
    /// A message that shows the notation.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let invalid = |why: &str| {
            format!(
                "{text:?} {why}; the form is [HOSTIP:]HOSTPORT:PORT[/tcp|udp|sctp], such as 8080:80 \
                 or 8000-8010:8000-8010"
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
        let (rest, container) = rest
            .rsplit_once(':')
            .ok_or_else(|| invalid("has no host port"))?;
        let (host_ip, host) = match rest.rsplit_once(':') {
            None => (None, rest),
            Some((ip, host)) => (Some(ip), host),
        };
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
        let not_a_port = || invalid("has an invalid port (1 to 65535 are valid)");
        let notation = Self {
            host_ip,
            hosts: range(host).ok_or_else(not_a_port)?,
            containers: range(container).ok_or_else(not_a_port)?,
            protocol,
        };
        let lengths = [&notation.hosts, &notation.containers].map(ExactSize::length);
        if lengths[1] != 1 && lengths[0] != lengths[1] {
            return Err(invalid("has ranges of different lengths"));
        }
        Ok(notation)
    }

    /// A port for each of the range; None if only one of a range of host ports is wanted.
    pub(crate) fn each(&self) -> Option<Vec<PublishedPort>> {
        (self.hosts.length() == self.containers.length()).then(|| {
            let pairs = self.hosts.clone().zip(self.containers.clone());
            pairs
                .map(|(host, container)| self.port(host, container))
                .collect()
        })
    }

    /// The ports of which one is wanted.
    pub(super) fn candidates(&self) -> impl Iterator<Item = PublishedPort> {
        let hosts = self.hosts.clone();
        hosts.map(|host| self.port(host, *self.containers.start()))
    }

    fn port(&self, host_port: u16, container_port: u16) -> PublishedPort {
        PublishedPort {
            host_port,
            container_port,
            protocol: self.protocol,
            host_ip: self.host_ip,
        }
    }
}

/// The length of a range that is not empty.
trait ExactSize {
    fn length(&self) -> usize;
}

impl ExactSize for RangeInclusive<u16> {
    fn length(&self) -> usize {
        usize::from(self.end() - self.start()) + 1
    }
}

/// `80` or `8000-8010`.
fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let number = |text: &str| {
        let number = text.parse::<u16>().ok().filter(|port| *port != 0);
        // Not "+80", which Rust would take.
        number.filter(|_| text.bytes().all(|c| c.is_ascii_digit()))
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_have_docker_s_notation() {
        for (text, shown) in [
            ("8080:80", "8080:80/tcp"),
            ("8080:80/udp", "8080:80/udp"),
            ("127.0.0.1:8080:80", "127.0.0.1:8080:80/tcp"),
            ("[::1]:8080:80/sctp", "[::1]:8080:80/sctp"),
        ] {
            let each = Notation::parse(text).unwrap().each().unwrap();
            assert_eq!(each[0].to_string(), shown);
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
            "1:2:3:4",
            "80:8080-8081",
            "80-82:80-81",
            "81-80:81-80",
            "80-:80",
            "-80:80",
            "80-81-82:80",
            "0-1:0-1",
        ] {
            let why = Notation::parse(text).unwrap_err();
            assert!(why.contains("such as 8080:80"), "{text}: {why}");
        }
    }
}
