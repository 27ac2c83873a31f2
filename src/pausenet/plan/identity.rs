//! The identity that a host end carries: a name made by hash, and an alias in plain text; and the
//! MAC that goes with an address.
//!
//! The name is what DEL finds it by, with no netns and no memory; the alias says whose it is,
//! and its presence that the attachment is whole. All are frozen: a host end made by one
//! version is looked for by all later ones, and neighbours remember MACs.

use std::net::IpAddr;

use sha2::{Digest, Sha256};

use crate::cni::request::Attachment;
use crate::cni::{ContainerId, IfName, MacAddr, NetworkName};

/// RFC 4648's base 32 in lower case: no letter that a name could confuse with another's.
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// What the alias starts with.
const MARK: &str = "pausenet";

/// What the comments of chained port mappings start with.
const CHAINED_MARK: &str = "portmap";

/// What the names of all host ends start with.
pub const HOST_END_START: &str = "veth";

/// The host end's name: `veth` and the first 55 bits of SHA-256 over network, container and
/// interface (each followed by a NUL) in base 32. 15 characters in all.
///
/// Two attachments of one name would need about 2^27 of them on one host for an even chance.
/// If it happens, the alias decides whose the link is, and the second ADD is refused.
pub fn host_end_name(attachment: &Attachment) -> IfName {
    let mut hash = Sha256::new();
    for part in [
        attachment.network.as_str(),
        attachment.container.as_str(),
        attachment.ifname.as_str(),
    ] {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    let digest = hash.finalize();
    let bits = digest[..8]
        .iter()
        .fold(0, |bits, byte| bits << 8 | u64::from(*byte));
    let name: String = (0..11)
        .map(|i| BASE32[(bits >> (59 - 5 * i) & 31) as usize] as char)
        .collect();
    IfName::parse(&format!("{HOST_END_START}{name}")).expect("15 letters and digits")
}

/// The name of the attachment's IFB, if it has one: `ifb` and the same letters. It carries the
/// same alias.
pub fn ifb_name(attachment: &Attachment) -> IfName {
    let host_end = host_end_name(attachment);
    IfName::parse(&format!(
        "ifb{}",
        &host_end.as_str()[HOST_END_START.len()..]
    ))
    .expect("14 letters")
}

/// The name of the host end that a link of ours belongs to; its lock has that name.
pub fn lock_name(link: &str) -> Option<IfName> {
    let name = match link.strip_prefix("ifb") {
        Some(letters) => format!("{HOST_END_START}{letters}"),
        None => link.to_owned(),
    };
    IfName::parse(&name).ok()
}

/// The MAC of the interface whose first address this is: whoever holds the address has this MAC, so
/// who knew its last holder knows this one. 0a:58 (locally administered, the mark of the reference's
/// private addresses when it made them so) and the four bytes of IPv4, or 0a and the first 40 bits of
/// SHA-256 over those of IPv6.
pub fn mac_of(address: IpAddr) -> MacAddr {
    match address {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            MacAddr([0x0a, 0x58, a, b, c, d])
        }
        IpAddr::V6(ip) => {
            let digest = Sha256::digest(ip.octets());
            let [a, b, c, d, e] = digest[..5].try_into().expect("5 bytes of 32");
            MacAddr([0x0a, a, b, c, d, e])
        }
    }
}

/// The alias of a whole attachment: `pausenet NETWORK CONTAINER INTERFACE`. None of the three
/// contains a space, and their limits keep it within the kernel's (IFALIASZ less its NUL).
pub fn alias(attachment: &Attachment) -> String {
    marked(MARK, attachment)
}

/// What an element in nftables tells of a container that another plugin wired: `portmap` in
/// front instead of `pausenet`, so that the two are never taken for each other.
pub fn chained_alias(attachment: &Attachment) -> String {
    marked(CHAINED_MARK, attachment)
}

fn marked(mark: &str, attachment: &Attachment) -> String {
    let Attachment {
        network,
        container,
        ifname,
    } = attachment;
    format!("{mark} {network} {container} {ifname}")
}

/// Whose an element in nftables is, by either mark.
pub fn element_owner(comment: &str) -> Owner {
    match parse(CHAINED_MARK, comment) {
        Some(attachment) => Owner::Attachment(attachment),
        None => Owner::of(Some(comment)),
    }
}

/// Whose a link is, as far as its alias tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// No alias: half made, or not ours.
    Nobody,
    /// The whole attachment that the alias names.
    Attachment(Attachment),
    /// An alias of somebody else's.
    Foreign(String),
}

impl Owner {
    /// Reads a link's alias.
    pub fn of(alias: Option<&str>) -> Self {
        let Some(text) = alias.filter(|alias| !alias.is_empty()) else {
            return Self::Nobody;
        };
        parse(MARK, text).map_or_else(|| Self::Foreign(text.to_owned()), Self::Attachment)
    }
}

fn parse(mark: &str, alias: &str) -> Option<Attachment> {
    let mut words = alias.split(' ');
    if words.next() != Some(mark) {
        return None;
    }
    let attachment = Attachment {
        network: NetworkName::parse(words.next()?).ok()?,
        container: ContainerId::parse(words.next()?).ok()?,
        ifname: IfName::parse(words.next()?).ok()?,
    };
    words.next().is_none().then_some(attachment)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn attachment(network: &str, container: &str, ifname: &str) -> Attachment {
        Attachment {
            network: NetworkName::parse(network).unwrap(),
            container: ContainerId::parse(container).unwrap(),
            ifname: IfName::parse(ifname).unwrap(),
        }
    }

    /// Frozen: links with these names are out there. Made once, and checked against
    /// `printf 'podnet\0c1\0eth0\0' | sha256sum`, its first 7 bytes read as base 32.
    #[test]
    fn names_are_frozen() {
        for (network, container, ifname, name) in [
            ("podnet", "c1", "eth0", "vethkqtm6rbkqlw"),
            ("podnet", "c1", "net1", "vethe66ljo5bkfv"),
            ("kindnet", "0a1b2c3d4e5f", "eth0", "veth5u7ripd6le4"),
        ] {
            assert_eq!(
                host_end_name(&attachment(network, container, ifname)).as_str(),
                name
            );
        }
    }

    /// Frozen too. That of IPv6 is `printf '\xfd\0…\5' | sha256sum`, its first 5 bytes.
    #[test]
    fn macs_are_frozen() {
        for (address, mac) in [
            ("10.1.0.5", "0a:58:0a:01:00:05"),
            ("fd00::5", "0a:96:aa:09:cb:d8"),
        ] {
            assert_eq!(mac_of(address.parse().unwrap()).to_string(), mac);
        }
    }

    #[test]
    fn the_longest_names_fit_into_an_alias() {
        let longest = attachment(&"n".repeat(100), &"c".repeat(128), "fifteen-bytes-x");
        assert!(alias(&longest).len() <= 255);
        assert!(NetworkName::parse(&"n".repeat(101)).is_err());
        assert!(ContainerId::parse(&"c".repeat(129)).is_err());
    }

    #[test]
    fn where_one_name_ends_and_the_next_begins_counts() {
        assert_ne!(
            host_end_name(&attachment("ab", "c", "eth0")),
            host_end_name(&attachment("a", "bc", "eth0"))
        );
    }

    #[test]
    fn foreign_aliases_are_not_ours() {
        for foreign in [
            "uplink",
            "pausenet",
            "pausenet a b",
            "pausenet a b c d",
            "pausenet a b ../c",
        ] {
            assert_eq!(Owner::of(Some(foreign)), Owner::Foreign(foreign.to_owned()));
        }
        assert_eq!(Owner::of(None), Owner::Nobody);
        assert_eq!(Owner::of(Some("")), Owner::Nobody);
    }

    proptest! {
        #[test]
        fn an_alias_reads_back_as_its_attachment(
            network in "[a-zA-Z0-9][a-zA-Z0-9_.-]{0,60}",
            container in "[a-zA-Z0-9][a-zA-Z0-9_.-]{0,60}",
            ifname in "[a-z][a-z0-9.]{0,14}",
        ) {
            let attachment = attachment(&network, &container, &ifname);
            prop_assert_eq!(Owner::of(Some(&alias(&attachment))), Owner::Attachment(attachment.clone()));
            prop_assert_eq!(host_end_name(&attachment).as_str().len(), 15);
        }
    }
}
