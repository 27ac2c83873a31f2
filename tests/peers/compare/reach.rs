//! Reachability by real connections and datagrams: what the listener sees as the caller's
//! address is part of the answer, so masquerade shows.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::Node;
use common::traffic::bound;
use common::{Container, ip};

/// Longer than one lost and repeated neighbour solicitation.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Port of every listener.
const PORT: u16 = 80;

/// From where a packet is sent: the host, or a container by its name.
#[derive(Clone, Copy)]
pub(crate) enum From<'a> {
    Host,
    Container(&'a str),
}

/// Somebody outside, on a link of the host's: 192.0.2.2 and 2001:db8::2 in the container
/// `outside`, the host being .1 and ::1. It has no route to containers.
pub(crate) fn outside(node: &mut Node) {
    node.container("outside");
    ip("link add uplink type veth peer name eth0 netns outside");
    for address in ["192.0.2.1/24", "2001:db8::1/64 nodad"] {
        ip(&format!("addr add {address} dev uplink"));
    }
    ip("link set uplink up");
    let outside = node.container("outside");
    for address in ["192.0.2.2/24", "2001:db8::2/64 nodad"] {
        outside.ip(&format!("addr add {address} dev eth0"));
    }
    outside.ip("link set eth0 up");
}

/// Listeners for TCP and UDP at port 80 of both families.
struct Listening {
    tcp: Vec<TcpListener>,
    udp: Vec<UdpSocket>,
}

impl Listening {
    /// In the calling thread's namespace.
    fn here() -> Self {
        let any: SocketAddr = format!("[::]:{PORT}").parse().unwrap();
        let tcp = bound(|| TcpListener::bind(any)).unwrap();
        let udp = bound(|| UdpSocket::bind(any)).unwrap();
        udp.set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        tcp.set_nonblocking(true).unwrap();
        Self {
            tcp: vec![tcp],
            udp: vec![udp],
        }
    }

    /// Tells every caller what its address is, under which name it was called, until `done`.
    fn serve(&self, name: &str, done: &AtomicBool) {
        let reply = |address: SocketAddr| format!("{name}, from {}", address.ip().to_canonical());
        while !done.load(Ordering::Relaxed) {
            for tcp in &self.tcp {
                if let Ok((mut stream, caller)) = tcp.accept() {
                    let _ = stream.write_all(reply(caller).as_bytes());
                }
            }
            for udp in &self.udp {
                // Waits a moment, which paces the loop. The answer comes from where the
                // question went to, for a socket of its own has that address.
                let mut question = [0; 16];
                if let Ok((_, caller)) = udp.recv_from(&mut question) {
                    let _ = udp.send_to(reply(caller).as_bytes(), caller);
                }
            }
        }
    }
}

/// Whom a caller at each of `from` reaches at each of `to`, by TCP and UDP. Every container
/// listens at port 80, the host too; `to` is an address with a port.
pub(crate) fn reach(node: &mut Node, from: &[From], to: &[&str]) {
    let mut listening = vec![("the host".to_owned(), Listening::here())];
    for (name, container) in node.containers() {
        listening.push((name.clone(), container.enter(Listening::here)));
    }
    let mut calls = Vec::new();
    for caller in from {
        for target in to {
            calls.push((*caller, target.parse::<SocketAddr>().unwrap()));
        }
    }
    let done = AtomicBool::new(false);
    let side_ref = &*node;
    let heard: Vec<(String, String)> = std::thread::scope(|scope| {
        for (name, listening) in &listening {
            scope.spawn(|| listening.serve(name, &done));
        }
        let started: Vec<_> = calls
            .iter()
            .map(|(caller, target)| scope.spawn(move || call(side_ref, *caller, *target)))
            .collect();
        let heard = started.into_iter().flat_map(|call| call.join().unwrap());
        let heard = heard.collect();
        done.store(true, Ordering::Relaxed);
        heard
    });
    let step = node.next_step("traffic");
    for (what, answer) in heard {
        node.record(&format!("{step} / {what}"), answer);
    }
}

/// One call by TCP and one by UDP.
fn call(node: &Node, from: From, to: SocketAddr) -> [(String, String); 2] {
    let (name, socket) = match from {
        From::Host => ("host", caller(to)),
        From::Container(name) => (name, node.existing(name).enter(|| caller(to))),
    };
    let tcp = match from {
        From::Host => by_tcp(to),
        From::Container(name) => node.existing(name).enter(|| by_tcp(to)),
    };
    [
        (format!("{name} to {to} tcp"), tcp),
        (format!("{name} to {to} udp"), by_udp(&socket, to)),
    ]
}

fn caller(to: SocketAddr) -> UdpSocket {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => [0; 4].into(),
        SocketAddr::V6(_) => [0; 16].into(),
    };
    UdpSocket::bind((any, 0)).unwrap()
}

fn by_tcp(to: SocketAddr) -> String {
    let heard = TcpStream::connect_timeout(&to, PATIENCE).and_then(|mut stream| {
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut text = String::new();
        stream.read_to_string(&mut text).map(|_| text)
    });
    heard.unwrap_or_else(|_| "nobody".to_owned())
}

/// Not connected, for the answer may come from another of the host's addresses.
fn by_udp(socket: &UdpSocket, to: SocketAddr) -> String {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let heard = socket.send_to(b"hello", to).and_then(|_| {
        let mut text = [0; 256];
        let (length, _) = socket.recv_from(&mut text)?;
        Ok(String::from_utf8_lossy(&text[..length]).into_owned())
    });
    heard.unwrap_or_else(|_| "nobody".to_owned())
}

impl Node {
    fn containers(&self) -> impl Iterator<Item = (&String, &Container)> {
        self.containers.iter()
    }

    fn existing(&self, name: &str) -> &Container {
        &self.containers[name]
    }
}
