//! IPAM `static`, compatible with the reference plugin: the addresses are in the config.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::allocation::{Allocated, Allocation};
use super::host_local::check_routes;
use crate::cni::args::RequestedIp;
use crate::cni::config;
use crate::cni::error::invalid;
use crate::cni::request::{Network, RequestedIps};
use crate::cni::result::{Dns, Route};
use crate::cni::{Family, Result, SpecVersion};

/// `static` for one network.
#[derive(Debug)]
pub struct StaticIpam {
    addresses: Vec<Allocated>,
    routes: Vec<Route>,
    dns: Dns,
    version: SpecVersion,
}

impl StaticIpam {
    /// Takes a network's `ipam` object.
    pub(super) fn new(network: &Network, conf: &config::Ipam) -> Self {
        let addresses = conf.addresses.iter().map(|fixed| Allocated {
            address: fixed.address,
            gateway: fixed.gateway,
        });
        Self {
            addresses: addresses.collect(),
            routes: conf.routes.clone(),
            dns: conf.dns.clone(),
            version: network.version,
        }
    }

    /// Returns the addresses of the first of these that has any: the capability `ips`; the config's
    /// `args`; the `ipam` object together with CNI_ARGS.
    ///
    /// # Errors
    /// Code 7 for an address without a prefix length, or too many for an old version.
    pub(crate) fn allocate(&self, requested: &RequestedIps) -> Result<Allocation> {
        check_routes(&self.routes)?;
        for (at, given) in self.addresses.iter().enumerate() {
            let family = Family::from(given.address);
            if let Some(gateway) = given.gateway.filter(|ip| Family::from(*ip) != family) {
                return Err(invalid(format!(
                    "ipam.addresses[{at}].gateway: {gateway} is of another family than {}",
                    given.address
                )));
            }
        }
        let addresses = self.addresses(requested)?;
        for family in Family::ALL {
            let count = addresses
                .iter()
                .filter(|given| Family::from(given.address) == family)
                .count();
            if self.version < SpecVersion::V0_3_0 && count > 1 {
                return Err(invalid(format!(
                    "cniVersion {} has room for one address per family, not {count}",
                    self.version
                )));
            }
        }
        Ok(Allocation {
            addresses,
            routes: self.routes.clone(),
            dns: self.dns.clone(),
            is_new: false,
        })
    }

    /// The addresses that an ADD of the same request gets.
    pub(super) fn held(&self, requested: &RequestedIps) -> Vec<IpNetwork> {
        let addresses = self.addresses(requested).unwrap_or_default();
        addresses.into_iter().map(|given| given.address).collect()
    }

    fn addresses(&self, requested: &RequestedIps) -> Result<Vec<Allocated>> {
        let (env, args) = (requested.env.len(), requested.args.len());
        for (instead, first) in [(&requested.runtime, env + args), (&requested.args, env)] {
            if !instead.is_empty() {
                let given = |(at, ip)| given(ip, || requested.key_of(first + at));
                return instead.iter().enumerate().map(given).collect();
            }
        }
        let mut addresses = self.addresses.clone();
        for (at, ip) in requested.env.iter().enumerate() {
            addresses.push(given(ip, || requested.key_of(at))?);
        }
        use_gateways(&mut addresses, &requested.env_gateways);
        Ok(addresses)
    }
}

/// Gives each address the last of the gateways that are in its subnet. Looked up by subnet, since
/// there may be many of both.
fn use_gateways(addresses: &mut [Allocated], gateways: &[IpAddr]) {
    let subnet = |net: &IpNetwork| (net.network(), net.prefix());
    let prefixes: BTreeSet<_> = addresses
        .iter()
        .map(|given| given.address.prefix())
        .collect();
    let mut by_subnet = HashMap::new();
    for gateway in gateways {
        // None for a prefix of the other family's.
        let around = |prefix: &u8| IpNetwork::new(*gateway, *prefix).ok();
        for net in prefixes.iter().filter_map(around) {
            by_subnet.insert(subnet(&net), *gateway);
        }
    }
    for given in addresses {
        if let Some(gateway) = by_subnet.get(&subnet(&given.address)) {
            given.gateway = Some(*gateway);
        }
    }
}

fn given(requested: &RequestedIp, key: impl FnOnce() -> String) -> Result<Allocated> {
    let address = requested
        .prefix
        .and_then(|prefix| IpNetwork::new(requested.ip, prefix).ok())
        .ok_or_else(|| {
            invalid(format!(
                "{}: requested address {} has no prefix length",
                key(),
                requested.ip
            ))
        })?;
    Ok(Allocated {
        address,
        gateway: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn each_address_gets_the_last_gateway_in_its_subnet(
            addresses in proptest::collection::vec((any::<[u8; 2]>(), 20u8..=30), 0..8),
            gateways in proptest::collection::vec(any::<[u8; 2]>(), 0..8),
        ) {
            let ip = |[a, b]: [u8; 2]| IpAddr::from([10, 0, a % 4, b]);
            let gateways: Vec<_> = gateways.into_iter().map(ip).collect();
            let mut given: Vec<_> = addresses
                .into_iter()
                .map(|(address, prefix)| Allocated {
                    address: IpNetwork::new(ip(address), prefix).unwrap(),
                    gateway: None,
                })
                .collect();
            use_gateways(&mut given, &gateways);
            for given in given {
                let mut last = gateways.iter().rev();
                let expected = last.find(|gateway| given.address.contains(**gateway));
                prop_assert_eq!(given.gateway.as_ref(), expected);
            }
        }
    }
}
