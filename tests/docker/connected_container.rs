//! A container that holds a TCP connection to the host, by which it is seen whether its network
//! lives.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use common::docker::Docker;
use common::wait::wait_until;

/// A container with a connection to the host.
pub(crate) struct ConnectedContainer {
    pub(crate) name: String,
    stream: BufReader<TcpStream>,
}

impl ConnectedContainer {
    /// Starts one in a network (`container:web`). It connects to this address of the host, says
    /// its name, and sends back what it gets.
    pub(crate) fn start(docker: &Docker, name: &str, network: &str, host: &str) -> Self {
        let listener = TcpListener::bind((host, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let connect = format!("exec 3<>/dev/tcp/{host}/{port}; echo {name} >&3; exec cat <&3 >&3");
        let network = format!("--net={network}");
        // It would take ten seconds to leave on SIGTERM, as PID 1.
        let run = ["run", "-d", "--stop-signal=KILL", &network, "--name", name];
        let program = ["--entrypoint=bash", "hwchiu/netutils", "-c", &connect];
        docker.run(&[&run[..], &program].concat());
        let mut accepted = None;
        wait_until("it connects", || {
            accepted = listener.accept().ok();
            accepted.is_some()
        });
        let (stream, _) = accepted.unwrap();
        stream.set_nonblocking(false).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        let mut client = Self {
            name: name.to_owned(),
            stream: BufReader::new(stream),
        };
        assert_eq!(client.line(), client.name);
        client
    }

    /// The connection carries a word there and back.
    #[track_caller]
    pub(crate) fn answers(&mut self) {
        self.stream.get_mut().write_all(b"still there?\n").unwrap();
        assert_eq!(self.line(), "still there?");
    }

    /// Waits until the connection has ended with its container.
    #[track_caller]
    pub(crate) fn ends(mut self) {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => assert_eq!(rest, b""),
            Err(err) => assert_eq!(err.kind(), ErrorKind::ConnectionReset),
        }
    }

    #[track_caller]
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}
