//! Real clients and reference plugins from the lab, and skipping of tests where they are missing.
//!
//! Get them before creating the test's [`World`](crate::World): its fresh /var/lib hides the packages
//! that the lab's scripts look for.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::programs;

/// Prints that the current test cannot run here, and why. On CI that is a failure.
pub fn skip(why: &str) {
    assert!(!on_ci(), "cannot run on CI: {why}");
    print_skipped(why);
}

/// The same for a missing kernel feature, which is no failure on CI.
pub fn skip_for_the_kernel(lacks: &str) {
    print_skipped(&format!("this kernel lacks {lacks}"));
}

fn on_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true")
}

/// A line for `scripts/test.sh` to count.
fn print_skipped(why: &str) {
    let current = std::thread::current();
    let test = current.name().unwrap_or("a test");
    print_past_the_harness(&format!("SKIPPED {test}: {why}"));
}

/// Prints a measurement, in a line that `scripts/test.sh` shows at its end.
pub fn measured(what: &str) {
    print_past_the_harness(&format!("MEASURED {what}"));
}

/// Prints to stderr directly: the harness hides the output of tests that pass.
fn print_past_the_harness(line: &str) {
    let _ = std::io::stderr().write_all(format!("\n{line}\n").as_bytes());
}

/// cnitool 1.3, which speaks CNI 1.1.0.
pub fn cnitool() -> Option<PathBuf> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    let folder = find(&FOUND, "PAUSENET_CNITOOL", &["programs.sh", "get", "cni"]);
    Some(folder?.join("cnitool"))
}

/// cnitool 1.1, which speaks CNI 1.0.0.
pub fn cnitool_1_1() -> Option<PathBuf> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    let script = &["programs.sh", "get", "cni-1.1"];
    Some(find(&FOUND, "PAUSENET_CNITOOL_1_1", script)?.join("cnitool"))
}

/// A folder with the reference plugins of Debian bookworm (1.1.1).
pub fn peers() -> Option<PathBuf> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    find(&FOUND, "PAUSENET_PEERS", &["peers.sh", "bookworm"])
}

/// A folder with the reference plugins of today (1.10.0).
pub fn peers_today() -> Option<PathBuf> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    find(&FOUND, "PAUSENET_PEERS_TODAY", &["peers.sh", "today"])
}

/// Debian sid's nft, with its own libraries.
pub fn nft_sid() -> Option<PathBuf> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    find(&FOUND, "PAUSENET_NFT_SID", &["nft.sh"])
}

/// What a private Docker daemon needs (`scripts/lab/docker.sh`).
pub struct Docker {
    /// A folder with docker, dockerd, containerd, ctr and runc.
    pub tools: PathBuf,
    /// A file for `docker load`, with hwchiu/netutils, nginx and busybox.
    pub images: PathBuf,
}

/// Docker, where its daemon can run.
pub fn docker() -> Option<Docker> {
    static TOOLS: OnceLock<Option<PathBuf>> = OnceLock::new();
    static IMAGES: OnceLock<Option<PathBuf>> = OnceLock::new();
    is_root_of_the_machine().then_some(())?;
    Some(Docker {
        tools: find(&TOOLS, "PAUSENET_DOCKER", &["docker.sh", "tools"])?,
        images: find(&IMAGES, "PAUSENET_DOCKER_IMAGES", &["docker.sh", "images"])?,
    })
}

/// docker-compose, for the daemon of [`docker`].
pub fn compose() -> Option<PathBuf> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    find(&FOUND, "PAUSENET_DOCKER_COMPOSE", &["compose.sh"])
}

/// A folder with the programs of Kubernetes 1.37, where its kubelet can run
/// (`scripts/lab/kubernetes.sh`).
pub fn kubernetes() -> Option<PathBuf> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    is_root_of_the_machine().then_some(())?;
    find(&FOUND, "PAUSENET_KUBERNETES", &["kubernetes.sh", "tools"])
}

/// The same of Kubernetes 1.20, whose kubelet speaks to Docker.
pub fn kubernetes_1_20() -> Option<PathBuf> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    is_root_of_the_machine().then_some(())?;
    let script = &["kubernetes.sh", "tools", "1.20"];
    find(&FOUND, "PAUSENET_KUBERNETES_1_20", script)
}

/// A docker-archive with CoreDNS, as lab/coredns.
pub fn coredns() -> Option<PathBuf> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    find(&FOUND, "PAUSENET_COREDNS", &["images.sh", "coredns"])
}

/// A podman with all of its files in `dir`, and our binary in place of the plugins of its network.
pub fn podman(dir: &Path) -> Option<PathBuf> {
    is_root_of_the_machine().then_some(())?;
    let found = ask(&["podman.sh", dir.to_str()?, programs::pausenet()]);
    if found.is_none() {
        skip("scripts/lab/podman.sh provides nothing");
    }
    found
}

/// A root with podman 5 (`scripts/lab/podman5.sh`).
pub fn podman5() -> Option<PathBuf> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    is_root_of_the_machine().then_some(())?;
    find(&FOUND, "PAUSENET_PODMAN_5", &["podman5.sh", "tools"])
}

/// A folder with containerd 2.4, which calls STATUS (`scripts/lab/containerd.sh`).
pub fn containerd() -> Option<PathBuf> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    is_root_of_the_machine().then_some(())?;
    find(&FOUND, "PAUSENET_CONTAINERD", &["containerd.sh", "tools"])
}

/// critest, the CRI's own tests of a container runtime.
pub fn critest() -> Option<PathBuf> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    let script = &["programs.sh", "get", "cri-tools"];
    Some(find(&FOUND, "PAUSENET_CRI_TOOLS", script)?.join("critest"))
}

/// Container runtimes need the machine's cgroups; in a user namespace, the test counts as skipped.
fn is_root_of_the_machine() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let root = map.split_whitespace().eq(["0", "0", "4294967295"]);
    if !root {
        skip("container runtimes need root, not that of a user namespace");
    }
    root
}

/// What the variable names, or else the path that the lab's script prints. None, and the test
/// counted as skipped, when it prints none.
fn find(once: &OnceLock<Option<PathBuf>>, variable: &str, script: &[&str]) -> Option<PathBuf> {
    let found = once.get_or_init(|| match std::env::var_os(variable) {
        Some(path) => Some(PathBuf::from(path)).filter(|path| path.exists()),
        None => ask(script),
    });
    if found.is_none() {
        skip(&format!(
            "scripts/lab/{} provides nothing",
            script.join(" ")
        ));
    }
    found.clone()
}

fn ask(script: &[&str]) -> Option<PathBuf> {
    let lab = Path::new(crate::programs::CHECKOUT).join("scripts/lab");
    let output = Command::new(lab.join(script[0]))
        .args(&script[1..])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .ok()?;
    let path = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| path.trim().into())
}
