//! TCP and UDP between the namespaces of a test: whether packets arrive, and with which source
//! address.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use crate::world::Container;

/// A namespace: a container, or the host.
pub type Namespace<'a> = Option<&'a Container>;

/// The node itself.
pub const HOST: Namespace<'static> = None;

/// How long to wait for what must arrive. Normally it does at once.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long to wait for what must not arrive. Tests use it only where the same path has worked before.
const GIVE_UP: Duration = Duration::from_millis(250);

/// Runs `work` in a namespace.
pub fn inside<T>(namespace: Namespace, work: impl FnOnce() -> T) -> T {
    match namespace {
        Some(container) => container.enter(work),
        None => work(),
    }
}

/// Listens at an address and port of a namespace.
#[track_caller]
pub fn listen(namespace: Namespace, address: &str) -> TcpListener {
    let listener = inside(namespace, || bound(|| TcpListener::bind(address)));
    let listener = listener.unwrap_or_else(|err| panic!("{address}: {err}"));
    listener.set_nonblocking(true).unwrap();
    listener
}

/// A datagram socket at an address and port of a namespace.
#[track_caller]
pub fn bind(namespace: Namespace, address: &str) -> UdpSocket {
    let socket = inside(namespace, || bound(|| UdpSocket::bind(address)));
    let socket = socket.unwrap_or_else(|err| panic!("{address}: {err}"));
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// The client's address as the listener sees it, when `client` connects to `to` and data passes in
/// both directions.
#[track_caller]
pub fn tcp(listener: &TcpListener, client: Namespace, to: &str) -> IpAddr {
    let mut stream =
        inside(client, || connect(to, PATIENCE)).unwrap_or_else(|err| panic!("{to}: {err}"));
    let (mut accepted, seen) =
        accept(listener).unwrap_or_else(|| panic!("{to}: another listener accepted"));
    stream.write_all(b"hello").unwrap();
    let mut said = [0; 5];
    accepted.read_exact(&mut said).unwrap();
    accepted.write_all(&said).unwrap();
    stream.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"hello");
    seen.ip().to_canonical()
}

/// `client` cannot connect to `to`.
#[track_caller]
pub fn tcp_is_blocked(client: Namespace, to: &str) {
    if let Ok(stream) = inside(client, || connect(to, GIVE_UP)) {
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

/// The sender's address as the receiver sees it, when `sender` sends a datagram to `to`. The reply
/// has to come from `to`.
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
    assert_eq!(back, to.parse().unwrap(), "source address of the reply");
    seen.ip().to_canonical()
}

/// All datagrams that arrived at a socket before the one that contains `last`.
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

/// The socket that `bind` returns. An address that this test gave back a moment ago may be in use still: a child
/// that another test's thread has forked holds a copy of every socket until it is replaced by its
/// program. Nothing announces that moment, so this retries.
pub fn bound<S>(bind: impl Fn() -> io::Result<S>) -> io::Result<S> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match bind() {
            Err(err) if err.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            bound => return bound,
        }
    }
}

/// The source address of a connection from `from` as its listener in `to` sees it. None when there
/// is no connection.
pub fn seen_as(from: &Container, to: &Container, address: IpAddr) -> Option<IpAddr> {
    let listener = to.enter(|| bound(|| TcpListener::bind((address, 7777))).unwrap());
    let target = listener.local_addr().unwrap();
    let stream = from.enter(|| TcpStream::connect_timeout(&target, Duration::from_secs(2)));
    stream.ok()?;
    Some(listener.accept().unwrap().1.ip())
}
