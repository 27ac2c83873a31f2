//! `pausectl rescue`: a container that lost the network with its owner is attached again,
//! in place.

use std::fs;

use crate::connected_container::ConnectedContainer;
use crate::explain;
use common::docker::{Docker, NO_BRIDGE, OWN_BRIDGE};
use common::{allocated, ip};

#[test]
fn a_container_that_lost_its_eth0_is_reattached_without_a_restart() {
    let Some(mut docker) = Docker::start_with_applications(OWN_BRIDGE) else {
        return;
    };
    docker.run(&["run", "-d", "--name", "hwchiu", "hwchiu/netutils"]);
    let shared = ["run", "-d", "--net=container:hwchiu", "--name", "hwchiu2"];
    docker.run(&[&shared[..], &["hwchiu/netutils"]].concat());
    let rescue = ["rescue", "hwchiu2", "--network", "podnet"];
    let refused = docker.pausectl_fails(1, &rescue);
    assert!(
        refused.contains("hwchiu2 has an interface eth0"),
        "{refused}"
    );

    let survivor = docker.pid("hwchiu2");
    let owner = docker.inspect("hwchiu", ".Id");
    docker.run(&["rm", "-f", "hwchiu"]);
    docker.take_host_as_it_is();
    let said = docker.pausectl_ok(&rescue);
    assert_eq!(
        said,
        "hwchiu2: 10.1.0.2/24 on eth0 (network podnet)\n\
         hwchiu2: to take it down again: pausectl docker detach hwchiu2\n"
    );
    assert_eq!(docker.pid("hwchiu2"), survivor);
    let shown = docker.run(&["exec", "hwchiu2", "ifconfig", "eth0"]);
    assert!(shown.contains("inet 10.1.0.2 "), "{shown}");
    docker.run(&["exec", "hwchiu2", "ping", "-c", "1", "10.1.0.1"]);
    let screen = explain::screen(&docker, &["hwchiu2"])
        .hide(&owner[..12], "ID-OF-HWCHIU")
        .hide(&explain::host_end(&docker, "hwchiu2", 0), "VETH");
    let mac = docker.view("hwchiu2").link("eth0").unwrap().mac.unwrap();
    let screen = screen.hide(&mac.to_string(), "MAC");
    let page = screen.show(&explain::pausectl(&docker, &["explain", "hwchiu2"]));
    insta::assert_snapshot!(page, @r"
    hwchiu2 was rescued: it shared the network of hwchiu, which was removed at TIME, and
    now has eth0 of its own.

    Network namespace NETNS: running

    Owner
      hwchiu2  Docker container ID-OF-HWCHIU2, image hwchiu/netutils, process PID-OF-HWCHIU2 (sleep)
            pausectl rescue attached it under its own name

    Interfaces
      eth0  10.1.0.2/24  MAC
            network podnet, made by pausenet
            host end VETH, a port of cni0

    What happens when one of them ends
      hwchiu2  the namespace ends, and eth0 with it; its address stays reserved until DEL or GC is run.
            hwchiu2 cannot be started again, because Docker looks for container ID-OF-HWCHIU, which
            was removed

    What to do
      at a convenient time, recreate hwchiu2 on an anchor, which outlives its members:
        pausectl docker up ANCHOR --network NET
        docker run --net=container:ANCHOR ...
      hwchiu2 cannot be restarted as it is: Docker would look for container ID-OF-HWCHIU, which no longer exists
    ");
    // By the name of the other one, too.
    let other = screen.show(&explain::pausectl(&docker, &["explain", "hwchiu"]));
    assert_eq!(other, page);
    let unfit = docker.pausectl_fails(1, &["docker", "reanchor", "hwchiu"]);
    assert!(unfit.contains("knows of no network of hwchiu"), "{unfit}");

    // A newcomer finds the network too.
    ConnectedContainer::start(&docker, "newcomer", "container:hwchiu2", "10.1.0.1").answers();
    let again = docker.pausectl_fails(1, &rescue);
    assert!(again.contains("nothing to rescue"), "{again}");

    docker.run(&["rm", "-f", "newcomer"]);
    let said = docker.pausectl_ok(&["docker", "detach", "hwchiu2"]);
    assert_eq!(said, "hwchiu2: detached from network podnet\n");
    assert!(docker.view("hwchiu2").link("eth0").is_none());
    docker.stop_with_nothing_left();
}

#[test]
fn processes_and_namespaces_are_attached_and_detached_again() {
    let Some(docker) = Docker::start(NO_BRIDGE) else {
        return;
    };
    docker.run(&[
        "run",
        "-d",
        "--net=none",
        "--name",
        "bare",
        "pausenet/pause",
    ]);
    ip("netns add job");
    for target in [docker.pid("bare").to_string(), "/run/netns/job".to_owned()] {
        let said = docker.pausectl_ok(&["rescue", &target, "--network", "podnet"]);
        let undo = format!("to take it down again: pausectl rescue {target} --undo\n");
        assert!(said.ends_with(&undo), "{said}");
        assert_eq!(allocated("podnet").len(), 1);
        docker.pausectl_ok(&["rescue", &target, "--undo"]);
        docker.assert_nothing_is_left();
    }
    let nothing = docker.pausectl_fails(1, &["rescue", "/run/netns/job", "--undo"]);
    assert!(nothing.contains("was not rescued by pausectl"), "{nothing}");
    docker.stop();
}

#[test]
fn rescue_refuses_what_it_cannot_do_with_a_reason() {
    let Some(docker) = Docker::start(NO_BRIDGE) else {
        return;
    };
    docker.run(&["create", "--net=none", "--name", "made", "pausenet/pause"]);
    docker.run(&[
        "run",
        "-d",
        "--net=host",
        "--name",
        "host",
        "pausenet/pause",
    ]);
    let file = docker.home().join("file");
    fs::write(&file, "").unwrap();
    let daemon = fs::read_to_string(docker.home().join("pid")).unwrap();
    for (target, reason) in [
        ("nobody", "No such container"),
        ("made", "is not running: it is created"),
        ("host", "the host's own network namespace"),
        (daemon.trim(), "the host's own network namespace"),
        ("4194999", "does not exist"),
        (file.to_str().unwrap(), "is not a network namespace"),
        (
            "/proc/self/ns/mnt",
            "is a namespace, but not a network namespace",
        ),
        ("/not/there", "does not exist"),
        ("./not/there", "does not exist"),
        ("pod:nobody", "does not exist"),
    ] {
        let said = docker.pausectl_fails(1, &["rescue", target, "--network", "podnet"]);
        assert!(said.contains(reason), "{target}: {said}");
    }
    for hostile in [
        "",
        "a b",
        "$(reboot)",
        "web?x",
        "pid:0",
        "container:../x",
        "pod:../x",
        "-1x",
        "99999999999x/",
    ] {
        docker.pausectl_fails(2, &["rescue", "--network", "podnet", "--", hostile]);
    }
    let unknown = docker.pausectl_fails(1, &["rescue", "made", "--network", "nonet"]);
    assert!(unknown.contains("made is not running"), "{unknown}");
    docker.stop_with_nothing_left();
}
