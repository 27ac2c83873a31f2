//! `explain`, `ls` and `graph` on Docker's and containerd's containers: the screens are read as
//! they are, and what they say will happen is made to happen.

mod targets;

use serde_json::{Value, json};

use common::docker::{Docker, NO_BRIDGE, OWN_BRIDGE};
use common::processes::UnsharedProcess;
use common::programs;
use common::screen::Screen;
use common::screen::assert_is_in_the_docs;
use common::wait::wait_until;
use common::{Call, podnet, with};

/// The stdout of pausectl, which has to succeed. Where all namespaces of the machine are looked at,
/// those of others may change so much meanwhile that it says so on stderr.
#[track_caller]
pub(crate) fn pausectl(docker: &Docker, args: &[&str]) -> String {
    let output = docker
        .command(programs::pausectl())
        .args(args)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
pub(crate) fn explain_json(docker: &Docker, target: &str) -> Value {
    serde_json::from_str(&pausectl(docker, &["explain", target, "--output", "json"])).unwrap()
}

/// What Docker gives out by itself is hidden.
#[track_caller]
pub(crate) fn screen(docker: &Docker, containers: &[&str]) -> Screen {
    let mut screen = Screen::default();
    for name in containers {
        let id = docker.inspect(name, ".Id");
        let pid = docker.pid(name).to_string();
        let label = name.to_uppercase();
        screen = screen
            .hide(&id[..12], &format!("ID-OF-{label}"))
            .hide(&pid, &format!("PID-OF-{label}"))
            .hide_netns(&format!("/proc/{pid}/ns/net"));
    }
    screen
}

fn two_that_share(docker: &Docker) {
    docker.run(&["run", "-d", "--name", "hwchiu", "hwchiu/netutils"]);
    let share = ["run", "-d", "--net=container:hwchiu", "--name", "hwchiu2"];
    docker.run(&[&share[..], &["hwchiu/netutils"]].concat());
}

pub(crate) fn host_end(docker: &Docker, container: &str, interface: usize) -> String {
    let explained = explain_json(docker, container);
    explained["interfaces"][interface]["hostEnd"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[test]
fn explain_shows_docker_s_shared_network_before_and_after_its_owner_ends() {
    let Some(docker) = Docker::start_with_applications(OWN_BRIDGE) else {
        return;
    };
    two_that_share(&docker);
    let mac = docker.view("hwchiu").link("eth0").unwrap().mac.unwrap();
    let screen = screen(&docker, &["hwchiu", "hwchiu2"])
        .hide(&host_end(&docker, "hwchiu", 0), "VETH")
        .hide(&mac.to_string(), "02:42:ac:11:00:02");
    let page = |target: &str| screen.show(&pausectl(&docker, &["explain", target]));
    insta::assert_snapshot!(page("hwchiu2"), @r"
    hwchiu2 shares the network of hwchiu.

    Network namespace NETNS: running

    Owner
      hwchiu  Docker container ID-OF-HWCHIU, image hwchiu/netutils, process PID-OF-HWCHIU (sleep)
            the others were started onto its network

    Shared by
      hwchiu2  Docker container ID-OF-HWCHIU2, image hwchiu/netutils, process PID-OF-HWCHIU2 (sleep)

    Interfaces
      eth0  172.17.0.2/16  02:42:ac:11:00:02
            network bridge, made by Docker
            host end VETH, a port of docker0

    What happens when one of them ends
      hwchiu  Docker removes eth0 for every member; hwchiu2 keeps running with only lo. If hwchiu is
            restarted, it gets a new eth0 in a namespace of its own; hwchiu2 stays here without a
            network
      hwchiu2  nothing for the others
    ");
    assert_is_in_the_docs(&page("hwchiu2"));
    let first = page("hwchiu");
    assert!(
        first.starts_with("hwchiu owns its network; hwchiu2 shares it.\n"),
        "{first}"
    );
    let id = docker.inspect("hwchiu2", ".Id");
    let pid = docker.pid("hwchiu2").to_string();
    for target in [&id, &id[..12], &pid, "container:hwchiu2"] {
        assert_eq!(page(target), page("hwchiu2"), "{target}");
    }
    let _apart = UnsharedProcess::start();
    let tree = pausectl(&docker, &["graph"]);
    let end = tree.find("└─ no link to the host").unwrap();
    insta::assert_snapshot!(screen.show_exactly(&tree[..end]), @r"
    host
    ├─ bridge docker0  172.17.0.1/16
    │  └─ VETH - eth0 172.17.0.2/16 (Docker's bridge)
    │     └─ hwchiu: running
    │        ├─ hwchiu, the owner, process PID-OF-HWCHIU (sleep)
    │        └─ hwchiu2, process PID-OF-HWCHIU2 (sleep)
    ");

    docker.run(&["rm", "-f", "hwchiu"]);
    insta::assert_snapshot!(page("hwchiu2"), @r"
    hwchiu2 has lost its network: eth0 is gone with its owner hwchiu, which was removed at
    TIME; only lo is left.

    Network namespace NETNS: orphaned

    Owner
      hwchiu  container ID-OF-HWCHIU, which was removed at TIME

    Members
      hwchiu2  Docker container ID-OF-HWCHIU2, image hwchiu/netutils, process PID-OF-HWCHIU2 (sleep)

    Interfaces
      only lo

    What happens when one of them ends
      hwchiu2  the namespace ends

    What to do
      give hwchiu2 a network again, in place, without a restart:
        pausectl rescue hwchiu2 --network NET
      or recreate hwchiu2 on an anchor, which outlives its members:
        pausectl docker up ANCHOR --network NET
        docker run --net=container:ANCHOR ...
      hwchiu2 cannot be restarted as it is: Docker would look for container ID-OF-HWCHIU, which no longer exists
    ");
    assert_is_in_the_docs(&page("hwchiu2"));
    let after = explain_json(&docker, "hwchiu2");
    assert_eq!(after["state"], "orphaned");
    assert_eq!(after["owner"]["gone"]["name"], "hwchiu");
    assert_eq!(after["owner"]["gone"]["was"], "removed");
    assert_eq!(after["owner"]["gone"]["networks"], json!(["bridge"]));

    // As it was said: it cannot be restarted.
    assert!(
        !docker
            .output(&["restart", "-t", "0", "hwchiu2"])
            .status
            .success()
    );
    insta::assert_snapshot!(page("hwchiu2"), @r"
    hwchiu2 is not running (it ended at TIME), so it has no network namespace.
    It cannot be started: it was created to join the network of container ID-OF-HWCHIU, which no longer exists.
    ");
    docker.stop();
}

#[test]
fn explain_without_docker_s_socket_reads_the_kernel_and_the_shims() {
    let Some(docker) = Docker::start_with_applications(OWN_BRIDGE) else {
        return;
    };
    two_that_share(&docker);
    let [first, second] = ["hwchiu", "hwchiu2"].map(|name| docker.inspect(name, ".Id"));
    let without = |target: &str| -> Value {
        let args = ["explain", target, "--docker", "/nonexistent", "-o", "json"];
        serde_json::from_str(&pausectl(&docker, &args)).unwrap()
    };
    let before = without(&second);
    assert_eq!(before["state"], "running");
    assert_eq!(before["owner"], json!({"member": 0, "reason": "joined"}));
    assert_eq!(before["members"][0]["container"]["id"], json!(first));
    assert_eq!(before["members"][0]["container"]["engine"], "Docker");
    assert_eq!(before["interfaces"][0]["madeBy"], "docker");
    docker.run(&["rm", "-f", "hwchiu"]);
    let after = without(&second);
    assert_eq!(after["state"], "orphaned");
    assert_eq!(after["owner"]["gone"]["was"], "unknown");
    docker.stop();
}

#[test]
fn a_restarted_owner_leaves_the_others_behind_as_explain_predicted() {
    let Some(docker) = Docker::start_with_applications(OWN_BRIDGE) else {
        return;
    };
    two_that_share(&docker);
    let said = explain_json(&docker, "hwchiu")["deathEffects"][0]["effect"].clone();
    let said = said.as_str().unwrap();
    assert!(
        said.starts_with("Docker removes eth0 for every member"),
        "{said}"
    );
    assert!(
        said.contains("If hwchiu is restarted, it gets a new eth0"),
        "{said}"
    );

    docker.run(&["restart", "-t", "0", "hwchiu"]);
    assert!(docker.view("hwchiu").link("eth0").is_some());
    assert!(docker.view("hwchiu2").link("eth0").is_none());
    let left = explain_json(&docker, "hwchiu2");
    assert_eq!(left["owner"]["gone"]["was"], "restarted");
    assert_eq!(
        left["summary"],
        "hwchiu2 was left behind: its owner hwchiu was restarted and has a network in another \
         namespace; here, only lo is left."
    );
    // The last command that is advised.
    let advice = left["advice"].as_array().unwrap().last().unwrap();
    assert_eq!(advice["commands"], json!(["docker restart hwchiu2"]));
    docker.run(&["restart", "-t", "0", "hwchiu2"]);
    assert_eq!(
        explain_json(&docker, "hwchiu2")["summary"],
        "hwchiu2 shares the network of hwchiu."
    );

    // Stopping it is enough for Docker to take the network away.
    docker.run(&["kill", "hwchiu"]);
    wait_until("Docker has taken eth0", || {
        docker.view("hwchiu2").link("eth0").is_none()
    });
    assert_eq!(
        explain_json(&docker, "hwchiu2")["owner"]["gone"]["was"],
        "stopped"
    );
    docker.stop();
}

#[test]
fn an_anchor_s_network_stays_with_its_members_as_explain_predicted() {
    let Some(docker) = Docker::start_with_applications(NO_BRIDGE) else {
        return;
    };
    let id = docker.run(&["run", "-d", "--net=none", "--name=anchor", "pausenet/pause"]);
    let netns = format!("/proc/{}/ns/net", docker.pid("anchor"));
    let attach = |verb: &str, config: &Value| {
        Call::new(verb, config)
            .id(&id)
            .var("CNI_NETNS", &netns)
            .run()
    };
    let result = attach("ADD", &podnet()).ok();
    for name in ["app-a", "app-b"] {
        let join = ["run", "-d", "--net=container:anchor", "--name", name];
        docker.run(&[&join[..], &["hwchiu/netutils"]].concat());
    }
    let mac = result["interfaces"][2]["mac"].as_str().unwrap();
    let screen = screen(&docker, &["anchor", "app-a", "app-b"])
        .hide(mac, "MAC")
        .hide(&host_end(&docker, "anchor", 0), "VETH");
    let page = |target: &str| screen.show(&pausectl(&docker, &["explain", target]));
    let ls = || screen.show(&pausectl(&docker, &["ls"]));
    insta::assert_snapshot!(page("app-a"), @r"
    app-a shares the network of anchor.

    Network namespace NETNS: running

    Owner
      anchor  Docker container ID-OF-ANCHOR, image pausenet/pause, process PID-OF-ANCHOR (pause)
            the others were started onto its network

    Shared by
      app-a  Docker container ID-OF-APP-A, image hwchiu/netutils, process PID-OF-APP-A (sleep)
      app-b  Docker container ID-OF-APP-B, image hwchiu/netutils, process PID-OF-APP-B (sleep)

    Interfaces
      eth0  10.1.0.2/24  MAC
            network podnet, made by pausenet
            host end VETH, a port of cni0

    What happens when one of them ends
      anchor  eth0 stays with app-a and app-b: the address is kept, and connections survive. If
            anchor is restarted, it gets a new namespace, and app-a and app-b keep this one;
            if it is removed, app-a and app-b cannot be restarted, because Docker looks for it
            by its ID
      app-a or app-b  nothing for the others
    ");
    insta::assert_snapshot!(ls(), @r"
    NETWORK  CONTAINER  INTERFACE  ADDRESSES  VETH  BRIDGE  ANCHOR  STATE  MEMBERS
    podnet  anchor  eth0  10.1.0.2/24  VETH  cni0  PID-OF-ANCHOR  running  app-a, app-b
    ");

    docker.run(&["rm", "-f", "anchor"]);
    assert_eq!(docker.view("app-a").addresses("eth0"), ["10.1.0.2/24"]);
    insta::assert_snapshot!(page("app-a"), @r"
    app-a still uses the network of anchor, which was removed at TIME: eth0 stays until
    its last member ends.

    Network namespace NETNS: orphaned

    Owner
      anchor  container ID-OF-ANCHOR, which was removed at TIME

    Members
      app-a  Docker container ID-OF-APP-A, image hwchiu/netutils, process PID-OF-APP-A (sleep)
      app-b  Docker container ID-OF-APP-B, image hwchiu/netutils, process PID-OF-APP-B (sleep)

    Interfaces
      eth0  10.1.0.2/24  MAC
            network podnet, made by pausenet
            host end VETH, a port of cni0

    What happens when one of them ends
      app-a or app-b  nothing for the others; it cannot be started again, because Docker looks for
            container ID-OF-ANCHOR, which was removed

    What to do
      start a pause container in this namespace, without a restart:
        docker run -d --name anchor --net=container:app-a pausenet/pause
      app-a cannot be restarted as it is: Docker would look for container ID-OF-ANCHOR, which no longer exists
    ");
    insta::assert_snapshot!(ls(), @r"
    NETWORK  CONTAINER  INTERFACE  ADDRESSES  VETH  BRIDGE  ANCHOR  STATE  MEMBERS
    podnet  anchor  eth0  10.1.0.2/24  VETH  cni0  -  orphaned  app-a, app-b
    ");

    // pausectl has not attached it, and says so.
    let unknown = docker.pausectl_fails(1, &["docker", "reanchor", "anchor"]);
    assert!(
        unknown.contains("knows of no network of anchor"),
        "{unknown}"
    );
    // A new pause in the old namespace stands for it again.
    let advice = explain_json(&docker, "app-a")["advice"][0]["commands"][0].clone();
    let words: Vec<_> = advice.as_str().unwrap().split(' ').collect();
    docker.run(&words[1..]);
    let again = explain_json(&docker, "app-b");
    assert_eq!(again["summary"], "app-b shares the network of anchor.");
    assert_eq!(again["owner"]["reason"], "pause");
    let then = |at: usize| {
        again["deathEffects"][at]["effect"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert!(
        then(0).contains("If anchor is restarted, it rejoins this namespace"),
        "{}",
        then(0)
    );
    docker.run(&["restart", "-t", "0", "anchor"]);
    assert_eq!(
        explain_json(&docker, "app-b")["summary"],
        "app-b shares the network of anchor."
    );
    assert!(
        then(1).contains("it cannot be started again"),
        "{}",
        then(1)
    );
    assert!(
        !docker
            .output(&["restart", "-t", "0", "app-b"])
            .status
            .success()
    );

    docker.run(&["rm", "-f", "app-a", "app-b", "anchor"]);
    attach("DEL", &with(podnet(), json!({"prevResult": result}))).ok();
    docker.stop();
}
