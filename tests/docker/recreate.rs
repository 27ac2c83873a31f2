//! The command that recreates a member, as `reanchor` prints it: run, and its container compared
//! with what there was.

use std::path::Path;

use serde_json::{Value, json};

use common::docker::{Docker, NO_BRIDGE};
use common::programs;

/// Everything that a member may be made with here, and that two may have at once.
const RICH: &[&str] = &[
    "--env",
    "SECRET=it's \"5 $HOME\" \\ `date`\nand a second line\t\u{1b}[1m",
    "--env",
    "EMPTY=",
    "--label",
    "words=a b",
    "--user",
    "0:7",
    "--workdir",
    "/tmp",
    "--stop-signal=KILL",
    "--stop-timeout=3",
    "--tty",
    "--interactive",
    "--restart=on-failure:3",
    "--volume=named:/data:ro",
    "--volume=/anonymous",
    "--mount=type=bind,source=/etc,target=/host etc,readonly",
    "--mount=type=volume,target=/second",
    "--tmpfs=/scratch:size=1m",
    "--cap-add=NET_ADMIN",
    "--cap-drop=MKNOD",
    "--memory=64m",
    "--cpus=0.5",
    "--pids-limit=50",
    "--shm-size=8m",
    "--read-only",
    "--security-opt=no-new-privileges",
    "--security-opt=systempaths=unconfined",
    "--log-opt=max-size=1m",
    "--log-opt=max-file=2",
    "--init",
    "--pid=host",
    "--ipc=shareable",
    "--ulimit=nofile=100:200",
    "--group-add=9",
    "--oom-score-adj=100",
    "--device=/dev/null:/dev/void:rw",
    "--sysctl=kernel.msgmax=4096",
    "--health-cmd=test -e '/tmp'",
    "--health-interval=90s",
    "--entrypoint=bash",
];

#[test]
fn a_member_is_recreated_with_the_same_settings() {
    let Some(docker) = Docker::start_with_applications(NO_BRIDGE) else {
        return;
    };
    docker.pausectl_ok(&["docker", "up", "web", "--network", "podnet"]);
    let begin = ["run", "-d", "--net=container:web", "--name", "api"];
    let end = [
        "hwchiu/netutils",
        "-c",
        "echo one  two >/second/file; exec sleep 1d",
    ];
    docker.run(&[&begin, RICH, &end].concat());
    let old = made(&docker, "api");
    docker.run(&["rm", "-f", "web"]);
    let repair = &repairs(&docker, "web")["api"];
    assert!(
        repair["caution"]
            .as_str()
            .unwrap()
            .ends_with("stays in api.old"),
        "{repair}"
    );
    shell(&docker, "/", repair["repair"].as_str().unwrap());

    let new = made(&docker, "api");
    assert_eq!(new, old, "{repair}");
    assert_eq!(docker.view("api").addresses("eth0"), ["10.1.0.2/24"]);
    assert_eq!(
        docker.run(&["exec", "api", "cat", "/second/file"]),
        "one two"
    );
    assert_eq!(docker.inspect("api.old", ".State.Running"), "false");
    // And that is what it was for.
    docker.run(&["restart", "api"]);
    assert_eq!(docker.view("api").addresses("eth0"), ["10.1.0.2/24"]);
    docker.stop();
}

#[test]
fn settings_of_the_image_are_not_repeated() {
    let Some(docker) = Docker::start_with_applications(NO_BRIDGE) else {
        return;
    };
    docker.pausectl_ok(&["docker", "up", "web", "--network", "podnet"]);
    let create = ["create", "--stop-signal=KILL", "--health-cmd=true"];
    docker.run(&[&create[..], &["--name", "base", "hwchiu/netutils"]].concat());
    let mut commit = vec!["commit"];
    for change in [
        "ENV IMAGE=1 BOTH=image",
        "LABEL of=image",
        "USER 65534",
        "WORKDIR /tmp",
        "VOLUME /kept",
        "ENTRYPOINT [\"sleep\"]",
        "CMD [\"1d\"]",
    ] {
        commit.extend(["--change", change]);
    }
    docker.run(&[&commit[..], &["base", "app"]].concat());
    let run = ["run", "-d", "--net=container:web", "--name"];
    docker.run(&[&run[..], &["api", "--env=BOTH=own", "app", "2d"]].concat());
    docker.run(&[&run[..], &["job", "--rm", "app"]].concat());
    let volume = docker.inspect("api", "(index .Mounts 0).Name");
    docker.run(&["rm", "-f", "web"]);
    let repairs = repairs(&docker, "web");
    let expected = format!(
        "docker rename api api.old && docker stop api.old && docker run -d --name api \
         --net=container:web --volume {volume}:/kept --env BOTH=own app 2d"
    );
    assert_eq!(repairs["api"]["repair"], expected);
    let job = repairs["job"]["repair"].as_str().unwrap();
    assert!(
        job.starts_with("docker rm -f job && docker run -d --name job "),
        "{job}"
    );
    assert_eq!(
        repairs["job"]["caution"],
        "data outside its volumes is lost"
    );
    for name in ["api", "job"] {
        let old = made(&docker, name);
        shell(&docker, "/", repairs[name]["repair"].as_str().unwrap());
        assert_eq!(made(&docker, name), old);
    }
    // When the image's name means another by now, it is still made of the same.
    docker.run(&["tag", "hwchiu/netutils", "app"]);
    docker.run(&["rm", "-f", "web"]);
    let id = docker.inspect("api", ".Image");
    let repair = self::repairs(&docker, "web")["api"]["repair"].clone();
    let repair = repair.as_str().unwrap();
    assert!(
        repair.ends_with(&format!("--env BOTH=own {id} 2d")),
        "{repair}"
    );
    docker.stop();
}

/// What `reanchor` says of the members that cannot be restarted, by name.
fn repairs(docker: &Docker, anchor: &str) -> Value {
    let said = docker.pausectl_ok(&["docker", "reanchor", anchor, "--output", "json"]);
    let said: Value = serde_json::from_str(&said).unwrap();
    let all = said["cannotRestart"].as_array().unwrap().iter();
    all.map(|one| (one["name"].as_str().unwrap().to_owned(), one.clone()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// Runs what was printed for a person, in a shell of theirs.
pub(crate) fn shell(docker: &Docker, folder: &str, line: &str) {
    let ours = Path::new(programs::pausectl()).parent().unwrap();
    let path = docker.path_with(ours);
    let output = docker
        .command("bash")
        .args(["-c", line])
        .current_dir(folder)
        .env("PATH", path)
        .output()
        .unwrap();
    assert!(output.status.success(), "{line}: {output:?}");
}

/// All that a container was made with, as Docker shows it, but for its network; and by which way
/// it was asked to mount its volumes.
fn made(docker: &Docker, name: &str) -> Value {
    let said: Value = serde_json::from_str(&docker.run(&["inspect", name])).unwrap();
    let mut found = said[0].clone();
    for (part, own) in [
        ("Config", "Hostname"), // the anchor's
        ("Config", "Volumes"),
        ("HostConfig", "NetworkMode"),
        ("HostConfig", "Binds"),
        ("HostConfig", "Mounts"),
    ] {
        found[part].as_object_mut().unwrap().remove(own);
    }
    let mut mounts = found["Mounts"].as_array().unwrap().clone();
    for mount in &mut mounts {
        mount["Mode"] = json!(null);
    }
    mounts.sort_by_key(|mount| mount["Destination"].to_string());
    let mut environment = found["Config"]["Env"].as_array().unwrap().clone();
    environment.sort_by_key(Value::to_string);
    found["Config"]["Env"] = environment.into();
    json!({
        "Image": found["Image"], "Path": found["Path"], "Args": found["Args"],
        "Config": found["Config"], "HostConfig": found["HostConfig"], "Mounts": mounts,
    })
}
