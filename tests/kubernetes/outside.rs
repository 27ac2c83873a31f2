//! A server outside the cluster.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// The addresses of the outside, as in URLs, and its port.
pub(crate) const OUTSIDE: [&str; 2] = ["192.168.77.254", "[fd00:77::254]"];
pub(crate) const OUTSIDE_PORT: u16 = 8080;

/// An HTTP server outside the cluster that records the source addresses of its clients.
pub(crate) struct Outside {
    /// None stops the server.
    pub(crate) seen: Arc<Mutex<Option<BTreeSet<IpAddr>>>>,
    thread: Option<JoinHandle<()>>,
}

impl Outside {
    /// Starts it in the calling thread's network namespace.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind(("::", OUTSIDE_PORT)).unwrap();
        let seen = Arc::new(Mutex::new(Some(BTreeSet::new())));
        let own = seen.clone();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let peer = stream.peer_addr().unwrap().ip().to_canonical();
                match &mut *own.lock().unwrap() {
                    Some(seen) => seen.insert(peer),
                    None => return,
                };
                let _ = stream.read(&mut [0; 1024]);
                let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n");
            }
        });
        Self {
            seen,
            thread: Some(thread),
        }
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        *self.seen.lock().unwrap() = None;
        let _ = TcpStream::connect(("127.0.0.1", OUTSIDE_PORT)); // to wake it up
        let _ = self.thread.take().unwrap().join();
    }
}
