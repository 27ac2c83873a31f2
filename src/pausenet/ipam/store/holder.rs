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
        Self(format!("{container}\r\n{ifname}"))
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
    pub container: String,
    /// Empty in files of the old form.
    pub ifname: String,
}

impl StaleReservation {
    /// Parses an address file; None when it names no holder.
    pub(super) fn of(ip: IpAddr, content: &str) -> Option<Self> {
        let (container, ifname) = content.split_once("\r\n").unwrap_or((content, ""));
        (!container.is_empty()).then(|| Self {
            ip,
            container: container.to_owned(),
            ifname: ifname.to_owned(),
        })
    }

    /// The trimmed content of its file.
    pub(super) fn content(&self) -> String {
        match self.ifname.as_str() {
            "" => self.container.clone(),
            ifname => format!("{}\r\n{ifname}", self.container),
        }
    }
}
