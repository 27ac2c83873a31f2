//! Arithmetic with sets of subnets (pure).

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

/// The fewest subnets that have the same addresses as these. No two of them overlap.
pub fn aggregate(subnets: impl IntoIterator<Item = IpNetwork>) -> Vec<IpNetwork> {
    let mut sorted: Vec<_> = subnets.into_iter().map(Span::of).collect();
    // The larger of two that begin together comes first.
    sorted.sort_by_key(|span| (span.v4, span.first, span.prefix));
    let mut kept: Vec<Span> = Vec::new();
    for span in sorted {
        if kept.last().is_some_and(|last| last.contains(&span)) {
            continue;
        }
        kept.push(span);
        while let [.., a, b] = kept[..]
            && let Some(both) = a.joined_with(&b)
        {
            kept.truncate(kept.len() - 2);
            kept.push(both);
        }
    }
    kept.into_iter().map(Span::subnet).collect()
}

/// Subnets with owners, of which no two overlap.
#[derive(Debug, Default)]
pub struct Claims<'a>(BTreeMap<(bool, u128), (IpNetwork, &'a str)>);

impl<'a> Claims<'a> {
    /// Gives a subnet to an owner.
    ///
    /// # Errors
    /// The subnet that is in the way, and its owner.
    pub fn claim(&mut self, subnet: IpNetwork, owner: &'a str) -> Result<(), (IpNetwork, &'a str)> {
        let span = Span::of(subnet);
        // They do not overlap: so only the last that begins before this one's end can be in its way.
        let before = self.0.range(..=(span.v4, span.last())).next_back();
        if let Some(((v4, first), (other, of))) = before {
            let reaches = *first >= span.first || Span::of(*other).last() >= span.first;
            if *v4 == span.v4 && reaches {
                return Err((*other, of));
            }
        }
        self.0.insert((span.v4, span.first), (subnet, owner));
        Ok(())
    }
}

/// A subnet as numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    v4: bool,
    first: u128,
    prefix: u8,
}

impl Span {
    fn of(subnet: IpNetwork) -> Self {
        let first = match subnet.network() {
            IpAddr::V4(ip) => u32::from(ip).into(),
            IpAddr::V6(ip) => ip.into(),
        };
        Self {
            v4: subnet.is_ipv4(),
            first,
            prefix: subnet.prefix(),
        }
    }

    fn bits(self) -> u8 {
        if self.v4 { 32 } else { 128 }
    }

    /// All bits behind the prefix.
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
        self.v4 == other.v4 && (self.first..=self.last()).contains(&other.first)
    }

    /// The subnet that these are the two halves of.
    fn joined_with(&self, other: &Self) -> Option<Self> {
        let halves = self.v4 == other.v4 && self.prefix == other.prefix && self.prefix > 0;
        let both = Self {
            prefix: self.prefix.checked_sub(1)?,
            ..*self
        };
        let starts_here = both.first & both.host_mask() == 0;
        (halves && starts_here && self.last().checked_add(1) == Some(other.first)).then_some(both)
    }

    fn subnet(self) -> IpNetwork {
        let ip: IpAddr = if self.v4 {
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
    fn halves_become_one_and_parts_disappear() {
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
        let mut claims = Claims::default();
        let net = |text: &str| text.parse::<IpNetwork>().unwrap();
        claims.claim(net("10.0.1.0/24"), "a").unwrap();
        claims.claim(net("10.0.2.0/24"), "b").unwrap();
        claims.claim(net("fd00::/64"), "a").unwrap();
        for other in ["10.0.1.0/24", "10.0.1.128/25", "10.0.0.0/23", "10.0.0.0/22"] {
            assert!(claims.claim(net(other), "c").is_err(), "{other}");
        }
        assert_eq!(
            claims.claim(net("fd00::8/128"), "c"),
            Err((net("fd00::/64"), "a"))
        );
        claims.claim(net("::a00:100/120"), "c").unwrap();
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
            let mut claims = Claims::default();
            for net in &fewest {
                prop_assert!(claims.claim(*net, "x").is_ok(), "{:?} overlap", fewest);
            }
            prop_assert_eq!(aggregate(fewest.clone()), fewest);
        }

        #[test]
        fn a_claim_is_refused_exactly_when_it_overlaps(
            subnets in proptest::collection::vec(subnet(), 0..12)
        ) {
            let mut claims = Claims::default();
            let mut given: Vec<IpNetwork> = Vec::new();
            for net in subnets {
                let overlaps = given.iter().any(|other| {
                    other.is_ipv4() == net.is_ipv4()
                        && (other.contains(net.network()) || net.contains(other.network()))
                });
                prop_assert_eq!(claims.claim(net, "x").is_err(), overlaps);
                if !overlaps {
                    given.push(net);
                }
            }
        }
    }
}
