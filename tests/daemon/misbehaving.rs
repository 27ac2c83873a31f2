//! An API server that misbehaves: the daemon asks again within a limit, does not ask too often, and has
//! the cluster's state soon after the server is well again.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::nodes::{Node, WatchingNode, make_bridge, write_kubeconfig};
use common::wait::wait_until;
use common::{World, run};

/// How the server answers watches, or everything.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Watches {
    Good,
    /// Takes the request and says nothing.
    Unanswered,
    /// Answers 200, and then nothing for ever.
    Silent,
    /// Answers 200 without a body.
    Empty,
    /// One byte of an event now and then.
    Slow,
    /// Half an event, and the end.
    Cut,
    /// An event that is no Node.
    Wrong,
    /// What is no JSON.
    Garbage,
    /// This status for every request, lists too.
    Refused(u16),
    /// An event that says that the version is too old.
    Gone,
}

pub(crate) struct State {
    watches: Watches,
    /// The only one that is accepted; empty: none is asked for.
    pub(crate) token: String,
    nodes: Vec<String>,
    /// When each request came, and its path.
    requests: Vec<(Instant, String)>,
}

struct FakeApi {
    port: u16,
    state: Arc<Mutex<State>>,
}

pub(crate) const OF_LAB: &str = "192.168.77.254";

impl State {
    /// Of a server that is well and has one Node.
    pub(crate) fn new(token: &str) -> Self {
        Self {
            watches: Watches::Good,
            token: token.into(),
            nodes: vec!["node1".into()],
            requests: Vec::new(),
        }
    }

    /// Another Node that the daemon has to hear of. Returns how many there are.
    pub(crate) fn add_node(&mut self) -> f64 {
        let name = format!("node{}", self.nodes.len() + 1);
        self.nodes.push(name);
        self.nodes.len() as f64
    }
}

impl FakeApi {
    fn start() -> Self {
        let state = Arc::new(Mutex::new(State::new("first")));
        Self {
            port: serve(&state),
            state,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn write_kubeconfig(&self, token: &str) -> PathBuf {
        let file = Path::new("/run/fake.kubeconfig");
        let url = format!("http://{OF_LAB}:{}", self.port);
        write_kubeconfig(file, &url, "", token);
        file.to_owned()
    }

    fn add_node(&self) -> f64 {
        self.state().add_node()
    }

    fn requests_since(&self, start: Instant) -> usize {
        let state = self.state();
        let since = state.requests.iter().filter(|(at, _)| *at >= start);
        since.count()
    }
}

/// Serves on a port of its own until the test ends.
fn serve(state: &Arc<Mutex<State>>) -> u16 {
    let listener = TcpListener::bind((OF_LAB, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let state = state.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let state = state.clone();
            std::thread::spawn(move || {
                // An error means that the client is gone.
                let _ = answer(&stream, &stream, &state);
            });
        }
    });
    port
}

/// Answers one request, which comes through `connection` as it is or encrypted.
pub(crate) fn answer(
    mut stream: impl Read + Write,
    connection: &TcpStream,
    state: &Mutex<State>,
) -> std::io::Result<()> {
    // A request without a body ends with an empty line.
    let mut head = BufReader::new(&mut stream);
    let mut path = String::new();
    head.read_line(&mut path)?;
    let mut token = String::new();
    for line in head.lines() {
        let line = line?;
        if let Some(value) = line.to_lowercase().strip_prefix("authorization: bearer ") {
            token = value.to_owned();
        }
        if line.is_empty() {
            break;
        }
    }
    let (watches, nodes, accepted) = {
        let mut state = state.lock().unwrap();
        state.requests.push((Instant::now(), path.clone()));
        let accepted = state.token.is_empty() || state.token == token;
        (state.watches, state.nodes.clone(), accepted)
    };
    if !accepted {
        return refuse(&mut stream, 401);
    }
    if let Watches::Refused(status) = watches {
        return refuse(&mut stream, status);
    }
    let nodes = nodes
        .iter()
        .enumerate()
        .map(|(at, name)| node(at + 1, name));
    if !path.contains("watch=true") && !path.contains("watch=1") {
        let list = json!({"kind": "NodeList", "apiVersion": "v1",
            "metadata": {"resourceVersion": "7"}, "items": nodes.collect::<Vec<_>>()});
        let body = list.to_string();
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close";
        return write!(
            stream,
            "{head}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
    }
    if watches == Watches::Unanswered {
        return until_closed(&mut stream);
    }
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
    )?;
    let events: Vec<_> = nodes
        .map(|object| json!({"type": "MODIFIED", "object": object}).to_string() + "\n")
        .collect();
    match watches {
        Watches::Silent => until_closed(&mut stream),
        Watches::Empty => Ok(()),
        Watches::Slow => {
            for byte in events[0].bytes() {
                stream.write_all(&[byte])?;
                std::thread::sleep(Duration::from_millis(100));
            }
            Ok(())
        }
        Watches::Cut => stream.write_all(&events[0].as_bytes()[..30]),
        Watches::Wrong => {
            let pod = json!({"type": "ADDED", "object": {"kind": "Pod", "metadata": 7}});
            stream.write_all((pod.to_string() + "\n").as_bytes())
        }
        Watches::Garbage => stream.write_all(b"<html>\n</html>\n"),
        Watches::Gone => {
            let gone = json!({"type": "ERROR", "object": {"kind": "Status", "code": 410,
                "reason": "Expired", "message": "too old resource version"}});
            stream.write_all((gone.to_string() + "\n").as_bytes())
        }
        _ => {
            stream.write_all(events.concat().as_bytes())?;
            connection.set_read_timeout(Some(Duration::from_secs(2)))?;
            until_closed(&mut stream)
        }
    }
}

fn until_closed(stream: &mut impl Read) -> std::io::Result<()> {
    while stream.read(&mut [0; 64])? > 0 {}
    Ok(())
}

fn refuse(stream: &mut impl Write, status: u16) -> std::io::Result<()> {
    let mut object = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
        "code": status, "message": "no", "reason": "x"});
    if status == 429 {
        object["details"] = json!({"retryAfterSeconds": 2});
    }
    let body = object.to_string();
    write!(
        stream,
        "HTTP/1.1 {status} x\r\nContent-Type: application/json\r\nRetry-After: 2\r\n\
         Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn node(number: usize, name: &str) -> Value {
    json!({"kind": "Node", "apiVersion": "v1",
        "metadata": {"name": name, "resourceVersion": "7"},
        "spec": {"podCIDR": format!("10.244.{number}.0/24"),
            "podCIDRs": [format!("10.244.{number}.0/24")]},
        "status": {"addresses": [
            {"type": "InternalIP", "address": format!("192.168.77.{number}")}]}})
}

/// A node with a daemon that watches a fake API server.
pub(crate) struct Scene {
    api: FakeApi,
    pub(crate) watching: WatchingNode,
}

impl Scene {
    pub(crate) fn start() -> Self {
        let (api, watching) = WatchingNode::start(|node| {
            let api = FakeApi::start();
            let command = node.command(&api.write_kubeconfig("first"));
            (api, command)
        });
        Self { api, watching }
    }

    /// Waits until the daemon knows this many Nodes, at most so long.
    #[track_caller]
    fn await_nodes(&self, count: f64, limit: Duration, what: &str) {
        let start = Instant::now();
        wait_until(&format!("{what}: it knows {count} Nodes"), || {
            self.watching.node.metric("pausenet_nodes") == Some(count)
        });
        assert!(start.elapsed() < limit, "{what}: {:?}", start.elapsed());
    }

    /// While watches go this way, the daemon asks now and then, at most 40 times in the first 5 s; and
    /// soon after, it knows what has changed.
    #[track_caller]
    fn survives(&self, watches: Watches) {
        let start = Instant::now();
        self.api.state().watches = watches;
        let errors = self.watching.node.metric("pausenet_watch_errors_total");
        wait_until(&format!("{watches:?} is noticed"), || {
            self.watching.node.metric("pausenet_watch_errors_total") > errors
        });
        let noticed = start.elapsed();
        assert!(
            noticed < Duration::from_secs(40),
            "{watches:?}: {noticed:?}"
        );
        wait_until("5 s have passed", || {
            start.elapsed() > Duration::from_secs(5)
        });
        let asked = self.api.requests_since(start) as f64 / start.elapsed().as_secs_f64();
        assert!(asked < 8.0, "{watches:?}: {asked} requests a second");
        assert_eq!(
            self.watching.node.get("/readyz").unwrap().0,
            200,
            "{watches:?}"
        );

        let count = self.api.add_node();
        self.api.state().watches = Watches::Good;
        self.await_nodes(count, Duration::from_secs(40), &format!("{watches:?}"));
    }
}

#[test]
fn an_api_server_that_does_not_answer_is_asked_again() {
    Scene::start().survives(Watches::Unanswered);
}

#[test]
fn a_watch_that_falls_silent_is_opened_again() {
    let scene = Scene::start();
    scene.survives(Watches::Silent);
    scene.survives(Watches::Slow);
}

#[test]
fn a_watch_that_ends_early_is_opened_again_with_growing_pauses() {
    let scene = Scene::start();
    for watches in [
        Watches::Empty,
        Watches::Cut,
        Watches::Wrong,
        Watches::Garbage,
        Watches::Gone,
    ] {
        scene.survives(watches);
    }
}

#[test]
fn refusals_are_tried_again_and_a_wish_to_wait_is_respected() {
    let scene = Scene::start();
    for status in [410, 500, 503, 403] {
        scene.survives(Watches::Refused(status));
    }
    scene.survives(Watches::Refused(429));
    let state = scene.api.state();
    let times: Vec<_> = state.requests.iter().map(|(at, _)| *at).collect();
    drop(state);
    let start = Instant::now();
    scene.api.state().watches = Watches::Refused(429);
    wait_until("it was refused twice", || {
        scene.api.requests_since(start) >= 3
    });
    let state = scene.api.state();
    let refused = &state.requests[times.len()..];
    let last = &refused[refused.len().saturating_sub(2)..];
    assert!(last[1].0 - last[0].0 >= Duration::from_secs(2), "{last:?}");
}

#[test]
fn a_new_token_and_a_new_address_are_taken_from_the_kubeconfig() {
    let mut scene = Scene::start();
    scene.api.state().token = "second".into();
    scene.api.write_kubeconfig("second");
    let count = scene.api.add_node();
    scene.await_nodes(count, Duration::from_secs(40), "another token");

    // The old address refuses everything from now on.
    let old = scene.api.state.clone();
    let state = State {
        nodes: scene.api.state().nodes.clone(),
        ..State::new("second")
    };
    scene.api.state = Arc::new(Mutex::new(state));
    scene.api.port = serve(&scene.api.state);
    scene.api.write_kubeconfig("second");
    let count = scene.api.add_node();
    old.lock().unwrap().watches = Watches::Refused(500);
    scene.await_nodes(count, Duration::from_secs(40), "another address");
}

#[test]
fn readyz_says_how_old_the_last_news_are() {
    let scene = Scene::start();
    let (_, text) = scene.watching.node.get("/readyz").unwrap();
    assert!(text.contains("last news from the API server: "), "{text}");
    scene.api.state().watches = Watches::Unanswered;
    wait_until("it is old", || {
        let (status, text) = scene.watching.node.get("/readyz").unwrap();
        let age = text.split("API server: ").nth(1).unwrap();
        let age: u64 = age.split(' ').next().unwrap().parse().unwrap();
        status == 200 && age >= 4
    });
}

/// As after a boot, when the daemon is faster than kube-proxy: what it sends to a Service's address is lost, and what
/// it sends again on the same connection is lost too.
#[test]
fn a_connection_that_nobody_answers_is_made_anew() {
    let world = World::new();
    make_bridge();
    let node = Node::new(&world, "node1", 1);
    let kubeconfig = Path::new("/run/service.kubeconfig");
    write_kubeconfig(kubeconfig, "http://10.96.0.1:443", "", "first");
    node.host.ip(&format!("route add 10.96.0.1 via {OF_LAB}"));
    let lost = "add table ip lost; add chain ip lost in { type filter hook prerouting priority -300; }; \
                add rule ip lost in ip daddr 10.96.0.1 drop";
    run("nft", [lost]);

    let _daemon = node.start_as(node.command(kubeconfig));
    let attempts = || {
        node.host
            .enter(|| run("ss", ["-tnH", "state", "syn-sent", "dst", "10.96.0.1"]))
    };
    wait_until("the daemon connects", || !attempts().is_empty());
    let start = Instant::now();
    let own_address = |attempts: String| attempts.split_whitespace().nth(2).map(str::to_owned);
    let first = own_address(attempts());
    wait_until("it connects anew", || {
        let now = own_address(attempts());
        now.is_some() && now != first
    });
    let elapsed = start.elapsed();
    assert!(elapsed < Duration::from_secs(15), "{elapsed:?}");
}
