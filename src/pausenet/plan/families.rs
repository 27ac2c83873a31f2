//! Sets of address families, and subnets.

use ipnetwork::IpNetwork;

/// Address families, as a set.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Families {
    pub ipv4: bool,
    pub ipv6: bool,
}

impl Families {
    /// The families of some addresses.
    pub(super) fn of(addresses: impl IntoIterator<Item = IpNetwork>) -> Self {
        let mut families = Self::default();
        for address in addresses {
            match address {
                IpNetwork::V4(_) => families.ipv4 = true,
                IpNetwork::V6(_) => families.ipv6 = true,
            }
        }
        families
    }
}

/// The subnet of an address.
#[expect(
    clippy::expect_used,
    reason = "an address has a prefix length of its family"
)]
pub(super) fn subnet_of(address: IpNetwork) -> IpNetwork {
    IpNetwork::new(address.network(), address.prefix()).expect("its own prefix length")
}
