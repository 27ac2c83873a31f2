//! An anchor in containerd, without Docker: a container of the pause image holds the network,
//! pausenet attaches it, and another container joins it.

use serde_json::{Value, json};

use common::docker::{Docker, NO_BRIDGE, pause_image};
use common::wait::wait_until;
use common::{Call, Container, PluginOutput, allocated, podnet, with};

/// The anchor `anchor` and the member `member`, both of the pause image.
struct AnchorAndMember {
    docker: Docker,
    /// containerd's name for the image.
    image: String,
    netns: String,
    result: Value,
}

impl AnchorAndMember {
    fn start() -> Option<Self> {
        let docker = Docker::start(NO_BRIDGE)?;
        docker.ctr(&["images", "import", pause_image().to_str().unwrap()]);
        let images = docker.ctr(&["images", "ls", "-q"]);
        let image = images
            .lines()
            .find(|name| name.ends_with("pausenet/pause:latest"));
        let mut setup = Self {
            image: image.unwrap().to_owned(),
            docker,
            netns: String::new(),
            result: Value::Null,
        };
        setup.run("anchor", &[]);
        setup.netns = format!("/proc/{}/ns/net", setup.pid("anchor"));
        let links = setup.view("anchor").state().links;
        assert_eq!(links.len(), 1, "containerd gives it no network: {links:?}");
        setup.result = setup.call("ADD").ok();
        setup.join("member");
        Some(setup)
    }

    fn run(&self, name: &str, options: &[&str]) {
        let [runc, cgroup] = self.docker.ctr_run_options(name);
        let run = ["run", "--detach", &runc, &cgroup];
        self.docker
            .ctr(&[&run, options, &[&self.image, name]].concat());
    }

    fn join(&self, name: &str) {
        self.run(name, &["--with-ns", &format!("network:{}", self.netns)]);
    }

    /// A container's process, as `ctr` prints it.
    fn pid(&self, name: &str) -> u32 {
        let tasks = self.docker.ctr(&["tasks", "ls"]);
        let line = tasks
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let pid = line.and_then(|rest| rest.split_whitespace().next());
        pid.unwrap_or_else(|| panic!("no {name}: {tasks}"))
            .parse()
            .unwrap()
    }

    fn view(&self, name: &str) -> Container {
        Container {
            path: format!("/proc/{}/ns/net", self.pid(name)).into(),
        }
    }

    /// Index, MAC and addresses of eth0, as a container's process sees it.
    #[track_caller]
    fn interface(&self, name: &str) -> (u32, String, Vec<String>) {
        let view = self.view(name);
        let link = view.link("eth0").expect("eth0");
        (
            link.index,
            link.mac.unwrap().to_string(),
            view.addresses("eth0"),
        )
    }

    fn kill(&self, name: &str) {
        self.docker
            .ctr(&["tasks", "kill", "--signal", "SIGKILL", name]);
        wait_until("it has ended", || {
            let tasks = self.docker.ctr(&["tasks", "ls"]);
            let mut lines = tasks.lines().filter(|line| line.starts_with(name));
            lines.all(|line| line.ends_with("STOPPED"))
        });
        self.docker.ctr(&["tasks", "delete", name]);
        self.docker.ctr(&["containers", "delete", name]);
    }

    fn call(&self, verb: &str) -> PluginOutput {
        let config = with(podnet(), json!({"prevResult": self.result}));
        Call::new(verb, &config)
            .id("anchor")
            .var("CNI_NETNS", &self.netns)
            .run()
    }

    /// Nothing of the attachment is left, and nothing of containerd.
    fn end(self) {
        assert!(allocated("podnet").is_empty());
        let names: Vec<_> = self
            .docker
            .world
            .links()
            .into_iter()
            .map(|link| link.name)
            .filter(|name| name.starts_with("veth"))
            .collect();
        assert_eq!(names, [""; 0]);
        self.docker.stop();
    }
}

#[test]
fn a_container_joins_the_anchor_and_leaves_again() {
    let Some(setup) = AnchorAndMember::start() else {
        return;
    };
    let network = setup.interface("anchor");
    assert_eq!(network.2, ["10.1.0.2/24"]);
    assert_eq!(setup.interface("member"), network);
    setup.kill("member");
    assert_eq!(setup.interface("anchor"), network);
    setup.call("CHECK").ok();
    // Another one comes.
    setup.join("member2");
    assert_eq!(setup.interface("member2"), network);

    setup.call("DEL").ok();

    for name in ["anchor", "member2"] {
        assert!(setup.view(name).link("eth0").is_none(), "{name}");
        setup.kill(name);
    }
    setup.end();
}

#[test]
fn a_member_keeps_the_network_after_the_anchor_dies_until_del() {
    let Some(setup) = AnchorAndMember::start() else {
        return;
    };
    let network = setup.interface("anchor");
    setup.kill("anchor");
    assert_eq!(setup.interface("member"), network);

    // By the dead anchor's path.
    setup.call("DEL").ok();

    assert!(setup.view("member").link("eth0").is_none());
    setup.kill("member");
    setup.end();
}
