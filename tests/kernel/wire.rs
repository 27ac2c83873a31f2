//! Who reaches whom, and as whom: sockets in the namespaces of a test, and the world beyond the
//! node.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use common::traffic::bound;
use common::{Call, Container, World, ip, run};
use serde_json::Value;

/// A namespace: a container, or the host.
pub type Place<'a> = Option<&'a Container>;

/// The node itself.
pub const HOST: Place<'static> = None;

/// For what has to arrive; it does at once.
const PATIENCE: Duration = Duration::from_secs(5);

/// For what must not arrive. It is asked for only where the same way has been seen to work.
const GIVE_UP: Duration = Duration::from_millis(250);

/// Runs `work` in a place.
pub fn at<T>(place: Place, work: impl FnOnce() -> T) -> T {
    match place {
        Some(container) => container.enter(work),
        None => work(),
    }
}

/// Listens at an address and port of a place.
#[track_caller]
pub fn listen(place: Place, address: &str) -> TcpListener {
    let listener = at(place, || bound(|| TcpListener::bind(address)));
    let listener = listener.unwrap_or_else(|err| panic!("{address}: {err}"));
    listener.set_nonblocking(true).unwrap();
    listener
}

/// A datagram socket at an address and port of a place.
#[track_caller]
pub fn bind(place: Place, address: &str) -> UdpSocket {
    let socket = at(place, || bound(|| UdpSocket::bind(address)));
    let socket = socket.unwrap_or_else(|err| panic!("{address}: {err}"));
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Whom the listener sees when `client` connects to `to`, says something and hears it back.
#[track_caller]
pub fn tcp(listener: &TcpListener, client: Place, to: &str) -> IpAddr {
    let mut stream =
        at(client, || connect(to, PATIENCE)).unwrap_or_else(|err| panic!("{to}: {err}"));
    let (mut accepted, seen) = accept(listener).unwrap_or_else(|| panic!("{to}: another answers"));
    stream.write_all(b"hello").unwrap();
    let mut said = [0; 5];
    accepted.read_exact(&mut said).unwrap();
    accepted.write_all(&said).unwrap();
    stream.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"hello");
    seen.ip().to_canonical()
}

/// `client` does not get through to `to`.
#[track_caller]
pub fn tcp_is_cut(client: Place, to: &str) {
    if let Ok(stream) = at(client, || connect(to, GIVE_UP)) {
        panic!("{to} answers: {stream:?}");
    }
}

fn connect(to: &str, limit: Duration) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to.parse().unwrap(), limit)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn accept(listener: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match listener.accept() {
            Ok((stream, seen)) => {
                stream.set_nonblocking(false).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                return Some((stream, seen));
            }
            Err(err) if err.kind() == ErrorKind::WouldBlock && Instant::now() < deadline => {
                std::thread::yield_now();
            }
            Err(_) => return None,
        }
    }
}

/// Whom the receiver sees when `sender` sends a datagram to `to`, and that the answer comes back
/// from there.
#[track_caller]
pub fn udp(receiver: &UdpSocket, sender: &UdpSocket, to: &str) -> IpAddr {
    sender.send_to(b"hello", to).unwrap();
    let mut said = [0; 5];
    let (_, seen) = receiver
        .recv_from(&mut said)
        .unwrap_or_else(|err| panic!("{to}: {err}"));
    receiver.send_to(&said, seen).unwrap();
    let (_, back) = sender
        .recv_from(&mut said)
        .unwrap_or_else(|err| panic!("answer of {to}: {err}"));
    assert_eq!(back, to.parse().unwrap(), "who answers");
    seen.ip().to_canonical()
}

/// What waits at a socket when the last datagram said `last`: everything that came before.
#[track_caller]
pub fn datagrams_before(receiver: &UdpSocket, last: &[u8]) -> Vec<Vec<u8>> {
    let mut before = Vec::new();
    loop {
        let mut said = [0; 64];
        let (length, _) = receiver.recv_from(&mut said).expect("the last datagram");
        if said[..length] == *last {
            return before;
        }
        before.push(said[..length].to_vec());
    }
}

/// A host beyond the node, in the networks 192.0.N.0/24 and fd99:N::/64: the node is .1 there and
/// it is .2. All that it knows is the way to the node.
pub fn beyond(world: &World, n: u8) -> Container {
    let container = world.container(&format!("beyond{n}"));
    let there = container.name();
    ip(&format!(
        "link add up{n} up type veth peer name eth0 netns {there}"
    ));
    container.ip("link set eth0 up");
    for (ip_of, prefix) in [(format!("192.0.{n}."), 24), (format!("fd99:{n}::"), 64)] {
        ip(&format!("addr add {ip_of}1/{prefix} dev up{n} nodad"));
        container.ip(&format!("addr add {ip_of}2/{prefix} dev eth0 nodad"));
        container.ip(&format!("route add default via {ip_of}1"));
    }
    container
}

/// ADD of a container that is called like its namespace, and its result.
#[track_caller]
pub fn added(world: &World, config: &Value, name: &str) -> (Container, Value) {
    let container = world.container(name);
    let result = call("ADD", config, &container).run().ok();
    (container, result)
}

/// A call about a container that is called like its namespace.
pub fn call(verb: &str, config: &Value, container: &Container) -> Call {
    Call::new(verb, config)
        .netns(container)
        .id(container.name())
}

/// nftables, as its own tool shows them.
pub fn ruleset() -> String {
    run("nft", ["list", "ruleset"])
}

/// How many elements of nftables say in their comment that they are this attachment's.
pub fn elements_of(owner: &str) -> usize {
    ruleset().matches(&format!("comment \"{owner}\"")).count()
}
