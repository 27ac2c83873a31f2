//! Targets of `explain`: ambiguous names, and containers of containerd that are found without a socket.

use std::path::Path;

use serde_json::json;

use super::{explain_json, pausectl};
use common::docker::{Docker, NO_BRIDGE, OWN_BRIDGE, pause_image};
use common::programs;
use common::programs::CHECKOUT;
use common::wait::wait_until;

#[test]
fn an_ambiguous_name_is_refused_with_all_candidates() {
    let Some(docker) = Docker::start_with_applications(OWN_BRIDGE) else {
        return;
    };
    let blue = docker.world.container("blue");
    let made = docker.run(&["run", "-d", "hwchiu/netutils"]);
    // A container named like the beginning of a process's life: its number.
    let sleeper = blue.command("sleep").arg("600").spawn().unwrap();
    let pid = sleeper.id().to_string();
    docker.run(&["run", "-d", "--name", &pid, "hwchiu/netutils"]);
    let output = docker
        .command(programs::pausectl())
        .args(["explain", &pid])
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("means 2 things"), "{stderr}");
    assert!(
        stderr.contains(&format!("pid:{pid} is a process")),
        "{stderr}"
    );
    for (target, owner) in [
        (format!("pid:{pid}"), None),
        (format!("container:{pid}"), Some(&pid)),
    ] {
        let explained = explain_json(&docker, &target);
        let name = &explained["members"][0]["container"]["name"];
        assert_eq!(name.as_str(), owner.map(String::as_str), "{explained}");
    }
    let by_beginning = explain_json(&docker, &made[..8]);
    assert_eq!(by_beginning["members"][0]["container"]["id"], json!(made));

    let mut sleeper = sleeper;
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    let on_host = [
        "run",
        "-d",
        "--net=host",
        "--name=onhost",
        "hwchiu/netutils",
    ];
    docker.run(&on_host);
    let said = pausectl(&docker, &["explain", "onhost"]);
    assert!(
        said.starts_with("onhost is on the host's own network"),
        "{said}"
    );
    docker.stop();
}

#[test]
fn containerd_s_containers_have_their_names_and_pods_without_a_socket() {
    let Some(docker) = Docker::start_with_applications(NO_BRIDGE) else {
        return;
    };
    let socket = docker.home().join("exec/containerd/containerd.sock");
    let ctr = |args: &[&str]| {
        let mut command = docker.command("ctr");
        command
            .arg("--address")
            .arg(&socket)
            .args(["--namespace", "lab"]);
        let output = command.args(args).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ctr {args:?}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    };
    ctr(&["images", "import", pause_image().to_str().unwrap()]);
    let images = ctr(&["images", "ls", "-q"]);
    let image = images
        .lines()
        .find(|image| image.ends_with(":latest"))
        .unwrap();
    let runc = Path::new(CHECKOUT).join("scripts/lab/runc.sh");
    let group = docker
        .home()
        .file_name()
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned();
    let start = |name: &str, options: &[&str]| {
        let cgroup = format!("/{group}/{name}");
        let fixed = [
            "run",
            "--detach",
            "--runc-binary",
            runc.to_str().unwrap(),
            "--cgroup",
            &cgroup,
        ];
        ctr(&[&fixed[..], options, &[image, name]].concat());
    };
    start("web", &[]);
    let alone = explain_json(&docker, "web");
    assert_eq!(alone["owner"]["reason"], "madeFor");
    assert_eq!(alone["members"][0]["container"]["engine"], "containerd");

    // What containerd's CRI writes into the bundles of a pod.
    let cri = |key: &str, value: &str| format!("io.kubernetes.cri.{key}={value}");
    let pod = [
        cri("sandbox-namespace", "default"),
        cri("sandbox-name", "two-containers"),
    ];
    let annotated = |more: &[String]| -> Vec<String> {
        let all = pod.iter().chain(more);
        all.flat_map(|annotation| ["--annotation".to_owned(), annotation.clone()])
            .collect()
    };
    let sandbox = annotated(&[cri("container-type", "sandbox")]);
    let sandbox: Vec<_> = sandbox.iter().map(String::as_str).collect();
    start("s1", &sandbox);
    let tasks = ctr(&["tasks", "ls"]);
    let line = tasks.lines().find(|line| line.starts_with("s1 ")).unwrap();
    let pid = line.split_whitespace().nth(1).unwrap();
    let application = annotated(&[
        cri("container-type", "container"),
        cri("container-name", "client"),
    ]);
    let with_network = format!("network:/proc/{pid}/ns/net");
    let mut application: Vec<_> = application.iter().map(String::as_str).collect();
    application.extend(["--with-ns", &with_network]);
    start("c1", &application);
    for target in [
        "two-containers",
        "default/two-containers",
        "pod:default/two-containers",
        "client",
    ] {
        let explained = explain_json(&docker, target);
        assert_eq!(explained["title"], "default/two-containers", "{target}");
        assert_eq!(explained["owner"]["reason"], "sandbox", "{target}");
        assert_eq!(
            explained["members"][1]["container"]["name"], "client",
            "{target}"
        );
    }
    let page = pausectl(&docker, &["explain", "client"]);
    assert!(
        page.starts_with("client shares the network of s1.\n"),
        "{page}"
    );

    for name in ["c1", "s1", "web"] {
        ctr(&["tasks", "kill", "--signal", "SIGKILL", name]);
        wait_until("it has stopped", || {
            let tasks = ctr(&["tasks", "ls"]);
            !tasks
                .lines()
                .any(|line| line.starts_with(&format!("{name} ")) && line.contains("RUNNING"))
        });
        ctr(&["tasks", "delete", name]);
        ctr(&["containers", "delete", name]);
    }
    docker.stop();
}
