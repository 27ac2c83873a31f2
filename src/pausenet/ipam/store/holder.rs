//! Who holds an address, as its file tells it, or is to tell it (pure).

use std::net::IpAddr;

use crate::cni::request::Attachment;
use crate::cni::{ContainerId, IfName};

/// Who holds an address, as its file tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder(String);

impl Holder {
    /// The content that an attachment's address files have.
    pub fn new(container: &ContainerId, ifname: &IfName) -> Self {
        Self(format!("{container}\r\n{ifname}"))
    }

    /// The same of an attachment.
    pub fn of(attachment: &Attachment) -> Self {
        Self::new(&attachment.container, &attachment.ifname)
    }

    /// What an address file of its has in it.
    pub fn content(&self) -> &str {
        &self.0
    }

    /// Old versions of the reference wrote the container alone.
    pub fn old_form(&self) -> &str {
        self.0.split("\r\n").next().unwrap_or_default()
    }
}

/// An address that nobody valid holds, and who holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaleReservation {
    pub ip: IpAddr,
    pub container: String,
    /// Empty in files of the old form.
    pub ifname: String,
}

impl StaleReservation {
    /// What a file tells; None when it tells no holder.
    pub fn of(ip: IpAddr, content: &str) -> Option<Self> {
        let (container, ifname) = content.split_once("\r\n").unwrap_or((content, ""));
        (!container.is_empty()).then(|| Self {
            ip,
            container: container.to_owned(),
            ifname: ifname.to_owned(),
        })
    }

    /// What its file has in it, without white space around.
    pub fn content(&self) -> String {
        match self.ifname.as_str() {
            "" => self.container.clone(),
            ifname => format!("{}\r\n{ifname}", self.container),
        }
    }
}
