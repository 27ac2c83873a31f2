//! The image pausenet/node, of the binaries that were built for these tests.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::nodes::CHECKOUT;
use common::daemon::stripped;
use common::docker::{Docker, NO_BRIDGE};
use common::programs;
use common::run;

/// A folder with copies of the binaries, with unusual permissions.
fn binaries(dir: &Path) -> PathBuf {
    let dir = dir.join("binaries");
    fs::create_dir_all(&dir).unwrap();
    let built = [
        programs::pausenetd(),
        programs::pausenet(),
        programs::pausectl(),
        programs::pause(),
    ];
    for binary in built {
        let binary = stripped(binary);
        let copy = dir.join(binary.file_name().unwrap());
        fs::copy(&binary, &copy).unwrap();
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o700)).unwrap();
    }
    dir
}

fn image(binaries: &Path, output: &Path) -> Output {
    Command::new(Path::new(CHECKOUT).join("scripts/image.sh"))
        .args(["--node", "--binaries"])
        .arg(binaries)
        .arg("--output")
        .arg(output)
        .output()
        .unwrap()
}

fn make(dir: &Path, name: &str) -> PathBuf {
    let file = dir.join(name);
    let output = image(&binaries(dir), &file);
    assert!(output.status.success(), "{output:?}");
    file
}

#[test]
fn the_image_is_reproducible_and_contains_only_the_binaries() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (make(dir.path(), "one.tar"), make(dir.path(), "two.tar"));
    assert!(fs::read(&one).unwrap() == fs::read(two).unwrap());

    let layout = dir.path().join("layout");
    fs::create_dir(&layout).unwrap();
    run(
        "tar",
        [
            "-x",
            "-f",
            one.to_str().unwrap(),
            "-C",
            layout.to_str().unwrap(),
        ],
    );
    let read = |path: &str| -> Value {
        serde_json::from_slice(&fs::read(layout.join(path)).unwrap()).unwrap()
    };
    let manifest = read("manifest.json");
    let config = read(manifest[0]["Config"].as_str().unwrap());
    assert_eq!(
        config["config"]["Entrypoint"],
        serde_json::json!(["/pausenetd"])
    );
    assert_eq!(config["config"]["User"], "0:0");
    let layer = layout.join(manifest[0]["Layers"][0].as_str().unwrap());
    let listed = run("tar", ["-t", "-f", layer.to_str().unwrap()]);
    let names: Vec<_> = listed.lines().collect();
    assert_eq!(names, ["pause", "pausectl", "pausenet", "pausenetd"]);
}

#[test]
fn a_missing_or_dynamic_binary_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let binaries = binaries(dir.path());
    let output = dir.path().join("node.tar");
    let refused = |part: &str| {
        let outcome = image(&binaries, &output);
        assert_eq!(outcome.status.code(), Some(1));
        let text = String::from_utf8_lossy(&outcome.stderr).into_owned();
        assert!(text.contains(part), "{text}");
        assert!(!output.exists());
    };
    fs::copy("/bin/sh", binaries.join("pausectl")).unwrap();
    refused("not a static binary");
    refused("binaries/pausectl");
    fs::remove_file(binaries.join("pausectl")).unwrap();
    refused("cannot read the binary");
}

#[test]
fn docker_runs_every_binary_of_the_image() {
    let dir = tempfile::tempdir().unwrap();
    // Before the world, which hides most of the machine.
    let file = make(dir.path(), "node.tar");
    let Some(docker) = Docker::start(NO_BRIDGE) else {
        return;
    };
    docker.run(&["load", "--quiet", "--input", file.to_str().unwrap()]);
    let image = format!("pausenet/node:{}", env!("CARGO_PKG_VERSION"));
    let version = |options: &[&str]| {
        let args = [&["run", "--rm", "--net=none"], options].concat();
        docker.run(&args)
    };
    assert!(version(&[&image, "--version"]).starts_with("pausenetd "));
    for (program, flag) in [("/pausectl", "--version"), ("/pause", "-v")] {
        let text = version(&["--entrypoint", program, &image, flag]);
        assert!(
            text.contains(env!("CARGO_PKG_VERSION")),
            "{program}: {text}"
        );
    }
    let options = [
        "--entrypoint",
        "/pausenet",
        "--env",
        "CNI_COMMAND=VERSION",
        &image,
    ];
    assert!(version(&options).contains("supportedVersions"));
    docker.stop();
}
