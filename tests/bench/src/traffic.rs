//! Measures traffic between two namespaces: with iperf3 for streams and packets, and with a client and
//! server of its own for requests and connections.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde_json::Value;

use crate::Result;
use crate::series::Unit;
use crate::world::in_container;

/// The port of servers.
pub(crate) const PORT: u16 = 8000;

/// The kind of traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One TCP stream.
    Stream,
    /// UDP packets of 64 bytes.
    SmallPackets,
    /// Round trips of one byte over one connection.
    Echo,
    /// TCP connections opened and closed, one after the other.
    Connections,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Stream => "TCP stream",
            Self::SmallPackets => "UDP 64 bytes",
            Self::Echo => "request/response",
            Self::Connections => "new connections",
        }
    }

    pub(crate) fn unit(self) -> Unit {
        match self {
            Self::Stream => Unit::Gigabits,
            Self::SmallPackets | Self::Echo | Self::Connections => Unit::PerSecond,
        }
    }
}

/// An end of the traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Client,
    Server,
}

/// Runs `work` in a container, on a fixed processor: the first one for the client, the last one for the
/// server. Otherwise the scheduler would let the two share a processor at times, and samples would
/// depend more on that than on the datapath.
fn at<T: Send>(end: End, container: &Path, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    in_container(container, || {
        let usable = sched_getaffinity(None)?;
        let mut usable = (0..CpuSet::MAX_CPU).filter(|cpu| usable.is_set(*cpu));
        let own = match end {
            End::Client => usable.next(),
            End::Server => usable.next_back(),
        };
        let mut set = CpuSet::new();
        set.set(own.ok_or("no processor may be used")?);
        sched_setaffinity(None, &set)?;
        work()
    })
}

/// Sends for about `limit` from the namespace `client` to `target`, which leads to `server`. Returns the
/// rate in the unit of `kind`.
pub(crate) fn run(
    kind: Kind,
    server: &Path,
    client: &Path,
    target: (String, u16),
    limit: Duration,
) -> Result<f64> {
    match kind {
        Kind::Stream => {
            let report = iperf(server, client, &target, &duration_args(limit, 1e9), &[])?;
            let bits = report["end"]["sum_received"]["bits_per_second"].as_f64();
            Ok(bits.ok_or("iperf3 reports no rate")? / 1e9)
        }
        Kind::SmallPackets => {
            let report = iperf(
                server,
                client,
                &target,
                &duration_args(limit, 1e7),
                &["-u", "-b", "0", "-l", "64"],
            )?;
            let sum = &report["end"]["sum"];
            let figure = |key: &str| sum[key].as_f64().ok_or(format!("iperf3 reports no {key}"));
            Ok((figure("packets")? - figure("lost_packets")?) / figure("seconds")?)
        }
        Kind::Echo | Kind::Connections => echo_or_connections(kind, server, client, target, limit),
    }
}

fn iperf(
    server: &Path,
    client: &Path,
    target: &(String, u16),
    duration: &[String],
    more: &[&str],
) -> Result<Value> {
    let mut child = at(End::Server, server, || {
        Ok(Command::new("iperf3")
            .args([
                "--server",
                "--one-off",
                "--forceflush",
                "--port",
                &PORT.to_string(),
            ])
            .stdout(Stdio::piped())
            .spawn()?)
    })?;
    let mut lines = BufReader::new(child.stdout.take().ok_or("no stdout")?).lines();
    if !lines
        .by_ref()
        .map_while(std::result::Result::ok)
        .any(|line| line.contains("listening"))
    {
        return Err("iperf3 does not listen".into());
    }
    let output = at(End::Client, client, || {
        Ok(Command::new("iperf3")
            .args([
                "--client",
                &target.0,
                "--port",
                &target.1.to_string(),
                "--json",
            ])
            .args(duration)
            .args(more)
            .output()?)
    })?;
    lines.map_while(std::result::Result::ok).for_each(drop);
    child.wait()?;
    let report: Value = serde_json::from_slice(&output.stdout)?;
    match report["error"].as_str() {
        Some(error) => Err(format!("iperf3: {error}").into()),
        None => Ok(report),
    }
}

/// iperf3 takes whole seconds only. A fraction of a second is replaced by the number of bytes that take
/// about as long at `bytes_per_second`.
fn duration_args(limit: Duration, bytes_per_second: f64) -> [String; 2] {
    match limit.subsec_nanos() {
        0 => ["--time".to_owned(), limit.as_secs().to_string()],
        _ => {
            let bytes = limit.as_secs_f64() * bytes_per_second;
            ["--bytes".to_owned(), format!("{bytes:.0}")]
        }
    }
}

/// Round trips or connections per second, by our own client and server.
#[expect(clippy::expect_used, reason = "the server thread does not panic")]
fn echo_or_connections(
    kind: Kind,
    server: &Path,
    client: &Path,
    target: (String, u16),
    limit: Duration,
) -> Result<f64> {
    let listener = in_container(server, || Ok(TcpListener::bind(("0.0.0.0", PORT))?))?;
    std::thread::scope(|scope| {
        let serving = scope.spawn(|| at(End::Server, server, || serve(kind, &listener)));
        let rate = at(End::Client, client, || match kind {
            Kind::Echo => round_trips(target, limit),
            _ => connections(target, limit),
        });
        // A connection that sends `q` ends the server.
        in_container(server, || {
            Ok(TcpStream::connect(("127.0.0.1", PORT))?.write_all(b"q")?)
        })?;
        serving.join().expect("the server does not panic")?;
        rate
    })
}

/// Echoes each byte, and returns at a `q`. For [`Kind::Connections`] it reads only from the loopback,
/// where the `q` comes from.
fn serve(kind: Kind, listener: &TcpListener) -> Result<()> {
    loop {
        let (mut connection, from) = listener.accept()?;
        connection.set_nodelay(true)?;
        if kind == Kind::Connections && !from.ip().is_loopback() {
            continue;
        }
        let mut byte = [0];
        while connection.read(&mut byte).unwrap_or(0) == 1 {
            if byte == *b"q" {
                return Ok(());
            }
            connection.write_all(&byte)?;
        }
    }
}

fn round_trips(target: (String, u16), limit: Duration) -> Result<f64> {
    let mut connection = TcpStream::connect(target)?;
    connection.set_nodelay(true)?;
    let (mut byte, mut done, start) = ([b'x'], 0, Instant::now());
    while start.elapsed() < limit {
        connection.write_all(&byte)?;
        connection.read_exact(&mut byte)?;
        done += 1;
    }
    let rate = f64::from(done) / start.elapsed().as_secs_f64();
    connection.shutdown(Shutdown::Both)?;
    Ok(rate)
}

fn connections(target: (String, u16), limit: Duration) -> Result<f64> {
    let target = std::net::ToSocketAddrs::to_socket_addrs(&target)?
        .next()
        .ok_or("no target")?;
    let (mut done, start) = (0, Instant::now());
    while start.elapsed() < limit {
        let connection = TcpStream::connect(target)?;
        // Closed by reset: otherwise ports in TIME_WAIT would run out.
        rustix::net::sockopt::set_socket_linger(&connection, Some(Duration::ZERO))?;
        done += 1;
    }
    Ok(f64::from(done) / start.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_of_a_second_become_bytes_for_iperf3() {
        let shown = |millis| duration_args(Duration::from_millis(millis), 1e9).join(" ");
        assert_eq!(shown(2_000), "--time 2");
        assert_eq!(shown(200), "--bytes 200000000");
    }
}
