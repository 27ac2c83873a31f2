//! The capability `bandwidth`: what is set, that it limits, and that it goes with the attachment.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use common::wait::wait_until;
use common::{Call, Container, World, podnet, with};

/// 16 Mbit/s to the container, 8 Mbit/s from it, in bursts of 32 KiB.
fn limited() -> Value {
    let burst = 32 * 1024 * 8;
    with(
        podnet(),
        json!({"runtimeConfig": {"bandwidth": {
            "ingressRate": 16_000_000, "ingressBurst": burst,
            "egressRate": 8_000_000, "egressBurst": burst,
        }}}),
    )
}

/// Bytes per second that get through, of a second's worth of the higher limit.
fn throughput(container: &Container, to_container: bool) -> f64 {
    const BYTES: usize = 1_000_000;
    let listener = TcpListener::bind("10.1.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let path = container.path.clone();
    let inside = std::thread::spawn(move || {
        let container = Container { path };
        let mut stream = container.enter(|| TcpStream::connect(address).unwrap());
        pass(&mut stream, !to_container, BYTES);
    });
    let (mut stream, _) = listener.accept().unwrap();
    let start = Instant::now();
    pass(&mut stream, to_container, BYTES);
    inside.join().unwrap();
    BYTES as f64 / start.elapsed().as_secs_f64()
}

/// Sends that many bytes and waits for the other side's word that it has them; or the reverse.
fn pass(stream: &mut TcpStream, send: bool, bytes: usize) {
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    if send {
        stream.write_all(&vec![7; bytes]).unwrap();
        stream.read_exact(&mut [0]).unwrap();
    } else {
        stream.read_exact(&mut vec![0; bytes]).unwrap();
        stream.write_all(&[1]).unwrap();
    }
}

#[test]
fn each_direction_is_limited_to_its_own_rate() {
    let world = World::new();
    let x = world.container("x");
    let config = limited();
    let result = Call::new("ADD", &config).netns(&x).run().ok();

    let ifb = &result["interfaces"][3]["name"];
    assert!(
        ifb.as_str().is_some_and(|name| name.starts_with("ifb")),
        "{result}"
    );
    // Never above the limit, but for the burst; how far below is the machine's affair.
    let (to, from) = (throughput(&x, true), throughput(&x, false));
    assert!(
        (200_000.0..2_200_000.0).contains(&to),
        "{to} bytes per second to it"
    );
    assert!(
        (100_000.0..1_100_000.0).contains(&from),
        "{from} bytes per second from it"
    );
    let checked = with(config, json!({"prevResult": result}));
    Call::new("CHECK", &checked).netns(&x).run().ok();
}

/// A Kubernetes annotation has a rate only, and the runtime writes a burst of half a gigabyte.
#[test]
fn the_rate_of_an_annotation_holds_from_the_first_second() {
    let world = World::new();
    let x = world.container("x");
    let limits = json!({"ingressRate": 8_000_000, "ingressBurst": 4_294_967_295_u32,
        "egressRate": 8_000_000, "egressBurst": 4_294_967_295_u32});
    let config = with(podnet(), json!({"runtimeConfig": {"bandwidth": limits}}));

    let result = Call::new("ADD", &config).netns(&x).run().ok();

    for to_container in [true, false] {
        let rate = throughput(&x, to_container);
        assert!(rate < 1_300_000.0, "{rate} bytes per second {to_container}");
    }
    let checked = with(config, json!({"prevResult": result}));
    Call::new("CHECK", &checked).netns(&x).run().ok();
}

#[test]
fn check_reports_a_missing_limit() {
    let world = World::new();
    let x = world.container("x");
    let config = limited();
    let result = Call::new("ADD", &config).netns(&x).run().ok();
    let host_end = result["interfaces"][1]["name"].as_str().unwrap();
    common::run("tc", ["qdisc", "del", "dev", host_end, "root"]);

    let checked = with(config, json!({"prevResult": result}));
    let error = Call::new("CHECK", &checked).netns(&x).run().err_code(102);

    assert!(
        error["msg"].as_str().unwrap().contains("receives"),
        "{error}"
    );
}

#[test]
fn del_removes_the_ifb_when_the_netns_is_gone() {
    let world = World::new();
    for gone in [false, true] {
        let x = world.container("x");
        Call::new("ADD", &limited()).netns(&x).run().ok();
        assert!(world.links().iter().any(|link| link.kind == "ifb"));
        x.destroy();
        let del = Call::new("DEL", &limited());
        let del = if gone {
            del
        } else {
            del.var("CNI_NETNS", "/run/netns/x")
        };
        del.run().ok();
        let left: Vec<_> = world.links().into_iter().map(|link| link.name).collect();
        assert_eq!(left, ["lo", "cni0"]);
    }
}

#[test]
fn a_stale_ifb_does_not_disturb_the_next_add() {
    let world = World::new();
    let x = world.container("x");
    let add = Call::new("ADD", &limited());
    add.clone().netns(&x).run().ok();
    x.destroy();
    // The kernel takes a namespace down in its own time, and the pair with it; the IFB stays.
    wait_until("the pair goes", || {
        world.links().iter().all(|link| link.kind != "veth")
    });
    let y = world.container("y");

    // The pair went with the namespace; the address is freed as a crash's debris is.
    add.netns(&y).run().ok();

    assert_eq!(
        world
            .links()
            .iter()
            .filter(|link| link.kind == "ifb")
            .count(),
        1
    );
}

#[test]
fn half_a_limit_is_code_7_and_changes_nothing() {
    let world = World::new();
    let x = world.container("x");
    let config = with(
        podnet(),
        json!({"runtimeConfig": {"bandwidth": {"ingressRate": 1000}}}),
    );
    let before = world.snapshot();

    let error = Call::new("ADD", &config).netns(&x).run().err_code(7);

    assert!(
        error["msg"].as_str().unwrap().contains("ingressBurst"),
        "{error}"
    );
    assert_eq!(world.snapshot(), before);
}
