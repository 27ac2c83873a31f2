//! The plugin `tuning`: changes kernel settings and the interface of a container that another plugin attached.

use std::io::ErrorKind;
use std::path::Path;

use regex_lite::Regex;

use super::add::{open_netns, refuse_own_netns};
use super::chained_result;
use crate::apply::{Host, forget_known_macs, tuning};
use crate::cni::error::invalid;
use crate::cni::request::Request;
use crate::cni::result::AddResult;
use crate::cni::tuning::{Attributes, Tuning};
use crate::cni::{Chained, Code, Error, OnPath, Result};
use crate::kernel::file::{LARGE, Symlinks, read_text};
use crate::kernel::netns::Netns;
use crate::plan::host_end_name;

/// The file that says which settings a config may change, if it is there: a pattern in each line.
const ALLOW_LIST: &str = "/etc/cni/tuning/allowlist.conf";

/// Serves ADD: returns prevResult with the interface's new MAC and MTU.
///
/// # Errors
/// Code 7 when it is not chained, or a setting is not on the list of those that are allowed; 5 and 101 when the
/// kernel refuses. Then nothing is changed.
pub(super) fn add(request: &Request) -> Result<String> {
    let before = chained_result(request)?;
    let (conf, wanted) = wanted(request)?;
    if conf.settings.is_empty() && wanted.is_empty() {
        return Ok(before.to_json(request.network.version));
    }
    check_allowed(conf, Path::new(ALLOW_LIST))?;
    let netns = open_netns(request)?;
    let mut host = Host::open(&host_end_name(&request.attachment))?;
    refuse_own_netns(request, &netns, &host.netns)?;
    if wanted.mac.is_some() {
        forget_known_macs(&mut host, &netns, &request.attachment.ifname)?;
    }
    tuning::tune(&netns, &host.netns, &request.attachment, conf, &wanted)?;
    Ok(changed(before, request, &wanted).to_json(request.network.version))
}

/// Serves DEL: gives the interface what it had before, for one that outlives the container.
pub(super) fn del(request: &Request) -> Result<()> {
    let host = Host::open(&host_end_name(&request.attachment))?;
    let netns = request.netns.as_deref().map(Netns::open);
    // A dead pod's path may now lead to the host's namespace.
    let netns = netns
        .and_then(Result::ok)
        .filter(|netns| request.netns_override || !netns.is_same(&host.netns).unwrap_or(true));
    let Chained::Tuning(conf) = &request.network.chained else {
        // It could not be read, so there was no ADD with it.
        return Ok(());
    };
    tuning::restore(netns.as_ref(), &host.netns, &request.attachment, conf)
}

/// Serves CHECK.
///
/// # Errors
/// Code 102 for the first difference.
pub(super) fn check(request: &Request) -> Result<()> {
    super::check::promised(request)?;
    let (conf, wanted) = wanted(request)?;
    let netns = open_netns(request)?;
    let home = Netns::own()?;
    tuning::verify(&netns, &home, &request.attachment, conf, &wanted)
}

/// The config, and the attributes that the interface is to have.
fn wanted(request: &Request) -> Result<(&Tuning, Attributes)> {
    let Chained::Tuning(conf) = &request.network.chained else {
        return Err(Error::new(
            Code::Internal,
            "a call of tuning without its config",
        ));
    };
    let mac = request.requested_mac.or(conf.attributes.mac);
    Ok((
        conf,
        Attributes {
            mac,
            ..conf.attributes
        },
    ))
}

/// The result with what was changed.
fn changed(before: &AddResult, request: &Request, wanted: &Attributes) -> AddResult {
    let mut result = before.clone();
    let ifname = request.attachment.ifname.as_str();
    for interface in &mut result.interfaces {
        if interface.name == ifname && !interface.sandbox.is_empty() {
            if let Some(mac) = wanted.mac {
                interface.mac = mac.to_string();
            }
            interface.mtu = wanted.mtu.or(interface.mtu);
        }
    }
    result
}

/// Refuses settings that match no pattern of the list. Without the file, all are allowed.
fn check_allowed(conf: &Tuning, list: &Path) -> Result<()> {
    if conf.settings.is_empty() {
        return Ok(());
    }
    let text = match read_text(list, LARGE, Symlinks::Follow) {
        Err(err) if err.kind() == ErrorKind::NotFound => return Ok(()),
        text => text.on_path("cannot read the settings that are allowed:", list)?,
    };
    let place = list.display();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let patterns: Result<Vec<_>> = lines
        .map(|line| Regex::new(line).map_err(|why| invalid(format!("{place}: {line:?}: {why}"))))
        .collect();
    let patterns = patterns?;
    let keys = conf.settings.iter().map(|setting| &setting.key);
    match keys
        .into_iter()
        .find(|key| !patterns.iter().any(|one| one.is_match(key)))
    {
        None => Ok(()),
        Some(key) => Err(
            invalid(format!("sysctl: {key} is not allowed on this host")).hint(format!(
                "what is allowed is in {place}, a regular expression in each line"
            )),
        ),
    }
}
