//! Nodes of a cluster as network namespaces on one bridge, with a pausenetd on each, and pods attached
//! by the plugin that the daemon installed.

use std::fs;
use std::io::Read;
use std::net::{IpAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::daemon::stripped;
use common::programs;
use common::wait::{wait_for, wait_until};
use common::{Container, World, ip};

/// The limit for any wait.
const PATIENCE: Duration = Duration::from_secs(60);

/// The address of the daemon's probes, in its node's namespace.
pub(crate) const LISTEN: &str = "127.0.0.1:9112";

/// The folder with scripts/ and conf/.
pub(crate) use common::programs::CHECKOUT;

/// Creates the bridge of the nodes, for tests without the lab's.
pub(crate) fn make_bridge() {
    ip("link add lab0 type bridge forward_delay 0");
    ip("addr add 192.168.77.254/24 dev lab0");
    ip("addr add fd00:77::254/64 dev lab0 nodad");
    ip("link set lab0 up");
}

/// A node alone in its world, whose daemon watches an API server of the test's own.
pub(crate) struct WatchingNode {
    pub(crate) node: Node,
    _daemon: Daemon,
    pub(crate) world: World,
}

impl WatchingNode {
    /// `serve` starts the API server and returns it with the daemon's command.
    pub(crate) fn start<Api>(serve: impl FnOnce(&Node) -> (Api, Command)) -> (Api, Self) {
        let world = World::new();
        make_bridge();
        let node = Node::new(&world, "node1", 1);
        let (api, mut command) = serve(&node);
        command.env("PAUSENETD_WATCH_TIME", "2");
        let daemon = node.start_as(command);
        node.await_ready();
        let watching = Self {
            node,
            _daemon: daemon,
            world,
        };
        (api, watching)
    }
}

/// A host on the nodes' bridge, by the last part of its addresses.
pub(crate) fn host(world: &World, name: &str, last: u8) -> Container {
    let host = world.container(name);
    ip(&format!(
        "link add {name} type veth peer name eth0 netns {name}"
    ));
    ip(&format!("link set {name} up master lab0"));
    // A host is long up: its link-local address, from which it asks for neighbours, is not probed now.
    host.enter(|| fs::write("/proc/sys/net/ipv6/conf/eth0/accept_dad", "0").unwrap());
    host.ip("link set eth0 up");
    host.ip(&format!("addr add 192.168.77.{last}/24 dev eth0"));
    host.ip(&format!("addr add fd00:77::{last}/64 dev eth0 nodad"));
    host
}

/// A node with its own folders in place of /opt/cni/bin, /etc/cni/net.d and /run/pausenet/ipam.
pub(crate) struct Node {
    pub name: &'static str,
    pub host: Container,
    pub last: u8,
    pub dir: PathBuf,
}

impl Node {
    pub(crate) fn new(world: &World, name: &'static str, last: u8) -> Self {
        let dir = Path::new("/run/nodes").join(name);
        fs::create_dir_all(&dir).unwrap();
        Self {
            name,
            host: host(world, name, last),
            last,
            dir,
        }
    }

    pub(crate) fn address(&self) -> String {
        format!("192.168.77.{}", self.last)
    }

    pub(crate) fn conflist(&self) -> PathBuf {
        self.dir.join("net.d/10-pausenet.conflist")
    }

    /// The command of this node's daemon, with the capabilities of the manifest only.
    pub(crate) fn command(&self, kubeconfig: &Path) -> Command {
        self.command_that_may(kubeconfig, "+net_admin,+dac_override")
    }

    /// The same with other capabilities, in setpriv's syntax.
    pub(crate) fn command_that_may(&self, kubeconfig: &Path, capabilities: &str) -> Command {
        let mut command = self.host.command("setpriv");
        command
            .arg(format!("--bounding-set=-all,{capabilities}"))
            .args(["--inh-caps=-all", "--no-new-privs"])
            .arg(programs::pausenetd())
            .env("PAUSENETD_NODE_NAME", self.name)
            .env("PAUSENETD_KUBECONFIG", kubeconfig)
            .env("PAUSENETD_PLUGIN", stripped(programs::pausenet()))
            .env("PAUSENETD_BIN_DIR", self.dir.join("bin"))
            .env("PAUSENETD_CONF_DIR", self.dir.join("net.d"))
            .env("PAUSENETD_STORE_DIR", self.dir.join("ipam"))
            .env("PAUSENETD_LISTEN", LISTEN)
            // Longer than any wait here: repairs must come from notifications, not from the timer.
            .env("PAUSENETD_INTERVAL", "3600")
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn start(&self, kubeconfig: &Path) -> Daemon {
        self.start_as(self.command(kubeconfig))
    }

    /// Starts a command made by [`Node::command`].
    pub(crate) fn start_as(&self, mut command: Command) -> Daemon {
        let log = self.dir.join("log");
        let file = fs::File::options().create(true).append(true).open(&log);
        let child = command.stderr(file.unwrap()).spawn().unwrap();
        Daemon { child, log }
    }

    /// Sends a GET to the daemon. Returns status and body.
    pub(crate) fn get(&self, path: &str) -> Option<(u16, String)> {
        self.host.enter(|| get(LISTEN, path))
    }

    #[track_caller]
    pub(crate) fn await_ready(&self) {
        wait_until(
            &format!("{} is ready: {:?}", self.name, self.get("/readyz")),
            || self.get("/readyz").is_some_and(|(status, _)| status == 200),
        );
    }

    /// The value of a metric, by its name and labels.
    pub(crate) fn metric(&self, name: &str) -> Option<f64> {
        let (_, text) = self.get("/metrics")?;
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse().ok()
    }

    /// The daemon's routes, as `ip` prints them.
    pub(crate) fn routes(&self) -> Vec<String> {
        let routes = [4, 6].map(|family| self.host.ip(&format!("-{family} route show proto 112")));
        let text = routes.concat();
        text.lines().map(|line| line.trim().to_owned()).collect()
    }

    pub(crate) fn has_route(&self, start: &str) -> bool {
        self.routes().iter().any(|route| route.starts_with(start))
    }

    /// Attaches a pod with cnitool, as a runtime would. Returns its addresses.
    #[track_caller]
    pub(crate) fn add(&self, cnitool: &Path, pod: &Container) -> Vec<IpAddr> {
        let result = self.cnitool(cnitool, "add", pod);
        let result: serde_json::Value = serde_json::from_str(&result).unwrap();
        let ips = result["ips"].as_array().unwrap();
        let of = |ip: &serde_json::Value| ip["address"].as_str().unwrap().to_owned();
        ips.iter()
            .map(|ip| of(ip).split('/').next().unwrap().parse().unwrap())
            .collect()
    }

    /// The same with a published port.
    #[track_caller]
    pub(crate) fn add_with_port(&self, cnitool: &Path, pod: &Container, port: u16) -> IpAddr {
        let ports = serde_json::json!({"portMappings": [
            {"hostPort": port, "containerPort": 80, "protocol": "tcp"}
        ]});
        let mut command = self.cnitool_command(cnitool, "add", pod);
        let output = command.env("CAP_ARGS", ports.to_string()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        pod.addresses("eth0")[0]
            .split('/')
            .next()
            .unwrap()
            .parse()
            .unwrap()
    }

    #[track_caller]
    pub(crate) fn cnitool(&self, cnitool: &Path, verb: &str, pod: &Container) -> String {
        let output = self.cnitool_command(cnitool, verb, pod).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{verb}: {text}{stderr}");
        text
    }

    pub(crate) fn cnitool_command(&self, cnitool: &Path, verb: &str, pod: &Container) -> Command {
        let mut command = self.host.command(cnitool.to_str().unwrap());
        command
            .args([verb, "pausenet"])
            .arg(&pod.path)
            .env("CNI_PATH", self.dir.join("bin"))
            .env("NETCONFPATH", self.dir.join("net.d"))
            .stdin(Stdio::null());
        command
    }

    /// The addresses in use in the store.
    pub(crate) fn taken(&self) -> Vec<String> {
        let names = fs::read_dir(self.dir.join("ipam/pausenet"));
        let mut names: Vec<_> = names
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.parse::<IpAddr>().is_ok())
            .collect();
        names.sort();
        names
    }
}

/// A running pausenetd. It is killed at the end of the test.
pub(crate) struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Its log, after the logs of earlier daemons on this node.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    #[track_caller]
    pub(crate) fn await_log(&self, text: &str) {
        wait_until(&format!("{text:?} in:\n{}", self.log()), || {
            self.log().contains(text)
        });
    }

    /// Kills it with SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits until it ends by itself. Returns the exit status.
    pub(crate) fn end(mut self) -> Option<i32> {
        wait_for("it ends", || self.child.try_wait().unwrap()).code()
    }

    /// Stops it with SIGTERM. Returns the exit status.
    pub(crate) fn stop(mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), self.log());
        }
    }
}

/// Sends a GET over plain HTTP in the calling thread's namespace. None if there is no answer.
pub(crate) fn get(address: &str, path: &str) -> Option<(u16, String)> {
    use std::io::Write;
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

/// A kubeconfig for an unreachable API server.
pub(crate) fn unreachable_kubeconfig() -> PathBuf {
    let file = Path::new("/run/nodes/nobody.kubeconfig");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    write_kubeconfig(file, "http://127.0.0.1:1", "", "x");
    file.to_owned()
}

/// Writes a kubeconfig; `ca` is the server's certificate in base64, or empty.
pub(crate) fn write_kubeconfig(file: &Path, server: &str, ca: &str, token: &str) {
    let text = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": server, "certificate-authority-data": ca}}],
        "users": [{"name": "u", "user": {"token": token}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    });
    let mut text = text;
    if ca.is_empty() {
        let cluster = text["clusters"][0]["cluster"].as_object_mut().unwrap();
        cluster.remove("certificate-authority-data");
    }
    fs::write(file, text.to_string()).unwrap();
}
