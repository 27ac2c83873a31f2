//! ADD: connects a container to a network and says how.

use crate::apply::{Attached, Host, attach, clear_debris, ensure_name_is_free};
use crate::cni::request::Request;
use crate::cni::result::{AddResult, Interface, IpConfig};
use crate::cni::{Code, Error, Result};
use crate::ipam::{Allocation, HostLocal, Outcome};
use crate::kernel::netns::Netns;
use crate::plan::{Plan, host_end_name, plan};

/// Serves ADD: an address first, then the links; undone in the other direction on failure.
///
/// # Errors
/// Whatever stood in the way; kernel and store are then as before, but for the shared bridge.
pub fn run(request: &Request) -> Result<String> {
    let netns = open_netns(request)?;
    let ipam = super::ipam_of(request)?;
    let mut host = Host::open(&host_end_name(&request.attachment))?;
    if !request.netns_override && netns.is_same(&host.netns).unwrap_or(false) {
        return Err(own_netns(&netns));
    }
    let allocation = match &ipam {
        Some(ipam) => Some(allocate(&mut host, &netns, ipam, request)?),
        None => None,
    };
    let outcome = plan(request, allocation)
        .and_then(|plan| attach(&mut host, &netns, &plan).map(|attached| (plan, attached)));
    match outcome {
        Ok((plan, attached)) => {
            let result = result(&plan, attached, &netns);
            Ok(result.to_json(request.version).to_string())
        }
        Err(err) => {
            if let Some(Err(second)) = ipam.map(|ipam| ipam.release()) {
                return Err(err.hint(format!("and its address could not be freed: {second}")));
            }
            Err(err)
        }
    }
}

/// CNI_NETNS, opened once and checked.
pub(super) fn open_netns(request: &Request) -> Result<Netns> {
    match &request.netns {
        Some(path) => Netns::open(path),
        None => Err(Error::new(Code::InvalidEnvironment, "CNI_NETNS is not set")),
    }
}

pub(super) fn own_netns(netns: &Netns) -> Error {
    Error::new(
        Code::InvalidNetns,
        format!(
            "{} is the plugin's own network namespace",
            netns.path().display()
        ),
    )
    .hint("a container's interface would be made on the host; CNI_NETNS_OVERRIDE=1 allows it")
}

/// An address from each range set. Those that a killed ADD of this attachment left are freed
/// first; those of a finished one are not touched.
fn allocate(
    host: &mut Host,
    netns: &Netns,
    ipam: &HostLocal,
    request: &Request,
) -> Result<Allocation> {
    let held = match ipam.allocate()? {
        Outcome::Allocated(allocation) => return Ok(allocation),
        Outcome::AlreadyHeld(held) => held,
    };
    // An error here means that the attachment is whole.
    clear_debris(&mut host.socket, &request.attachment)?;
    // Other plugins share the store: the addresses may be those of an interface of theirs.
    ensure_name_is_free(host, netns, &request.attachment)?;
    ipam.release()?;
    match ipam.allocate()? {
        Outcome::Allocated(allocation) => Ok(allocation),
        Outcome::AlreadyHeld(_) => Err(Error::new(
            Code::TryAgainLater,
            format!("{held:?} were given to this attachment by somebody else just now"),
        )),
    }
}

fn result(plan: &Plan, attached: Attached, netns: &Netns) -> AddResult {
    let Attached {
        bridge,
        host_end,
        container_mac,
    } = attached;
    let mtu = Some(host_end.mtu);
    let on_host = |name: String, mac: Option<crate::cni::MacAddr>, mtu| Interface {
        name,
        mac: mac.map(|mac| mac.to_string()).unwrap_or_default(),
        mtu,
        ..Interface::default()
    };
    AddResult {
        interfaces: vec![
            on_host(bridge.name, bridge.mac, Some(bridge.mtu)),
            on_host(host_end.name, host_end.mac, mtu),
            Interface {
                sandbox: netns.path().display().to_string(),
                ..on_host(plan.attachment.ifname.to_string(), Some(container_mac), mtu)
            },
        ],
        ips: plan
            .container
            .addresses
            .iter()
            .map(|given| IpConfig {
                interface: Some(2),
                address: given.address,
                gateway: given.gateway,
            })
            .collect(),
        routes: plan.container.routes.clone(),
        dns: plan.dns.clone(),
    }
}
