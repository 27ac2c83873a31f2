//! DEL returns when nobody can find the links any more; the kernel frees them meanwhile.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::plugins::under;
use common::wait::wait_until;
use common::{Call, HOST_END, World, added, allocated, call, ip, podnet, with};

/// Of all kinds that have links of different number or place.
fn networks() -> [(&'static str, Value); 4] {
    let masquerade = json!({"ipMasq": true});
    let limited = json!({"runtimeConfig": {"bandwidth": {
        "ingressRate": 8_000_000, "ingressBurst": 8_000_000,
        "egressRate": 8_000_000, "egressBurst": 8_000_000,
    }}});
    let ptp = json!({"type": "ptp", "bridge": null, "isDefaultGateway": null});
    [
        ("bridge", podnet()),
        ("masquerade", with(podnet(), masquerade)),
        ("bandwidth", with(podnet(), limited)),
        ("ptp", with(podnet(), ptp)),
    ]
}

/// The call under strace, with one fault in the plugin or its child.
fn under_strace(call: &Call, fault: &str) -> Command {
    let name = fault.split(':').next().unwrap();
    let mut command = call.clone().program("strace").command();
    command
        .args(["--follow-forks", "--quiet=all", "--output=/dev/null"])
        .args(["-e", &format!("trace={name}")])
        .args(["-e", &format!("inject={fault}"), "--"]);
    command
}

#[test]
fn after_del_nobody_finds_links_addresses_routes_or_neighbours() {
    for (name, network) in networks() {
        let world = World::new();
        let (container, result) = added(&world, &network, "c1");
        let address = result["ips"][0]["address"].as_str().unwrap();
        let address = address.split('/').next().unwrap();
        let everywhere = || ip("route show table all") + &ip("neighbour show") + &ip("link show");
        ip(&format!(
            "neighbour replace {address} lladdr 02:00:00:00:00:01 dev {}",
            match name {
                "ptp" => HOST_END,
                _ => "cni0",
            }
        ));
        assert!(everywhere().contains(HOST_END), "{name}");

        call("DEL", &network, &container).run().ok();

        // Asked at once, from both sides.
        let (host, inside) = (everywhere(), container.state());
        assert!(!host.contains(HOST_END), "{name}: {host}");
        assert!(container.link("eth0").is_none(), "{name}");
        assert!(container.routes().is_empty(), "{name}: {inside:?}");
        assert!(allocated("podnet").is_empty(), "{name}");
        assert!(name != "ptp" || !host.contains(address), "{host}");
    }
}

/// The same container ID, name and address: each ADD meets a kernel that may still be freeing the last links.
#[test]
fn an_add_right_after_del_works_a_thousand_times_in_a_row() {
    let world = World::new();
    let container = world.container("c1");
    let range = json!({"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.7", "rangeEnd": "10.1.0.7"});
    let network = with(
        podnet(),
        json!({"ipam": {"type": "host-local", "ranges": [[range]]}}),
    );
    let (add, del) = (
        call("ADD", &network, &container),
        call("DEL", &network, &container),
    );
    for round in 0..1000 {
        let result = add.run();
        assert!(result.0.status.success(), "round {round}: {result:?}");
        assert_eq!(result.ok()["ips"][0]["address"], "10.1.0.7/24");
        let gone = del.run();
        assert!(gone.0.status.success(), "round {round}: {gone:?}");
    }
    assert!(allocated("podnet").is_empty());
    assert!(world.link(HOST_END).is_none());
}

/// What is written to a FIFO until all writers have closed it.
fn read_to_end(fifo: PathBuf) -> String {
    let (all, told) = mpsc::channel();
    thread::spawn(move || all.send(fs::read_to_string(fifo)));
    told.recv_timeout(Duration::from_secs(180))
        .unwrap()
        .unwrap()
}

/// A runtime reads the plugin's output to its end, which is when nobody has it open any more.
#[test]
fn the_child_in_the_kernel_holds_neither_output_nor_locks() {
    let world = World::new();
    let (container, _) = added(&world, &podnet(), "c1");
    let folder = tempfile::tempdir_in("/run").unwrap();
    let output = folder.path().join("output");
    rustix::fs::mkfifoat(rustix::fs::CWD, &output, rustix::fs::Mode::RWXU).unwrap();
    // The only write of a DEL is its child's, to the kernel.
    let mut strace = under_strace(
        &call("DEL", &podnet(), &container),
        "write:delay_exit=60000000",
    );
    let shell = format!(
        "exec {} >{}",
        common::programs::pausenet(),
        output.display()
    );
    strace.args(["/bin/sh", "-c", &shell]);
    let mut strace = strace.stdout(Stdio::null()).spawn().unwrap();
    serde_json::to_writer(strace.stdin.take().unwrap(), &podnet()).unwrap();

    let told = read_to_end(output);

    assert_eq!(told, "");
    assert_eq!(
        strace.try_wait().unwrap(),
        None,
        "the child is held for a minute"
    );
    assert!(world.link(HOST_END).is_none());
    // Its lock and that of the store are free.
    call("ADD", &podnet(), &container).run().ok();
    strace.kill().unwrap();
    strace.wait().unwrap();
}

/// A killed child, a limit of processes, no more files, an old kernel: the ordinary way.
#[test]
fn del_needs_no_child() {
    for fault in [
        "clone:error=EAGAIN",
        "pidfd_open:error=EMFILE",
        "close_range:error=ENOSYS",
        "bind:error=ENOMEM",
        "write:signal=KILL",
        "setsid:signal=KILL",
    ] {
        let world = World::new();
        let (container, _) = added(&world, &podnet(), "c1");
        let del = call("DEL", &podnet(), &container);
        let mut strace = under_strace(&del, fault);
        strace.arg(common::programs::pausenet());
        let answer = del.run_as(strace);
        assert!(answer.0.status.success(), "{fault}: {answer:?}");
        assert!(world.link(HOST_END).is_none(), "{fault}");
        assert!(container.link("eth0").is_none(), "{fault}");
        assert!(allocated("podnet").is_empty(), "{fault}");
    }
}

#[test]
fn what_the_kernel_refuses_the_child_is_told() {
    let world = World::new();
    let (container, _) = added(&world, &podnet(), "c1");
    let unable = [
        "setpriv",
        "--bounding-set=-net_admin",
        "--inh-caps=-net_admin",
    ];

    let err = under(&unable, &call("DEL", &podnet(), &container)).err_code(101);

    let msg = err["msg"].as_str().unwrap();
    assert!(msg.contains(&format!("remove {HOST_END}")), "{msg}");
    assert!(msg.contains("Operation not permitted"), "{msg}");
    assert!(world.link(HOST_END).is_some());
    assert_eq!(allocated("podnet"), ["10.1.0.2"]);
}

/// It ends when the kernel has freed the link, and whoever adopted it has no more of it.
#[test]
fn nothing_of_a_del_stays() {
    let world = World::new();
    let (container, _) = added(&world, &podnet(), "c1");
    let del = call("DEL", &podnet(), &container).var("PAUSENET_TEST", "nothing-of-a-del-stays");
    del.run().ok();
    wait_until("the child has ended", || {
        let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        let mut environments = processes.map(|process| process.path().join("environ"));
        !environments.any(|environment| {
            let environment = fs::read(environment).unwrap_or_default();
            String::from_utf8_lossy(&environment).contains("nothing-of-a-del-stays")
        })
    });
}
