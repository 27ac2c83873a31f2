//! The network's configuration, as container runtimes read it. It appears when everything else is
//! in place, all at once: a node counts as ready for pods from then on. It goes on uninstall only,
//! for a node without one is not ready any more.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use ipnetwork::IpNetwork;
use serde_json::{Value, json};

use super::options::{Mode, Settings};
use pausenet::cni::error::io as io_error;
use pausenet::cni::{Code, Error, Result};
use pausenet_host::install::file;
use pausenet_host::runtime::conflist;

/// What runtimes that know no `cniVersions` are told: the last version that even those know which
/// came before CNI 1.0.
const VERSION: &str = "0.4.0";

/// The versions for those that do; they take the newest that they know.
const VERSIONS: [&str; 3] = ["0.4.0", "1.0.0", "1.1.0"];

/// The bridge of mode bridge.
const BRIDGE: &str = "pausenet0";

/// The configuration of a network for these subnets (pure). `mtu` is in bytes; without one the
/// kernel's default holds.
pub fn render(settings: &Settings, pods: &[IpNetwork], mtu: Option<u32>) -> String {
    let ranges: Vec<Value> = pods
        .iter()
        .map(|subnet| json!([{"subnet": subnet}]))
        .collect();
    let mut routes = Vec::new();
    for (v4, everywhere) in [(true, "0.0.0.0/0"), (false, "::/0")] {
        if pods.iter().any(|subnet| subnet.is_ipv4() == v4) {
            routes.push(json!({"dst": everywhere}));
        }
    }
    let mut plugin = json!({
        "type": "pausenet",
        "capabilities": {"bandwidth": true, "ips": true, "mac": true, "portMappings": true},
        // All addresses in use: the next ADD is told to try again, and the node stays ready.
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
            // A pod may reach itself by its Service.
            plugin["hairpinMode"] = true.into();
        }
    }
    if let Some(mtu) = settings.mtu.or(mtu) {
        plugin["mtu"] = mtu.into();
    }
    let list = json!({
        "cniVersion": VERSION,
        "cniVersions": VERSIONS,
        "name": settings.network.as_str(),
        "plugins": [plugin],
    });
    format!("{list:#}\n")
}

/// What became of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    AsItWas,
    Written,
}

/// Has the configuration there, if it is not: written beside its place, and moved there.
///
/// # Errors
/// Code 5, naming the file; what was there still is.
pub fn ensure(dir: &Path, name: &str, text: &str) -> Result<Outcome> {
    let path = dir.join(name);
    let is_file = fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_file());
    if is_file && fs::read(&path).is_ok_and(|there| there == text.as_bytes()) {
        return Ok(Outcome::AsItWas);
    }
    fs::create_dir_all(dir).map_err(|err| file::refusal("cannot make the folder", dir, &err))?;
    // By its name no runtime takes it for a network.
    let draft = dir.join(format!(".{name}.new"));
    file::write(&draft, text.as_bytes(), 0o644)?;
    file::rename(&draft, &path).inspect_err(|_| {
        let _ = file::remove(&draft);
    })?;
    Ok(Outcome::Written)
}

/// Whether the network is there for runtimes.
pub fn is_there(dir: &Path, name: &str) -> bool {
    dir.join(name).is_file()
}

/// Removes it. True when it was there.
///
/// # Errors
/// Code 5, naming the file.
pub fn remove(dir: &Path, name: &str) -> Result<bool> {
    let path = dir.join(name);
    let was_there = match fs::symlink_metadata(&path) {
        Ok(_) => true,
        Err(err) if err.kind() == ErrorKind::NotFound => false,
        Err(err) => return Err(io_error("cannot look at", &path, err)),
    };
    file::remove(&path)?;
    file::remove(&dir.join(format!(".{name}.new")))?;
    Ok(was_there)
}

/// The network that runtimes take in the place of ours: the first file counts.
///
/// # Errors
/// Code 7, naming the file.
pub fn check_first(dir: &Path, name: &str) -> Result<()> {
    let files = conflist::files(dir).unwrap_or_default();
    let first = files.first().and_then(|file| file.file_name());
    match first.filter(|first| *first < std::ffi::OsStr::new(name)) {
        None => Ok(()),
        Some(first) => Err(Error::new(
            Code::InvalidConfig,
            format!(
                "{} comes before {name} in {}: pods go to that network",
                first.display(),
                dir.display()
            ),
        )
        .hint("remove it if it is left from an earlier network, or give ours an earlier name (--conf-name)")),
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
    fn old_runtimes_read_one_version_and_new_ones_take_the_newest() {
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
    fn what_is_asked_for_goes_before_what_is_found() {
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
    fn it_is_written_once_and_nothing_is_left_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("net.d");
        let ensure = |text| ensure(&dir, "10-x.conflist", text).unwrap();
        assert_eq!(ensure("{}"), Outcome::Written);
        assert_eq!(ensure("{}"), Outcome::AsItWas);
        assert_eq!(ensure("{ }"), Outcome::Written);
        let names: Vec<_> = fs::read_dir(&dir).unwrap().flatten().collect();
        assert_eq!(names.len(), 1);
        assert!(is_there(&dir, "10-x.conflist"));
        assert!(remove(&dir, "10-x.conflist").unwrap());
        assert!(!remove(&dir, "10-x.conflist").unwrap());
    }

    #[test]
    fn a_network_that_comes_before_ours_is_named() {
        let dir = tempfile::tempdir().unwrap();
        check_first(dir.path(), "10-x.conflist").unwrap();
        for name in ["05-other.conflist", "10-x.conflist", "99-last.conflist"] {
            fs::write(dir.path().join(name), "{}").unwrap();
        }
        let err = check_first(dir.path(), "10-x.conflist").unwrap_err();
        assert!(err.msg.contains("05-other.conflist"), "{err}");
        check_first(dir.path(), "00-x.conflist").unwrap();
    }
}
