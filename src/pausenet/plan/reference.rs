//! Where the reference's plugins keep an attachment's rules, so that pausenet can remove pods that
//! they attached (pure: names and comments only).
//!
//! Their nftables backends make a rule for each attachment and name it in the comment; their
//! iptables backends make a chain and put it into the chain's name. Hashes are SHA-512 in
//! hexadecimal.

use std::collections::{BTreeSet, HashMap, HashSet};

use ipnetwork::IpNetwork;
use sha2::{Digest, Sha512};

use super::firewall::CNI_FORWARD;
use crate::cni::request::Attachment;
use crate::cni::{IfName, NetworkName};
use crate::kernel::nft::expr::address_bytes;
use crate::kernel::nft::{Rule, Table, TableFamily};

/// Rules of the reference that have a comment: the table, its chains, and the comment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct RuleLocation {
    pub(crate) table: Table,
    pub(crate) chains: &'static [&'static str],
    pub(crate) comment: Comment,
    /// Chains that are the attachment's own, and go with the rules that jump to them.
    pub(crate) own_chains: Vec<String>,
}

/// How a comment names its owner.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Comment {
    Is(String),
    StartsWith(String),
    /// The container, which may have rules of another network: one of these addresses in the
    /// rule distinguishes them. Without addresses, the container alone decides.
    IsAndNames(String, BTreeSet<Vec<u8>>),
    /// No comment: the rule jumps to one of the own chains.
    ByJump,
}

impl RuleLocation {
    /// True for a rule of the attachment's.
    pub(crate) fn has(&self, rule: &Rule) -> bool {
        let chain = self.chains.contains(&rule.chain.as_str());
        chain
            && match &self.comment {
                Comment::Is(comment) => rule.comment == *comment,
                Comment::StartsWith(start) => rule.comment.starts_with(start),
                Comment::IsAndNames(comment, addresses) => {
                    let named = || rule.values.iter().any(|value| addresses.contains(value));
                    rule.comment == *comment && (addresses.is_empty() || named())
                }
                Comment::ByJump => rule.jumps.iter().any(|jump| self.own_chains.contains(jump)),
            }
    }
}

/// Locations of one chain, to find out for each of its rules at once whether one has it.
#[derive(Default)]
pub(crate) struct LocationIndex<'a> {
    by_comment: HashMap<&'a str, Vec<&'a RuleLocation>>,
    starts: HashSet<&'a str>,
    jumps: HashSet<&'a str>,
}

impl<'a> LocationIndex<'a> {
    /// The index of each table's chain in these locations.
    pub(crate) fn of_chains(locations: &'a [RuleLocation]) -> HashMap<(Table, &'static str), Self> {
        let mut all: HashMap<_, Self> = HashMap::new();
        for location in locations {
            for chain in location.chains {
                all.entry((location.table, *chain))
                    .or_default()
                    .add(location);
            }
        }
        all
    }

    fn add(&mut self, location: &'a RuleLocation) {
        match &location.comment {
            Comment::Is(comment) | Comment::IsAndNames(comment, _) => {
                self.by_comment.entry(comment).or_default().push(location);
            }
            Comment::StartsWith(start) => {
                self.starts.insert(start);
            }
            Comment::ByJump => self
                .jumps
                .extend(location.own_chains.iter().map(String::as_str)),
        }
    }

    /// Whether a rule of the chain is one of a location's.
    pub(crate) fn has(&self, rule: &Rule) -> bool {
        let by_comment = self.by_comment.get(rule.comment.as_str());
        by_comment.is_some_and(|found| found.iter().any(|location| location.has(rule)))
            || self.starts.contains(masquerade_start(&rule.comment))
            || rule.jumps.iter().any(|jump| self.jumps.contains(&**jump))
    }
}

fn table(family: TableFamily, name: &'static str) -> Table {
    Table { family, name }
}

/// The table of the reference's masquerade with nftables, and the chain with a rule for each
/// attachment.
pub(crate) const MASQUERADE: (Table, &str) = (
    Table {
        family: TableFamily::Inet,
        name: "cni_plugins_masquerade",
    },
    "masq_checks",
);

/// The tables of the reference's port mappings with nftables.
pub(crate) const PORTS: [Table; 2] = [
    Table {
        family: TableFamily::Ipv4,
        name: "cni_hostport",
    },
    Table {
        family: TableFamily::Ipv6,
        name: "cni_hostport",
    },
];

/// The chains in [`PORTS`] that have rules for each attachment.
pub(crate) const PORT_CHAINS: &[&str] = &["hostports", "hostip_hostports", "masquerading"];

/// The kernel's limit (NFT_CHAIN_MAXNAMELEN less its NUL): no chain has a longer name.
const MAX_CHAIN: usize = 255;

/// Every location where rules of the link may be: masquerade and the guard against forged MACs.
pub(crate) fn link_rule_locations(attachment: &Attachment) -> Vec<RuleLocation> {
    let Attachment {
        network,
        container,
        ifname,
    } = attachment;
    let id = format!("{}-{ifname}", container.as_given());
    // The second is jumped to from the first, so it goes after it.
    let mut own_chains = vec![
        format!("cni-br-iface-{id}"),
        format!("cni-br-iface-{id}-mac"),
    ];
    own_chains.retain(|chain| chain.len() <= MAX_CHAIN);
    let mut locations = vec![
        RuleLocation {
            table: MASQUERADE.0,
            chains: &[MASQUERADE.1],
            comment: Comment::StartsWith(masquerade_comment(attachment)),
            own_chains: Vec::new(),
        },
        RuleLocation {
            table: table(TableFamily::Bridge, "nat"),
            chains: &["PREROUTING"],
            comment: Comment::Is(format!("macspoofchk-{id}")),
            own_chains,
        },
    ];
    locations.extend(iptables(
        &["POSTROUTING"],
        &[chain_name("", network.as_given(), container.as_given())],
    ));
    locations
}

/// Where the rules of the reference's `firewall` may be: they have no comment, and name an address. None of a
/// container whose addresses are not known.
pub(crate) fn forward_rule_locations(addresses: &[IpNetwork]) -> Vec<RuleLocation> {
    if addresses.is_empty() {
        return Vec::new();
    }
    let addresses = addresses.iter().map(|net| address_bytes(net.ip()));
    let addresses: BTreeSet<_> = addresses.collect();
    let location = |table| RuleLocation {
        table,
        chains: &[CNI_FORWARD],
        comment: Comment::IsAndNames(String::new(), addresses.clone()),
        own_chains: Vec::new(),
    };
    super::firewall::TABLES.into_iter().map(location).collect()
}

/// Every location where rules of port mappings may be.
pub(crate) fn port_rule_locations(
    attachment: &Attachment,
    addresses: &[IpNetwork],
) -> Vec<RuleLocation> {
    let addresses = addresses.iter().map(|net| address_bytes(net.ip()));
    let addresses: BTreeSet<_> = addresses.collect();
    let container = attachment.container.as_given();
    let mut locations: Vec<_> = PORTS
        .into_iter()
        .map(|table| RuleLocation {
            table,
            chains: PORT_CHAINS,
            comment: Comment::IsAndNames(container.to_owned(), addresses.clone()),
            own_chains: Vec::new(),
        })
        .collect();
    locations.extend(port_chains(attachment));
    locations
}

/// Those of them that are chains, whose names contain the network too.
pub(crate) fn port_chains(attachment: &Attachment) -> [RuleLocation; 2] {
    let (network, container) = (
        attachment.network.as_given(),
        attachment.container.as_given(),
    );
    let chains = ["DN-", "SN-"].map(|prefix| chain_name(prefix, network, container));
    iptables(&["CNI-HOSTPORT-DNAT", "POSTROUTING"], &chains)
}

fn iptables(chains: &'static [&'static str], own: &[String]) -> [RuleLocation; 2] {
    [TableFamily::Ipv4, TableFamily::Ipv6].map(|family| RuleLocation {
        table: table(family, "nat"),
        chains,
        comment: Comment::ByJump,
        own_chains: own.to_vec(),
    })
}

/// What the comment of an attachment's masquerade rule starts with.
fn masquerade_comment(attachment: &Attachment) -> String {
    let Attachment {
        network,
        container,
        ifname,
    } = attachment;
    let instance = hash(&format!("{ifname}:{}", container.as_given()), 16);
    format!("{}{instance},", masquerade_network(network.as_given()))
}

/// What the comments of all of a network's masquerade rules start with.
fn masquerade_network(network: &str) -> String {
    format!("{}-", hash(network, 16))
}

/// The part of a masquerade rule's comment that its attachment decides: up to the first comma.
fn masquerade_start(comment: &str) -> &str {
    match comment.find(',') {
        Some(comma) => &comment[..=comma],
        None => comment,
    }
}

/// The masquerade rules of a network's attachments that are not among these.
pub(crate) fn stale_masquerade(
    network: &NetworkName,
    valid: &[Attachment],
) -> impl Fn(&Rule) -> bool {
    let network = masquerade_network(network.as_given());
    let valid: HashSet<_> = valid.iter().map(masquerade_comment).collect();
    move |rule| {
        rule.comment.starts_with(&network) && !valid.contains(masquerade_start(&rule.comment))
    }
}

/// The IFB that limits what a container sends, made by the reference's `bandwidth` or ours.
#[expect(clippy::expect_used, reason = "15 letters and digits are a name")]
pub(crate) fn ifb_name(attachment: &Attachment) -> IfName {
    let network = attachment.network.as_given();
    let text = format!("{network}{}", attachment.container.as_given());
    IfName::parse(&format!("bwp{}", hash(&text, 12))).expect("15 letters and digits")
}

/// The names of all chains that the iptables backends make for an attachment: for its
/// masquerade, for its ports, for the masquerade of those.
pub fn iptables_chains(network: &str, container: &str) -> [String; 3] {
    ["", "DN-", "SN-"].map(|prefix| chain_name(prefix, network, container))
}

/// Whether a chain has the name of one that is some attachment's own.
pub fn is_iptables_chain(name: &str) -> bool {
    let hash = name.strip_prefix("CNI-").map(|rest| {
        let kind = ["DN-", "SN-"]
            .iter()
            .find_map(|kind| rest.strip_prefix(kind));
        kind.unwrap_or(rest)
    });
    let is_hash = |hash: &str| hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    name.len() == CHAIN_LENGTH && hash.is_some_and(is_hash)
}

/// How long the names of those chains are.
const CHAIN_LENGTH: usize = 28;

/// The chain of a network's container.
fn chain_name(prefix: &str, network: &str, container: &str) -> String {
    let start = format!("CNI-{prefix}");
    let letters = CHAIN_LENGTH - start.len();
    start + &hash(&format!("{network}{container}"), letters)
}

fn hash(text: &str, letters: usize) -> String {
    let digest = Sha512::digest(text.as_bytes());
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    hex[..letters].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::ContainerId;

    fn attachment() -> Attachment {
        Attachment {
            network: NetworkName::parse("r").unwrap(),
            container: ContainerId::parse("ref0").unwrap(),
            ifname: IfName::parse("eth0").unwrap(),
        }
    }

    /// Seen in an error message of the reference for this network and container.
    #[test]
    fn chain_names_are_those_of_the_reference() {
        assert_eq!(chain_name("", "r", "ref0"), "CNI-58a2ceafa43ff34931e37f62");
        for chain in iptables_chains("r", "ref0") {
            assert!(is_iptables_chain(&chain), "{chain}");
        }
        // Chains that attachments share, and another program's chain.
        for chain in ["CNI-HOSTPORT-DNAT", "CNI-", "KUBE-SVC-58a2ceafa43ff34931e"] {
            assert!(!is_iptables_chain(chain), "{chain}");
        }
    }

    /// Made by the reference's `bandwidth` for this network and container.
    #[test]
    fn the_ifb_is_the_reference_s() {
        assert_eq!(ifb_name(&attachment()).as_str(), "bwp58a2ceafa43f");
    }

    #[test]
    fn a_container_s_ports_on_another_network_are_not_this_one_s() {
        let here: IpNetwork = "10.1.0.2/24".parse().unwrap();
        let there: IpNetwork = "10.2.0.2/24".parse().unwrap();
        let rule = |to: IpNetwork| Rule {
            chain: "hostports".into(),
            comment: "ref0".into(),
            values: vec![address_bytes(to.ip())],
            ..Rule::default()
        };
        let location = &port_rule_locations(&attachment(), &[here])[0];
        assert!(location.has(&rule(here)) && !location.has(&rule(there)));
        let forgotten = &port_rule_locations(&attachment(), &[])[0];
        assert!(forgotten.has(&rule(here)) && forgotten.has(&rule(there)));
    }

    #[test]
    fn an_attachment_s_rule_is_not_its_neighbour_s() {
        let mine = attachment();
        let other = Attachment {
            ifname: IfName::parse("eth1").unwrap(),
            ..attachment()
        };
        let rule = Rule {
            chain: "masq_checks".into(),
            comment: format!("{} net: r, if: eth0, id: ref0", masquerade_comment(&mine)),
            ..Rule::default()
        };
        assert!(link_rule_locations(&mine)[0].has(&rule));
        assert!(!link_rule_locations(&other)[0].has(&rule));
        let elsewhere = Rule {
            chain: "postrouting".into(),
            ..rule
        };
        assert!(!link_rule_locations(&mine)[0].has(&elsewhere));
    }

    /// A rule that each location of a thousand attachments is asked about is found by its comment,
    /// and each is asked about only where the comment is its own.
    #[test]
    fn rules_of_many_attachments_are_found_without_asking_each() {
        let attachment = |number: usize| Attachment {
            container: ContainerId::parse(&format!("c{number}")).unwrap(),
            ..attachment()
        };
        let net = |number: usize| {
            let ip = std::net::Ipv4Addr::from(0x0a00_0000 + number as u32);
            IpNetwork::new(ip.into(), 8).unwrap()
        };
        let locations: Vec<_> = (0..1000)
            .flat_map(|number| {
                let ports = port_rule_locations(&attachment(number), &[net(number)]);
                link_rule_locations(&attachment(number))
                    .into_iter()
                    .chain(ports)
            })
            .collect();
        let index = LocationIndex::of_chains(&locations);
        for ((table, chain), index) in &index {
            let asked = index.by_comment.values().map(Vec::len).max();
            assert!(asked.is_none_or(|asked| asked <= 2), "{chain}: {asked:?}");
            for number in [0, 999, 1000] {
                let mine = attachment(number);
                for comment in [
                    mine.container.to_string(),
                    format!("{} net: r, if: eth0, id: x", masquerade_comment(&mine)),
                    format!("macspoofchk-{}-eth0", mine.container),
                    String::new(),
                ] {
                    for (values, jump) in [(net(number), "DN-"), (net(number + 1), "")] {
                        let rule = Rule {
                            chain: (*chain).to_owned(),
                            comment: comment.clone(),
                            values: vec![address_bytes(values.ip())],
                            jumps: vec![chain_name(jump, "r", mine.container.as_str())],
                            ..Rule::default()
                        };
                        let mut asked = locations.iter().filter(|at| at.table == *table);
                        let expected = asked.any(|location| location.has(&rule));
                        assert_eq!(index.has(&rule), expected, "{rule:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn masquerade_rules_of_valid_attachments_are_not_stale() {
        let mine = attachment();
        let other = Attachment {
            container: ContainerId::parse("other").unwrap(),
            ..attachment()
        };
        let rule = |of: &Attachment| Rule {
            comment: format!("{} net: r, if: eth0", masquerade_comment(of)),
            ..Rule::default()
        };
        let foreign = Rule {
            comment: "a comment, of another program".to_owned(),
            ..Rule::default()
        };
        let is_stale = stale_masquerade(&mine.network, std::slice::from_ref(&mine));
        assert!(!is_stale(&rule(&mine)) && is_stale(&rule(&other)) && !is_stale(&foreign));
    }
}
