//! Kernel settings on the host that attachments need; written only if they are not set.

use std::collections::HashSet;

use crate::cni::{During, Family, IfName, Result};
use crate::kernel::link::Link;
use crate::kernel::sysctl::Sysctl;
use crate::kernel::{RouteSocket, forwarding, link, route};
use crate::plan::{Families, Ownership};

/// Makes a link on the host ignore router advertisements: its routes come from pausenet. An
/// unnecessary write would cost a walk through /proc.
///
/// Where /proc/sys is read-only, the attachment works without it, so that is a warning: a container
/// that may send what it likes could then give the host routes.
pub(super) fn refuse_router_advertisements(link: &Link, name: &IfName) {
    if matches!(link.ipv6, Some(settings) if settings.accept_ra == 0) {
        return;
    }
    if let Err(err) = Sysctl::AcceptRa(name).ensure_if_there("0") {
        eprintln!(
            "pausenet: warning: containers may send router advertisements to the host: {err}"
        );
    }
}

/// Makes the host forward packets of these families. Writes nothing if it already does: the kernel
/// would visit all interfaces, and /proc/sys may be read-only.
pub(super) fn forward(socket: &mut RouteSocket, families: Families) -> Result<()> {
    for (wanted, family, setting) in [
        (families.ipv4, Family::Ipv4, Sysctl::ForwardIpv4),
        (families.ipv6, Family::Ipv6, Sysctl::ForwardIpv6),
    ] {
        // If netlink cannot answer, write the file: an error of that is the one to report.
        if wanted && !forwarding::is_on(socket, family).unwrap_or(false) {
            if family == Family::Ipv6 {
                keep_router_advertisements(socket)?;
            }
            setting.ensure("1")?;
        }
    }
    Ok(())
}

/// Call it before switching IPv6 forwarding on. From then on, the kernel takes no router
/// advertisements from an interface whose `accept_ra` is 1, and drops the default routes that it has
/// from them: the host would lose its own. 2 means that they count nevertheless.
///
/// Links towards containers are left alone, unless they have such routes: a container must not become
/// the host's router.
///
/// # Errors
/// Code 5, naming the setting that could not be written; 101 when the kernel does not list links.
pub fn keep_router_advertisements(socket: &mut RouteSocket) -> Result<()> {
    let links = link::list(socket).during("list the host's links")?;
    let takes_some = |link: &Link| {
        link.name != "lo" && link.ipv6.is_some_and(|settings| settings.accept_ra == 1)
    };
    let links: Vec<_> = links.into_iter().filter(takes_some).collect();
    if links.is_empty() {
        return Ok(());
    }
    let advertised: HashSet<u32> =
        route::advertised(socket).during("list the host's IPv6 routes")?;
    for link in links {
        if leads_to_containers(&link) && !advertised.contains(&link.index) {
            continue;
        }
        if let Ok(name) = IfName::parse(&link.name) {
            let kept = Sysctl::AcceptRa(&name).ensure_if_there("2");
            kept.during_with(|| {
                format!("keep the host's routes through {name} when it starts to forward IPv6")
            })?;
        }
    }
    Ok(())
}

/// Whether containers are behind a link: bridges, and pairs with an end in another namespace.
fn leads_to_containers(link: &Link) -> bool {
    match link.kind.as_str() {
        "bridge" => true,
        "veth" => link.peer_netns.is_some() || !matches!(Ownership::of(link), Ownership::Foreign),
        _ => false,
    }
}
