//! `--restart-members`: a network follows its anchor, with all of its members or not at all.

use std::process::{Child, Command, Stdio};

use crate::connected_container::ConnectedContainer;
use crate::watch::Watcher;
use common::allocated;
use common::docker::{Docker, NO_BRIDGE};
use common::wait::wait_until;

const HOST: &str = "10.1.0.1";

#[test]
fn members_follow_a_recreated_anchor() {
    let Some(docker) = Docker::start_with_applications(NO_BRIDGE) else {
        return;
    };
    let watch = Watcher::start(&docker, &["--restart-members"]);
    let run = "run -d --net=none --name shop --label pausenet.network=podnet \
               --label pausenet.anchor=shop pausenet/pause";
    let run: Vec<_> = run.split_whitespace().collect();
    docker.run(&run);
    watch.says("shop: attached to network podnet: 10.1.0.2/24 on eth0");
    let mut api = ConnectedContainer::start(&docker, "api", "container:shop", HOST);
    docker.run(&["rm", "-f", "shop"]);
    docker.run(&run);
    // Docker knows api as a member of the first one, and restarts it into nothing else.
    watch.says(
        "shop: was recreated, but its network stays with api in the old namespace (a restart \
         cannot move api into the new one); to give them a new anchor: pausectl docker reanchor shop",
    );
    watch.says("api: cannot be restarted");
    api.answers();
    let refused = docker.pausectl_fails(1, &["docker", "reanchor", "shop", "--restart-members"]);
    assert!(
        refused.contains("a restart cannot move api into"),
        "{refused}"
    );
    api.answers();
    docker.pausectl_ok(&["docker", "reanchor", "shop"]);
    api.answers();
    assert_eq!(docker.view("shop").addresses("eth0"), ["10.1.0.2/24"]);
    docker.run(&["rm", "-f", "shop", "api"]);
    watch.until(|| docker.nothing_is_left());
    watch.stop();
    docker.stop();
}

#[test]
fn processes_and_members_of_other_containers_follow_too() {
    let Some(docker) = Docker::start_with_applications(NO_BRIDGE) else {
        return;
    };
    docker.pausectl_ok(&["docker", "up", "web", "--network", "podnet"]);
    let mut api = ConnectedContainer::start(&docker, "api", "container:web", HOST);
    let stranger = ForeignProcess::in_the_network_of(docker.pid("api"));
    docker.run(&["restart", "web"]);
    let follow = ["docker", "reanchor", "web", "--restart-members"];
    let refused = docker.pausectl_fails(1, &follow);
    let process = format!("a restart cannot move process {} into", stranger.0.id());
    assert!(refused.contains(&process), "{refused}");
    api.answers();
    drop(stranger);

    // Its owner is not the anchor, and was removed.
    docker.sleeper("side", "container:api");
    let mut guest = ConnectedContainer::start(&docker, "guest", "container:side", HOST);
    docker.run(&["rm", "-f", "side"]);
    let refused = docker.pausectl_fails(1, &follow);
    assert!(
        refused.contains("a restart cannot move guest into"),
        "{refused}"
    );
    api.answers();
    guest.answers();
    docker.run(&["rm", "-f", "guest"]);

    // One that joins a member is brought after it; and so are processes run in one.
    docker.run(&["rm", "-f", "api"]);
    docker.sleeper("api", "container:web");
    docker.sleeper("side", "container:api");
    docker.run(&["restart", "web"]);
    docker.run(&["exec", "-d", "api", "sleep", "1d"]);
    let said = docker.pausectl_ok(&follow);
    assert!(
        said.ends_with(
            "api: restarted into the network of web\nside: restarted into the network of web\n"
        ),
        "{said}"
    );
    for name in ["web", "api", "side"] {
        assert_eq!(docker.view(name).addresses("eth0"), ["10.1.0.2/24"]);
    }
    docker.stop();
}

#[test]
fn a_member_that_cannot_be_restarted_does_not_stop_the_others() {
    let Some(docker) = Docker::start_with_applications(NO_BRIDGE) else {
        return;
    };
    docker.pausectl_ok(&["docker", "up", "web", "--network", "podnet"]);
    for way in ["reanchor", "watch"] {
        let members = Members::start(&docker);
        docker.run(&["restart", "web"]);
        members.break_the_first();
        let args: &[&str] = match way {
            "watch" => &["docker", "watch", "--once", "--restart-members"],
            _ => &["docker", "reanchor", "web", "--restart-members"],
        };
        let output = docker.pausectl(args).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let complaint = String::from_utf8(output.stderr).unwrap();
        if way == "watch" {
            assert!(output.status.success(), "{said}{complaint}");
            let begin = "web: has its network again (10.1.0.2); restarted into it: db\n\
                         api: could not be restarted into the network of web (restart container ";
            assert!(said.starts_with(begin), "{said}");
            assert!(
                said.trim_end()
                    .ends_with("; to try again: docker restart api"),
                "{said}"
            );
        } else {
            assert_eq!(output.status.code(), Some(1), "{said}");
            let begin = "web: has its network again (10.1.0.2 on eth0)\n\
                         db: restarted into the network of web\n";
            assert_eq!(said, begin);
            assert!(
                complaint.contains("not all members were restarted: restart container ")
                    && complaint.contains("docker restart api"),
                "{complaint}"
            );
        }
        assert_eq!(docker.view("db").addresses("eth0"), ["10.1.0.2/24"]);
        members.mend_the_first();
        docker.run(&["restart", "api"]);
        assert_eq!(docker.view("api").addresses("eth0"), ["10.1.0.2/24"]);
        docker.run(&["rm", "-f", "api", "db"]);
    }
    docker.stop();
}

#[test]
fn a_member_that_was_not_restarted_is_restarted_by_the_next_run() {
    let Some(docker) = Docker::start_with_applications(NO_BRIDGE) else {
        return;
    };
    docker.pausectl_ok(&["docker", "up", "web", "--network", "podnet"]);
    docker.sleeper("api", "container:web");
    docker.sleeper("db", "container:web");
    docker.sleeper("side", "container:api");
    docker.run(&["restart", "web"]);
    // The state after a follow that was killed before its first restart.
    docker.pausectl_ok(&["docker", "detach", "--force", "web"]);
    docker.pausectl_ok(&["docker", "attach", "web"]);
    let report = docker.pausectl_ok(&["docker", "watch", "--once"]);
    let advice =
        "api: is in an old namespace of web; to move it to the new one: docker restart api\n";
    assert!(report.contains(advice), "{report}");
    assert!(docker.view("api").link("eth0").is_none());
    // Or after the first: containers that join it are still elsewhere.
    docker.run(&["restart", "api"]);
    let said = docker.pausectl_ok(&["docker", "watch", "--once", "--restart-members"]);
    assert_eq!(said, "web: has its network; restarted into it: db, side\n");
    for name in ["web", "api", "db", "side"] {
        assert_eq!(
            docker.view(name).addresses("eth0"),
            ["10.1.0.2/24"],
            "{name}"
        );
    }
    assert_eq!(allocated("podnet"), ["10.1.0.2"]);
    // A stopped member stays stopped, and there is nothing else to do.
    docker.run(&["stop", "db"]);
    let said = docker.pausectl_ok(&["docker", "watch", "--once", "--restart-members"]);
    assert_eq!(said, "");
    assert_eq!(docker.inspect("db", ".State.Running"), "false");
    docker.stop();
}

/// Two members of web, of which the first needs something of the host.
struct Members(std::path::PathBuf);

impl Members {
    fn start(docker: &Docker) -> Self {
        let needed = docker.home().join("needed");
        std::fs::create_dir_all(&needed).unwrap();
        let mount = format!("type=bind,source={},target=/needed", needed.display());
        let run = ["run", "-d", "--stop-signal=KILL", "--net=container:web"];
        docker.run(
            &[
                &run[..],
                &["--name=api", "--mount", &mount, "hwchiu/netutils"],
            ]
            .concat(),
        );
        docker.sleeper("db", "container:web");
        Self(needed)
    }

    fn break_the_first(&self) {
        std::fs::remove_dir(&self.0).unwrap();
    }

    fn mend_the_first(&self) {
        std::fs::create_dir(&self.0).unwrap();
    }
}

/// A process in no container that lives in the network of another.
struct ForeignProcess(Child);

impl ForeignProcess {
    fn in_the_network_of(pid: u32) -> Self {
        let net = format!("--net=/proc/{pid}/ns/net");
        let child = Command::new("nsenter")
            .args([&net, "sleep", "1d"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let stranger = Self(child);
        let net = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
        wait_until("it is there", || net(stranger.0.id()) == net(pid));
        stranger
    }
}

impl Drop for ForeignProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
