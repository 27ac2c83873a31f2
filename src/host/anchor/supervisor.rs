//! What the supervisor process of a container says about it: containerd's shim (Docker's too), or
//! the conmon of podman and CRI-O.
//!
//! It runs outside of the container, as the parent of the container's processes. Its command line
//! names the container, and a shim's working directory is the bundle, whose config.json has the
//! rest. So the names of Kubernetes pods are known without a runtime's socket.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::cgroup::{Engine, is_id};
use super::container::{Container, KubePod, NetworkFrom, Role, RunState};
use pausenet::kernel::file::{self, LARGE, Symlinks};

/// The containerd namespace of Docker's containers.
const MOBY: &str = "moby";

/// The supervisor of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Supervisor {
    Shim {
        pid: u32,
        /// The containerd namespace: one for each client of containerd.
        namespace: String,
        /// The ID of the container it was started for; it serves later ones of the same pod too.
        id: String,
    },
    Conmon {
        pid: u32,
        id: String,
        name: Option<String>,
        /// The path of the bundle on conmon's command line.
        bundle: PathBuf,
    },
}

impl Supervisor {
    /// Reads the supervisor from a process's command line; None for any other process.
    pub(super) fn read(pid: u32) -> Option<Self> {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        if !Self::is_called(&name) {
            return None;
        }
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line);
        Self::of_command(pid, name.trim_end(), &line.split('\0').collect::<Vec<_>>())
    }

    /// Whether a supervisor has this name (comm).
    pub(super) fn is_called(name: &str) -> bool {
        name.starts_with("containerd-shim") || name.starts_with("conmon")
    }

    fn of_command(pid: u32, name: &str, words: &[&str]) -> Option<Self> {
        let value = |option: &str| {
            let at = words.iter().position(|word| *word == option)?;
            words.get(at + 1).map(|word| (*word).to_owned())
        };
        if name.starts_with("conmon") {
            return Some(Self::Conmon {
                pid,
                id: value("-c")?,
                name: value("-n"),
                bundle: value("-b")?.into(),
            });
        }
        Some(Self::Shim {
            pid,
            namespace: value("-namespace")?,
            id: value("-id")?,
        })
    }

    /// The container of a process below this supervisor. `named` is the ID in the process's
    /// control group, if there is one.
    pub(super) fn container(&self, named: Option<&str>) -> Container {
        match self {
            Self::Conmon {
                pid,
                id,
                name,
                bundle,
            } => {
                let mut container = Container {
                    name: name.clone(),
                    ..Container::new(named.unwrap_or(id))
                };
                // The path is valid in conmon's mount namespace.
                let inside = bundle.strip_prefix("/").unwrap_or(bundle);
                let file = Path::new(&format!("/proc/{pid}/root")).join(inside);
                if let Some(spec) = read_spec(&file.join("config.json")) {
                    describe(&mut container, &spec);
                }
                container
            }
            Self::Shim { pid, namespace, id } => {
                let id = named.unwrap_or(id);
                let mut container = Container {
                    engine: Some(match namespace.as_str() {
                        MOBY => Engine::Docker,
                        _ => Engine::Containerd,
                    }),
                    // With ctr, the ID is the name.
                    name: (!is_id(id)).then(|| id.to_owned()),
                    ..Container::new(id)
                };
                if let Some(spec) = bundle(*pid, id).and_then(|file| read_spec(&file)) {
                    describe(&mut container, &spec);
                }
                container
            }
        }
    }
}

/// Those of the containers with these IDs whose shims are still there, though their processes have ended.
pub(super) fn of_ended(ids: &HashSet<&str>) -> Vec<Container> {
    if ids.is_empty() {
        return Vec::new();
    }
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let found = pids.filter_map(Supervisor::read);
    let is_wanted = |found: &Supervisor| matches!(found, Supervisor::Shim { id, .. } if ids.contains(id.as_str()));
    let ended = found.filter(is_wanted).map(|shim| Container {
        run_state: RunState::Stopped { at: None },
        ..shim.container(None)
    });
    ended.collect()
}

/// A container's config.json, which its runtime wrote.
fn read_spec(file: &Path) -> Option<Vec<u8>> {
    file::read(file, LARGE, Symlinks::Follow).ok()
}

/// The config.json of a container; the bundles of a pod's containers share a parent folder.
fn bundle(shim: u32, id: &str) -> Option<PathBuf> {
    let is_plain = !id.is_empty() && !id.contains('/') && id != "." && id != "..";
    is_plain.then(|| {
        let own = PathBuf::from(format!("/proc/{shim}/cwd"));
        own.join("..").join(id).join("config.json")
    })
}

/// The fields we read from the OCI runtime specification's config.json.
#[derive(Deserialize)]
struct Spec {
    #[serde(default)]
    annotations: std::collections::HashMap<String, String>,
    #[serde(default)]
    linux: Linux,
}

#[derive(Deserialize, Default)]
struct Linux {
    #[serde(default)]
    namespaces: Vec<Namespace>,
}

#[derive(Deserialize)]
struct Namespace {
    r#type: String,
    #[serde(default)]
    path: String,
}

fn describe(container: &mut Container, spec: &[u8]) {
    let Ok(mut spec) = serde_json::from_slice::<Spec>(spec) else {
        return;
    };
    let network = spec
        .linux
        .namespaces
        .iter()
        .find(|namespace| namespace.r#type == "network");
    container.network = match network {
        None => NetworkFrom::Host,
        Some(namespace) => network_from(Path::new(&namespace.path)),
    };
    // nerdctl generates its IDs, and writes its labels to the annotations.
    let mut nerdctl = |key: &str| spec.annotations.remove(&format!("nerdctl/{key}"));
    container.by_nerdctl = nerdctl("namespace").is_some();
    let name = nerdctl("name");
    if let Some(name) = name.filter(|name| !name.is_empty()) {
        container.name = Some(name);
    }
    if let Some(id) = nerdctl("networks").and_then(|networks| joined_by_nerdctl(&networks)) {
        container.network = NetworkFrom::Container(id);
    }
    let mut cri = |key: &str| spec.annotations.remove(&format!("io.kubernetes.cri.{key}"));
    match cri("container-type").as_deref() {
        Some("sandbox") => container.role = Role::Sandbox,
        Some(_) => container.role = Role::Application,
        None => return,
    }
    container.image = cri("image-name");
    container.name = cri("container-name");
    if let (Some(namespace), Some(name)) = (cri("sandbox-namespace"), cri("sandbox-name")) {
        container.pod = Some(KubePod { namespace, name });
    }
}

/// The ID in `["container:ID"]`: nerdctl looks it up at each start.
fn joined_by_nerdctl(networks: &str) -> Option<String> {
    let networks: Vec<String> = serde_json::from_str(networks).ok()?;
    let [network] = networks.as_slice() else {
        return None;
    };
    let id = network.strip_prefix("container:")?;
    is_id(id).then(|| id.to_owned())
}

fn network_from(path: &Path) -> NetworkFrom {
    if path.as_os_str().is_empty() {
        return NetworkFrom::Itself;
    }
    let pid = path.to_str().and_then(|path| {
        let rest = path.strip_prefix("/proc/")?;
        rest.strip_suffix("/ns/net")?.parse().ok()
    });
    match pid {
        Some(pid) => NetworkFrom::Process(pid),
        None => NetworkFrom::File(path.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shim_names_its_container_and_its_client() {
        let words = [
            "/usr/bin/containerd-shim-runc-v2",
            "-namespace",
            "k8s.io",
            "-id",
            "web",
            "-address",
            "/run/containerd/containerd.sock",
        ];
        let shim = Supervisor::of_command(7, "containerd-shim", &words);
        let expected = Supervisor::Shim {
            pid: 7,
            namespace: "k8s.io".into(),
            id: "web".into(),
        };
        assert_eq!(shim, Some(expected));
        assert_eq!(
            Supervisor::of_command(7, "containerd-shim", &words[..4]),
            None
        );
    }

    #[test]
    fn a_conmon_names_its_container() {
        let words = [
            "conmon",
            "--api-version",
            "1",
            "-c",
            "0a",
            "-u",
            "0a",
            "-n",
            "web",
            "-b",
            "/run/bundle",
        ];
        let expected = Supervisor::Conmon {
            pid: 7,
            id: "0a".into(),
            name: Some("web".into()),
            bundle: "/run/bundle".into(),
        };
        assert_eq!(Supervisor::of_command(7, "conmon", &words), Some(expected));
    }

    #[test]
    fn cri_annotations_give_the_pod_and_the_role() {
        let mut container = Container::new("0a");
        let spec = serde_json::json!({
            "annotations": {
                "io.kubernetes.cri.container-type": "container",
                "io.kubernetes.cri.container-name": "client",
                "io.kubernetes.cri.image-name": "hwchiu/netutils",
                "io.kubernetes.cri.sandbox-name": "two-containers",
                "io.kubernetes.cri.sandbox-namespace": "default"
            },
            "linux": {"namespaces": [
                {"type": "pid"},
                {"type": "network", "path": "/proc/77/ns/net"}
            ]}
        });
        describe(&mut container, spec.to_string().as_bytes());
        assert_eq!(container.role, Role::Application);
        assert_eq!(container.name.as_deref(), Some("client"));
        assert_eq!(container.network, NetworkFrom::Process(77));
        let pod = container.pod.unwrap();
        assert_eq!(
            (pod.namespace.as_str(), pod.name.as_str()),
            ("default", "two-containers")
        );
    }

    #[test]
    fn nerdctl_s_name_and_the_container_that_it_joins_are_among_the_annotations() {
        let of = |networks: &str| {
            let mut container = Container::new("0a");
            let spec = serde_json::json!({
                "annotations": {
                    "nerdctl/name": "web",
                    "nerdctl/namespace": "default",
                    "nerdctl/networks": networks
                },
                "linux": {"namespaces": [{"type": "network", "path": "/proc/77/ns/net"}]}
            });
            describe(&mut container, spec.to_string().as_bytes());
            container
        };
        let id = "0b".repeat(32);
        let container = of(&format!("[\"container:{id}\"]"));
        assert_eq!(container.name.as_deref(), Some("web"));
        assert!(container.by_nerdctl);
        assert_eq!(container.role, Role::Any);
        assert_eq!(container.network, NetworkFrom::Container(id));
        for networks in ["[\"podnet\"]", "[\"container:db\"]", "no JSON"] {
            assert_eq!(of(networks).network, NetworkFrom::Process(77), "{networks}");
        }
    }

    #[test]
    fn the_origins_of_a_namespace_are_distinguished() {
        for (namespaces, expected) in [
            ("[]", NetworkFrom::Host),
            (r#"[{"type": "network"}]"#, NetworkFrom::Itself),
            (
                r#"[{"type": "network", "path": "/run/netns/x"}]"#,
                NetworkFrom::File("/run/netns/x".into()),
            ),
        ] {
            let mut container = Container::new("0a");
            let spec = format!(r#"{{"linux": {{"namespaces": {namespaces}}}}}"#);
            describe(&mut container, spec.as_bytes());
            assert_eq!(container.network, expected);
        }
        let mut container = Container::new("0a");
        describe(&mut container, b"no JSON");
        assert_eq!(container.network, NetworkFrom::Unknown);
    }

    #[test]
    fn an_id_cannot_lead_out_of_the_bundles() {
        for bad in ["", ".", "..", "../../etc", "a/b"] {
            assert_eq!(bundle(1, bad), None, "{bad}");
        }
    }
}
