//! The configurations of networks, file by file: whether a runtime finds and reads them, and
//! whether each plugin would take what it is given.

mod subnets;

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::path::Path;

use serde_json::Map;

use crate::doctor::finding::{Check, Finding};
use crate::doctor::programs::Programs;
use crate::doctor::snapshot::{Conf, Scene, shown};
use pausenet::cni::args::Args;
use pausenet::cni::request::{Network, Request};
use pausenet::cni::{ContainerId, IfName, Plugin};
use pausenet::ipam::Ipam;
use pausenet_host::Result;
use pausenet_host::runtime::conflist::NetworkList;
use pausenet_host::runtime::{execution_config, find_plugin};

pub fn check(scene: &Scene) -> Vec<Finding> {
    if scene.confs.is_empty() {
        let dirs: Vec<_> = scene
            .places
            .conf_dirs
            .iter()
            .map(|dir| shown(dir))
            .collect();
        return vec![
            Finding::note(Check::Networks, dirs.join(", "), "no network is configured")
                .means("nobody can start a pod here")
                .how("pausectl install --conf FILE, or copy one of pausenet's conf/"),
        ];
    }
    let mut findings = Vec::new();
    let mut claims = Vec::new();
    for conf in &scene.confs {
        match &conf.list {
            Err(err) => findings.push(
                Finding::problem(
                    Check::Networks,
                    shown(&conf.file),
                    strip(&err.message, &conf.file),
                )
                .means("no runtime can use it, and some take no other file then")
                .how(err.hint.clone()),
            ),
            Ok(list) => {
                findings.extend(ending(&conf.file, list));
                findings.extend(plugins(&conf.file, list, &scene.programs));
                claims.extend(subnets::claims(&conf.file, list, &scene.programs));
            }
        }
    }
    findings.extend(names(&scene.confs));
    findings.extend(bridges(scene));
    findings.extend(subnets::check(&claims, scene));
    findings
}

/// The file is named as the subject already.
fn strip(msg: &str, file: &Path) -> String {
    let prefix = format!("{}: ", file.display());
    msg.strip_prefix(&prefix).unwrap_or(msg).to_owned()
}

/// Runtimes tell lists from single plugins by the end of the file's name.
fn ending(file: &Path, list: &NetworkList) -> Option<Finding> {
    let is_list = file.extension().and_then(OsStr::to_str) == Some("conflist");
    let what = match (list.is_list, is_list) {
        (true, false) => "it is a list of plugins, and its name does not end in .conflist",
        (false, true) => "it is a single plugin, and its name ends in .conflist",
        _ => return None,
    };
    Some(
        Finding::problem(Check::Networks, shown(file), what)
            .means("runtimes pass over it, or refuse it")
            .how(if list.is_list {
                format!(
                    "mv {0} {1}",
                    shown(file),
                    shown(&file.with_extension("conflist"))
                )
            } else {
                "put it into a list: {\"plugins\": [...]}".to_owned()
            }),
    )
}

/// Whether each plugin is there, and takes its config.
fn plugins(file: &Path, list: &NetworkList, programs: &Programs) -> Vec<Finding> {
    let mut findings: Vec<_> = missing(file, list, programs).into_iter().collect();
    for at in 0..list.plugins.len() {
        let plugin = &list.plugins[at];
        let name = plugin.r#type.as_str();
        if let Err(err) = would_take(list, at, programs) {
            findings.push(
                Finding::problem(
                    Check::Networks,
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

/// Plugins that a runtime would look for in vain.
fn missing(file: &Path, list: &NetworkList, programs: &Programs) -> Option<Finding> {
    let names = list.plugins.iter().map(|plugin| plugin.r#type.as_str());
    let missing: Vec<_> = names
        .filter(|name| find_plugin(name, programs.path()).is_err())
        .collect();
    let [first, others @ ..] = missing.as_slice() else {
        return None;
    };
    let err = find_plugin(first, programs.path()).err()?;
    let others: Vec<_> = others.iter().map(|name| format!("{name:?}")).collect();
    let what = match others.as_slice() {
        [] => err.message,
        _ => format!("{}; nor are {}", err.message, others.join(", ")),
    };
    Some(
        Finding::problem(Check::Networks, shown(file), what)
            .means(format!("no pod can start on network {}", list.name))
            .how(if missing == ["pausenet"] {
                "pausectl install"
            } else {
                "install them, or say with --cni-path where the runtime looks for plugins"
            }),
    )
}

/// What one of ours says to its config at ADD.
fn would_take(list: &NetworkList, at: usize, programs: &Programs) -> Result<()> {
    let name = list.plugins[at].r#type.as_str();
    let Some(plugin) = Plugin::named(name).filter(|plugin| is_ours(*plugin, programs)) else {
        return Ok(());
    };
    match plugin {
        Plugin::Pausenet | Plugin::Bridge | Plugin::Ptp | Plugin::Portmap => {}
        // One that is delegated to, and one that reads nothing of its config.
        Plugin::HostLocal | Plugin::Loopback => return Ok(()),
    }
    let request = request(list, at, plugin, programs)?;
    Ipam::new(&request.network)?;
    Ok(())
}

/// Whether a plugin of this name is ours: `pausenet` has no other maker.
fn is_ours(plugin: Plugin, programs: &Programs) -> bool {
    plugin == Plugin::Pausenet || programs.is_ours(plugin.name())
}

/// The request that an ADD without capabilities would be.
pub fn request(
    list: &NetworkList,
    at: usize,
    plugin: Plugin,
    programs: &Programs,
) -> Result<Request> {
    let config = execution_config(list, &list.plugins[at], &Map::new(), None);
    let request = Request::of_add(
        plugin,
        (
            ContainerId::parse("doctor")?,
            IfName::parse("eth0").expect("a valid name"),
        ),
        &Args::default(),
        programs.path(),
        config.to_string().into_bytes(),
    )?;
    Ok(request)
}

/// The networks that pausenet wires, with their address store, by name.
pub fn wired_by_us(scene: &Scene) -> HashMap<String, Network> {
    let mut networks = HashMap::new();
    for list in scene.lists() {
        let name = list.plugins[0].r#type.as_str();
        let Some(plugin) = Plugin::named(name).filter(|plugin| is_ours(*plugin, &scene.programs))
        else {
            continue;
        };
        match plugin {
            Plugin::Pausenet | Plugin::Bridge | Plugin::Ptp => {}
            Plugin::HostLocal | Plugin::Loopback | Plugin::Portmap => continue,
        }
        if let Ok(request) = request(list, 0, plugin, &scene.programs) {
            networks.insert(list.name.to_string(), request.network);
        }
    }
    networks
}

/// A network is known by its name: to the runtime, to the address store, to the host ends.
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
            // A copy for another reader is what `install` makes.
            first.text != second.text || one.file.parent() == other.file.parent()
        };
        if found.windows(2).any(differs) {
            let files: Vec<_> = found.iter().map(|(conf, _)| shown(&conf.file)).collect();
            findings.push(
                Finding::problem(
                    Check::Networks,
                    files.join(", "),
                    format!("they all describe network {name:?}"),
                )
                .means(
                    "one of them is used, which depends on who reads; they share one address store",
                )
                .how("remove all but one, or give each a name of its own"),
            );
        }
    }
    findings
}

/// Bridges that somebody else sees as theirs, or that are none.
fn bridges(scene: &Scene) -> Vec<Finding> {
    let mut findings = Vec::new();
    for conf in &scene.confs {
        let Ok(list) = &conf.list else { continue };
        let Some(bridge) = bridge_of(list, &scene.programs) else {
            continue;
        };
        if is_docker_s(bridge.as_str()) {
            findings.push(
                Finding::problem(
                    Check::Networks,
                    shown(&conf.file),
                    format!("its bridge {bridge} has a name that Docker gives its own"),
                )
                .means("Docker removes it, or takes its addresses away, when it sees fit; its firewall rules are for it too")
                .how("choose another \"bridge\", cni0 for example"),
            );
        }
        let links = scene.links.as_deref().unwrap_or_default();
        let taken = links.iter().find(|link| link.name == bridge.as_str());
        if let Some(taken) = taken.filter(|taken| taken.kind != "bridge") {
            let kind = match taken.kind.as_str() {
                "" => "device",
                kind => kind,
            };
            findings.push(
                Finding::problem(
                    Check::Networks,
                    shown(&conf.file),
                    format!("its bridge {bridge} exists, and is no bridge but a {kind}"),
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

/// The bridge that a network's first plugin connects pods to.
pub fn bridge_of(list: &NetworkList, programs: &Programs) -> Option<IfName> {
    let plugin = Plugin::named(&list.plugins.first()?.r#type)?;
    match plugin {
        Plugin::Pausenet | Plugin::Bridge => {}
        Plugin::Ptp | Plugin::HostLocal | Plugin::Loopback | Plugin::Portmap => return None,
    }
    let link = request(list, 0, plugin, programs).ok()?.network.link?;
    link.bridge().map(|bridge| bridge.name.clone())
}

/// docker0, and br- with the first twelve letters of a network's ID.
fn is_docker_s(bridge: &str) -> bool {
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
    fn one_name_in_two_files_is_trouble_unless_one_is_the_copy_of_the_other() {
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
    fn docker_s_bridges_are_known_by_their_names() {
        assert!(is_docker_s("docker0") && is_docker_s("br-0a1b2c3d4e5f"));
        assert!(!is_docker_s("br-lan") && !is_docker_s("cni0") && !is_docker_s("br-"));
    }

    #[test]
    fn a_list_in_a_file_for_single_plugins_is_not_found() {
        let list = NetworkList::parse(br#"{"name": "a", "plugins": [{"type": "x"}]}"#).unwrap();
        assert!(ending(Path::new("/x/a.conf"), &list).is_some());
        assert!(ending(Path::new("/x/a.conflist"), &list).is_none());
    }
}
