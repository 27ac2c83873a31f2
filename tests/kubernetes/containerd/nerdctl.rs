//! Containers with what nerdctl writes about its own into containerd. nerdctl itself is not in the lab: `ctr`
//! runs the same shim and runc with the same annotations, and the plugin is called as nerdctl's hook calls it,
//! with the CNI container ID `NAMESPACE-ID`, on the namespace of the new process.

use serde_json::json;

use super::{Containerd, network};
use crate::scene::{State, container_of, share_a_network};
use crate::script::{Images, kill};
use common::wait::wait_until;
use common::{Call, programs, with};

struct Nerdctl<'a>(&'a Containerd);

impl Nerdctl<'_> {
    fn ctr(&self, args: &[&str]) -> String {
        let args = [&["-n", "default"], args].concat();
        self.0.script.run("ctr", &args)
    }

    /// As `nerdctl run -d --name NAME` does it. Returns the container's process.
    fn run(&self, name: &str, id: &str, networks: &str, more: &[&str]) -> u32 {
        let state = format!("/var/lib/nerdctl/1935db59/containers/default/{id}");
        let mut words = vec![
            "run".to_owned(),
            "-d".into(),
            format!("--cgroup=/default/{id}"),
        ];
        for (key, value) in [
            ("name", name),
            ("namespace", "default"),
            ("networks", networks),
            ("hostname", &id[..12]),
            ("state-dir", &state),
        ] {
            // It writes its labels to the annotations as well.
            for option in ["label", "annotation"] {
                words.push(format!("--{option}=nerdctl/{key}={value}"));
            }
        }
        words.extend(more.iter().map(|word| (*word).to_owned()));
        words.extend(["docker.io/hwchiu/netutils:latest", id, "sleep", "1d"].map(str::to_owned));
        self.ctr(&words.iter().map(String::as_str).collect::<Vec<_>>());
        let tasks = self.ctr(&["tasks", "ls"]);
        let line = tasks.lines().find(|line| line.starts_with(id));
        let pid = line.expect(&tasks).split_whitespace().nth(1).unwrap();
        pid.parse().unwrap()
    }

    /// What it prints, as one line: where it breaks, the words decide.
    fn pausectl(&self, args: &[&str]) -> String {
        let text = self.0.script.run(programs::pausectl(), args);
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

#[test]
fn explain_and_graph_know_containers_of_nerdctl() {
    let Some(containerd) = Containerd::start() else {
        return;
    };
    let list = network("10.7.0.0/24");
    containerd.install(&list);
    containerd.wait_for_network(true);
    let before = containerd.script.inside(State::read);
    let nerdctl = Nerdctl(&containerd);
    for file in Images::find().unwrap().files() {
        nerdctl.ctr(&["images", "import", "--no-unpack", file]);
    }
    let [web, app] = ["5e", "a9"].map(|start| start.repeat(32));
    let owner = nerdctl.run("web", &web, "[\"podnet\"]", &[]);
    let keys = json!({"name": list["name"], "cniVersion": list["cniVersion"]});
    let plugin = with(list["plugins"][0].clone(), keys);
    let id = format!("default-{web}");
    let call = |verb| Call::new(verb, &plugin).id(&id);
    let netns = format!("/proc/{owner}/ns/net");
    let add = call("ADD").var("CNI_NETNS", &netns);
    containerd.script.inside(|| add.run().ok());

    let short = &web[..12];
    let pid = format!("pid:{owner}");
    for target in ["web", "container:web", short, &web, &id, &pid] {
        let said = nerdctl.pausectl(&["explain", target]);
        for words in [
            "web has a network of its own that nothing shares.",
            &format!("web containerd container {short}, process {owner} (sleep)"),
            "network podnet, made by pausenet",
            "eth0 10.7.0.2/24",
            "the namespace ends, and eth0 with it; its address stays reserved until DEL or GC is run",
        ] {
            assert!(said.contains(words), "{target}: {words:?} is not in {said}");
        }
    }

    // `--network container:web`, which nerdctl writes as the ID and as the path of the process.
    let path = format!("--with-ns=network:{netns}");
    let networks = format!("[\"container:{web}\"]");
    let sharer = nerdctl.run("app", &app, &networks, &[&path]);
    assert!(share_a_network(owner, sharer));
    let said = nerdctl.pausectl(&["explain", "web"]);
    for words in [
        "web owns its network; app shares it.",
        "web eth0 stays with app: the address is kept, and connections survive, until nerdctl removes web",
        "app nothing for the others",
    ] {
        assert!(said.contains(words), "{words:?} is not in {said}");
    }
    let said = nerdctl.pausectl(&["explain", "app"]);
    assert!(said.starts_with("app shares the network of web."), "{said}");
    let graph = nerdctl.pausectl(&["graph", "--format", "tree"]);
    for name in ["web", "app", "eth0"] {
        assert!(graph.contains(name), "{graph}");
    }

    // It comes as it was said.
    kill(owner);
    wait_until("it has stopped", || {
        let tasks = nerdctl.ctr(&["tasks", "ls"]);
        let is_it = |line: &str| line.starts_with(&web) && line.contains("STOPPED");
        tasks.lines().any(is_it)
    });
    let inside = container_of(sharer);
    assert_eq!(inside.addresses("eth0"), ["10.7.0.2/24"]);
    let app_is = |summary: &str| {
        let said = nerdctl.pausectl(&["explain", "app"]);
        assert!(said.starts_with(summary), "{summary:?} is not in {said}");
    };
    app_is(
        "app still uses the network of web, which has ended: eth0 stays until its last member ends, \
         or nerdctl removes web or starts it again.",
    );
    let said = nerdctl.pausectl(&["explain", "web"]);
    assert!(said.starts_with("web is not running"), "{said}");
    assert!(
        said.ends_with("is still used by app: pausectl explain app"),
        "{said}"
    );

    // `nerdctl rm web`: with the task goes the shim, and then the hook runs DEL.
    let remove = |id: &str| {
        nerdctl.ctr(&["tasks", "rm", "-f", id]);
        nerdctl.ctr(&["containers", "rm", id]);
    };
    remove(&web);
    app_is(&format!(
        "app still uses the network of {short}, which is gone: eth0 stays"
    ));
    let del = call("DEL").without("CNI_NETNS");
    containerd.script.inside(|| del.run().ok());
    app_is(&format!(
        "app has no network: it shared that of {short}, which is gone"
    ));
    remove(&app);
    assert_eq!(containerd.script.inside(State::read), before);
    containerd.end();
}
