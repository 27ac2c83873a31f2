//! The names of an attachment: its host end's hashed name, and an alias in plain text; and the MAC
//! for an address.
//!
//! DEL finds the host end by its name, without the namespace or any stored state; the alias names
//! its attachment, and its presence means that the attachment is complete. All of them are frozen:
//! later versions look for the host ends of earlier ones, and neighbours cache MACs.

use std::net::IpAddr;

use sha2::{Digest, Sha256};

use crate::cni::request::Attachment;
use crate::cni::{ContainerId, IfName, MacAddr, NetworkName};
use crate::kernel::link::Link;

/// RFC 4648's base 32 in lower case: no letter that a name could confuse with another's.
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// What the alias starts with.
const MARK: &str = "pausenet";

/// What the comments of chained port mappings start with.
const CHAINED_MARK: &str = "portmap";

/// What the comments of the elements of `firewall` start with.
const FIREWALL_MARK: &str = "firewall";

/// What the names of all host ends start with.
pub const HOST_END_START: &str = "veth";

/// The link group of everything that pausenet makes: "paus" in ASCII. It is set when a link is
/// created, so that even a half-made one is known to be ours.
pub const LINK_GROUP: u32 = u32::from_be_bytes(*b"paus");

/// The first of the groups that GC puts links into to remove them in one batch: "gone". They are
/// whole attachments: one that a killed GC has left there is still known by its alias.
pub const BATCH_DELETE_GROUP: u32 = u32::from_be_bytes(*b"gone");

/// The link group of bridges that pausenet created and where every address has always had the MAC
/// of [`mac_of`]: "1mac". It is set when the bridge is created, and the first
/// [attachment](super::container::KnownMacs) of which it is not true removes it for good.
pub const STEADY_GROUP: u32 = u32::from_be_bytes(*b"1mac");

/// The same where this is true of IPv4 addresses, and where every IPv6 address was given once: "6new".
pub const NEW_GROUP: u32 = u32::from_be_bytes(*b"6new");

/// The host end's name: `veth` and the first 55 bits of SHA-256 over network, container and
/// interface (each followed by a NUL) in base 32. 15 characters in all.
///
/// Two attachments of one name would need about 2^27 of them on one host for an even chance.
/// If it happens, the alias decides which attachment the link belongs to, and the second ADD is
/// refused.
#[expect(clippy::expect_used, reason = "15 letters and digits are a name")]
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
#[expect(clippy::expect_used, reason = "14 letters and digits are a name")]
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

/// The MAC of the interface whose first address this is: every holder of the address has this MAC,
/// so a neighbour's entry for the previous holder stays valid. 0a:58 (locally administered; the
/// prefix that the reference once used) and the four bytes of IPv4, or 0a and the first 40 bits of
/// SHA-256 over those of IPv6.
pub fn mac_of(address: IpAddr) -> MacAddr {
    match address {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            MacAddr([0x0a, 0x58, a, b, c, d])
        }
        IpAddr::V6(ip) => {
            let digest: [u8; 32] = Sha256::digest(ip.octets()).into();
            let [a, b, c, d, e, ..] = digest;
            MacAddr([0x0a, a, b, c, d, e])
        }
    }
}

/// The alias of a whole attachment: `pausenet NETWORK CONTAINER INTERFACE`. None of the three
/// contains a space, and their limits keep it within the kernel's (IFALIASZ less its NUL).
pub fn alias(attachment: &Attachment) -> String {
    marked(MARK, attachment)
}

fn marked(mark: &str, attachment: &Attachment) -> String {
    let Attachment {
        network,
        container,
        ifname,
    } = attachment;
    format!("{mark} {network} {container} {ifname}")
}

/// The owner of a link on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ownership {
    /// A link of this attachment, which is whole.
    Attachment(Attachment),
    /// Ours, without its alias yet: an ADD is creating it, or it is debris of a killed one. The
    /// lock of [`lock_name`] distinguishes the two: see [`crate::apply::remove_debris`].
    HalfMade,
    /// The link belongs to no attachment.
    Foreign,
}

impl Ownership {
    /// Reads a link's alias, and without one its group and kind.
    pub fn of(link: &Link) -> Self {
        match link.alias.as_deref().filter(|alias| !alias.is_empty()) {
            Some(alias) => parse(MARK, alias).map_or(Self::Foreign, Self::Attachment),
            None if link.group == LINK_GROUP && matches!(link.kind.as_str(), "veth" | "ifb") => {
                Self::HalfMade
            }
            None => Self::Foreign,
        }
    }

    /// The attachment of a whole link.
    pub fn attachment(self) -> Option<Attachment> {
        match self {
            Self::Attachment(attachment) => Some(attachment),
            Self::HalfMade | Self::Foreign => None,
        }
    }
}

/// Whether a link is ours and has no alias: see [`Ownership::HalfMade`].
pub fn is_half_made(link: &Link) -> bool {
    Ownership::of(link) == Ownership::HalfMade
}

/// The attachment that a link is the host end of. (An attachment's IFB has its alias too.)
pub fn attachment_of_host_end(link: &Link) -> Option<Attachment> {
    match link.kind.as_str() {
        "veth" => Ownership::of(link).attachment(),
        _ => None,
    }
}

/// The plugin that made an attachment's elements in nftables; their comments name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mapper {
    /// The plugin that attached the container.
    Own,
    /// `portmap`, behind a plugin that may be another's.
    Chained,
    /// `firewall`, in the same place.
    Firewall,
}

impl Mapper {
    pub(crate) const ALL: [Self; 3] = [Self::Own, Self::Chained, Self::Firewall];

    /// The comment of its elements in nftables. Behind our own plugin, the ports of `portmap` must
    /// not be taken for the link's elements, so the two differ.
    ///
    /// The text is that of an alias; one that nft would not read back names network and host end.
    pub(crate) fn owner(self, attachment: &Attachment) -> String {
        let whole = marked(self.mark(), attachment);
        // nft prints a comment between quotes, with no way to have one in it.
        if whole.len() <= COMMENT_LIMIT && !whole.contains('"') {
            return whole;
        }
        let (mark, host_end) = (self.mark(), host_end_name(attachment));
        format!("{mark} {} {ABBREVIATED}{host_end}", attachment.network)
    }

    pub(crate) fn mark(self) -> &'static str {
        match self {
            Self::Own => MARK,
            Self::Chained => CHAINED_MARK,
            Self::Firewall => FIREWALL_MARK,
        }
    }
}

/// The comment of elements that all attachments of a network share.
pub(crate) fn network_owner(network: &NetworkName) -> String {
    format!("{FIREWALL_MARK} {network}")
}

/// The network that a comment of [`network_owner`] names; None for any other.
pub(crate) fn closed_network(comment: &str) -> Option<NetworkName> {
    let network = comment.strip_prefix(FIREWALL_MARK)?.strip_prefix(' ')?;
    NetworkName::parse(network).ok()
}

/// The longest comment that nft reads, in bytes (libnftnl's NFTNL_UDATA_COMMENT_MAXLEN). It prints
/// longer ones too, but could not load a ruleset with them as it was saved.
const COMMENT_LIMIT: usize = 128;

/// What stands before the host end's name in an abbreviated comment: no container's ID begins so.
const ABBREVIATED: char = '~';

/// Network and host end of the owner of an nftables element, from an abbreviated comment.
pub fn abbreviated_owner(comment: &str) -> Option<(Mapper, NetworkName, IfName)> {
    let mut words = comment.split(' ');
    let mark = words.next()?;
    let mapper = Mapper::ALL
        .into_iter()
        .find(|mapper| mapper.mark() == mark)?;
    let network = NetworkName::parse(words.next()?).ok()?;
    let host_end = IfName::parse(words.next()?.strip_prefix(ABBREVIATED)?).ok()?;
    words
        .next()
        .is_none()
        .then_some((mapper, network, host_end))
}

/// The owner of an nftables element, from its comment; None for a comment that is not ours, or
/// abbreviated: see [`abbreviated_owner`].
pub fn element_owner(comment: &str) -> Option<(Mapper, Attachment)> {
    Mapper::ALL
        .into_iter()
        .find_map(|mapper| Some((mapper, parse(mapper.mark(), comment)?)))
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
        for (network, container) in [(100, 128), (101, 129), (255, 10_000)] {
            let (network, container) = ("n".repeat(network), "c".repeat(container));
            let longest = attachment(&network, &container, "fifteen-bytes-x");
            assert!(alias(&longest).len() <= 255);
            assert_eq!(parse(MARK, &alias(&longest)), Some(longest));
        }
    }

    #[test]
    fn where_one_name_ends_and_the_next_begins_counts() {
        assert_ne!(
            host_end_name(&attachment("ab", "c", "eth0")),
            host_end_name(&attachment("a", "bc", "eth0"))
        );
    }

    fn link(kind: &str, group: u32, alias: Option<&str>) -> Link {
        Link {
            kind: kind.to_owned(),
            group,
            alias: alias.map(str::to_owned),
            ..Link::default()
        }
    }

    #[test]
    fn an_owner_is_one_that_nft_reads_back() {
        for (network, container) in [(255, 300), (100, 128), (100, 1), (40, 64), (1, 128), (1, 1)] {
            let ifname = if network == container {
                "eth\"0"
            } else {
                "eth0"
            };
            let attachment = attachment(&"n".repeat(network), &"c".repeat(container), ifname);
            for mapper in Mapper::ALL {
                let owner = mapper.owner(&attachment);
                assert!(
                    owner.len() <= COMMENT_LIMIT && !owner.contains('"'),
                    "{owner}"
                );
                let whole = marked(mapper.mark(), &attachment);
                if owner == whole {
                    assert_eq!(element_owner(&owner), Some((mapper, attachment.clone())));
                    assert_eq!(abbreviated_owner(&owner), None);
                } else {
                    assert_eq!(element_owner(&owner), None);
                    let known = (
                        mapper,
                        attachment.network.clone(),
                        host_end_name(&attachment),
                    );
                    assert_eq!(abbreviated_owner(&owner), Some(known));
                }
            }
        }
    }

    #[test]
    fn foreign_aliases_are_not_ours() {
        for foreign in [
            "uplink",
            "pausenet",
            "pausenet a b",
            "pausenet a b c d",
            "pausenet a b ../c",
            "portmap a b c",
        ] {
            let link = link("veth", LINK_GROUP, Some(foreign));
            assert_eq!(Ownership::of(&link), Ownership::Foreign, "{foreign}");
        }
    }

    #[test]
    fn only_a_link_of_our_group_and_kind_without_an_alias_is_half_made() {
        for alias in [None, Some("")] {
            assert!(is_half_made(&link("veth", LINK_GROUP, alias)));
            assert!(is_half_made(&link("ifb", LINK_GROUP, alias)));
            assert!(!is_half_made(&link("dummy", LINK_GROUP, alias)));
            assert!(!is_half_made(&link("veth", 0, alias)));
        }
    }

    proptest! {
        #[test]
        fn an_alias_reads_back_as_its_attachment(
            network in "[a-zA-Z0-9][a-zA-Z0-9_.-]{0,60}",
            container in "[a-zA-Z0-9][a-zA-Z0-9_.-]{0,60}",
            ifname in "[a-z][a-z0-9.]{0,14}",
        ) {
            let attachment = attachment(&network, &container, &ifname);
            let link = link("veth", 0, Some(&alias(&attachment)));
            prop_assert_eq!(Ownership::of(&link), Ownership::Attachment(attachment.clone()));
            for mapper in Mapper::ALL {
                let comment = mapper.owner(&attachment);
                prop_assert!(comment.len() <= COMMENT_LIMIT);
                if comment.contains(ABBREVIATED) {
                    let owner = (mapper, attachment.network.clone(), host_end_name(&attachment));
                    prop_assert_eq!(element_owner(&comment), None);
                    prop_assert_eq!(abbreviated_owner(&comment), Some(owner));
                } else {
                    let owner = (mapper, attachment.clone());
                    prop_assert_eq!(element_owner(&comment), Some(owner));
                }
            }
            prop_assert_eq!(host_end_name(&attachment).as_str().len(), 15);
        }
    }
}
