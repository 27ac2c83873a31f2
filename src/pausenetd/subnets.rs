//! Sets of subnets: aggregation, and the owner of each (pure).

use pausenet::cni::Family;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

/// The smallest list of subnets that covers the same addresses. No two of them overlap.
pub(crate) fn aggregate(subnets: impl IntoIterator<Item = IpNetwork>) -> Vec<IpNetwork> {
    let mut sorted: Vec<_> = subnets.into_iter().map(Block::of).collect();
    // IPv6 first; of two blocks with the same start, the larger.
    sorted.sort_by_key(|block| (Reverse(block.family), block.first, block.prefix));
    let mut merged: Vec<Block> = Vec::new();
    for block in sorted {
        if merged.last().is_some_and(|last| last.contains(&block)) {
            continue;
        }
        merged.push(block);
        while let [.., a, b] = merged[..]
            && let Some(both) = a.merge_with_sibling(&b)
        {
            merged.truncate(merged.len() - 2);
            merged.push(both);
        }
    }
    merged.into_iter().map(Block::subnet).collect()
}

/// Subnets with their owners; no two overlap.
#[derive(Debug, Default)]
pub(crate) struct SubnetOwners<'a>(BTreeMap<(Family, u128), (IpNetwork, &'a str)>);

impl<'a> SubnetOwners<'a> {
    /// Records the owner of a subnet.
    ///
    /// # Errors
    /// The subnet that overlaps it, and that one's owner.
    pub(crate) fn insert(
        &mut self,
        subnet: IpNetwork,
        owner: &'a str,
    ) -> Result<(), (IpNetwork, &'a str)> {
        let block = Block::of(subnet);
        // The recorded ones do not overlap each other, so only the last one that starts before the end
        // of this one can overlap it.
        let before = self.0.range(..=(block.family, block.last())).next_back();
        if let Some(((family, first), (other, of))) = before {
            let reaches = *first >= block.first || Block::of(*other).last() >= block.first;
            if *family == block.family && reaches {
                return Err((*other, of));
            }
        }
        self.0.insert((block.family, block.first), (subnet, owner));
        Ok(())
    }
}

/// A subnet as numbers: its first address and its prefix length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Block {
    family: Family,
    first: u128,
    prefix: u8,
}

impl Block {
    fn of(subnet: IpNetwork) -> Self {
        let first = match subnet.network() {
            IpAddr::V4(ip) => u32::from(ip).into(),
            IpAddr::V6(ip) => ip.into(),
        };
        Self {
            family: subnet.into(),
            first,
            prefix: subnet.prefix(),
        }
    }

    fn bits(self) -> u8 {
        self.family.bits()
    }

    /// The host bits.
    fn host_mask(self) -> u128 {
        let host_bits = self.bits() - self.prefix;
        match 1u128.checked_shl(host_bits.into()) {
            Some(size) => size - 1,
            None => u128::MAX,
        }
    }

    fn last(self) -> u128 {
        self.first | self.host_mask()
    }

    fn contains(&self, other: &Self) -> bool {
        self.family == other.family && (self.first..=self.last()).contains(&other.first)
    }

    /// The subnet one bit larger, if these are its two halves.
    fn merge_with_sibling(&self, other: &Self) -> Option<Self> {
        let halves = self.family == other.family && self.prefix == other.prefix && self.prefix > 0;
        let both = Self {
            prefix: self.prefix.checked_sub(1)?,
            ..*self
        };
        let starts_here = both.first & both.host_mask() == 0;
        (halves && starts_here && self.last().checked_add(1) == Some(other.first)).then_some(both)
    }

    #[expect(
        clippy::expect_used,
        reason = "the prefix length is that of a subnet of this family"
    )]
    fn subnet(self) -> IpNetwork {
        let ip: IpAddr = if self.family == Family::Ipv4 {
            std::net::Ipv4Addr::from(self.first as u32).into()
        } else {
            std::net::Ipv6Addr::from(self.first).into()
        };
        IpNetwork::new(ip, self.prefix).expect("a prefix length of its family")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nets(texts: &[&str]) -> Vec<IpNetwork> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn siblings_merge_and_contained_subnets_disappear() {
        let some = nets(&[
            "10.0.1.0/24",
            "10.0.0.0/24",
            "10.0.0.128/25",
            "10.0.3.0/24",
            "fd00::/64",
            "::/128",
        ]);
        let fewest = nets(&["::/128", "fd00::/64", "10.0.0.0/23", "10.0.3.0/24"]);
        assert_eq!(aggregate(some), fewest);
        assert_eq!(
            aggregate(nets(&["0.0.0.0/1", "128.0.0.0/1"])),
            nets(&["0.0.0.0/0"])
        );
        assert_eq!(aggregate(nets(&["::/1", "8000::/1"])), nets(&["::/0"]));
    }

    #[test]
    fn a_subnet_has_one_owner() {
        let mut owners = SubnetOwners::default();
        let net = |text: &str| text.parse::<IpNetwork>().unwrap();
        owners.insert(net("10.0.1.0/24"), "a").unwrap();
        owners.insert(net("10.0.2.0/24"), "b").unwrap();
        owners.insert(net("fd00::/64"), "a").unwrap();
        for other in ["10.0.1.0/24", "10.0.1.128/25", "10.0.0.0/23", "10.0.0.0/22"] {
            assert!(owners.insert(net(other), "c").is_err(), "{other}");
        }
        assert_eq!(
            owners.insert(net("fd00::8/128"), "c"),
            Err((net("fd00::/64"), "a"))
        );
        owners.insert(net("::a00:100/120"), "c").unwrap();
    }

    /// Subnets that often touch or overlap.
    fn subnet() -> impl Strategy<Value = IpNetwork> {
        let v4 = (0u32..64, 24u8..=32).prop_map(|(low, prefix)| {
            let ip: IpAddr = std::net::Ipv4Addr::from(0x0a00_0000 | low << 4).into();
            let net = IpNetwork::new(ip, prefix).unwrap();
            IpNetwork::new(net.network(), prefix).unwrap()
        });
        let v6 = (0u128..64, 120u8..=128).prop_map(|(low, prefix)| {
            let ip: IpAddr = std::net::Ipv6Addr::from(u128::MAX << 10 | low << 4).into();
            let net = IpNetwork::new(ip, prefix).unwrap();
            IpNetwork::new(net.network(), prefix).unwrap()
        });
        prop_oneof![v4, v6]
    }

    proptest! {
        #[test]
        fn aggregating_keeps_every_address_and_adds_none(
            subnets in proptest::collection::vec(subnet(), 0..12)
        ) {
            let fewest = aggregate(subnets.clone());
            let has = |nets: &[IpNetwork], ip: IpAddr| nets.iter().any(|net| net.contains(ip));
            for probe in subnets.iter().chain(&fewest) {
                for ip in [probe.network(), probe.broadcast()] {
                    prop_assert_eq!(has(&subnets, ip), has(&fewest, ip), "{}", ip);
                    if let IpAddr::V4(ip) = ip {
                        let next = std::net::Ipv4Addr::from(u32::from(ip).wrapping_add(1)).into();
                        prop_assert_eq!(has(&subnets, next), has(&fewest, next), "{}", next);
                    }
                }
            }
            let mut owners = SubnetOwners::default();
            for net in &fewest {
                prop_assert!(owners.insert(*net, "x").is_ok(), "{:?} overlap", fewest);
            }
            prop_assert_eq!(aggregate(fewest.clone()), fewest);
        }

        #[test]
        fn a_subnet_is_refused_exactly_when_it_overlaps_another(
            subnets in proptest::collection::vec(subnet(), 0..12)
        ) {
            let mut owners = SubnetOwners::default();
            let mut given: Vec<IpNetwork> = Vec::new();
            for net in subnets {
                let overlaps = given.iter().any(|other| {
                    Family::from(*other) == Family::from(net)
                        && (other.contains(net.network()) || net.contains(other.network()))
                });
                prop_assert_eq!(owners.insert(net, "x").is_err(), overlaps);
                if !overlaps {
                    given.push(net);
                }
            }
        }
    }
}
