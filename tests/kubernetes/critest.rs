//! critest, the tests that the CRI project has for runtimes, with our plugin as containerd's network.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Instant;

use serde_json::{Value, json};

use crate::containerd::Containerd;
use crate::scene::State;
use crate::script::Script;
use common::{lab, programs};

/// The specs that have something to do with a pod's network or with how its sandbox begins and ends.
const FOCUS: &str = "Networking|PodSandbox|Multiple Containers.*network|Idempotence|Streaming";

/// Specs that cannot run here.
const SKIPPED: &str = "Windows|\
    NRI|\
    image|\
    host network"; // its web server has to be an image that listens on a port of its own

/// The one that wants an image which no option replaces.
const WITH_ITS_OWN_IMAGE: &str = "Multiple Containers.*network";

/// How many pass, with every set of plugins.
const PASSES: usize = 24;

#[test]
fn critest_passes_with_pausenet_under_its_own_name() {
    let plugin = json!({"type": "pausenet", "bridge": "cni0", "isDefaultGateway": true,
        "ipMasq": true, "capabilities": {"portMappings": true}, "ipam": ipam(&["10.77.0.0/16"])});
    passes(
        "pausenet",
        &ours(&["pausenet", "loopback"]),
        json!([plugin]),
    );
}

#[test]
fn critest_passes_with_pausenet_under_the_reference_s_names() {
    let names = ["bridge", "host-local", "portmap", "loopback"];
    passes("bridge and portmap", &ours(&names), of_the_reference());
}

#[test]
fn critest_passes_in_two_families() {
    let plugin = json!({"type": "pausenet", "mode": "ptp", "ipMasq": true,
    "capabilities": {"portMappings": true},
    "ipam": {
        "type": "host-local",
        "ranges": [[{"subnet": "10.77.0.0/16"}], [{"subnet": "fd00:77:1::/64"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
    }});
    passes(
        "pausenet, dual stack",
        &ours(&["pausenet", "loopback"]),
        json!([plugin]),
    );
}

/// To compare with.
#[test]
#[ignore = "it says nothing about pausenet"]
fn critest_passes_with_the_reference_plugins() {
    let Some(peers) = lab::peers_today() else {
        return;
    };
    let names = ["bridge", "host-local", "portmap", "loopback"];
    let files = names.map(|name| (name, peers.join(name)));
    passes("the reference", &files, of_the_reference());
}

fn ours<'a>(names: &[&'a str]) -> Vec<(&'a str, PathBuf)> {
    let file = |name: &&'a str| (*name, PathBuf::from(programs::pausenet()));
    names.iter().map(file).collect()
}

fn of_the_reference() -> Value {
    json!([
        {"type": "bridge", "bridge": "cni0", "isDefaultGateway": true, "ipMasq": true,
         "hairpinMode": true, "ipam": ipam(&["10.77.0.0/16"])},
        {"type": "portmap", "capabilities": {"portMappings": true}},
    ])
}

fn ipam(subnets: &[&str]) -> Value {
    let ranges: Vec<_> = subnets
        .iter()
        .map(|subnet| json!([{"subnet": subnet}]))
        .collect();
    json!({"type": "host-local", "ranges": ranges})
}

/// Runs critest on a containerd with these files as plugins, and checks that nothing is left.
fn passes(what: &str, files: &[(&str, PathBuf)], plugins: Value) {
    let Some(critest) = lab::critest() else {
        return;
    };
    let Some(containerd) = Containerd::start() else {
        return;
    };
    let script = &containerd.script;
    script.inside(|| {
        for (name, file) in files {
            fs::copy(file, Path::new("/opt/cni/bin").join(name)).unwrap();
        }
        fs::write("/run/images.yaml", IMAGES).unwrap();
    });
    let network = json!({"cniVersion": "1.1.0", "name": "podnet", "plugins": plugins});
    containerd.write_conflist(&network);
    containerd.wait_for_network(true);
    let before = script.inside(State::read);

    provide_its_own_image(script, &critest);
    let start = Instant::now();
    let (output, report) = run(script, &critest, FOCUS);
    let took = start.elapsed();
    assert!(output.status.success(), "{}", text(&output.stdout));
    let specs = report[0]["SpecReports"].as_array().unwrap();
    let passed: Vec<_> = specs
        .iter()
        .filter(|spec| spec["State"] == "passed" && spec["LeafNodeType"] == "It")
        .map(|spec| spec["LeafNodeText"].as_str().unwrap())
        .collect();
    assert_eq!(passed.len(), PASSES, "{passed:#?}");
    lab::measured(&format!(
        "critest with {what}: {PASSES} specs passed in {:.0} s",
        took.as_secs_f64()
    ));
    assert_eq!(script.inside(State::read), before);
    containerd.end();
}

/// Gives nginx the name of the image that critest has to have: it says which when it cannot get it.
fn provide_its_own_image(script: &Script, critest: &Path) {
    let (output, _) = run(script, critest, WITH_ITS_OWN_IMAGE);
    let said = text(&output.stdout);
    let mut wanted = said
        .lines()
        .filter_map(|line| Some(line.split_once("Pull image : ")?.1));
    let name = wanted.next().expect(&said).split_whitespace().next();
    let nginx = script.run(
        "ctr",
        &["-n", "k8s.io", "images", "ls", "-q", "name~=nginx"],
    );
    let tag = ["-n", "k8s.io", "images", "tag", &nginx, name.unwrap()];
    script.run("ctr", &tag);
}

/// Runs some specs. Returns what it printed, and its report.
fn run(script: &Script, critest: &Path, focus: &str) -> (Output, Value) {
    let endpoint = script.variable("CONTAINER_RUNTIME_ENDPOINT");
    let output = script.output(
        critest.to_str().unwrap(),
        &[
            &format!("--runtime-endpoint={endpoint}"),
            &format!("--image-endpoint={endpoint}"),
            "--test-images-file=/run/images.yaml",
            &format!("--ginkgo.focus={focus}"),
            &format!("--ginkgo.skip={SKIPPED}"),
            "--ginkgo.json-report=/run/report.json",
            "--ginkgo.timeout=5m",
            "--ginkgo.no-color",
        ],
    );
    let report = script.inside(|| fs::read_to_string("/run/report.json"));
    let report = report.unwrap_or_else(|err| panic!("no report ({err}): {}", text(&output.stdout)));
    (output, serde_json::from_str(&report).unwrap())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The images of the lab in place of those in registries.
const IMAGES: &str = "defaultTestContainerImage: busybox\nwebServerTestImage: nginx\n";
