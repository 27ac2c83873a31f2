//! Real packets: what is wired carries them, from the first one on.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use serde_json::{Value, json};

use common::{Call, Container, World, podnet, set_sysctl, with};

/// Within the second after which the kernel would repeat an unanswered ARP or neighbour
/// solicitation: whatever is answered by then was answered at the first asking.
const AT_ONCE: Duration = Duration::from_millis(900);

fn dual_stack() -> Value {
    with(
        podnet(),
        json!({"ipam": {"type": "host-local",
            "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]]}}),
    )
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// `client` connects to a listener at `server`, says something, and hears it back.
fn tcp_works(server: impl FnOnce() -> TcpListener, client: impl FnOnce(SocketAddr) -> TcpStream) {
    let listener = server();
    let address = listener.local_addr().unwrap();
    let echo = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut said = [0; 5];
        stream.read_exact(&mut said).unwrap();
        stream.write_all(&said).unwrap();
    });
    let mut stream = client(address);
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    stream.write_all(b"hello").unwrap();
    let mut back = [0; 5];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"hello");
    echo.join().unwrap();
}

fn listen(at: IpAddr) -> TcpListener {
    TcpListener::bind((at, 0)).unwrap()
}

fn connect(to: SocketAddr) -> TcpStream {
    TcpStream::connect_timeout(&to, AT_ONCE).unwrap_or_else(|err| panic!("{to}: {err}"))
}

fn added(world: &World, config: &Value, name: &str) -> Container {
    let container = world.container(name);
    Call::new("ADD", config)
        .netns(&container)
        .id(name)
        .run()
        .ok();
    container
}

#[test]
fn pods_on_one_bridge_reach_each_other_in_both_families() {
    let world = World::new();
    let x = added(&world, &dual_stack(), "x");
    let y = added(&world, &dual_stack(), "y");
    for at in ["10.1.0.2", "fd00::2"] {
        tcp_works(|| x.enter(|| listen(ip(at))), |to| y.enter(|| connect(to)));
    }
    for at in ["10.1.0.3", "fd00::3"] {
        tcp_works(|| y.enter(|| listen(ip(at))), |to| x.enter(|| connect(to)));
    }
}

#[test]
fn pods_and_their_gateway_reach_each_other_in_both_families() {
    let world = World::new();
    let x = added(&world, &dual_stack(), "x");
    for gateway in ["10.1.0.1", "fd00::1"] {
        tcp_works(|| listen(ip(gateway)), |to| x.enter(|| connect(to)));
    }
    for pod in ["10.1.0.2", "fd00::2"] {
        tcp_works(|| x.enter(|| listen(ip(pod))), connect);
    }
}

#[test]
fn pods_on_two_bridges_reach_each_other_through_the_host() {
    let world = World::new();
    let x = added(&world, &dual_stack(), "x");
    let other = with(
        dual_stack(),
        json!({"name": "othernet", "bridge": "cni1", "ipam": {"type": "host-local",
            "ranges": [[{"subnet": "10.2.0.0/24"}], [{"subnet": "fd02::/64"}]]}}),
    );
    let y = added(&world, &other, "y");
    for at in ["10.2.0.2", "fd02::2"] {
        tcp_works(|| y.enter(|| listen(ip(at))), |to| x.enter(|| connect(to)));
    }
}

/// One datagram each, sent the moment ADD has answered. Nothing repeats it.
#[test]
fn the_first_packet_after_add_arrives() {
    let world = World::new();
    let x = added(&world, &dual_stack(), "x");
    for (round, (pod, gateway)) in [("10.1.0.2", "10.1.0.1"), ("fd00::2", "fd00::1")]
        .into_iter()
        .enumerate()
    {
        for at in [pod, gateway] {
            let at = ip(at);
            let receiver = match at == ip(pod) {
                true => x.enter(|| UdpSocket::bind((at, 7000))),
                false => UdpSocket::bind((at, 7000)),
            }
            .unwrap();
            receiver.set_read_timeout(Some(AT_ONCE)).unwrap();
            let name = format!("y{round}{}", u8::from(at == ip(pod)));

            let y = added(&world, &dual_stack(), &name);
            y.enter(|| {
                let any = if at.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                UdpSocket::bind(any).unwrap().send_to(&[42], (at, 7000))
            })
            .unwrap();

            let mut got = [0];
            let outcome = receiver.recv(&mut got);
            assert!(outcome.is_ok() && got == [42], "to {at}: {outcome:?}");
        }
    }
}

/// The other direction: the host reaches a new pod at once.
#[test]
fn the_first_packet_to_a_new_pod_arrives() {
    let world = World::new();
    let x = added(&world, &dual_stack(), "x");
    for at in ["10.1.0.2", "fd00::2"] {
        let receiver = x.enter(|| UdpSocket::bind((ip(at), 7000))).unwrap();
        receiver.set_read_timeout(Some(AT_ONCE)).unwrap();
        let any = if ip(at).is_ipv4() {
            "0.0.0.0:0"
        } else {
            "[::]:0"
        };
        UdpSocket::bind(any)
            .unwrap()
            .send_to(&[42], (ip(at), 7000))
            .unwrap();
        assert_eq!(receiver.recv(&mut [0]).unwrap(), 1, "{at}");
    }
}

/// `y` opens a connection to each of a pod's addresses, at once.
fn reaches(y: &Container, pod: &Container, addresses: &[&str]) {
    for at in addresses {
        tcp_works(
            || pod.enter(|| listen(ip(at))),
            |to| y.enter(|| connect(to)),
        );
    }
}

/// Gives addresses to a pod and, once another has spoken with it, to a second one, which the other
/// reaches at once. `first` is what the first one's config has beside.
fn pass_on(world: &World, config: &Value, first: Value, addresses: &[&str]) -> Container {
    let y = added(world, config, "y");
    let request = with(config.clone(), json!({"runtimeConfig": {"ips": addresses}}));
    let first = with(request.clone(), first);
    let old = added(world, &first, "old");
    reaches(&y, &old, addresses);
    Call::new("DEL", &first).netns(&old).id("old").run().ok();
    let new = added(world, &request, "new");
    reaches(&y, &new, addresses);
    new
}

/// STEADY_GROUP, NEW_GROUP, and the kernel's default.
const STEADY: u32 = u32::from_be_bytes(*b"1mac");
const NEW: u32 = u32::from_be_bytes(*b"6new");
const DEFAULT: u32 = 0;

fn group_of_the_bridge(world: &World) -> u32 {
    world.link("cni0").unwrap().group
}

/// Neighbours with an entry for the address's last holder reach the new one: the change is announced.
#[test]
fn a_reused_address_is_reachable_from_hosts_with_a_stale_neighbour_entry() {
    let world = World::new();
    pass_on(&world, &dual_stack(), json!({}), &["10.1.0.50", "fd00::50"]);
    assert_eq!(group_of_the_bridge(&world), DEFAULT);
}

/// No announcement is needed where an address always has the same MAC.
#[test]
fn a_reused_address_keeps_its_mac() {
    let world = World::new();
    let new = pass_on(&world, &podnet(), json!({}), &["10.1.0.50"]);
    assert_eq!(group_of_the_bridge(&world), STEADY);
    let mac = new.link("eth0").unwrap().mac.unwrap();
    assert_eq!(mac.to_string(), "0a:58:0a:01:00:32");
}

/// Nobody has ever known the IPv6 addresses that are given in order. That ends when one is requested, or
/// where a range begins again.
#[test]
fn new_ipv6_addresses_need_no_announcement() {
    let world = World::new();
    let pods = ["x", "y", "z"].map(|name| added(&world, &dual_stack(), name));
    assert_eq!(group_of_the_bridge(&world), NEW);
    reaches(&pods[0], &pods[2], &["10.1.0.4", "fd00::4"]);
    let alone = added(&world, &podnet(), "alone");
    reaches(&pods[0], &alone, &["10.1.0.5"]);
    assert_eq!(group_of_the_bridge(&world), NEW);

    let gone = Call::new("DEL", &dual_stack()).netns(&pods[2]).id("z");
    gone.run().ok();
    let requested = json!({"runtimeConfig": {"ips": ["fd00::4"]}});
    let new = added(&world, &with(dual_stack(), requested), "new");
    reaches(&pods[0], &new, &["fd00::4"]);
    assert_eq!(group_of_the_bridge(&world), DEFAULT);

    let world = World::new();
    let mut small = dual_stack();
    small["ipam"]["ranges"][1][0]["subnet"] = json!("fd00::/112");
    added(&world, &small, "x");
    assert_eq!(group_of_the_bridge(&world), DEFAULT);
}

/// A bridge of ours on which an attachment once requested a MAC.
#[test]
fn a_requested_mac_is_announced_to_neighbours() {
    let world = World::new();
    let asked = json!({"runtimeConfig": {"ips": ["10.1.0.50"], "mac": "02:00:00:00:00:50"}});
    pass_on(&world, &podnet(), asked, &["10.1.0.50"]);
    assert_eq!(group_of_the_bridge(&world), DEFAULT);
}

/// The same on a bridge that was there before us, with a pod that another plugin had wired.
#[test]
fn addresses_on_a_foreign_bridge_are_announced_to_neighbours() {
    let world = World::new();
    let ip = common::ip;
    ip("link add cni0 type bridge");
    let y = added(&world, &podnet(), "y");
    let foreign = world.container("foreign");
    ip("link add foreign master cni0 up type veth peer name eth0 netns foreign");
    foreign.ip("addr add 10.1.0.50/24 dev eth0");
    foreign.ip("link set eth0 up");
    reaches(&y, &foreign, &["10.1.0.50"]);
    ip("link del foreign");

    let request = with(podnet(), json!({"runtimeConfig": {"ips": ["10.1.0.50"]}}));
    reaches(&y, &added(&world, &request, "new"), &["10.1.0.50"]);
    assert_eq!(group_of_the_bridge(&world), DEFAULT);
}

/// Broadcasts of the container to itself: one copy comes by way of its own loopback, and with
/// hairpin mode another one back from the bridge. So many are waited for; a moment longer, for more.
fn copies_heard(container: &Container, expected: usize) -> usize {
    container.enter(|| {
        // Else its own address as source of a frame from outside counts as a forgery.
        set_sysctl("ipv4/conf/eth0/accept_local", "1");
        set_sysctl("ipv4/conf/eth0/rp_filter", "0");
        set_sysctl("ipv4/conf/all/rp_filter", "0");
        let socket = UdpSocket::bind("0.0.0.0:7001").unwrap();
        socket.set_broadcast(true).unwrap();
        socket.send_to(&[1], "10.1.0.255:7001").unwrap();
        let mut copies = 0;
        loop {
            let limit = Duration::from_millis(if copies < expected { 5_000 } else { 200 });
            socket.set_read_timeout(Some(limit)).unwrap();
            match socket.recv(&mut [0]) {
                Ok(_) => copies += 1,
                Err(err) if err.kind() == ErrorKind::WouldBlock => return copies,
                Err(err) if err.kind() == ErrorKind::Interrupted => {}
                Err(err) => panic!("{err}"),
            }
        }
    })
}

#[test]
fn hairpin_mode_returns_a_container_s_frames_to_it() {
    let world = World::new();
    let with_it = added(&world, &with(podnet(), json!({"hairpinMode": true})), "x");
    let without = added(&world, &podnet(), "y");
    assert_eq!(copies_heard(&with_it, 2), 2);
    assert_eq!(copies_heard(&without, 1), 1);
}

#[test]
fn no_traffic_passes_between_pods_after_del() {
    let world = World::new();
    let x = added(&world, &podnet(), "x");
    let y = added(&world, &podnet(), "y");
    tcp_works(
        || x.enter(|| listen(ip("10.1.0.2"))),
        |to| y.enter(|| connect(to)),
    );

    Call::new("DEL", &podnet()).netns(&y).id("y").run().ok();

    let refused = y.enter(|| TcpStream::connect_timeout(&(ip("10.1.0.2"), 7000).into(), AT_ONCE));
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::NetworkUnreachable);
}
