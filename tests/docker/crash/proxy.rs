//! A proxy between `pausectl` and Docker that strikes at a request which changes something: before Docker
//! gets it, or when Docker has carried it out and the answer is on its way. It strikes at `pausectl`, or at
//! containers.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};

use common::docker::Docker;
use common::processes::with_default_signals;

/// When it strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    Before,
    After,
}

/// What it does then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Strike {
    /// `pausectl` gets a signal.
    Signal(Signal),
    /// Those of these containers that run are killed, as by `docker kill`.
    Kill(&'static [&'static str]),
}

/// The socket of the proxy, and what it is to do.
pub(super) struct Proxy {
    socket: PathBuf,
    plan: Arc<Plan>,
}

#[derive(Default)]
struct Plan {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The process of `pausectl`. Until it is known, its requests wait.
    client: Option<u32>,
    /// The request to strike at, counted from zero.
    strike: Option<(usize, Moment, Strike)>,
    /// The requests so far that change something.
    changes: Vec<String>,
}

impl Proxy {
    pub(super) fn start(docker: &Docker) -> Self {
        let socket = docker.home().join("proxy.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let upstream = docker.socket_path().to_owned();
        let plan = Arc::new(Plan::default());
        let own = Arc::clone(&plan);
        // It ends with the test's process.
        thread::spawn(move || {
            for client in listener.incoming() {
                let (plan, upstream) = (Arc::clone(&own), upstream.clone());
                thread::spawn(move || serve(client.unwrap(), &upstream, &plan));
            }
        });
        Self { socket, plan }
    }

    /// Runs `pausectl` by way of the proxy, and strikes. Returns the requests that changed something, up to
    /// its end.
    pub(super) fn run(
        &self,
        docker: &Docker,
        args: &[&str],
        strike: Option<(usize, Moment, Strike)>,
    ) -> (Vec<String>, Output) {
        *self.plan.state.lock().unwrap() = State {
            strike,
            ..State::default()
        };
        let mut command = docker.pausectl(args);
        command.env("DOCKER_HOST", format!("unix://{}", self.socket.display()));
        let mut command = with_default_signals(&command);
        let child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        self.plan.state.lock().unwrap().client = Some(child.id());
        self.plan.changed.notify_all();
        let output = child.wait_with_output().unwrap();
        let changes = self.plan.state.lock().unwrap().changes.clone();
        (changes, output)
    }
}

impl Plan {
    /// Counts a request that changes something, and tells whether and when to strike.
    fn count(&self, request: &str) -> Option<(Moment, Strike, u32)> {
        let state = self.state.lock().unwrap();
        let mut state = self
            .changed
            .wait_while(state, |state| state.client.is_none())
            .unwrap();
        let nth = state.changes.len();
        state.changes.push(request.to_owned());
        let (_, moment, strike) = state.strike.filter(|(at, ..)| *at == nth)?;
        Some((moment, strike, state.client?))
    }
}

impl Strike {
    fn hit(self, client: u32, docker: &Path) {
        match self {
            Self::Signal(signal) => {
                // It may be over already.
                let _ = kill_process(Pid::from_raw(client as i32).unwrap(), signal);
            }
            Self::Kill(containers) => {
                for name in containers {
                    let mut docker = UnixStream::connect(docker).unwrap();
                    let head = format!("POST /containers/{name}/kill HTTP/1.0\r\n\r\n");
                    docker.write_all(head.as_bytes()).unwrap();
                    // The answer comes when it has ended, or says that it does not run.
                    docker.read_to_end(&mut Vec::new()).unwrap();
                }
            }
        }
    }
}

fn serve(mut client: UnixStream, upstream: &Path, plan: &Plan) {
    let Some(request) = read_request(&mut client) else {
        return;
    };
    let line = request.split(|byte| *byte == b'\r').next().unwrap();
    let line = String::from_utf8_lossy(line);
    let line = line.trim_end_matches(" HTTP/1.1");
    let is_change = !line.starts_with("GET ") && !line.starts_with("HEAD ");
    let strike = if is_change { plan.count(line) } else { None };
    if let Some((Moment::Before, strike, pid)) = strike {
        strike.hit(pid, upstream);
        if strike == Strike::Signal(Signal::KILL) {
            return;
        }
    }
    let mut docker = UnixStream::connect(upstream).unwrap();
    docker.write_all(&request).unwrap();
    if let Some((Moment::After, strike, pid)) = strike {
        // The answer begins when it is done.
        let mut first = [0; 1];
        let read = docker.read(&mut first).unwrap_or(0);
        strike.hit(pid, upstream);
        if client.write_all(&first[..read]).is_err() {
            return;
        }
    }
    let (mut from_client, mut to_docker) =
        (client.try_clone().unwrap(), docker.try_clone().unwrap());
    thread::spawn(move || {
        let _ = std::io::copy(&mut from_client, &mut to_docker);
        let _ = to_docker.shutdown(Shutdown::Both);
    });
    let _ = std::io::copy(&mut docker, &mut client);
    let _ = client.shutdown(Shutdown::Both);
}

/// The head and the body of a request. None if the client ends first.
fn read_request(client: &mut UnixStream) -> Option<Vec<u8>> {
    let mut request = Vec::new();
    let mut part = [0; 4096];
    loop {
        let end = request.windows(4).position(|part| part == b"\r\n\r\n");
        if let Some(end) = end {
            let head = String::from_utf8_lossy(&request[..end]).to_lowercase();
            let mut lengths = head
                .lines()
                .filter_map(|line| line.strip_prefix("content-length: "));
            let length = lengths
                .next()
                .map_or(0, |length| length.parse::<usize>().unwrap());
            if request.len() >= end + 4 + length {
                return Some(request);
            }
        }
        match client.read(&mut part) {
            Ok(0) | Err(_) => return None,
            Ok(read) => request.extend_from_slice(&part[..read]),
        }
    }
}
