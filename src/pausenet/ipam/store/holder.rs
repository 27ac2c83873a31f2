//! The holder written in an address file (pure).

use std::net::IpAddr;

use crate::cni::request::Attachment;
use crate::cni::{ContainerId, IfName};

/// The holder of an address, in the form that its file has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder(String);

impl Holder {
    /// The holder for a container's interface.
    pub fn new(container: &ContainerId, ifname: &IfName) -> Self {
        Self(format!("{}\r\n{ifname}", container.as_given()))
    }

    /// The holder for an attachment.
    pub(in crate::ipam) fn of(attachment: &Attachment) -> Self {
        Self::new(&attachment.container, &attachment.ifname)
    }

    /// The content of its address files: `<container>\r\n<interface>`.
    pub(super) fn content(&self) -> &str {
        &self.0
    }

    /// The content that old versions of the reference wrote: the container alone.
    pub(super) fn old_form(&self) -> &str {
        self.0.split("\r\n").next().unwrap_or_default()
    }
}

/// An address and its holder. The holder may be gone: callers keep or free it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaleReservation {
    pub ip: IpAddr,
    /// Empty if the file names no holder.
    pub container: String,
    /// Empty in files of the old form.
    pub ifname: String,
}

impl StaleReservation {
    /// Parses an address file; None when it names no holder. An empty file is what a crash leaves, or
    /// a full disk; anything else that could be no container's was written by another program.
    pub(super) fn of(ip: IpAddr, content: &str) -> Option<Self> {
        let (container, ifname) = content.split_once("\r\n").unwrap_or((content, ""));
        let is_holder = ContainerId::parse(container).is_ok()
            && (ifname.is_empty() || IfName::parse(ifname).is_ok());
        is_holder.then(|| Self {
            ip,
            container: container.to_owned(),
            ifname: ifname.to_owned(),
        })
    }

    /// An address whose file names no holder.
    pub(super) fn damaged(ip: IpAddr) -> Self {
        Self {
            ip,
            container: String::new(),
            ifname: String::new(),
        }
    }

    /// True if the file names no holder, so that no DEL will free the address.
    pub fn is_damaged(&self) -> bool {
        self.container.is_empty()
    }

    /// The trimmed content of its file.
    pub(super) fn content(&self) -> String {
        match self.ifname.as_str() {
            "" => self.container.clone(),
            ifname => format!("{}\r\n{ifname}", self.container),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_names_a_container_with_or_without_an_interface_or_it_is_damaged() {
        let ip = "10.1.0.2".parse().unwrap();
        for holder in ["c1\r\neth0", "c1", "c1\r\n"] {
            assert!(StaleReservation::of(ip, holder).is_some(), "{holder:?}");
        }
        for damaged in [
            "",
            "\0\u{1}",
            "c1 eth0",
            "c1\neth0",
            "../x",
            "c1\r\neth0\r\nx",
        ] {
            assert!(StaleReservation::of(ip, damaged).is_none(), "{damaged:?}");
        }
        assert!(StaleReservation::damaged(ip).is_damaged());
    }
}
