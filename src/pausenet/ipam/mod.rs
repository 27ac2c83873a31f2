//! IPAM (IP address management): allocates the addresses of attachments.
//!
//! `host-local` and `static` are built in; any other type names a plugin to delegate to (CNI
//! specification, section 4). [`range`] is pure; addresses are kept in [`store`] and its index.

mod allocation;
pub mod host_local;
mod index;
pub mod range;
pub mod resolv_conf;
mod static_ipam;
pub mod store;
#[cfg(test)]
mod tests;

pub(crate) use allocation::{Allocated, Allocation, Outcome};
pub use host_local::HostLocal;
use ipnetwork::IpNetwork;
use static_ipam::StaticIpam;
use store::StaleReservation;

use crate::cni::delegate::Delegate;
use crate::cni::request::{Attachment, Network, Request};
use crate::cni::result::AddResult;
use crate::cni::{Code, During, Error, Result, SpecVersion, warn};

/// The IPAM of a network.
#[derive(Debug)]
pub enum Ipam {
    HostLocal(HostLocal),
    Static(StaticIpam),
    Delegated(Delegated),
}

/// A plugin to delegate to, and the config and spec version it is called with.
#[derive(Debug)]
pub struct Delegated {
    plugin: Delegate,
    config: Vec<u8>,
    version: SpecVersion,
}

impl Ipam {
    /// The IPAM that a network's config names; None when it names none.
    ///
    /// # Errors
    /// Code 7 when its config is invalid or the plugin does not exist.
    pub fn new(network: &Network) -> Result<Option<Self>> {
        let Some(conf) = &network.ipam else {
            return Ok(None);
        };
        let object = &conf.object;
        Ok(Some(match conf.plugin.as_str() {
            "host-local" => Self::HostLocal(HostLocal::new(network, &object.read()?)?),
            "static" => Self::Static(StaticIpam::new(network, &object.read()?)),
            other => Self::Delegated(Delegated {
                plugin: Delegate::find(other, &network.path, &network.name).during("ipam")?,
                config: network.raw.clone(),
                version: network.version,
            }),
        }))
    }

    /// The same to remove what an ADD made. What is wrong in the config does not prevent that: ADD
    /// may have had another config.
    ///
    /// # Errors
    /// Code 7 when the plugin to delegate to does not exist: only it can free the addresses.
    pub(crate) fn to_release(network: &Network) -> Result<Option<Self>> {
        let unreadable = match (Self::new(network), &network.ipam) {
            (Err(err), Some(conf)) => (err, conf),
            (outcome, _) => return outcome,
        };
        let (err, conf) = unreadable;
        match conf.plugin.as_str() {
            "host-local" => Ok(Some(Self::HostLocal(HostLocal::to_release(network, conf)))),
            "static" => {
                warn(err);
                Ok(None)
            }
            other if !Delegate::is_name(other) => {
                warn(err);
                Ok(None)
            }
            _ => Err(err),
        }
    }

    /// Whether [`Ipam::held`] knows the prefix lengths of the addresses.
    pub(crate) fn knows_prefixes(&self) -> bool {
        match self {
            Self::HostLocal(ipam) => ipam.has_ranges(),
            Self::Static(_) | Self::Delegated(_) => true,
        }
    }

    /// Whether it is another plugin, which may look at the container's interface: `dhcp` sends its
    /// requests by it.
    pub(crate) fn is_delegated(&self) -> bool {
        matches!(self, Self::Delegated(_))
    }

    /// Allocates all of an attachment's addresses, or none.
    ///
    /// # Errors
    /// The IPAM's own.
    pub(crate) fn allocate(&self, request: &Request) -> Result<Outcome> {
        let allocation = match self {
            Self::HostLocal(ipam) => {
                return ipam.allocate(&request.attachment, &request.requested_ips);
            }
            Self::Static(ipam) => ipam.allocate(&request.requested_ips)?,
            Self::Delegated(ipam) => {
                let result = ipam
                    .plugin
                    .add(&ipam.config, ipam.version)
                    .inspect_err(|_| {
                        // It may have allocated something before it failed (specification, section
                        // 4).
                        let _ = ipam.plugin.call("DEL", &ipam.config);
                    })?;
                Allocation::from_result(result)
            }
        };
        if allocation.addresses.is_empty() {
            // It may have allocated something nevertheless.
            let _ = self.release(&request.attachment);
            return Err(Error::new(Code::InvalidConfig, "ipam gave no address"));
        }
        Ok(Outcome::Allocated(allocation))
    }

    /// Frees all of the attachment's addresses. Succeeds when it has none.
    ///
    /// # Errors
    /// The IPAM's own.
    pub(crate) fn release(&self, attachment: &Attachment) -> Result<()> {
        match self {
            Self::HostLocal(ipam) => ipam.release(attachment),
            Self::Static(_) => Ok(()),
            Self::Delegated(ipam) => ipam.plugin.call("DEL", &ipam.config).map(drop),
        }
    }

    /// The addresses that the attachment holds. Empty for a delegated plugin: the specification has
    /// no verb that lists them.
    pub(crate) fn held(&self, request: &Request) -> Result<Vec<IpNetwork>> {
        match self {
            Self::HostLocal(ipam) => ipam.held(&request.attachment),
            Self::Static(ipam) => Ok(ipam.held(&request.requested_ips)),
            Self::Delegated(_) => Ok(Vec::new()),
        }
    }

    /// Checks that the attachment still holds the addresses in its ADD's result.
    ///
    /// # Errors
    /// Code 102 naming the first address that it no longer holds; the IPAM's own.
    pub(crate) fn check(&self, attachment: &Attachment, promised: &AddResult) -> Result<()> {
        match self {
            Self::HostLocal(ipam) => {
                let addresses: Vec<_> = promised.ips.iter().map(|ip| ip.address.ip()).collect();
                match ipam.first_not_held(attachment, &addresses)? {
                    None => Ok(()),
                    Some(lost) => Err(Error::new(
                        Code::AttachmentDiffers,
                        format!("the address store does not give {lost} to this container"),
                    )),
                }
            }
            Self::Static(_) => Ok(()),
            Self::Delegated(ipam) => ipam.plugin.call("CHECK", &ipam.config).map(drop),
        }
    }

    /// The addresses that [`Ipam::collect`] would free. Empty for a delegated plugin.
    pub(crate) fn stale(&self, keep: impl Fn(&str, &str) -> bool) -> Result<Vec<StaleReservation>> {
        match self {
            Self::HostLocal(ipam) => ipam.stale(keep),
            Self::Static(_) | Self::Delegated(_) => Ok(Vec::new()),
        }
    }

    /// Frees the addresses of all attachments for which `keep` (container, interface) is false.
    /// Returns whether there are reservations that name none.
    ///
    /// # Errors
    /// The IPAM's own.
    pub(crate) fn collect(&self, keep: impl Fn(&str, &str) -> bool) -> Result<bool> {
        match self {
            Self::HostLocal(ipam) => ipam.release_others(keep),
            Self::Static(_) => Ok(false),
            Self::Delegated(ipam) => ipam.plugin.call("GC", &ipam.config).map(|_| false),
        }
    }

    /// Checks that the next ADD could get addresses.
    ///
    /// # Errors
    /// Code 11 when all are in use; the IPAM's own.
    pub(crate) fn ready(&self) -> Result<()> {
        match self {
            Self::HostLocal(ipam) => ipam.ready(),
            Self::Static(_) => Ok(()),
            Self::Delegated(ipam) => ipam.plugin.call("STATUS", &ipam.config).map(drop),
        }
    }
}
