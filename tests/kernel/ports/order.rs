//! A port that two programs map: whose mapping a connection meets does not depend on who came first.

use super::mapped;
use common::nftables::ruleset;
use common::traffic::{HOST, listen, tcp};
use common::{World, added, call, outside_host, run};

/// Another program's chains at this priority, which lead port 8080 to 10.1.0.3.
fn foreign_chains(priority: &str) {
    for hook in ["prerouting", "output"] {
        run(
            "nft",
            [format!(
                "add table ip foreign; \
                 add chain ip foreign {hook} {{ type nat hook {hook} priority {priority}; }}; \
                 add rule ip foreign {hook} fib daddr type local tcp dport 8080 dnat to 10.1.0.3:80"
            )],
        );
    }
}

/// kube-proxy and Docker map at -100 (dstnat), firewalld at -90.
#[test]
fn programs_at_the_standard_priority_precede_mapped_ports_whoever_was_first() {
    for (priority, theirs_wins) in [("-100", true), ("-90", false)] {
        for theirs_first in [true, false] {
            for flushed in [false, true] {
                let world = World::new();
                let outside = outside_host(&world, 2);
                if theirs_first && !flushed {
                    foreign_chains(priority);
                }
                let (x, _) = added(&world, &mapped(), "x");
                let (y, _) = added(&world, &super::without_ports(&mapped()), "y");
                if flushed {
                    run("nft", ["flush", "ruleset"]);
                    if theirs_first {
                        foreign_chains(priority);
                    }
                    call("DEL", &mapped(), &x).run().ok();
                    call("ADD", &mapped(), &x).run().ok();
                }
                if !theirs_first {
                    foreign_chains(priority);
                }
                let winner = if theirs_wins { &y } else { &x };
                let streams = listen(Some(winner), "0.0.0.0:80");
                tcp(&streams, Some(&outside), "192.0.2.1:8080");
                tcp(&streams, HOST, "192.0.2.1:8080");
            }
        }
    }
}

/// A host whose tables an earlier version made.
#[test]
fn chains_of_an_earlier_version_are_replaced_when_objects_are_made() {
    let world = World::new();
    let outside = outside_host(&world, 2);
    run(
        "nft",
        ["add table inet pausenet; add chain inet pausenet ports; \
          add chain inet pausenet prerouting { type nat hook prerouting priority -100; }; \
          add chain inet pausenet output { type nat hook output priority -100; }; \
          add rule inet pausenet prerouting fib daddr type local jump ports; \
          add rule inet pausenet output fib daddr type local jump ports"],
    );

    let (x, _) = added(&world, &mapped(), "x");

    let rules = ruleset();
    for (hook, old) in [
        ("prerouting", "chain prerouting"),
        ("output", "chain output"),
    ] {
        assert!(!rules.contains(old), "{rules}");
        assert!(rules.contains(&format!("chain dnat_{hook}")), "{rules}");
    }
    tcp(
        &listen(Some(&x), "[::]:80"),
        Some(&outside),
        "192.0.2.1:8080",
    );
}
