//! Network configurations, file by file: whether a runtime finds and reads them, and whether each
//! plugin would accept its part.

mod subnets;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;

use super::leftovers;
use crate::doctor::check::Check;
use crate::doctor::configured::{bridge_of, plugin_of_ours, request};
use crate::doctor::finding::Finding;
use crate::doctor::programs::Programs;
use crate::doctor::snapshot::{Conf, Snapshot, shown};
use pausenet::cni::Plugin;
use pausenet::cni::spelling::NearMiss;
use pausenet::ipam::Ipam;
use pausenet_host::Result;
use pausenet_host::runtime::conflist::NetworkList;

pub(super) const CHECK: Check = Check {
    name: "networks",
    about: "network configurations: syntax, plugins, names, conflicting subnets",
    all_is_well: "the configurations are valid, and no subnets conflict",
    run,
};

fn run(snapshot: &Snapshot) -> Vec<Finding> {
    if snapshot.confs.is_empty() {
        let dirs: Vec<_> = snapshot
            .paths
            .conf_dirs
            .iter()
            .map(|dir| shown(dir))
            .collect();
        let mut findings = vec![
            Finding::note(dirs.join(", "), "no network is configured")
                .means("no pod can start here")
                .how("pausectl install --conf FILE, or copy a file from pausenet's conf/"),
        ];
        findings.extend(leftovers::find(snapshot));
        return findings;
    }
    let mut findings = Vec::new();
    let mut ranges = Vec::new();
    for conf in &snapshot.confs {
        match &conf.list {
            Err(err) => findings.push(
                Finding::problem(shown(&conf.file), without_file(&err.message, &conf.file))
                    .means("no runtime can use it, and some then use no other file either")
                    .how(err.hint.clone()),
            ),
            Ok(list) => {
                findings.extend(extension(&conf.file, list));
                findings.extend(plugins(&conf.file, list, &snapshot.programs));
                findings.extend(misspelled_keys(&conf.file, list, &snapshot.programs));
                ranges.extend(subnets::ranges(&conf.file, list, &snapshot.programs));
            }
        }
    }
    findings.extend(names(&snapshot.confs));
    findings.extend(bridges(snapshot));
    findings.extend(subnets::conflicts(&ranges, snapshot));
    findings.extend(leftovers::find(snapshot));
    findings
}

/// A message without the file, which is the subject already.
fn without_file(msg: &str, file: &Path) -> String {
    let prefix = format!("{}: ", file.display());
    msg.strip_prefix(&prefix).unwrap_or(msg).to_owned()
}

/// Runtimes distinguish lists from single plugins by the file's extension.
fn extension(file: &Path, list: &NetworkList) -> Option<Finding> {
    let is_list = file.extension().and_then(OsStr::to_str) == Some("conflist");
    let what = match (list.is_list, is_list) {
        (true, false) => "it is a list of plugins, but its name does not end in .conflist",
        (false, true) => "it is a single plugin, but its name ends in .conflist",
        _ => return None,
    };
    Some(
        Finding::problem(shown(file), what)
            .means("runtimes ignore or refuse it")
            .how(if list.is_list {
                format!(
                    "mv {0} {1}",
                    shown(file),
                    shown(&file.with_extension("conflist"))
                )
            } else {
                "make it a list: {\"plugins\": [...]}".to_owned()
            }),
    )
}

/// Plugins that are missing, or that would refuse their configuration.
fn plugins(file: &Path, list: &NetworkList, programs: &Programs) -> Vec<Finding> {
    let mut findings: Vec<_> = missing(file, list, programs).into_iter().collect();
    for at in 0..list.plugins.len() {
        let plugin = &list.plugins[at];
        let name = plugin.r#type.as_str();
        if let Err(err) = try_config(list, at, programs) {
            findings.push(
                Finding::problem(
                    shown(file),
                    format!(
                        "plugin {} ({name}) would refuse it: {}",
                        at + 1,
                        err.message
                    ),
                )
                .means(format!("no pod can start on network {}", list.name))
                .how(err.hint),
            );
        }
    }
    findings
}

/// Keys that nothing reads and that are nearly ones that our plugins read.
fn misspelled_keys(file: &Path, list: &NetworkList, programs: &Programs) -> Vec<Finding> {
    let finding = |who: &str, NearMiss { path, meant }| {
        let what = format!("{who} does not know the key {path:?}");
        Finding::note(shown(file), what)
            .means("the key has no effect")
            .how(format!("rename it, if {meant:?} is meant"))
    };
    let of_list = list.near_misses().into_iter();
    let mut findings: Vec<_> = of_list.map(|near| finding("a runtime", near)).collect();
    for (at, plugin) in list.plugins.iter().enumerate() {
        let name = plugin.r#type.as_str();
        let Some(of) = plugin_of_ours(name, programs) else {
            continue;
        };
        let who = format!("plugin {} ({name})", at + 1);
        let near = plugin.near_misses(of).into_iter();
        findings.extend(near.map(|near| finding(&who, near)));
    }
    findings
}

/// Plugins that a runtime would not find.
fn missing(file: &Path, list: &NetworkList, programs: &Programs) -> Option<Finding> {
    let names = list.plugins.iter().map(|plugin| plugin.r#type.as_str());
    let missing: Vec<_> = names
        .filter(|name| programs.of_name(name).is_err())
        .collect();
    let [first, others @ ..] = missing.as_slice() else {
        return None;
    };
    let err = programs.of_name(first).err()?;
    let others: Vec<_> = others.iter().map(|name| format!("{name:?}")).collect();
    let what = match others.as_slice() {
        [] => err.message,
        _ => format!("{}; nor are {}", err.message, others.join(", ")),
    };
    Some(
        Finding::problem(shown(file), what)
            .means(format!("no pod can start on network {}", list.name))
            .how(if missing == ["pausenet"] {
                "pausectl install"
            } else {
                "install them, or name the runtime's folder of plugins with --cni-path"
            }),
    )
}

/// Has a plugin of ours read its configuration, as at ADD.
///
/// # Errors
/// What it would answer.
fn try_config(list: &NetworkList, at: usize, programs: &Programs) -> Result<()> {
    let name = list.plugins[at].r#type.as_str();
    let Some(plugin) = plugin_of_ours(name, programs) else {
        return Ok(());
    };
    match plugin {
        Plugin::Pausenet
        | Plugin::Bridge
        | Plugin::Ptp
        | Plugin::Portmap
        | Plugin::Firewall
        | Plugin::Bandwidth
        | Plugin::Tuning => {}
        // One that is delegated to, and one that reads nothing of its config.
        Plugin::HostLocal | Plugin::Loopback => return Ok(()),
    }
    let request = request(list, at, plugin, programs)?;
    Ipam::new(&request.network)?;
    Ok(())
}

/// Files that give different networks one name. The runtime, the address store and the host ends
/// know a network by its name alone.
fn names(confs: &[Conf]) -> Vec<Finding> {
    let mut by_name: BTreeMap<&str, Vec<(&Conf, &NetworkList)>> = BTreeMap::new();
    for conf in confs {
        if let Ok(list) = &conf.list {
            by_name
                .entry(list.name.as_str())
                .or_default()
                .push((conf, list));
        }
    }
    let mut findings = Vec::new();
    for (name, found) in by_name {
        let differs = |pair: &[(&Conf, &NetworkList)]| {
            let [(one, first), (other, second)] = pair else {
                return false;
            };
            // `install` makes a copy for another reader.
            first.text != second.text || one.file.parent() == other.file.parent()
        };
        if found.windows(2).any(differs) {
            let files: Vec<_> = found.iter().map(|(conf, _)| shown(&conf.file)).collect();
            findings.push(
                Finding::problem(
                    files.join(", "),
                    format!("each describes a network {name:?}"),
                )
                .means("which one counts depends on the reader, and they share one address store")
                .how("remove all but one, or give each a name of its own"),
            );
        }
    }
    findings
}

/// Bridges that Docker would take for its own, and links of their name that are not bridges.
fn bridges(snapshot: &Snapshot) -> Vec<Finding> {
    let mut findings = Vec::new();
    for conf in &snapshot.confs {
        let Ok(list) = &conf.list else { continue };
        let Some(bridge) = bridge_of(list, &snapshot.programs) else {
            continue;
        };
        if is_docker_name(bridge.as_str()) {
            findings.push(
                Finding::problem(shown(&conf.file),
                    format!("its bridge {bridge} has a name of Docker's"),
                )
                .means("Docker may remove it or its addresses at any time, and has firewall rules for it")
                .how("choose another \"bridge\", cni0 for example"),
            );
        }
        let links = snapshot.links.as_deref().unwrap_or_default();
        let taken = links.iter().find(|link| link.name == bridge.as_str());
        if let Some(taken) = taken.filter(|taken| taken.kind != "bridge") {
            let kind = match taken.kind.as_str() {
                "" => "device",
                kind => kind,
            };
            findings.push(
                Finding::problem(
                    shown(&conf.file),
                    format!("its bridge {bridge} exists, but is a {kind}"),
                )
                .means(format!("no pod can start on network {}", list.name))
                .how(format!(
                    "choose another \"bridge\"; see: ip -d link show {bridge}"
                )),
            );
        }
    }
    findings
}

/// docker0, and br- with the first twelve letters of a network's ID.
fn is_docker_name(bridge: &str) -> bool {
    let id = bridge.strip_prefix("br-").unwrap_or_default();
    bridge == "docker0" || id.len() == 12 && id.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf(file: &str, text: &str) -> Conf {
        Conf {
            file: file.into(),
            list: NetworkList::parse(text.as_bytes()),
        }
    }

    #[test]
    fn one_name_in_two_files_is_a_problem_unless_one_is_a_copy_of_the_other() {
        let text = r#"{"name": "a", "type": "x"}"#;
        let other = r#"{"name": "a", "type": "y"}"#;
        let count = |confs: &[Conf]| names(confs).len();
        assert_eq!(
            count(&[conf("/x/1.conf", text), conf("/y/1.conf", text)]),
            0
        );
        assert_eq!(
            count(&[conf("/x/1.conf", text), conf("/x/2.conf", text)]),
            1
        );
        assert_eq!(
            count(&[conf("/x/1.conf", text), conf("/y/1.conf", other)]),
            1
        );
    }

    #[test]
    fn names_of_dockers_bridges_are_recognised() {
        assert!(is_docker_name("docker0") && is_docker_name("br-0a1b2c3d4e5f"));
        assert!(!is_docker_name("br-lan") && !is_docker_name("cni0") && !is_docker_name("br-"));
    }

    #[test]
    fn a_list_needs_the_extension_of_lists() {
        let list = NetworkList::parse(br#"{"name": "a", "plugins": [{"type": "x"}]}"#).unwrap();
        assert!(extension(Path::new("/x/a.conf"), &list).is_some());
        assert!(extension(Path::new("/x/a.conflist"), &list).is_none());
    }
}
