//! The plugin `loopback`: switches a container's lo on.

use super::add::open_netns;
use crate::apply::open_in_container;
use crate::cni::request::Request;
use crate::cni::result::{AddResult, Interface, IpConfig};
use crate::cni::{Code, During, Error, Family, IfName, Result};
use crate::kernel::link::{Link, Which};
use crate::kernel::netns::Netns;
use crate::kernel::{RouteSocket, address, link};

/// Serves ADD. Ignores CNI_IFNAME: there is only one loopback. Passes on prevResult.
pub(super) fn add(request: &Request) -> Result<String> {
    let netns = open_netns(request)?;
    let mut inside = enter(&netns)?;
    let lo = find(&mut inside)?;
    link::set_up(&mut inside, lo.index, false)
        .during_with(|| format!("switch on lo in {}", netns.path().display()))?;
    let result = match &request.network.prev_result {
        Some(before) => before.clone(),
        None => describe(&mut inside, &lo, &netns)?,
    };
    Ok(result.to_json(request.network.version))
}

/// Serves DEL: switches lo off. Succeeds when the namespace is gone.
pub(super) fn del(request: &Request) -> Result<()> {
    let Some(Ok(netns)) = request.netns.as_deref().map(Netns::open) else {
        return Ok(());
    };
    // A dead pod's path may now lead to the host's namespace, whose lo must stay on.
    if netns.is_same(&Netns::own()?).unwrap_or(true) && !request.netns_override {
        return Ok(());
    }
    let mut inside = enter(&netns)?;
    let lo = find(&mut inside)?;
    link::set_down(&mut inside, lo.index)
        .during_with(|| format!("switch off lo in {}", netns.path().display()))
}

/// Serves CHECK.
///
/// # Errors
/// Code 102 when lo is off.
pub(super) fn check(request: &Request) -> Result<()> {
    let netns = open_netns(request)?;
    let lo = find(&mut enter(&netns)?)?;
    if !lo.up {
        return Err(Error::new(
            Code::AttachmentDiffers,
            format!("lo is switched off in {}", netns.path().display()),
        ));
    }
    Ok(())
}

fn enter(netns: &Netns) -> Result<RouteSocket> {
    netns.enter(&Netns::own()?, open_in_container)
}

#[expect(clippy::expect_used, reason = "lo is a name")]
fn find(inside: &mut RouteSocket) -> Result<Link> {
    let name = IfName::parse("lo").expect("a fine name");
    link::get(inside, Which::Name(&name))
        .during("look up lo")?
        .ok_or_else(|| Error::new(Code::KernelRefused, "the container has no lo"))
}

/// lo and its addresses: 127.0.0.1/8, and ::1/128 with IPv6.
fn describe(inside: &mut RouteSocket, lo: &Link, netns: &Netns) -> Result<AddResult> {
    let addresses = address::of_link(inside, lo.index).during("list the addresses of lo")?;
    if let Some(other) = addresses.iter().find(|net| !net.ip().is_loopback()) {
        return Err(Error::new(
            Code::KernelRefused,
            format!("lo has {other}, which is no loopback address"),
        ));
    }
    let first = |family| {
        addresses
            .iter()
            .find(|net: &&ipnetwork::IpNetwork| Family::from(**net) == family)
    };
    let ips = Family::ALL
        .into_iter()
        .filter_map(first)
        .map(|address| IpConfig {
            interface: Some(0),
            address: *address,
            gateway: None,
        });
    Ok(AddResult {
        ips: ips.collect(),
        interfaces: vec![Interface {
            name: "lo".into(),
            mac: "00:00:00:00:00:00".into(),
            sandbox: netns.path().display().to_string(),
            ..Interface::default()
        }],
        ..AddResult::default()
    })
}
