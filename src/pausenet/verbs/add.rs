//! ADD: connects a container to a network, and returns how as its result.

use std::time::SystemTime;

use super::on_host;
use crate::apply::{
    Attached, Host, Uplink, attach, attach_links, clear_debris, create_links, earlier_holder,
    ensure_name_is_free, reclaim, remove_links,
};
use crate::cni::request::Request;
use crate::cni::result::{AddResult, Interface, IpConfig};
use crate::cni::{Code, Error, MacAddr, Result};
use crate::ipam::{Allocation, Ipam, Outcome};
use crate::kernel::netns::Netns;
use crate::plan::{Plan, host_end_name, plan, plan_links};

/// Serves ADD: allocates addresses, then creates the links; for a delegated IPAM, which may look at
/// the interface, the other way round. Undoes both on failure.
///
/// # Errors
/// The first failure. Kernel and store are then as before, except for what attachments share: the
/// bridge, forwarding, tables and sets of nftables, and the rules in DOCKER-USER.
pub(crate) fn run(request: &Request) -> Result<String> {
    AddResult::check_form(request.network.version, request.network.ipam.is_some())?;
    let netns = open_netns(request)?;
    let ipam = Ipam::new(&request.network)?;
    let mut host = Host::open(&host_end_name(&request.attachment))?;
    refuse_own_netns(request, &netns, &host.netns)?;
    let mac = MacAddr::random()?;
    let result = match &ipam {
        Some(ipam) if ipam.is_delegated() => links_first(&mut host, &netns, ipam, request, mac)?,
        _ => addresses_first(&mut host, &netns, ipam.as_ref(), request, mac)?,
    };
    Ok(result.to_json(request.network.version))
}

fn addresses_first(
    host: &mut Host,
    netns: &Netns,
    ipam: Option<&Ipam>,
    request: &Request,
    mac: MacAddr,
) -> Result<AddResult> {
    let allocation = match ipam {
        Some(ipam) => Some(allocate(host, netns, ipam, request)?),
        None => None,
    };
    let outcome = plan(request, allocation, mac).and_then(|plan| {
        let attached = attach(host, netns, &plan)?;
        Ok(result(&plan, attached, netns))
    });
    outcome.map_err(|err| match ipam {
        Some(ipam) => release(ipam, request, err),
        None => err,
    })
}

fn links_first(
    host: &mut Host,
    netns: &Netns,
    ipam: &Ipam,
    request: &Request,
    mac: MacAddr,
) -> Result<AddResult> {
    let links = plan_links(request, mac)?;
    let host_end = create_links(host, netns, &links)?;
    let outcome = allocate(host, netns, ipam, request).and_then(|allocation| {
        let outcome = plan(request, Some(allocation), mac).and_then(|plan| {
            let attached = attach_links(host, netns, &plan, host_end)?;
            Ok(result(&plan, attached, netns))
        });
        // While the interface is there: `dhcp` gives its lease back by it.
        outcome.map_err(|err| release(ipam, request, err))
    });
    outcome.inspect_err(|_| remove_links(host, &links))
}

/// Frees the addresses of an ADD that failed. Returns its error.
fn release(ipam: &Ipam, request: &Request, err: Error) -> Error {
    match ipam.release(&request.attachment) {
        Err(second) => err.hint(format!("and its address could not be freed: {second}")),
        Ok(()) => err,
    }
}

/// CNI_NETNS, opened once and checked.
pub(super) fn open_netns(request: &Request) -> Result<Netns> {
    match &request.netns {
        Some(path) => Netns::open(path),
        None => Err(Error::new(Code::InvalidEnvironment, "CNI_NETNS is not set")),
    }
}

/// Refuses the plugin's own namespace as the container's, unless the request allows it.
pub(super) fn refuse_own_netns(request: &Request, netns: &Netns, own: &Netns) -> Result<()> {
    if request.netns_override || !netns.is_same(own).unwrap_or(false) {
        return Ok(());
    }
    Err(Error::new(
        Code::InvalidNetns,
        format!(
            "{} is the plugin's own network namespace",
            netns.path().display()
        ),
    )
    .hint("a container's interface would be made on the host; CNI_NETNS_OVERRIDE=1 allows it"))
}

/// Allocates the addresses. First frees those that a killed ADD of this attachment left; those of a
/// completed ADD, ours or another plugin's, are not touched.
fn allocate(host: &mut Host, netns: &Netns, ipam: &Ipam, request: &Request) -> Result<Allocation> {
    let mut outcome = ipam.allocate(request);
    let exhausted = outcome
        .as_ref()
        .is_err_and(|err| err.code == Code::TryAgainLater);
    if exhausted {
        // Another ADD may have freed the addresses in the meantime, so try again even if nothing was
        // left to reclaim. If reclaiming fails, the exhaustion is still the error to report.
        let _ = reclaim(&request.network.name, ipam, SystemTime::now());
        outcome = ipam.allocate(request);
    }
    let held = match outcome? {
        Outcome::Allocated(allocation) => return Ok(allocation),
        Outcome::AlreadyHeld(held) => held,
    };
    // An error here means that the attachment is complete.
    clear_debris(&mut host.socket, &request.attachment)?;
    // Other plugins share the store: the addresses may be those of an interface of theirs.
    ensure_name_is_free(host, netns, &request.attachment)?;
    super::del::undo(host, Some(ipam), request)?;
    // And what this request does not know: other ports, and those of a chained plugin.
    earlier_holder::forget(&request.attachment)?;
    match ipam.allocate(request)? {
        Outcome::Allocated(allocation) => Ok(allocation),
        Outcome::AlreadyHeld(_) => Err(Error::new(
            Code::TryAgainLater,
            format!("{held:?} were given to this attachment by another plugin just now"),
        )),
    }
}

fn result(plan: &Plan, attached: Attached<'_>, netns: &Netns) -> AddResult {
    let inside = Interface {
        name: plan.attachment.ifname.to_string(),
        mac: plan.container.mac.to_string(),
        mtu: Some(attached.host_end.mtu),
        sandbox: netns.path().display().to_string(),
        ..Interface::default()
    };
    let (bridge, gateway) = match attached.uplink {
        Uplink::Bridge { bridge, .. } => (Some(bridge.link), bridge.gateway),
        Uplink::Ptp(_) => (None, None),
    };
    let mut interfaces: Vec<_> = bridge.into_iter().map(on_host).collect();
    interfaces.extend([on_host(attached.host_end), inside]);
    let index = interfaces.len() as i64 - 1;
    interfaces.extend(gateway.into_iter().chain(attached.ifb).map(on_host));
    let ips = plan.container.addresses.iter().map(|given| IpConfig {
        interface: Some(index),
        address: given.address,
        gateway: given.gateway,
    });
    AddResult {
        ips: ips.collect(),
        interfaces,
        routes: plan.routes.clone(),
        dns: plan.dns.clone(),
    }
}
