//! IPAM: who gives an attachment its addresses.
//!
//! `host-local` and `static` are built in; any other type is a plugin that is delegated to, as
//! the specification says (section 4). [`range`] is pure; [`store`] and the index
//! that it has beside it are the only places that touch the disk.

mod allocation;
pub mod host_local;
mod index;
pub mod range;
pub mod resolv_conf;
mod static_ipam;
pub mod store;
#[cfg(test)]
mod tests;

pub use allocation::{Allocated, Allocation, Outcome};
pub use host_local::HostLocal;
use ipnetwork::IpNetwork;
use static_ipam::StaticIpam;
use store::StaleReservation;

use crate::cni::delegate::Delegate;
use crate::cni::json;
use crate::cni::request::{Attachment, Network, Request};
use crate::cni::result::AddResult;
use crate::cni::{Code, During, Error, Result, SpecVersion};

/// The IPAM of a network.
#[derive(Debug)]
pub enum Ipam {
    HostLocal(HostLocal),
    Static(StaticIpam),
    Delegated(Delegated),
}

/// Another plugin, and what it is told.
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
    /// Code 7 when its config cannot be right, or the plugin is not there.
    pub fn new(network: &Network) -> Result<Option<Self>> {
        let Some(conf) = &network.ipam else {
            return Ok(None);
        };
        let object = || json::parse_part("ipam", &conf.object);
        Ok(Some(match conf.plugin.as_str() {
            "host-local" => Self::HostLocal(HostLocal::new(network, &object()?)?),
            "static" => Self::Static(StaticIpam::new(network, &object()?)),
            other => Self::Delegated(Delegated {
                plugin: Delegate::find(other, &network.path).during("ipam")?,
                config: network.raw.clone(),
                version: network.version,
            }),
        }))
    }

    /// Takes addresses for an attachment: all that it is to have, or none.
    ///
    /// # Errors
    /// The IPAM's own.
    pub fn allocate(&self, request: &Request) -> Result<Outcome> {
        let allocation = match self {
            Self::HostLocal(ipam) => {
                let requested: Vec<_> = request.requested_ips.all().collect();
                return ipam.allocate(&request.attachment, &requested);
            }
            Self::Static(ipam) => ipam.allocate(&request.requested_ips)?,
            Self::Delegated(ipam) => {
                let result = ipam
                    .plugin
                    .add(&ipam.config, ipam.version)
                    .inspect_err(|_| {
                        // It may have taken something before it failed (specification, section 4).
                        let _ = ipam.plugin.call("DEL", &ipam.config);
                    })?;
                Allocation::from_result(result)
            }
        };
        if allocation.addresses.is_empty() {
            // It may have taken something all the same.
            let _ = self.release(&request.attachment);
            return Err(Error::new(Code::InvalidConfig, "ipam gave no address"));
        }
        Ok(Outcome::Allocated(allocation))
    }

    /// Gives back whatever the attachment has. Nothing to give back is success.
    ///
    /// # Errors
    /// The IPAM's own.
    pub fn release(&self, attachment: &Attachment) -> Result<()> {
        match self {
            Self::HostLocal(ipam) => ipam.release(attachment),
            Self::Static(_) => Ok(()),
            Self::Delegated(ipam) => ipam.plugin.call("DEL", &ipam.config).map(drop),
        }
    }

    /// The addresses that an attachment has, as far as the IPAM knows.
    pub fn held(&self, request: &Request) -> Result<Vec<IpNetwork>> {
        match self {
            Self::HostLocal(ipam) => ipam.held(&request.attachment),
            Self::Static(ipam) => Ok(ipam.held(&request.requested_ips)),
            Self::Delegated(_) => Ok(Vec::new()),
        }
    }

    /// Whether the attachment still has what its ADD promised.
    ///
    /// # Errors
    /// Code 102 for the first address that it has not; the IPAM's own.
    pub fn check(&self, attachment: &Attachment, promised: &AddResult) -> Result<()> {
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

    /// The addresses that [`Ipam::collect`] would give back, as far as the IPAM knows.
    pub fn stale(&self, keep: impl Fn(&str, &str) -> bool) -> Result<Vec<StaleReservation>> {
        match self {
            Self::HostLocal(ipam) => ipam.stale(keep),
            Self::Static(_) | Self::Delegated(_) => Ok(Vec::new()),
        }
    }

    /// Gives back the addresses of all attachments that `keep` does not want kept.
    ///
    /// # Errors
    /// The IPAM's own.
    pub fn collect(&self, keep: impl Fn(&str, &str) -> bool) -> Result<()> {
        match self {
            Self::HostLocal(ipam) => ipam.release_others(keep),
            Self::Static(_) => Ok(()),
            Self::Delegated(ipam) => ipam.plugin.call("GC", &ipam.config).map(drop),
        }
    }

    /// Whether the next ADD can have addresses.
    ///
    /// # Errors
    /// Code 11 when they are all in use; the IPAM's own.
    pub fn ready(&self) -> Result<()> {
        match self {
            Self::HostLocal(ipam) => ipam.ready(),
            Self::Static(_) => Ok(()),
            Self::Delegated(ipam) => ipam.plugin.call("STATUS", &ipam.config).map(drop),
        }
    }
}
