//! Docker's own bridge, without pausenet: what it means to share a network, and the problem that an
//! anchor solves.

use common::docker::{Docker, OWN_BRIDGE};
use common::wait::wait_until;

#[test]
fn sharing_an_application_s_network_ends_with_the_application() {
    let Some(docker) = Docker::start_with_applications(OWN_BRIDGE) else {
        return;
    };
    docker.run(&["run", "-d", "--name", "hwchiu", "hwchiu/netutils"]);
    docker.run(&[
        "run",
        "-d",
        "--net=container:hwchiu",
        "--name",
        "hwchiu2",
        "hwchiu/netutils",
    ]);
    let ifconfig = |name| docker.run(&["exec", name, "ifconfig"]);

    let first = ifconfig("hwchiu");
    assert!(first.contains("inet 172.17.0.2 "), "{first}");
    for what in ["inet ", "ether "] {
        assert_eq!(line(&first, what), line(&ifconfig("hwchiu2"), what));
    }

    docker.run(&["exec", "hwchiu", "ping", "-c", "3", "172.17.0.1"]);
    // The kernel's own packets may come between two looks.
    wait_until("both show the same counters", || {
        ifconfig("hwchiu") == ifconfig("hwchiu2")
    });
    let counted = |shown: &str| -> u32 {
        let packets = line(shown, "TX packets ").split(' ').nth(2).unwrap();
        packets.parse().unwrap()
    };
    assert!(counted(&ifconfig("hwchiu2")) >= counted(&first) + 3);

    let survivor = docker.pid("hwchiu2");
    docker.run(&["rm", "-f", "hwchiu"]);
    let left = ifconfig("hwchiu2");
    assert!(!left.contains("eth0"), "{left}");
    assert!(left.starts_with("lo: "), "{left}");
    assert_eq!(docker.pid("hwchiu2"), survivor); // it runs on, without a network
    docker.stop();
}

/// The first line of `ifconfig` that begins with this, which is of eth0.
#[track_caller]
fn line<'a>(shown: &'a str, start: &str) -> &'a str {
    let mut lines = shown.lines().map(str::trim);
    lines.find(|line| line.starts_with(start)).expect(start)
}
