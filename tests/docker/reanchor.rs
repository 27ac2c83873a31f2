//! `pausectl docker reanchor`: the anchor dies, its network lives, and gets an anchor again.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::connected_container::ConnectedContainer;
use common::docker::{Docker, NO_BRIDGE};
use common::wait::wait_until;
use common::{allocated, podnet, with};

const HOST: &str = "10.1.0.1";

#[test]
fn an_anchor_that_was_killed_or_removed_is_replaced_and_connections_live_on() {
    let Some(setup) = AnchoredHost::start() else {
        return;
    };
    let docker = &setup.docker;
    let mut clients = setup.clients();
    let living = setup.state();
    let kill = |name: &str| {
        let pid = Pid::from_raw(docker.pid(name) as i32).unwrap();
        kill_process(pid, Signal::KILL).unwrap();
    };
    let ways: [(&str, &dyn Fn()); 3] = [
        ("removed", &|| drop(docker.run(&["rm", "-f", "web"]))),
        ("killed", &|| {
            docker.run(&["update", "--restart=no", "web"]);
            kill("web");
            wait_until("Docker knows", || {
                docker.inspect("web", ".State.Running") == "false"
            });
        }),
        ("stopped", &|| drop(docker.run(&["stop", "web"]))),
    ];
    for (way, end) in ways {
        end();
        clients.iter_mut().for_each(ConnectedContainer::answers);
        let said = docker.pausectl_ok(&["docker", "reanchor", "web"]);
        let begin = "web: anchors its network again, started via api; members: api, db\n\
                     api: keeps running, but cannot be restarted: it refers to the old anchor. \
                     To recreate it (data outside its volumes stays in api.old): \
                     docker rename api api.old && docker stop api.old && \
                     docker run -d --name api --net=container:web --stop-signal KILL \
                     --entrypoint bash hwchiu/netutils -c 'exec 3<>";
        assert!(said.starts_with(begin), "{way}: {said}");
        clients.iter_mut().for_each(ConnectedContainer::answers);
        assert_eq!(setup.state(), living, "{way}");
        assert_eq!(
            docker.view("web").addresses("eth0"),
            ["10.1.0.2/24"],
            "{way}"
        );
        assert_eq!(
            docker.inspect("web", "index .Config.Labels \"pausenet.anchor\""),
            "docker-web"
        );
        assert_eq!(docker.inspect("web", ".Config.Image"), "pausenet/pause");

        // A newcomer lands among them.
        let mut newcomer = ConnectedContainer::start(docker, "late", "container:web", HOST);
        newcomer.answers();
        assert_eq!(docker.view("late").addresses("eth0"), ["10.1.0.2/24"]);
        docker.run(&["rm", "-f", "late"]);
        newcomer.ends();
        let again = docker.pausectl_ok(&["docker", "reanchor", "web"]);
        assert_eq!(
            again,
            "web: nothing to do, it is the anchor of its network\n"
        );
    }
    // It was true: a member of an anchor that was removed cannot be restarted.
    let restart = docker.output(&["restart", "--time=0", "db"]);
    assert!(String::from_utf8_lossy(&restart.stderr).contains("No such container"));
    setup.end(&["web", "api", "db"]);
}

#[test]
fn with_a_restarted_anchor_the_network_stays_where_the_members_are() {
    let Some(setup) = AnchoredHost::start() else {
        return;
    };
    let docker = &setup.docker;
    let mut clients = setup.clients();
    let living = setup.state();
    docker.run(&["restart", "web"]);
    assert!(docker.view("web").link("eth0").is_none());
    docker.network(&with(
        podnet(),
        json!({"name": "other", "bridge": "other0"}),
    ));
    for command in [
        &["docker", "attach", "web"][..],
        &["docker", "attach", "web", "--network", "other"],
        &["rescue", "web", "--network", "other"],
    ] {
        let refused = docker.pausectl_fails(1, command);
        let lives = "the network of web is still in use in an earlier namespace, by ";
        assert!(refused.contains(lives), "{command:?}: {refused}");
    }
    docker.pausectl_ok(&["docker", "reanchor", "web"]);
    clients.iter_mut().for_each(ConnectedContainer::answers);
    assert_eq!(setup.state(), living);
    assert_eq!(docker.view("web").addresses("eth0"), ["10.1.0.2/24"]);
    setup.end(&["web", "api", "db"]);
}

#[test]
fn with_a_restarted_anchor_the_network_follows_and_the_members_are_restarted() {
    let Some(setup) = AnchoredHost::start() else {
        return;
    };
    let docker = &setup.docker;
    for name in ["api", "db"] {
        docker.sleeper(name, "container:web");
    }
    let pids = ["api", "db"].map(|name| docker.pid(name));
    docker.run(&["restart", "web"]);
    let namespace = docker.pid("web");
    let said = docker.pausectl_ok(&["docker", "reanchor", "web", "--restart-members"]);
    assert_eq!(
        said,
        "web: has its network again (10.1.0.2 on eth0)\n\
         api: restarted into the network of web\n\
         db: restarted into the network of web\n"
    );
    assert_eq!(docker.pid("web"), namespace);
    for (name, old) in ["api", "db"].into_iter().zip(pids) {
        assert_ne!(docker.pid(name), old);
        assert_eq!(docker.view(name).addresses("eth0"), ["10.1.0.2/24"]);
    }
    assert_eq!(allocated("podnet"), ["10.1.0.2"]);
    setup.end(&["web", "api", "db"]);
}

#[test]
fn reanchor_refuses_what_it_cannot_do_with_a_hint() {
    let Some(setup) = AnchoredHost::start() else {
        return;
    };
    let docker = &setup.docker;
    let refused = docker.pausectl_fails(1, &["docker", "reanchor", "nobody"]);
    assert!(
        refused.contains("pausectl knows of no network of nobody"),
        "{refused}"
    );
    docker.run(&["restart", "web"]);
    let alone = docker.pausectl_fails(1, &["docker", "reanchor", "web"]);
    assert!(
        alone.contains("the network of web has no members left"),
        "{alone}"
    );
    assert!(alone.contains("pausectl docker attach web"), "{alone}");
    docker.pausectl_ok(&["docker", "attach", "web"]);

    let clients = setup.clients();
    docker.run(&["rm", "-f", "web"]);
    let gone = docker.pausectl_fails(1, &["docker", "reanchor", "web", "--restart-members"]);
    assert!(gone.contains("web was removed"), "{gone}");
    let taken = docker.pausectl_fails(1, &["docker", "up", "web", "--network", "podnet"]);
    assert!(
        taken.contains("is still in use in an earlier namespace, by api, db"),
        "{taken}"
    );
    let imageless = docker.pausectl_fails(1, &["docker", "reanchor", "web", "--image", "no/image"]);
    assert!(
        imageless.contains("Docker has no image no/image"),
        "{imageless}"
    );
    clients.into_iter().for_each(|mut client| client.answers());
    assert_eq!(
        docker.run(&["ps", "-a", "--format", "{{.Names}}"]),
        "db\napi"
    );
    docker.pausectl_fails(2, &["docker", "reanchor", "../web"]);
    setup.end(&["api", "db"]);
}

/// An anchor that `pausectl docker up` has made.
struct AnchoredHost {
    docker: Docker,
}

impl AnchoredHost {
    fn start() -> Option<Self> {
        let docker = Docker::start_with_applications(NO_BRIDGE)?;
        docker.pausectl_ok(&["docker", "up", "web", "--network", "podnet"]);
        Some(Self { docker })
    }

    fn clients(&self) -> [ConnectedContainer; 2] {
        ["api", "db"]
            .map(|name| ConnectedContainer::start(&self.docker, name, "container:web", HOST))
    }

    /// What must not change for the members.
    fn state(&self) -> Vec<(u32, String, Vec<String>)> {
        let of = |name| {
            let view = self.docker.view(name);
            let mac = view.link("eth0").unwrap().mac.unwrap().to_string();
            (self.docker.pid(name), mac, view.addresses("eth0"))
        };
        ["api", "db"].map(of).into()
    }

    /// All are removed, and nothing is left.
    fn end(self, containers: &[&str]) {
        self.docker.run(&[&["rm", "-f"], containers].concat());
        self.docker.pausectl_ok(&["docker", "detach", "web"]);
        self.docker.stop_with_nothing_left();
    }
}
