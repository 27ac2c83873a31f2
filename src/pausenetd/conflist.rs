//! Writes the conflist: the network configuration that container runtimes read. It is written
//! atomically, and after everything else is in place: the node counts as Ready from then on. Only
//! uninstall removes it, because a node without one is NotReady.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use ipnetwork::IpNetwork;
use serde_json::{Value, json};

use super::options::{Mode, Settings};
use pausenet::cni::Family;
use pausenet_host::install::file;
use pausenet_host::runtime::conflist;
use pausenet_host::{Error, Result};

/// `cniVersion`, for runtimes that do not know `cniVersions`: the last one before CNI 1.0, which all
/// of them support.
const VERSION: &str = "0.4.0";

/// `cniVersions`, for newer runtimes: they take the newest that they support.
const VERSIONS: [&str; 3] = ["0.4.0", "1.0.0", "1.1.0"];

/// The bridge of mode bridge.
const BRIDGE: &str = "pausenet0";

/// The conflist for these pod subnets (pure). `mtu` is in bytes; without it, or an option for it, the
/// kernel's default applies.
pub fn render(settings: &Settings, pods: &[IpNetwork], mtu: Option<u32>) -> String {
    let ranges: Vec<Value> = pods
        .iter()
        .map(|subnet| json!([{"subnet": subnet}]))
        .collect();
    let mut routes = Vec::new();
    for (family, everywhere) in [(Family::Ipv4, "0.0.0.0/0"), (Family::Ipv6, "::/0")] {
        if pods.iter().any(|subnet| Family::from(*subnet) == family) {
            routes.push(json!({"dst": everywhere}));
        }
    }
    let mut plugin = json!({
        "type": "pausenet",
        "capabilities": {"bandwidth": true, "ips": true, "mac": true, "portMappings": true},
        // With all addresses in use, ADD answers "try again later" and the node stays Ready.
        "statusIgnoresExhaustion": true,
        "ipam": {
            "type": "host-local",
            "dataDir": settings.store_dir,
            "ranges": ranges,
            "routes": routes,
        },
    });
    match settings.mode {
        Mode::Ptp => plugin["mode"] = "ptp".into(),
        Mode::Bridge => {
            plugin["bridge"] = BRIDGE.into();
            plugin["isGateway"] = true.into();
            // Lets a pod reach itself through its Service.
            plugin["hairpinMode"] = true.into();
        }
    }
    if let Some(mtu) = settings.mtu.or(mtu) {
        plugin["mtu"] = mtu.into();
    }
    let list = json!({
        "cniVersion": VERSION,
        "cniVersions": VERSIONS,
        "name": settings.network.as_given(),
        "plugins": [plugin],
    });
    format!("{list:#}\n")
}

/// The folder for drafts, there only while one is written.
const DRAFTS: &str = ".pausenetd-new";

/// What [`ensure`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Unchanged,
    Written,
}

/// Writes the conflist unless it is there already: into a temporary file below, then moved in.
///
/// # Errors
/// The folder or file cannot be written; a conflist from before is unchanged then.
pub(crate) fn ensure(dir: &Path, name: &str, text: &str) -> Result<Outcome> {
    let path = dir.join(name);
    let is_file = fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_file());
    if is_file && fs::read(&path).is_ok_and(|there| there == text.as_bytes()) {
        return Ok(Outcome::Unchanged);
    }
    fs::create_dir_all(dir).map_err(|err| file::refusal("cannot create the folder", dir, &err))?;
    // Runtimes watch the folder: what is written in a folder below it tells them nothing.
    let below = dir.join(DRAFTS);
    fs::create_dir_all(&below)
        .map_err(|err| file::refusal("cannot create the folder", &below, &err))?;
    let draft = below.join(name);
    let outcome = file::write(&draft, text.as_bytes(), 0o644)
        .and_then(|()| file::move_in(&draft, &path))
        .inspect_err(|_| {
            let _ = file::remove(&draft);
        });
    let _ = fs::remove_dir(&below);
    outcome.map(|()| Outcome::Written)
}

/// Whether runtimes find the conflist.
pub(crate) fn exists(dir: &Path, name: &str) -> bool {
    dir.join(name).is_file()
}

/// Removes the conflist. Returns its text, if there was one.
pub(crate) fn take(dir: &Path, name: &str) -> Result<Option<String>> {
    let path = dir.join(name);
    let text = match fs::read_to_string(&path) {
        Ok(text) => Some(text),
        Err(err) if err.kind() == ErrorKind::NotFound => None,
        Err(err) => return Err(Error::io("cannot read", &path, err)),
    };
    file::remove(&path)?;
    file::remove(&file::passing_name(&path))?;
    file::remove(&dir.join(DRAFTS).join(name))?;
    let _ = fs::remove_dir(dir.join(DRAFTS));
    Ok(text)
}

/// Checks that runtimes take our conflist: they take the first file in the folder.
///
/// # Errors
/// Another file comes first; the message names it.
pub(crate) fn check_comes_first(dir: &Path, name: &str) -> Result<()> {
    let files = conflist::files(dir).unwrap_or_default();
    let first = files.first().and_then(|file| file.file_name());
    match first.filter(|first| *first < std::ffi::OsStr::new(name)) {
        None => Ok(()),
        Some(first) => Err(Error::new(format!(
                "{} comes before {name} in {}, so runtimes attach pods to that network",
                first.display(),
                dir.display()
            ),
        )
        .hint("remove it if it is left over from an earlier network, or set a name that sorts first with --conf-name")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    use super::super::options::Options;
    use pausenet::cni::SpecVersion;
    use pausenet_host::runtime::conflist::NetworkList;

    fn settings(args: &[&str]) -> Settings {
        let args = std::iter::once("pausenetd").chain(args.iter().copied());
        Options::try_parse_from(args).unwrap().settings()
    }

    fn nets(texts: &[&str]) -> Vec<IpNetwork> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn plugin(args: &[&str], pods: &[&str], mtu: Option<u32>) -> Value {
        let text = render(&settings(args), &nets(pods), mtu);
        let list: Value = serde_json::from_str(&text).unwrap();
        list["plugins"][0].clone()
    }

    #[test]
    fn old_runtimes_read_cni_version_and_new_ones_take_the_newest() {
        let text = render(&settings(&[]), &nets(&["10.1.0.0/24"]), None);
        let list: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(list["cniVersion"], "0.4.0");
        let read = NetworkList::parse(text.as_bytes()).unwrap();
        assert_eq!(read.version, SpecVersion::V1_1_0);
        assert_eq!(read.name.as_str(), "pausenet");
    }

    #[test]
    fn a_dual_stack_pod_has_an_address_and_a_default_route_of_each_family() {
        let plugin = plugin(&[], &["10.1.0.0/24", "fd00:1::/64"], Some(1450));
        assert_eq!(plugin["mode"], "ptp");
        assert_eq!(plugin["mtu"], 1450);
        assert_eq!(plugin["statusIgnoresExhaustion"], true);
        let ipam = &plugin["ipam"];
        assert_eq!(ipam["dataDir"], "/run/pausenet/ipam");
        assert_eq!(
            ipam["ranges"],
            json!([[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00:1::/64"}]])
        );
        assert_eq!(
            ipam["routes"],
            json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}])
        );
        assert!(plugin.get("ipMasq").is_none());
    }

    #[test]
    fn the_mtu_option_overrides_the_uplink_mtu_and_mode_bridge_names_its_bridge() {
        let plugin = plugin(
            &["--mtu", "1400", "--mode", "bridge"],
            &["fd00:1::/64"],
            Some(1500),
        );
        assert_eq!(plugin["mtu"], 1400);
        assert_eq!(plugin["bridge"], "pausenet0");
        assert_eq!(plugin["ipam"]["routes"], json!([{"dst": "::/0"}]));
    }

    #[test]
    fn the_file_is_written_only_when_it_differs_and_leaves_no_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("net.d");
        let ensure = |text| ensure(&dir, "10-x.conflist", text).unwrap();
        assert_eq!(ensure("{}"), Outcome::Written);
        assert_eq!(ensure("{}"), Outcome::Unchanged);
        assert_eq!(ensure("{ }"), Outcome::Written);
        let names: Vec<_> = fs::read_dir(&dir).unwrap().flatten().collect();
        assert_eq!(names.len(), 1);
        assert!(exists(&dir, "10-x.conflist"));
        assert_eq!(take(&dir, "10-x.conflist").unwrap().as_deref(), Some("{ }"));
        assert_eq!(take(&dir, "10-x.conflist").unwrap(), None);
    }

    #[test]
    fn a_network_that_comes_before_ours_is_named() {
        let dir = tempfile::tempdir().unwrap();
        check_comes_first(dir.path(), "10-x.conflist").unwrap();
        for name in ["05-other.conflist", "10-x.conflist", "99-last.conflist"] {
            fs::write(dir.path().join(name), "{}").unwrap();
        }
        let err = check_comes_first(dir.path(), "10-x.conflist").unwrap_err();
        assert!(err.message.contains("05-other.conflist"), "{err}");
        check_comes_first(dir.path(), "00-x.conflist").unwrap();
    }
}
