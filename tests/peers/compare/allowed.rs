//! Every difference between the reference and ours that is meant, with its reason.

use std::collections::BTreeSet;

use super::Log;

/// A difference that is meant. Everything here is a pattern: `*` stands for any text, and `|`
/// between whole patterns for either of them.
struct Allowed {
    /// The tests in which it may occur.
    on: &'static str,
    /// One of them in which it does: once it does not any more, it has to go from here.
    seen_in: &'static str,
    /// Where in the log.
    at: &'static str,
    /// What the reference has there; [`ABSENT`] for nothing, [`PRESENT`] for more than a word.
    theirs: &'static str,
    ours: &'static str,
    why: &'static str,
}

/// Not in the log at all.
const ABSENT: &str = "(absent)";

/// In the log, with more below it.
const PRESENT: &str = "(present)";

const ALLOWED: &[Allowed] = &[
    // What every attachment of ours carries.
    Allowed {
        on: "*",
        seen_in: "bridge_without_options",
        at: "*host / links / <host end of * / group",
        theirs: "default",
        ours: "1885435251",
        why: "the link group marks what is ours from its birth, so that debris is recognized",
    },
    Allowed {
        on: "*",
        seen_in: "bridge_without_options",
        at: "*host / links / <host end of * / ifalias",
        theirs: ABSENT,
        ours: "pausenet *",
        why: "the alias says whose the link is: DEL and GC need no memory and no namespace",
    },
    Allowed {
        on: "*",
        seen_in: "bridge_without_options",
        at: "*host / links / <host end of * / txqlen",
        theirs: ABSENT,
        ours: "1000",
        why: "the reference makes the host's end with a queue of 0, which a shaper put on it later would take over; ours leaves it to the kernel",
    },
    Allowed {
        on: "*",
        seen_in: "bridge_without_options",
        at: "*host / links / cni0 / group|*host / links / br-pods / group",
        theirs: "default",
        ours: "829251939",
        why: "the link group of a bridge that we have made says that each address has had one MAC only, so that it need not be announced to neighbours",
    },
    Allowed {
        on: "bridge_name",
        seen_in: "bridge_name",
        at: "*c2 eth0 / result / interfaces / 2 / mac|*pod / c2 / links / eth0 / address",
        theirs: "<MAC of c2 eth0>",
        ours: "<MAC of c1 eth0>",
        why: "the MAC is made from the address: two pods with one address, on different bridges, have the same",
    },
    Allowed {
        on: "*",
        seen_in: "bridge_without_options",
        at: "1.1.0 / *result / interfaces / * / mtu",
        theirs: ABSENT,
        ours: "1*",
        why: "version 1.1.0 has a place for the MTU, and ours fills it",
    },
    // Bridges.
    Allowed {
        on: "*",
        seen_in: "bridge_without_options",
        at: "*host / links / * / address|*result / interfaces / * / mac",
        theirs: "<MAC of host <host end of *>|00:00:00:00:00:00",
        ours: "<MAC of host *",
        why: "a bridge without an address takes the lowest MAC of its ports, and changes it with them; ours keeps its own",
    },
    Allowed {
        on: "*",
        seen_in: "bridge_dual_stack",
        at: "*host / links / cni* / addr / f* / nodad",
        theirs: ABSENT,
        ours: "true",
        why: "the gateway answers at once, not after a second or two of duplicate detection",
    },
    Allowed {
        on: "bridge_*",
        seen_in: "bridge_enabledad",
        at: "*host / sysctls / cni0 / ipv6 / accept_dad",
        theirs: "1",
        ours: "0",
        why: "nor does the bridge's link-local address keep the host from asking for containers' MACs",
    },
    // Containers.
    Allowed {
        on: "*",
        seen_in: "bridge_without_options",
        at: "*pod / * / sysctls / * / ipv6 / accept_dad",
        theirs: "0",
        ours: "1",
        why: "the reference switches duplicate detection off for the link, ours for the addresses that it gives",
    },
    Allowed {
        on: "*",
        seen_in: "bridge_dual_stack",
        at: "*pod / * / links / * / addr / f* / nodad",
        theirs: ABSENT,
        ours: "true",
        why: "no duplicate detection, by a flag of the address",
    },
    Allowed {
        on: "*",
        seen_in: "bridge_dual_stack",
        at: "*pod / * / sysctls / * / ipv6 / ndisc_notify",
        theirs: "0",
        ours: "1",
        why: "neighbours learn of an IPv6 address as of an IPv4 one",
    },
    Allowed {
        on: "*",
        seen_in: "ptp_without_options",
        at: "*pod / * / sysctls / * / ipv4 / arp_notify",
        theirs: "0",
        ours: "1",
        why: "a MAC that changes later is announced to neighbours in mode ptp too, and on layer 2 with addresses added later",
    },
    Allowed {
        on: "*",
        seen_in: "ptp_without_options",
        at: "*pod / * / links / * / addr / * / noprefixroute",
        theirs: ABSENT,
        ours: "true",
        why: "the reference has the kernel make a route to the subnet and removes it; ours has none made",
    },
    Allowed {
        on: "*",
        seen_in: "ptp_dual_stack",
        at: "*host / links / <host end of * / addr / f* / nodad",
        theirs: ABSENT,
        ours: "true",
        why: "the gateway answers at once",
    },
    // Errors: ours say what kind they are, the reference has one code for most.
    Allowed {
        on: "*",
        seen_in: "host_local_refuses",
        at: "* / code",
        theirs: "999",
        ours: "2|4|5|6|7|8|11|100|101|102|103",
        why: "a code for each kind of error",
    },
    // Single tests.
    Allowed {
        on: "bridge_without_ipam|bridge_disable_container_interface|bridge_options_in_pairs",
        seen_in: "bridge_without_ipam",
        at: "* CHECK * / bridge / outcome",
        theirs: "error",
        ours: "ok",
        why: "CHECK of the reference wants an IPAM where ADD needs none",
    },
    Allowed {
        on: "*",
        seen_in: "bridge_without_ipam",
        at: "* / code",
        theirs: "999",
        ours: ABSENT,
        why: "where ours is no error, it has no code",
    },
    Allowed {
        on: "*",
        seen_in: "portmap_of_a_port_in_use",
        at: "* / code",
        theirs: ABSENT,
        ours: "*",
        why: "where theirs is no error, it has no code",
    },
    Allowed {
        on: "bridge_routes_*",
        seen_in: "bridge_routes_with_metrics",
        at: "* / main unicast 10.7.0.0/16 eth0 50 / metrics",
        theirs: ABSENT,
        ours: PRESENT,
        why: "the reference passes over the MTU of a route",
    },
    Allowed {
        on: "bridge_routes_*",
        seen_in: "bridge_routes_with_metrics",
        at: "1.1.0 / * CHECK c1 eth0 / bridge / outcome",
        theirs: "error",
        ours: "ok",
        why: "CHECK of the reference looks for a route of another table in the main one",
    },
    Allowed {
        on: "bridge_default_route_without_next_hop",
        seen_in: "bridge_default_route_without_next_hop",
        at: "* ADD c1 eth0 / bridge / outcome",
        theirs: "error",
        ours: "ok",
        why: "the reference adds a second default route, which the kernel refuses",
    },
    Allowed {
        on: "bridge_two_gateways_of_one_family",
        seen_in: "bridge_two_gateways_of_one_family",
        at: "* ADD c1 eth0 / bridge / outcome",
        theirs: "error",
        ours: "ok",
        why: "gateways that one network wants are not in each other's way",
    },
    Allowed {
        on: "bridge_default_route_without_next_hop|bridge_two_gateways_of_one_family|bridge_requested_addresses",
        seen_in: "bridge_two_gateways_of_one_family",
        at: "*",
        theirs: ABSENT,
        ours: "*",
        why: "what there is after an ADD that only ours serves",
    },
    Allowed {
        on: "bridge_requested_addresses",
        seen_in: "bridge_requested_addresses",
        at: "* ADD c5 eth0 / bridge / outcome",
        theirs: "error",
        ours: "ok",
        why: "bridge of the reference takes IP in CNI_ARGS, which its IPAM knows, for an unknown key",
    },
    Allowed {
        on: "bridge_requested_addresses",
        seen_in: "bridge_requested_addresses",
        at: "* / store / networks/podnet/last_reserved_ip.*",
        theirs: "*",
        ours: "*",
        why: "the cursors after an ADD that only ours serves",
    },
    Allowed {
        on: "ptp_requested_mac",
        seen_in: "ptp_requested_mac",
        at: "*eth0 / address|*result / interfaces / 1 / mac",
        theirs: "<MAC of c1 eth0>",
        ours: "02:00:00:00:00:03",
        why: "ptp of the reference passes over the capability mac",
    },
    Allowed {
        on: "ptp_routes",
        seen_in: "ptp_routes",
        at: "* / pod / c1 / routes / main unicast 10.6.0.0/16 eth0 50 / metrics",
        theirs: ABSENT,
        ours: PRESENT,
        why: "ptp of the reference passes over the MTU of a route",
    },
    Allowed {
        on: "loopback_*",
        seen_in: "loopback_up_and_down",
        at: "* / result / dns",
        theirs: ABSENT,
        ours: "{}",
        why: "before 1.0.0 the reference writes an empty dns object, but not in loopback",
    },
    Allowed {
        on: "loopback_*",
        seen_in: "loopback_up_and_down",
        at: "0.* / result / ips / * / version",
        theirs: ABSENT,
        ours: "4|6",
        why: "before 1.0.0 an ip has its version, which loopback of the reference leaves out",
    },
    Allowed {
        on: "loopback_in_old_versions",
        seen_in: "loopback_in_old_versions",
        at: "0.1.0 / *|0.2.0 / *",
        theirs: "(absent)|(present)",
        ours: "(absent)|(present)",
        why: "loopback of the reference writes the form of 0.3.0 in versions that have another",
    },
    Allowed {
        on: "host_local_requested_address_out_of_range",
        seen_in: "host_local_requested_address_out_of_range",
        at: "* / store*",
        theirs: "(present)|*",
        ours: "(absent)|{}",
        why: "the reference moves its cursor on although the ADD fails",
    },
    Allowed {
        on: "bridge_default_route_without_next_hop|bridge_two_gateways_of_one_family",
        seen_in: "bridge_two_gateways_of_one_family",
        at: "* / host / sysctls / *|* / addr",
        theirs: "*",
        ours: "*",
        why: "what a gateway switches on is on only in ours",
    },
    Allowed {
        on: "bridge_force_address|bridge_requested_addresses",
        seen_in: "bridge_force_address",
        at: "* / host / *|* / pod / *",
        theirs: PRESENT,
        ours: ABSENT,
        why: "an ADD of the reference that fails leaves the pair behind",
    },
    Allowed {
        on: "bridge_vlans_without_kernel_support",
        seen_in: "bridge_vlans_without_kernel_support",
        at: "* / store*",
        theirs: "*",
        ours: "*",
        why: "ours takes an address before it asks the kernel, and frees it; the cursor has moved on",
    },
    // DEL.
    Allowed {
        on: "del_*_when_the_netns_is_gone|del_*_without_a_netns",
        seen_in: "del_bridge_when_the_netns_is_gone",
        at: "* rules / * is known",
        theirs: "true",
        ours: "false",
        why: "DEL of the reference leaves the masquerade of a container whose namespace it cannot enter",
    },
    Allowed {
        on: "del_*_without_a_netns",
        seen_in: "del_bridge_without_a_netns",
        at: "* / host / *|* / pod / *",
        theirs: PRESENT,
        ours: ABSENT,
        why: "DEL of the reference leaves the interface when it is not given the namespace; ours finds it from the host",
    },
    Allowed {
        on: "del_bridge_without_a_netns",
        seen_in: "del_bridge_without_a_netns",
        at: "* / host / links / cni0 / flags",
        theirs: "*LOWER_UP*",
        ours: "*",
        why: "and so the bridge has no port left",
    },
    Allowed {
        on: "del_of_a_path_that_leads_to_another_container",
        seen_in: "del_of_a_path_that_leads_to_another_container",
        at: "* / host / *|* / pod / *",
        theirs: "(present)|(absent)",
        ours: "(absent)|(present)",
        why: "DEL of the reference removes what lies at the path, whosever it is; ours removes what it made itself",
    },
    Allowed {
        on: "del_without_an_add|status_of_every_plugin|bridge_options_in_pairs",
        seen_in: "del_without_an_add",
        at: "* / store*",
        theirs: "*750 \"\"|(absent)",
        ours: "(absent)|{}",
        why: "DEL of the reference creates a missing store",
    },
    Allowed {
        on: "add_refuses|portmap_refuses",
        seen_in: "portmap_refuses",
        at: "* DEL, * / outcome",
        theirs: "error",
        ours: "ok",
        why: "DEL is served whatever the config says: a pod whose DEL is refused stays for ever",
    },
    // CHECK.
    Allowed {
        on: "check_of_a_bridge_notices",
        seen_in: "check_of_a_bridge_notices",
        at: "* CHECK cbridge-off eth0 / bridge / outcome",
        theirs: "ok",
        ours: "error",
        why: "CHECK of the reference does not see that the bridge is off",
    },
    Allowed {
        on: "check_of_a_bridge_notices",
        seen_in: "check_of_a_bridge_notices",
        at: "* CHECK cgateway-gone eth0 / bridge / outcome",
        theirs: "ok",
        ours: "error",
        why: "CHECK of the reference does not see that the bridge has lost the gateway's address",
    },
    // ADD that fails.
    Allowed {
        on: "add_refuses",
        seen_in: "add_refuses",
        at: "* / * / pairs left by ADD",
        theirs: "1",
        ours: "0",
        why: "an ADD of the reference that fails leaves the pair to a DEL that may never come",
    },
    Allowed {
        on: "portmap_refuses",
        seen_in: "portmap_refuses",
        at: "* ADD, no protocol / *|* ADD, upper case / *",
        theirs: "error|(absent)",
        ours: "ok|(present)",
        why: "a protocol is tcp unless it says something else, in any case of letters",
    },
    Allowed {
        on: "portmap_of_a_port_in_use",
        seen_in: "portmap_of_a_port_in_use",
        at: "* ADD c2 eth0 / *",
        theirs: "(present)|ok",
        ours: "(absent)|error",
        why: "the reference makes a second rule for the port, which no packet ever reaches",
    },
    Allowed {
        on: "portmap_set_mark_chain",
        seen_in: "portmap_set_mark_chain",
        at: "*",
        theirs: "*",
        ours: "*",
        why: "the reference needs iptables for it; ours masquerades the same traffic without a mark",
    },
    Allowed {
        on: "portmap_conditions",
        seen_in: "portmap_conditions",
        at: "*",
        theirs: "*",
        ours: "*",
        why: "mappings are elements of maps that all networks share: conditions per network cannot be had, and ADD says so",
    },
    Allowed {
        on: "add_where_a_name_is_taken",
        seen_in: "add_where_a_name_is_taken",
        at: "* / store*",
        theirs: "*",
        ours: "*",
        why: "ours takes an address before it meets the interface; it is free again, and the cursor has moved on",
    },
    Allowed {
        on: "add_where_a_name_is_taken",
        seen_in: "add_where_a_name_is_taken",
        at: "* / pod / c1 / *",
        theirs: ABSENT,
        ours: PRESENT,
        why: "DEL of the reference removes an interface that is not its own",
    },
    Allowed {
        on: "add_where_a_name_is_taken",
        seen_in: "add_where_a_name_is_taken",
        at: "* / host / links / cni0 / flags",
        theirs: "*LOWER_UP*",
        ours: "*",
        why: "the pair that a failed ADD of the reference leaves is still a port",
    },
    // Traffic.
    Allowed {
        on: "traffic_to_ports_*|traffic_through_our_portmap_behind_the_reference_s_bridge",
        seen_in: "traffic_to_ports_of_a_bridge",
        at: "* traffic / c2 to *",
        theirs: "c1, from 10.1.0.3|c1, from fd00::3",
        ours: "c1, from 10.1.0.1|c1, from fd00::1",
        why: "the nftables backend of the reference relies on br_netfilter for a neighbour's way to a mapped port; ours masquerades it, as the iptables backend does, or the answer would take the short way",
    },
    Allowed {
        on: "traffic_to_ports_with_masq_all",
        seen_in: "traffic_to_ports_with_masq_all",
        at: "* traffic / * to *",
        theirs: "c1, from *",
        ours: "c1, from 10.1.0.1|c1, from fd00::1",
        why: "the nftables backend of 1.9 passes over masqAll",
    },
    Allowed {
        on: "traffic_to_the_host_s_loopback",
        seen_in: "traffic_to_the_host_s_loopback",
        at: "* traffic / c1 to 127.0.0.1:80 udp",
        theirs: "the host, from 10.1.0.2",
        ours: "nobody",
        why: "with route_localnet, a container reaches the host's own services at 127.0.0.1; ours drops that",
    },
];

/// Compares two logs of one test.
///
/// # Panics
/// When there is a difference that is not in the table, or one in the table that is not there.
#[track_caller]
pub(super) fn assert_allowed(test: &str, theirs: &Log, ours: &Log) {
    let entries: Vec<_> = ALLOWED
        .iter()
        .filter(|entry| matches(entry.on, test))
        .collect();
    let mut occurred = vec![false; entries.len()];
    let mut unexpected = Vec::new();
    for (at, theirs, ours) in differences(theirs, ours) {
        let meant = entries.iter().position(|entry| {
            matches(entry.at, &at) && matches(entry.theirs, &theirs) && matches(entry.ours, &ours)
        });
        match meant {
            Some(entry) => occurred[entry] = true,
            None => unexpected.push(format!("{at}\n    theirs: {theirs}\n    ours:   {ours}")),
        }
    }
    let gone: Vec<_> = entries
        .iter()
        .zip(&occurred)
        .filter(|(entry, occurred)| entry.seen_in == test && !**occurred)
        .map(|(entry, _)| format!("{}: {}", entry.at, entry.why))
        .collect();
    assert!(
        unexpected.is_empty() && gone.is_empty(),
        "{test}: {} differences that are not allowed:\n{}\n{} allowed ones that do not occur:\n{}\n",
        unexpected.len(),
        unexpected.join("\n"),
        gone.len(),
        gone.join("\n")
    );
}

/// The tests that have to see an allowed difference.
pub(crate) fn tests_with_allowed_differences() -> impl Iterator<Item = &'static str> {
    ALLOWED.iter().map(|entry| entry.seen_in)
}

#[test]
fn an_allowed_difference_applies_only_where_allowed() {
    for entry in ALLOWED {
        assert!(
            matches(entry.on, entry.seen_in),
            "{}: {}",
            entry.at,
            entry.why
        );
    }
}

/// Where the logs differ, with what each has there. What one of them lacks altogether (a link, a
/// route, a result) is one difference.
fn differences(theirs: &Log, ours: &Log) -> BTreeSet<(String, String, String)> {
    let mut differences = BTreeSet::new();
    for key in theirs.keys().chain(ours.keys()) {
        let [their, our] = [theirs, ours].map(|log| log.get(key).cloned());
        if their == our {
            continue;
        }
        let absent_at = |log: &Log| {
            let ends = key.match_indices(" / ").map(|(at, _)| at).skip(1);
            ends.chain([key.len()])
                .map(|end| &key[..end])
                .find(|above| !has(log, above))
                .map(str::to_owned)
        };
        let shown = |value: Option<String>, at: &str| match value {
            Some(value) if at == key => value,
            Some(_) => PRESENT.to_owned(),
            None => ABSENT.to_owned(),
        };
        let at = match (&their, &our) {
            (None, _) => absent_at(theirs),
            (_, None) => absent_at(ours),
            _ => None,
        };
        let at = at.unwrap_or_else(|| key.clone());
        let (their, our) = (shown(their, &at), shown(our, &at));
        differences.insert((at, their, our));
    }
    differences
}

/// Whether the log has the key, or one below it.
fn has(log: &Log, key: &str) -> bool {
    let below = format!("{key} / ");
    log.contains_key(key)
        || log
            .range(below.clone()..)
            .next()
            .is_some_and(|(next, _)| next.starts_with(&below))
}

/// Whether a text is of a pattern's form: `*` stands for any text, `|` between whole patterns for
/// either of them.
fn matches(pattern: &str, text: &str) -> bool {
    pattern.split('|').any(|pattern| matches_one(pattern, text))
}

fn matches_one(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(text) = text.strip_prefix(head) else {
        return false;
    };
    let mut starts = text.char_indices().map(|(at, _)| at).chain([text.len()]);
    starts.any(|at| matches_one(rest, &text[at..]))
}

#[test]
fn patterns_match_as_described() {
    for (pattern, text, outcome) in [
        ("a.*.c", "a.b.c", true),
        ("a.*.c", "a.b.b.c", true),
        ("a.*.c", "a.c", false),
        ("*", "", true),
        ("x|a*", "ab", true),
        ("x|a", "ab", false),
    ] {
        assert_eq!(matches(pattern, text), outcome, "{pattern} {text}");
    }
}
