//! scripts/kind-up.sh with stubs for the programs it calls, because tests have no node image of kind.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use crate::kind::{steps, text};
use crate::node_image::binaries;
use crate::script::CHECKOUT;

/// Stubs for the programs that kind-up.sh calls; they record their arguments.
struct Stubs {
    dir: tempfile::TempDir,
}

impl Stubs {
    /// The stub of `kind` also runs this script.
    fn new(kind: &str) -> Self {
        let stubs = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        stubs.put("docker", "");
        stubs.put("kubectl", "");
        stubs.put("kind", kind);
        // The format of Cargo's messages about built programs.
        let built = binaries();
        let said = format!(r#"{{\"executable\":\"{}/$name\"}}"#, built.display());
        stubs.put(
            "cargo",
            &format!("for name; do case $name in pause*) echo \"{said}\" ;; esac; done"),
        );
        stubs.put("rustc", "echo host: of-a-stub");
        stubs
    }

    fn put(&self, name: &str, script: &str) {
        let calls = self.dir.path().join("calls");
        let file = self.dir.path().join(name);
        let script = format!(
            "#!/bin/sh\necho {name} \"$@\" >>{}\n{script}\n",
            calls.display()
        );
        fs::write(&file, script).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn run(&self, args: &[&str]) -> Output {
        let path = format!(
            "{}:/usr/sbin:/usr/bin:/sbin:/bin",
            self.dir.path().display()
        );
        let mut command = Command::new(Path::new(CHECKOUT).join("scripts/kind-up.sh"));
        command.args(args).current_dir("/").env("PATH", path);
        command.env_remove("SUDO_USER").output().unwrap()
    }

    /// All calls except those of cargo and rustc.
    fn calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.dir.path().join("calls")).unwrap();
        let others = calls
            .lines()
            .filter(|call| !call.starts_with("cargo ") && !call.starts_with("rustc "));
        others.map(str::to_owned).collect()
    }
}

#[test]
fn without_the_node_image_kind_up_stops_and_says_how_to_get_it() {
    let kind = "[ $1 != create ] || { echo 'ERROR: failed to pull image' >&2; exit 1; }";
    let stubs = Stubs::new(kind);
    let output = stubs.run(&[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let stderr = text(&output.stderr);
    for part in [
        "ERROR: failed to pull image\n",
        "stopped at step 5: make the cluster pausenet\n",
        "why:  status 1 of kind create cluster --name pausenet --config conf/kind/cluster.yaml\n",
        "if the node image cannot be fetched: on a machine that can, docker pull",
        "name it with --node-image",
    ] {
        assert!(stderr.contains(part), "{part}\n{stderr}");
    }
    assert_eq!(steps(&text(&output.stdout)), [1, 2, 3, 4, 5]);
    let last = stubs.calls().pop();
    assert_eq!(
        last.as_deref(),
        Some("kind create cluster --name pausenet --config conf/kind/cluster.yaml")
    );
}

#[test]
fn kind_up_calls_each_program_in_order() {
    // Check that an image is loaded.
    let stubs = Stubs::new(
        "[ $1 != load ] || tar -xOf \"$3\" manifest.json | grep -q pausenet/node:latest",
    );
    let image = [
        "--dual-stack",
        "--name",
        "dual",
        "--node-image",
        "kindest/node:v1",
    ];
    let output = stubs.run(&image);
    assert!(output.status.success(), "{output:?}");
    let said = text(&output.stdout);
    assert_eq!(steps(&said), (1..=9).collect::<Vec<_>>());
    assert!(said.contains("now: scripts/kind-test.sh --context kind-dual"));
    assert_eq!(
        stubs.calls(),
        [
            "docker version --format {{.Server.Version}}",
            "kind version",
            "kubectl version --client",
            "kind create cluster --name dual --config conf/kind/dual-stack.yaml --image kindest/node:v1",
            "kind load image-archive target/node-image.tar --name dual",
            "kubectl --context kind-dual apply -f conf/kubernetes/pausenet.yaml",
            "kubectl --context kind-dual -n kube-system rollout status daemonset/pausenet --timeout 180s",
            "kubectl --context kind-dual wait --for condition=Ready node --all --timeout 180s",
        ]
    );
}

#[test]
fn kind_up_takes_binaries_that_are_built_already() {
    let stubs = Stubs::new("");
    stubs.put("cargo", "exit 1");
    let built = binaries();
    let output = stubs.run(&["--binaries", built.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let cargo = fs::read_to_string(stubs.dir.path().join("calls")).unwrap();
    assert!(!cargo.contains("cargo "), "{cargo}");
}
