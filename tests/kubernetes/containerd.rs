//! containerd through CRI v1, as a current kubelet uses it, with CNI 1.1.0 and STATUS.

mod nerdctl;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::conflist;
use crate::cri::{Cri, LinuxSandbox, SandboxConfig, SandboxMetadata};
use crate::scene::{State, container_of, share_a_network, wait_for_slot};
use crate::script::{Images, Script, kill};
use crate::wrapper;
use common::programs;
use common::wait::wait_until;
use common::{Call, World, ip, lab};

#[test]
fn sandboxes_live_and_die_on_containerd() {
    let Some(containerd) = Containerd::start() else {
        return;
    };
    let cri = &containerd.cri;
    let unready = cri.network().unwrap_err();
    assert!(unready.contains("cni plugin not initialized"), "{unready}");
    containerd.install(&network("10.7.0.0/24"));
    containerd.wait_for_network(true);
    let before = containerd.script.inside(State::read);
    assert!(containerd.calls().iter().all(|call| call == "STATUS 1.1.0"));

    let (config, id) = containerd.run_sandbox("web");
    let ip = cri.sandbox(&id).network.unwrap().ip;
    assert_eq!(containerd.calls_of(&id), ["ADD 1.1.0"]);
    let server = cri.run_container(&id, &config, "nginx");
    let client = cri.run_container(&id, &config, "hwchiu/netutils");
    let pids = [&id, &server, &client].map(|id| containerd.pid(id));
    let program = fs::read(format!("/proc/{}/exe", pids[0])).unwrap();
    assert!(program == fs::read(programs::pause()).unwrap());
    for pid in &pids[1..] {
        assert!(share_a_network(*pid, pids[0]));
    }
    assert_eq!(
        container_of(pids[2]).addresses("eth0"),
        [format!("{ip}/24")]
    );

    // One container dies: nothing changes for the others.
    kill(pids[1]);
    wait_until("containerd knows", || !cri.is_running(&server));
    assert!(cri.is_running(&client));
    assert_eq!(
        container_of(pids[2]).addresses("eth0"),
        [format!("{ip}/24")]
    );
    assert_eq!(cri.sandbox(&id).state, READY);

    // So does containerd: what runs goes on, and it finds all of it again.
    containerd.script.kill("containerd");
    wait_until("containerd answers again", || cri.network().is_ok());
    assert_eq!(cri.sandbox(&id).state, READY);
    assert_eq!(cri.sandbox(&id).network.unwrap().ip, ip);
    assert!(cri.is_running(&client));
    assert_eq!(containerd.pid(&client), pids[2]);
    assert_eq!(
        container_of(pids[2]).addresses("eth0"),
        [format!("{ip}/24")]
    );
    assert_eq!(containerd.calls_of(&id), ["ADD 1.1.0"]);

    // The pause dies: the sandbox is over, and its removal leaves nothing.
    kill(pids[0]);
    wait_until("containerd knows", || cri.sandbox(&id).state != READY);
    cri.stop_sandbox(&id).unwrap();
    // It hears of the end of what it has stopped in its own time, and removes nothing before.
    wait_until("containerd knows", || {
        !cri.is_running(&client) && !cri.is_running(&server)
    });
    cri.remove_sandbox(&id).unwrap();
    assert_eq!(
        containerd.calls_of(&id),
        ["ADD 1.1.0", "DEL 1.1.0", "DEL 1.1.0"]
    );
    assert_eq!(containerd.script.inside(State::read), before);
    containerd.end();
}

#[test]
fn ctr_attaches_what_it_runs_with_cni() {
    let Some(containerd) = Containerd::start() else {
        return;
    };
    let network = network("10.7.0.0/24");
    containerd.install(&network);
    containerd.wait_for_network(true);
    let before = containerd.script.inside(State::read);
    let ctr = |args: &str| {
        let args: Vec<_> = ["-n", "k8s.io"]
            .into_iter()
            .chain(args.split(' '))
            .collect();
        containerd.script.run("ctr", &args)
    };
    let image = "docker.io/hwchiu/netutils:latest";
    let address = "ip -o -4 addr show eth0";
    let said = ctr(&format!("run --cgroup= --cni --rm {image} one {address}"));
    assert!(said.contains(" 10.7.0.2/24 "), "{said}");
    assert_eq!(
        containerd.calls_of("k8s.io-one"),
        ["ADD 1.1.0", "DEL 1.1.0"]
    );
    assert_eq!(containerd.script.inside(State::read), before);

    // In the background there is no DEL, only the end of the namespace.
    ctr(&format!("run --cgroup= --cni -d {image} two sleep 1d"));
    let pid = containerd.pid("two").to_string();
    let page = containerd
        .script
        .run(programs::pausectl(), &["explain", &pid]);
    for line in [
        "two has a network of its own that nothing shares.",
        "  two  containerd container two, process",
        "        network podnet, made by pausenet",
        "its address stays reserved until DEL or GC is run",
    ] {
        assert!(page.contains(line), "{page}");
    }
    ctr("tasks rm -f two");
    ctr("containers rm two");
    assert_eq!(containerd.calls_of("k8s.io-two"), ["ADD 1.1.0"]);
    let mut plugin = network["plugins"][0].clone();
    plugin["name"] = network["name"].clone();
    plugin["cniVersion"] = network["cniVersion"].clone();
    let gc = Call::new("GC", &plugin)
        .without("CNI_CONTAINERID")
        .without("CNI_IFNAME");
    containerd.script.inside(|| gc.run().ok());
    assert_eq!(containerd.script.inside(State::read), before);
    containerd.end();
}

#[test]
fn the_network_is_ready_while_another_sandbox_can_be_attached() {
    let Some(containerd) = Containerd::start() else {
        return;
    };
    let cri = &containerd.cri;
    containerd.install(&network("10.7.0.0/30")); // the gateway's address, and one more
    containerd.wait_for_network(true);
    let before = containerd.script.inside(State::read);

    let (_, only) = containerd.run_sandbox("only");
    let why = containerd.wait_for_network(false);
    assert!(why.contains("10.7.0.1-10.7.0.2"), "{why}");
    let refused = cri.run_sandbox(&containerd.config("second")).unwrap_err();
    assert!(refused.contains("10.7.0.1-10.7.0.2"), "{refused}");
    cri.stop_sandbox(&only).unwrap();
    containerd.wait_for_network(true);
    cri.remove_sandbox(&only).unwrap();

    // A store that cannot be written.
    let store = "/var/lib/cni/networks/podnet";
    containerd
        .script
        .run("mount", &["-t", "tmpfs", "-o", "ro", "tmpfs", store]);
    let why = containerd.wait_for_network(false);
    assert!(why.contains(store), "{why}");
    containerd.script.run("umount", &[store]);
    containerd.wait_for_network(true);
    with_the_daemon_s_conflist(&containerd);
    assert_eq!(containerd.script.inside(State::read), before);
    containerd.end();
}

/// The node stays ready while all addresses are in use: pods come and go, and one waits for another.
fn with_the_daemon_s_conflist(containerd: &Containerd) {
    let cri = &containerd.cri;
    containerd.install(&conflist::of_the_daemon("10.7.0.0/30".parse().unwrap()));
    let calls = || containerd.calls_to(conflist::NETWORK);
    wait_until("the runtime has read it", || {
        let _ = cri.network(); // it asks with STATUS
        !calls().is_empty()
    });
    let (_, only) = containerd.run_sandbox("only");
    assert_eq!(containerd.calls_of(&only), ["ADD 1.1.0"]);
    containerd.wait_for_network(true);
    for _ in 0..2 {
        let refused = cri.run_sandbox(&containerd.config("second")).unwrap_err();
        assert!(refused.contains("10.7.0.1-10.7.0.2"), "{refused}");
        assert!(cri.network().is_ok());
    }
    cri.stop_sandbox(&only).unwrap();
    cri.remove_sandbox(&only).unwrap();
    let (_, second) = containerd.run_sandbox("second");
    assert_eq!(containerd.calls_of(&second), ["ADD 1.1.0"]);
    cri.stop_sandbox(&second).unwrap();
    cri.remove_sandbox(&second).unwrap();

    let calls = calls();
    let adds: Vec<_> = calls
        .iter()
        .filter(|call| call.starts_with("ADD"))
        .collect();
    assert_eq!(
        adds,
        ["ADD 1.1.0", "ADD 1.1.0 11", "ADD 1.1.0 11", "ADD 1.1.0"]
    );
    let mut others = calls.iter().filter(|call| !call.starts_with("ADD"));
    let is_good = |call: &String| call == "STATUS 1.1.0" || call == "DEL 1.1.0";
    assert!(others.all(is_good), "{calls:?}");
    assert!(calls.contains(&"STATUS 1.1.0".to_owned()), "{calls:?}");
    assert!(containerd.script.inside(conflist::addresses).is_empty());
}

/// kubelet gives up after two minutes, and the runtime then ends the plugin, whatever it has done.
#[test]
fn a_sandbox_whose_add_times_out_leaves_nothing() {
    let Some(containerd) = Containerd::start() else {
        return;
    };
    let cri = &containerd.cri;
    containerd.install(&network("10.7.0.0/24"));
    containerd.wait_for_network(true);
    let before = containerd.script.inside(State::read);
    for slow in [SLOW_BEFORE, SLOW_BEHIND] {
        containerd.script.inside(|| wrapper::replace(slow));
        let config = containerd.config("slow");
        // How it is put depends on which side notices first.
        let start = Instant::now();
        let refused = cri.run_sandbox_within(&config, PATIENCE).unwrap_err();
        assert!(start.elapsed() >= PATIENCE, "too soon: {refused}");
        let reached = || containerd.script.inside(|| fs::remove_file("/run/reached"));
        reached().expect("an ADD that has waited");

        containerd.script.inside(|| wrapper::replace(NOTES));
        // A kubelet tries again, and tells the runtime to clear up.
        let mut id = String::new();
        wait_until("the runtime has let go of the one before", || {
            let made = cri.run_sandbox(&config);
            made.map(|made| id = made).is_ok()
        });
        cri.stop_sandbox(&id).unwrap();
        cri.remove_sandbox(&id).unwrap();
        wait_until("nothing is left", || {
            containerd.script.inside(State::read) == before
        });
    }
    containerd.end();
}

/// Enough for a sandbox on a busy machine to get as far as its ADD.
const PATIENCE: Duration = Duration::from_secs(10);

/// The plugin is called too late, or has done it all and is never heard.
const SLOW_BEFORE: &str =
    "[ $CNI_COMMAND = ADD ] && { : >/run/reached; exec sleep 1000; }\nexec /opt/real/pausenet\n";
const SLOW_BEHIND: &str = "[ $CNI_COMMAND = ADD ] || exec /opt/real/pausenet\n\
     /opt/real/pausenet && : >/run/reached\nexec sleep 1000\n";

/// SANDBOX_READY.
const READY: i32 = 0;

/// Where the plugin writes down how it was called.
const CALLS: &str = "/run/calls";

/// A machine with containerd.
pub(crate) struct Containerd {
    cri: Cri,
    pub script: Script,
    _world: World,
    _slot: crate::scene::ClusterSlot,
}

impl Containerd {
    pub(crate) fn start() -> Option<Self> {
        let slot = wait_for_slot();
        lab::containerd()?;
        let images = Images::find()?;
        let world = World::new();
        ip("link add lab0 type bridge");
        let machine = [
            "kubernetes.sh",
            "machine",
            "--name",
            "node1",
            "--address",
            "192.168.77.1",
        ];
        let engine = ["containerd.sh", "run"];
        let script = Script::start(&[&machine, &engine], &BTreeMap::new());
        for file in images.files() {
            script.load_into_containerd(file);
        }
        let socket = Path::new(script.variable("CONTAINERD_HOME")).join("containerd.sock");
        let root = format!("/proc/{}/root", script.pid);
        let cri = Cri::new(PathBuf::from(root + socket.to_str().unwrap()));
        Some(Self {
            cri,
            script,
            _world: world,
            _slot: slot,
        })
    }

    /// Puts the plugin, in a wrapper that writes down its calls, and a conflist where they belong.
    fn install(&self, network: &Value) {
        self.script.inside(|| {
            for name in ["pausenet", "loopback"] {
                let file = Path::new("/opt/cni/bin").join(name);
                fs::copy(programs::pausenet(), file).unwrap();
            }
            wrapper::put(NOTES);
        });
        self.write_conflist(network);
    }

    pub(crate) fn write_conflist(&self, network: &Value) {
        self.script.inside(|| {
            fs::write("/etc/cni/net.d/.new", network.to_string()).unwrap();
            fs::rename("/etc/cni/net.d/.new", "/etc/cni/net.d/10-podnet.conflist").unwrap();
        });
    }

    /// Waits until the network is ready, or is not; and why.
    #[track_caller]
    pub(crate) fn wait_for_network(&self, ready: bool) -> String {
        let mut why = String::new();
        wait_until("the network is ready, or not", || {
            let network = self.cri.network();
            let found = network.is_ok();
            why = network.err().unwrap_or_default();
            found == ready
        });
        why
    }

    /// A pod of that name.
    fn config(&self, name: &str) -> SandboxConfig {
        let home = Path::new(self.script.variable("CONTAINERD_HOME"));
        SandboxConfig {
            metadata: Some(SandboxMetadata {
                name: name.to_owned(),
                uid: format!("uid-of-{name}"),
                namespace: "default".to_owned(),
            }),
            linux: Some(LinuxSandbox {
                cgroup_parent: format!("/{}", home.file_name().unwrap().to_str().unwrap()),
            }),
            ..SandboxConfig::default()
        }
    }

    #[track_caller]
    fn run_sandbox(&self, name: &str) -> (SandboxConfig, String) {
        let config = self.config(name);
        let id = self.cri.run_sandbox(&config).unwrap();
        (config, id)
    }

    /// The process of a sandbox or container.
    #[track_caller]
    fn pid(&self, id: &str) -> u32 {
        let tasks = self.script.run("ctr", &["-n", "k8s.io", "tasks", "ls"]);
        let line = tasks
            .lines()
            .find(|line| line.starts_with(id))
            .expect(&tasks);
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// How the plugin has been called: network, container, and verb, version and the code of its
    /// error, if it came to one.
    fn all_calls(&self) -> Vec<[String; 3]> {
        let text = self.script.inside(|| fs::read_to_string(CALLS));
        let call = |line: &str| {
            let mut parts = line.splitn(3, '|').map(str::to_owned);
            [(); 3].map(|()| parts.next().unwrap())
        };
        text.unwrap_or_default().lines().map(call).collect()
    }

    /// Verb, version and code of each call.
    fn calls(&self) -> Vec<String> {
        let all = self.all_calls().into_iter();
        all.map(|[_, _, call]| call).collect()
    }

    /// The same of calls about a sandbox.
    fn calls_of(&self, id: &str) -> Vec<String> {
        let all = self.all_calls().into_iter();
        let own = all.filter(|[_, container, _]| container == id);
        own.map(|[_, _, call]| call).collect()
    }

    /// The same of calls for a network.
    fn calls_to(&self, network: &str) -> Vec<String> {
        let all = self.all_calls().into_iter();
        let own = all.filter(|[found, _, _]| found == network);
        own.map(|[_, _, call]| call).collect()
    }

    pub(crate) fn end(self) {
        self.script.end(&["CONTAINERD_HOME"]);
    }
}

const NOTES: &str = r#"config=$(cat)
version=$(printf %s "$config" | sed 's/.*"cniVersion":"\([^"]*\)".*/\1/')
case $config in *'"name":"pausenet"'*) network=pausenet ;; *) network=podnet ;; esac
answer=$(printf %s "$config" | /opt/real/pausenet)
status=$?
code=$(printf %s "$answer" | sed -n 's/^  "code": \([0-9]*\),*$/\1/p')
echo "$network|$CNI_CONTAINERID|$CNI_COMMAND $version${code:+ $code}" >>/run/calls
printf %s "$answer"
exit $status
"#;

fn network(subnet: &str) -> Value {
    json!({
        "cniVersion": "1.1.0",
        "name": "podnet",
        "plugins": [{
            "type": "pausenet",
            "mode": "ptp",
            "ipMasq": true,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": subnet}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }],
    })
}
