//! The image that scripts/image.sh makes, in each runtime that can take it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::docker::{Docker, NO_BRIDGE, make_image, pause_image, status_field};
use common::programs;
use common::programs::CHECKOUT;
use common::wait::wait_until;
use common::{World, lab, run};

const VERSION: &str = env!("CARGO_PKG_VERSION");

#[test]
fn another_checkout_gives_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let other = dir.path().join("another place");
    fs::create_dir_all(&other).unwrap();
    for part in [
        ".cargo",
        "Cargo.lock",
        "Cargo.toml",
        "scripts",
        "src",
        "tests", // members of the workspace
    ] {
        let (from, to) = (Path::new(CHECKOUT).join(part), other.join(part));
        run("cp", ["-r", from.to_str().unwrap(), to.to_str().unwrap()]);
    }
    let again = dir.path().join("again.tar");
    make_image(&other, &again);
    assert!(fs::read(pause_image()).unwrap() == fs::read(again).unwrap());
}

/// sudo and su put root's PATH and HOME in the place of the user's, which have Rust.
#[test]
fn root_builds_with_the_rust_of_the_checkout_s_owner() {
    const NOBODY: u32 = 65534;
    let dir = tempfile::tempdir().unwrap();
    let (checkout, home, bin) = (
        dir.path().join("checkout"),
        dir.path().join("home"),
        dir.path().join("bin"),
    );
    for folder in [&checkout.join("scripts"), &home.join(".cargo/bin"), &bin] {
        fs::create_dir_all(folder).unwrap();
    }
    for file in ["Cargo.toml", "scripts/image.sh", "scripts/cargo.sh"] {
        fs::copy(Path::new(CHECKOUT).join(file), checkout.join(file)).unwrap();
    }
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for folder in [&checkout, &home] {
        if chown(folder, Some(NOBODY), Some(NOBODY)).is_err() {
            return lab::skip("root of a user namespace has no other user");
        }
    }
    let put = |file: &Path, script: String| {
        fs::write(file, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
    };
    let home_of_nobody = format!(
        "echo nobody:x:{NOBODY}:{NOBODY}::{}:/bin/sh",
        home.display()
    );
    put(&bin.join("getent"), home_of_nobody);
    put(&bin.join("cargo"), "exit 1".to_owned()); // root's, if there is one
    let built = format!(r#"{{"executable":"{}"}}"#, programs::pause());
    let cargo = format!("[ $1 = --version ] || {{ id -un >~/builder; echo '{built}'; }}");
    put(&home.join(".cargo/bin/cargo"), cargo);
    put(
        &home.join(".cargo/bin/rustc"),
        "echo host: of-nobody".to_owned(),
    );
    for variable in [("SUDO_USER", "nobody"), ("LOGNAME", "root")] {
        let output = Command::new(checkout.join("scripts/image.sh"))
            .args(["--output", "-"])
            .env_clear()
            .env(
                "PATH",
                format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", bin.display()),
            )
            .env("HOME", "/nonexistent")
            .envs([variable])
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{variable:?}: {stderr}");
        let builder = fs::read_to_string(home.join("builder")).unwrap();
        assert_eq!(builder, "nobody\n", "{variable:?}");
        fs::remove_file(home.join("builder")).unwrap();
    }
}

#[test]
fn an_image_of_a_binary_that_would_not_start_is_refused() {
    let image = |binary: &str| {
        let mut command = Command::new(Path::new(CHECKOUT).join("scripts/image.sh"));
        command.args(["--output", "-", "--binary", binary]);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{binary}");
        assert_eq!(output.stdout, b"", "{binary}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(image("/bin/sh").contains("not a static binary"));
    assert!(image("/etc/passwd").contains("not a program"));
    assert!(image("/not/there").contains("cannot read"));
}

#[test]
fn docker_inspect_shows_the_image_s_labels_and_entrypoint() {
    let Some(docker) = Docker::start(NO_BRIDGE) else {
        return;
    };
    for tag in ["latest", VERSION] {
        let image = format!("pausenet/pause:{tag}");
        assert_eq!(
            docker.inspect(&image, "json .Config.Entrypoint"),
            r#"["/pause"]"#
        );
        assert_eq!(docker.inspect(&image, ".Config.User"), "65535:65535");
        let label = |name| {
            let label = format!("index .Config.Labels \"org.opencontainers.image.{name}\"");
            docker.inspect(&image, &label)
        };
        assert_eq!(label("title"), "pausenet/pause");
        assert_eq!(label("version"), VERSION);
        assert_eq!(label("licenses"), "Apache-2.0");
        assert!(docker.inspect(&image, ".Size").parse::<u32>().unwrap() <= 100_000);
    }
    let said = docker.run(&["run", "--rm", "--net=none", "pausenet/pause", "--version"]);
    assert_eq!(said, format!("pause {VERSION}"));
    docker.stop();
}

#[test]
fn in_docker_pause_is_pid_1_small_unprivileged_and_stops_at_once() {
    let Some(docker) = Docker::start(NO_BRIDGE) else {
        return;
    };
    let mut shortest = Duration::MAX;
    // With nothing that a container can be without.
    let strict =
        "run --detach --net=none --read-only --cap-drop=ALL --security-opt=no-new-privileges";
    for name in ["anchor1", "anchor2", "anchor3"] {
        let mut args: Vec<_> = strict.split(' ').collect();
        args.extend(["--name", name, "pausenet/pause"]);
        docker.run(&args);
        let pid = docker.pid(name);
        // Docker says that it runs a moment before runc has become it.
        wait_until("runc has executed /pause", || {
            fs::read_link(format!("/proc/{pid}/exe")).unwrap() == Path::new("/pause")
        });
        assert!(status_field(pid, "NSpid").ends_with("\t1"));
        assert_eq!(status_field(pid, "Uid"), "65535\t65535\t65535\t65535");
        assert_eq!(status_field(pid, "Gid"), "65535\t65535\t65535\t65535");
        assert!((1..=100).contains(&private_memory(pid)));
        let links = docker.view(name).state().links;
        assert_eq!(
            links.iter().map(|link| &link.name).collect::<Vec<_>>(),
            ["lo"]
        );

        let start = Instant::now();
        docker.run(&["stop", name]);
        shortest = shortest.min(start.elapsed());
        assert_eq!(docker.inspect(name, ".State.ExitCode"), "0"); // not of SIGKILL
    }
    // The shortest of three, for a machine under load. Docker's own patience is ten seconds.
    assert!(shortest < Duration::from_secs(1), "{shortest:?}");
    docker.stop();
}

#[test]
fn containerd_imports_and_runs_it() {
    let Some(docker) = Docker::start(NO_BRIDGE) else {
        return;
    };
    let ctr = |args: &[&str]| docker.ctr(args);
    ctr(&["images", "import", pause_image().to_str().unwrap()]);
    let mut names: Vec<_> = ctr(&["images", "ls", "-q"])
        .lines()
        .map(str::to_owned)
        .collect();
    names.sort();
    // containerd's own names for them begin with a registry.
    let short = |name: &str| name.split_once('/').unwrap().1.to_owned();
    let shorts: Vec<_> = names.iter().map(|name| short(name)).collect();
    let expected = [VERSION, "latest"].map(|tag| format!("pausenet/pause:{tag}"));
    assert_eq!(shorts, expected);
    let latest = &names[1];

    let [runc, cgroup] = docker.ctr_run_options("x");
    let options = ["--rm", &runc, &cgroup];
    let program = [latest, "x", "/pause", "--version"];
    let said = ctr(&[&["run"], &options[..], &program[..]].concat());
    assert_eq!(said, format!("pause {VERSION}\n"));
    docker.stop();
}

#[test]
fn podman_loads_it() {
    let image = pause_image();
    let dir = tempfile::tempdir().unwrap();
    let Some(program) = lab::podman(dir.path()) else {
        return;
    };
    let _world = World::new();
    let podman = |args: &[&str]| run(program.to_str().unwrap(), args);
    podman(&["load", "--quiet", "--input", image.to_str().unwrap()]);
    for tag in ["latest", VERSION] {
        let name = format!("pausenet/pause:{tag}");
        let shown = podman(&[
            "image",
            "inspect",
            "--format",
            "{{.User}} {{.Config.Entrypoint}}",
            &name,
        ]);
        assert_eq!(shown.trim(), "65535:65535 [/pause]");
    }
}

/// In kilobytes.
fn private_memory(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let private = text.lines().filter(|line| line.starts_with("Private_"));
    private
        .map(|line| {
            line.split_whitespace()
                .nth(1)
                .unwrap()
                .parse::<u64>()
                .unwrap()
        })
        .sum()
}
