//! Rules of other programs that drop a network's packets, in any base chain on their way.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::forwarding::{HostLink, RuleKind};
use super::packet::{Direction, ESTABLISHED, Fate, LinkName, NEW, Packet, TableRules};
use super::{AllowedTraffic, FirewallManager, Obstacle, Remedy};
use crate::cni::Family;
use crate::kernel::iptables_legacy;
use crate::kernel::nft::{HookPoint, Policy, TableFamily};
use crate::plan::names::HOST_END_START;

/// A base chain of nftables, iptables' own among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BaseChain {
    pub(crate) family: TableFamily,
    pub(crate) table: String,
    pub(crate) name: String,
    pub(crate) hook: HookPoint,
    pub(crate) policy: Policy,
    /// It is one of iptables-legacy.
    pub(crate) is_legacy: bool,
}

/// Traffic of a network, and the subnets of its pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forwarded {
    pub allowed: AllowedTraffic,
    pub subnets: Vec<IpNetwork>,
}

/// Addresses that other rules of the host keep pods from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreachable {
    /// Such as `chain PREROUTING of table ip raw`.
    pub place: String,
    pub networks: Vec<AllowedTraffic>,
    pub addresses: Vec<IpAddr>,
}

impl BaseChain {
    /// Such as `chain FORWARD of table ip filter`.
    pub(crate) fn place(&self) -> String {
        if self.is_legacy {
            let program = iptables_legacy::program(self.ip_family());
            return format!("chain {} of {program}'s table {}", self.name, self.table);
        }
        format!(
            "chain {} of table {} {}",
            self.name,
            self.family_word(),
            self.table
        )
    }

    /// Of a chain of iptables.
    fn ip_family(&self) -> Family {
        match self.family {
            TableFamily::Ipv6 => Family::Ipv6,
            TableFamily::Ipv4 | TableFamily::Inet | TableFamily::Bridge => Family::Ipv4,
        }
    }

    fn family_word(&self) -> &'static str {
        match self.family {
            TableFamily::Inet => "inet",
            TableFamily::Ipv4 => "ip",
            TableFamily::Ipv6 => "ip6",
            TableFamily::Bridge => "bridge",
        }
    }

    fn families(&self, traffic: &AllowedTraffic) -> Vec<Family> {
        let families = traffic.families();
        let of_traffic = [(Family::Ipv4, families.ipv4), (Family::Ipv6, families.ipv6)];
        let is_of_chain = |family: Family| match self.family {
            TableFamily::Inet => true,
            TableFamily::Ipv4 => family == Family::Ipv4,
            TableFamily::Ipv6 => family == Family::Ipv6,
            TableFamily::Bridge => false,
        };
        let wanted = of_traffic.into_iter().filter(|(_, wanted)| *wanted);
        wanted
            .map(|(family, _)| family)
            .filter(|family| is_of_chain(*family))
            .collect()
    }

    /// Rules, in this chain or behind its jumps, that drop what pods send or the answers to it. What
    /// the policy drops, or a last rule that drops all, is in [`mod@super::obstacles`].
    pub(crate) fn drops(
        &self,
        rules: &TableRules,
        traffic: &[Forwarded],
        uplink: Option<&str>,
    ) -> Vec<Obstacle> {
        let mut obstacles: Vec<Obstacle> = Vec::new();
        let (mut places, mut seen) = (HashMap::new(), HashSet::new());
        for one in traffic {
            let Some(chain) = self.drop_of(rules, one, uplink) else {
                continue;
            };
            let network = one.allowed.network.clone();
            let why = match chain == self.name {
                true => "a rule of it drops or rejects it".to_owned(),
                false => format!("it jumps to {chain}, where a rule drops or rejects it"),
            };
            let accepts = self.accepts(&chain, &one.allowed.link);
            let place = *places.entry((chain, accepts.clone())).or_insert_with(|| {
                obstacles.push(Obstacle {
                    manager: FirewallManager::Unknown,
                    place: self.place(),
                    why,
                    networks: Vec::new(),
                    remedy: Remedy::Commands(accepts),
                });
                obstacles.len() - 1
            });
            if seen.insert((place, network.clone())) {
                obstacles[place].networks.push(network);
            }
        }
        obstacles
    }

    /// The chain with the rule that drops a packet of this traffic.
    fn drop_of(&self, rules: &TableRules, one: &Forwarded, uplink: Option<&str>) -> Option<String> {
        let directions: &[Direction] = match self.hook {
            HookPoint::Forward => &[Direction::Out, Direction::Answer],
            HookPoint::PreRouting | HookPoint::PostRouting => &[Direction::Out],
            HookPoint::Input | HookPoint::Output => &[],
        };
        for family in self.families(&one.allowed) {
            for direction in directions {
                let comment = one.allowed.comment(match direction {
                    Direction::Out => RuleKind::FromPods,
                    Direction::Answer | Direction::In => RuleKind::Replies,
                });
                for subnet in subnets(one, family) {
                    let packet = self.packet(*direction, family, one, subnet, uplink, &comment);
                    if let Fate::Dropped(chain) = packet.follow(rules, &self.name) {
                        return Some(chain);
                    }
                }
            }
        }
        None
    }

    /// Whether rules of this chain certainly accept what the pods send and the answers to it.
    pub(crate) fn accepts_all(
        &self,
        rules: &TableRules,
        one: &Forwarded,
        uplink: Option<&str>,
    ) -> bool {
        let is_accepted = |direction, family, subnet| {
            let packet = self.packet(direction, family, one, subnet, uplink, "");
            packet.follow(rules, &self.name) == Fate::Accepted
        };
        self.families(&one.allowed).into_iter().all(|family| {
            let mut subnets = subnets(one, family).into_iter();
            subnets.all(|subnet| {
                is_accepted(Direction::Out, family, subnet)
                    && is_accepted(Direction::Answer, family, subnet)
            })
        })
    }

    /// Whether new connections from outside reach the pods' own addresses, as far as this chain can
    /// tell.
    pub(crate) fn lets_in(
        &self,
        rules: &TableRules,
        one: &Forwarded,
        uplink: Option<&str>,
    ) -> bool {
        let families = self.families(&one.allowed);
        // A chain of the other family says nothing about it.
        families.is_empty()
            || families.into_iter().any(|family| {
                subnets(one, family).into_iter().any(|subnet| {
                    let packet = self.packet(Direction::In, family, one, subnet, uplink, "");
                    match packet.follow(rules, &self.name) {
                        Fate::Accepted => true,
                        Fate::GoesOn => self.policy == Policy::Accept,
                        Fate::Dropped(_) | Fate::Unknown => false,
                    }
                })
            })
    }

    fn packet<'a>(
        &self,
        direction: Direction,
        family: Family,
        one: &'a Forwarded,
        subnet: Option<IpNetwork>,
        uplink: Option<&'a str>,
        accepted_by: &'a str,
    ) -> Packet<'a> {
        let pods = match &one.allowed.link {
            HostLink::Bridge(name, _) => LinkName::Is(name.as_str()),
            HostLink::HostEnds(_) => LinkName::StartsWith(HOST_END_START),
        };
        let outside = match (uplink, &one.allowed.link) {
            (Some(uplink), _) => LinkName::Is(uplink),
            (None, HostLink::Bridge(name, _)) => LinkName::IsNot(name.as_str()),
            (None, HostLink::HostEnds(_)) => LinkName::IsNot(HOST_END_START),
        };
        let (in_link, out_link) = match direction {
            Direction::Out => (pods, outside),
            Direction::Answer | Direction::In => (outside, pods),
        };
        let (source, destination) = match direction {
            Direction::Out => (subnet, None),
            Direction::Answer | Direction::In => (None, subnet),
        };
        let state = match direction {
            Direction::Out | Direction::In => NEW,
            Direction::Answer => ESTABLISHED,
        };
        Packet {
            direction,
            family,
            in_link,
            // The way out is not known yet.
            out_link: match self.hook {
                HookPoint::PreRouting | HookPoint::Input => LinkName::Unknown,
                HookPoint::Forward | HookPoint::Output | HookPoint::PostRouting => out_link,
            },
            source,
            destination,
            state: (self.hook != HookPoint::PreRouting).then_some(state),
            accepted_by: (!accepted_by.is_empty()).then_some(accepted_by),
        }
    }

    /// Commands that accept the traffic before the rule that drops it.
    fn accepts(&self, chain: &str, link: &HostLink) -> Vec<String> {
        // iptables could not print its own chains with rules of nft's.
        let is_iptables = matches!(self.family, TableFamily::Ipv4 | TableFamily::Ipv6)
            && (self.is_legacy || ["filter", "raw", "mangle"].contains(&self.table.as_str()));
        let both_ways = self.hook == HookPoint::Forward;
        if is_iptables {
            let program = match (self.is_legacy, self.ip_family()) {
                (true, family) => iptables_legacy::program(family),
                (false, Family::Ipv6) => "ip6tables",
                (false, Family::Ipv4) => "iptables",
            };
            let table = match self.table.as_str() {
                "filter" => String::new(),
                table => format!(" -t {table}"),
            };
            let (from, to) = match link {
                HostLink::Bridge(name, _) => (format!("-i {name}"), format!("-o {name}")),
                HostLink::HostEnds(subnet) => (format!("-s {subnet}"), format!("-d {subnet}")),
            };
            let insert = format!("{program}{table} -I {chain}");
            let mut commands = vec![format!("{insert} {from} -j ACCEPT")];
            if both_ways {
                commands.push(format!(
                    "{insert} {to} -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT"
                ));
            }
            return commands;
        }
        let insert = format!(
            "nft insert rule {} {} {chain}",
            self.family_word(),
            self.table
        );
        let (from, to) = match link {
            HostLink::Bridge(name, _) => (format!("iifname {name}"), format!("oifname {name}")),
            HostLink::HostEnds(subnet) => {
                let ip = if subnet.is_ipv4() { "ip" } else { "ip6" };
                (
                    format!("{ip} saddr {subnet}"),
                    format!("{ip} daddr {subnet}"),
                )
            }
        };
        let mut commands = vec![format!("{insert} {from} accept")];
        if both_ways {
            commands.push(format!("{insert} {to} ct state established,related accept"));
            commands.push(format!("{insert} {to} ct status dnat accept"));
        }
        commands
    }

    /// Single addresses that a rule of this chain keeps pods from, because they do not come by the
    /// link that it names: Docker's, for the addresses of its containers.
    pub(crate) fn unreachable(
        &self,
        rules: &TableRules,
        traffic: &[Forwarded],
    ) -> Option<Unreachable> {
        if self.hook != HookPoint::PreRouting {
            return None;
        }
        let mut found = Unreachable {
            place: self.place(),
            networks: Vec::new(),
            addresses: Vec::new(),
        };
        for one in traffic {
            let mut addresses = Vec::new();
            for family in self.families(&one.allowed) {
                for subnet in subnets(one, family) {
                    let packet = self.packet(Direction::Out, family, one, subnet, None, "");
                    let own = rules.of(&self.name);
                    addresses.extend(own.filter_map(|rule| packet.kept_from(rule, rules)));
                }
            }
            if !addresses.is_empty() {
                found.networks.push(one.allowed.clone());
                found.addresses.extend(addresses);
            }
        }
        found.addresses.sort();
        found.addresses.dedup();
        (!found.addresses.is_empty()).then_some(found)
    }
}

/// The subnets of a family; None for a network whose addresses are not known.
fn subnets(one: &Forwarded, family: Family) -> Vec<Option<IpNetwork>> {
    let own = one
        .subnets
        .iter()
        .filter(|subnet| Family::from(**subnet) == family);
    let own: Vec<_> = own.copied().map(Some).collect();
    if own.is_empty() { vec![None] } else { own }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::{IfName, NetworkName};
    use crate::kernel::nft::{Condition, ConnectionState, PacketField, Rule, RuleVerdict};
    use crate::plan::Families;

    fn pods() -> Forwarded {
        let families = Families {
            ipv4: true,
            ipv6: false,
        };
        Forwarded {
            allowed: AllowedTraffic {
                network: NetworkName::parse("podnet").unwrap(),
                link: HostLink::Bridge(IfName::parse("cni0").unwrap(), families),
            },
            subnets: vec!["10.1.0.0/24".parse().unwrap()],
        }
    }

    fn chain(name: &str, hook: HookPoint) -> BaseChain {
        BaseChain {
            family: TableFamily::Ipv4,
            table: "filter".into(),
            name: name.into(),
            hook,
            policy: Policy::Accept,
            is_legacy: false,
        }
    }

    fn rule(chain: &str, conditions: &[Condition], verdict: RuleVerdict) -> Rule {
        Rule {
            chain: chain.into(),
            conditions: conditions.to_vec(),
            verdict: Some(verdict),
            ..Rule::default()
        }
    }

    fn is(field: PacketField, value: &[u8]) -> Condition {
        Condition::Is {
            field,
            mask: None,
            value: value.to_vec(),
            equal: true,
        }
    }

    fn state(any_of: u32) -> Condition {
        Condition::State(ConnectionState {
            any_of,
            negated: false,
        })
    }

    fn whys(rules: &[Rule]) -> Vec<String> {
        let found = chain("FORWARD", HookPoint::Forward).drops(
            &TableRules::new(rules),
            &[pods()],
            Some("eth0"),
        );
        found.into_iter().map(|found| found.why).collect()
    }

    #[test]
    fn drops_are_found_behind_jumps_and_by_link_or_subnet() {
        use PacketField::{InLink, OutLink, Source};
        let jump = |conditions: &[Condition]| {
            rule("FORWARD", conditions, RuleVerdict::Jump("BLOCK".into()))
        };
        let drop =
            |chain: &str, conditions: &[Condition]| rule(chain, conditions, RuleVerdict::Drop);
        let of_pods = is(InLink, b"cni0\0");
        for rules in [
            vec![jump(&[]), drop("BLOCK", &[])],
            vec![jump(std::slice::from_ref(&of_pods)), drop("BLOCK", &[])],
            vec![jump(&[]), drop("BLOCK", std::slice::from_ref(&of_pods))],
            vec![drop("FORWARD", &[is(Source(Family::Ipv4), &[10, 1])])],
            vec![drop("FORWARD", &[of_pods.clone(), is(OutLink, b"eth0\0")])],
            vec![drop("FORWARD", &[is(OutLink, b"cni")])],
        ] {
            assert_eq!(whys(&rules).len(), 1, "{rules:#?}");
        }
    }

    #[test]
    fn what_others_meet_or_only_some_packets_of_pods_is_not_reported() {
        use PacketField::{InLink, Source};
        let drop = |conditions: &[Condition]| rule("FORWARD", conditions, RuleVerdict::Drop);
        let accept = |conditions: &[Condition]| rule("FORWARD", conditions, RuleVerdict::Accept);
        for rules in [
            vec![drop(&[is(InLink, b"cni01\0")])],
            vec![drop(&[is(Source(Family::Ipv4), &[10, 2])])],
            vec![drop(&[is(Source(Family::Ipv4), &[10, 1, 0, 7])])],
            vec![drop(&[is(InLink, b"cni0\0"), Condition::Unknown])],
            vec![drop(&[state(1)])],
            vec![accept(&[]), drop(&[])],
            // It may accept all of ours.
            vec![accept(&[Condition::Unknown]), drop(&[])],
            vec![
                accept(&[is(InLink, b"cni0\0")]),
                accept(&[state(ESTABLISHED)]),
                drop(&[]),
            ],
            // A jump to itself ends.
            vec![rule("FORWARD", &[], RuleVerdict::Jump("FORWARD".into()))],
        ] {
            assert_eq!(whys(&rules), Vec::<String>::new(), "{rules:#?}");
        }
    }

    #[test]
    fn answers_that_are_dropped_are_found() {
        let rules = [
            rule(
                "FORWARD",
                &[is(PacketField::InLink, b"cni0\0")],
                RuleVerdict::Accept,
            ),
            rule("FORWARD", &[], RuleVerdict::Goto("BLOCK".into())),
            rule("BLOCK", &[], RuleVerdict::Drop),
        ];
        assert_eq!(
            whys(&rules),
            ["it jumps to BLOCK, where a rule drops or rejects it"]
        );
    }

    /// As Docker 28 writes them.
    #[test]
    fn addresses_that_only_another_link_may_reach_are_found() {
        let not = |link: &[u8]| Condition::Is {
            field: PacketField::InLink,
            mask: None,
            value: link.to_vec(),
            equal: false,
        };
        let to = |last| is(PacketField::Destination(Family::Ipv4), &[172, 17, 0, last]);
        let rules = [
            rule("PREROUTING", &[to(2), not(b"docker0\0")], RuleVerdict::Drop),
            rule("PREROUTING", &[to(3), not(b"cni0\0")], RuleVerdict::Drop),
            rule("PREROUTING", &[to(4)], RuleVerdict::Drop),
        ];
        let chain = chain("PREROUTING", HookPoint::PreRouting);
        let rules = TableRules::new(&rules);
        assert_eq!(chain.drops(&rules, &[pods()], None), []);
        let found = chain.unreachable(&rules, &[pods()]).unwrap();
        assert_eq!(found.addresses, [IpAddr::from([172, 17, 0, 2])]);
        assert_eq!(found.place, "chain PREROUTING of table ip filter");
    }
}
