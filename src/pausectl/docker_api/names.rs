//! Names, IDs and the socket, validated once: they become parts of request paths.

use std::fmt;
use std::path::{Path, PathBuf};

/// The daemon's Unix socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket(PathBuf);

impl Socket {
    pub(crate) const DEFAULT: &str = "unix:///run/docker.sock";

    /// Accepts a path, or `unix://` and a path as DOCKER_HOST has it. Empty means the default, as
    /// for docker.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = if text.is_empty() { Self::DEFAULT } else { text };
        let path = text.strip_prefix("unix://").unwrap_or(text);
        if path.starts_with('/') && !path.contains('\0') {
            return Ok(Self(path.into()));
        }
        Err(match Self::is_remote(text) {
            true => format!(
                "{text:?} is a remote daemon, but pausectl works on the host that it runs on: use \
                 a socket of this host, such as {}",
                Self::DEFAULT
            ),
            false => format!(
                "{text:?} is not a socket: use an absolute path, or {}",
                Self::DEFAULT
            ),
        })
    }

    /// Whether this is a form of DOCKER_HOST for daemons that are not behind a socket of this host.
    pub(crate) fn is_remote(text: &str) -> bool {
        let scheme = text.split_once("://").map(|(scheme, _)| scheme);
        matches!(
            scheme,
            Some("tcp" | "ssh" | "http" | "https" | "npipe" | "fd")
        )
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Default for Socket {
    fn default() -> Self {
        Self("/run/docker.sock".into())
    }
}

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.display())
    }
}

/// A container's name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerName(String);

impl ContainerName {
    pub fn parse(text: &str) -> Result<Self, String> {
        if is_valid(text) && text.len() > 1 {
            return Ok(Self(text.to_owned()));
        }
        Err(format!(
            "{} is not a container name: it must start with a letter or digit, continue with \
             letters, digits, '_', '.' or '-', and be 2 to {MAX_LEN} bytes long",
            quoted(text)
        ))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContainerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A container's ID: 64 hexadecimal digits. A restart keeps it; a removal ends it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DockerId(String);

impl DockerId {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let is_digit = |c: u8| matches!(c, b'0'..=b'9' | b'a'..=b'f');
        if text.len() == 64 && text.bytes().all(is_digit) {
            return Ok(Self(text.to_owned()));
        }
        Err(format!("{} is not a container ID", quoted(text)))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// As `docker ps` shows it.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl fmt::Display for DockerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A reference to a container: its name, its ID, or a prefix of the ID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerRef(String);

impl ContainerRef {
    pub fn parse(text: &str) -> Result<Self, String> {
        // The API itself writes names with a leading slash.
        let plain = text.strip_prefix('/').unwrap_or(text);
        if is_valid(plain) {
            return Ok(Self(plain.to_owned()));
        }
        Err(format!(
            "{} is neither a container name nor a container ID",
            quoted(text)
        ))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContainerRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&DockerId> for ContainerRef {
    fn from(id: &DockerId) -> Self {
        Self(id.0.clone())
    }
}

impl From<&ContainerName> for ContainerRef {
    fn from(name: &ContainerName) -> Self {
        Self(name.0.clone())
    }
}

/// Docker has no limit; but we build other names from these.
const MAX_LEN: usize = 128;

fn is_valid(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    text.len() <= MAX_LEN
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(plain)
}

/// The start of a value, for a message: it may be hostile, and long.
fn quoted(text: &str) -> String {
    let head: String = text.chars().take(64).collect();
    let more = if head.len() < text.len() { "…" } else { "" };
    format!("{head:?}{more}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_socket_is_a_path_or_a_unix_url() {
        for text in ["/run/docker.sock", "unix:///run/docker.sock", ""] {
            assert_eq!(Socket::parse(text).unwrap(), Socket::default(), "{text}");
        }
        assert_eq!(Socket::parse(Socket::DEFAULT).unwrap(), Socket::default());
        for text in ["docker.sock", "unix://", "unix://x", "/a\0b", "file:///x"] {
            let why = Socket::parse(text).unwrap_err();
            assert!(why.contains("is not a socket"), "{why}");
        }
        let why = Socket::parse("tcp://10.0.0.1:2375").unwrap_err();
        assert!(why.contains("a remote daemon"), "{why}");
    }

    #[test]
    fn container_names_follow_docker_s_rules() {
        for good in ["ab", "k8s_POD_two-containers", "a.b", "0a"] {
            assert_eq!(ContainerName::parse(good).unwrap().as_str(), good);
            assert_eq!(ContainerRef::parse(good).unwrap().as_str(), good);
        }
        assert_eq!(ContainerRef::parse("/web").unwrap().as_str(), "web");
        assert_eq!(ContainerRef::parse("7").unwrap().as_str(), "7"); // of an ID
        ContainerName::parse("a").unwrap_err();
        for bad in [
            "", "/", "..", "a/b", "a b", "-a", "a?x=y", "a%2e", "ä", "a\nb",
        ] {
            ContainerName::parse(bad).unwrap_err();
            ContainerRef::parse(bad).unwrap_err();
        }
    }

    #[test]
    fn an_id_is_64_digits() {
        let id = "0123456789abcdef".repeat(4);
        assert_eq!(DockerId::parse(&id).unwrap().short(), "0123456789ab");
        for bad in [&id[1..], &id.to_uppercase(), ""] {
            DockerId::parse(bad).unwrap_err();
        }
    }

    proptest! {
        #[test]
        fn an_accepted_reference_is_one_path_segment(text in "\\PC{0,12}") {
            if let Ok(container) = ContainerRef::parse(&text) {
                prop_assert!(!container.as_str().contains(['/', '?', '#', '%']));
                prop_assert!(container.as_str() != "..");
            }
        }
    }
}
