//! Makes a plan so, undoes it, and compares it with what is there.
//!
//! The only rooms that know both the plan and the kernel. What is shared by attachments (the
//! bridge, forwarding) is made when missing and never undone; what belongs to one attachment is
//! its veth pair, and goes with it.

mod bandwidth;
mod bridge;
mod container;
pub mod firewall;
mod ports;
mod present;
mod reclaim;
pub mod reference;
pub mod rules;
mod verify;
mod veth;
mod vlan;

use std::path::Path;
use std::time::Duration;

pub use bridge::Bridge;
pub use container::open as open_inside;
pub use ports::{Mapper, publish, unpublish};
pub use present::{Place, Present, put_back};
pub use reclaim::{Doubt, Witnesses, YOUNGEST, reclaim};
pub use verify::{Maker, verify};
pub use veth::{clear_debris, ensure_name_is_free, host_end, remove};

use crate::cni::request::Attachment;
use crate::cni::{Code, During, Error, Family, IfName, Result};
use crate::kernel::RouteSocket;
use crate::kernel::forwarding;
use crate::kernel::link::Link;
use crate::kernel::lock::Lock;
use crate::kernel::netns::Netns;
use crate::kernel::nft::Nft;
use crate::kernel::sysctl::Sysctl;
use crate::plan::rules::keys_of;
use crate::plan::{Families, Plan, host_end_name};

/// Where the locks of attachments are.
pub const LOCKS: &str = "/run/pausenet/lock";

/// How long the kernel may take for what it does by itself: a host end that comes up once both
/// ends are switched on, an IPv6 address that is taken into use. It does either in well under a
/// millisecond; the limit is there to end in an error and not in a time-out of the runtime.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);

/// The lock of an attachment, if nobody holds it.
///
/// # Errors
/// Code 5, naming the path.
pub fn try_lock(host_end: &IfName) -> Result<Option<Lock>> {
    Lock::try_take(Path::new(LOCKS), host_end)
}

/// Whether somebody holds an attachment's lock; when in doubt, yes.
pub fn is_at_work(attachment: &Attachment) -> bool {
    !matches!(try_lock(&host_end_name(attachment)), Ok(Some(_)))
}

/// The kernel as one request sees it: the host's side, opened once, and the attachment's lock.
pub struct Host {
    pub netns: Netns,
    pub socket: RouteSocket,
    _lock: Lock,
}

impl Host {
    /// Opens the host's side and waits for the lock of the attachment with this host end.
    ///
    /// # Errors
    /// Codes 5 and 101.
    pub fn open(host_end: &IfName) -> Result<Self> {
        let lock = Lock::take(Path::new(LOCKS), host_end)?;
        let socket = Self::open_socket()?;
        let netns = Netns::own_by(&socket)?;
        Ok(Self {
            netns,
            socket,
            _lock: lock,
        })
    }

    /// Opens the host's side for work on the whole network: no attachment's lock is held.
    ///
    /// # Errors
    /// Codes 8 and 101.
    pub fn open_socket() -> Result<RouteSocket> {
        RouteSocket::open().during("open a netlink socket on the host")
    }
}

/// What an attachment came to look like, for the result.
#[derive(Debug)]
pub struct Attached {
    /// None in mode ptp.
    pub bridge: Option<Bridge>,
    pub host_end: Link,
    /// The detour of what the container sends, if that is limited.
    pub ifb: Option<Link>,
}

/// Makes the plan so. On failure everything that belongs to this attachment is undone.
///
/// # Errors
/// Code 100 when the interface or the attachment exists; 103 when a host port is taken; 7 when
/// the bridge is none or has another address; 5 and 101 when the kernel refuses something.
pub fn attach(host: &mut Host, netns: &Netns, plan: &Plan) -> Result<Attached> {
    let bridge = match &plan.bridge {
        Some(bridge) => Some(bridge::ensure(&mut host.socket, bridge)?),
        None => None,
    };
    forward(&mut host.socket, plan.forward)?;
    let nft = firewall::ensure(&plan.passages)?;
    let switch = bridge.as_ref().map(|bridge| &bridge.link);
    // Whether neighbours may know an address of the container by the MAC of its last holder.
    let announce = match switch {
        Some(bridge) => !bridge::is_steady(bridge) || !plan.container.steady,
        // In mode ptp the host is the one neighbour, and what it knows of a link goes with it.
        None => false,
    };
    if let Some(bridge) = switch.filter(|bridge| announce && bridge::is_steady(bridge)) {
        bridge::unsettle(&mut host.socket, bridge)?;
    }
    let host_end = veth::create(host, netns, plan, switch)?;
    match wire(host, netns, plan, &host_end, switch, nft, announce) {
        Ok((host_end, ifb)) => Ok(Attached {
            bridge,
            host_end,
            ifb,
        }),
        Err(err) => {
            // A failure here adds nothing that the reader could use: what is left has no
            // alias, so the next ADD or DEL takes it for the debris that it is.
            let _ = veth::remove(&mut host.socket, &plan.attachment);
            Err(err)
        }
    }
}

/// Configures both ends of a new pair. The last change is the alias, which makes it whole.
fn wire(
    host: &mut Host,
    netns: &Netns,
    plan: &Plan,
    host_end: &Link,
    bridge: Option<&Link>,
    nft: Option<Nft>,
    announce: bool,
) -> Result<(Link, Option<Link>)> {
    let container_index = host_end.peer.ok_or_else(|| {
        Error::new(
            Code::Internal,
            format!("the kernel gave {} no peer", host_end.name),
        )
    })?;
    refuse_routes(host_end, &plan.host.name)?;
    let probed = host_end
        .ipv6
        .is_none_or(|settings| settings.accept_dad != 0);
    if plan.bridge.is_none() && plan.container.has_ipv6() && probed {
        // While its link-local address is being probed, the host could not ask for the
        // container's MAC, and nothing routed would reach it by IPv6.
        Sysctl::AcceptDad(&plan.host.name).set_if_there("0")?;
    }
    let mut inside = container::configure(host, netns, plan, container_index)?;
    veth::route(&mut host.socket, plan, host_end)?;
    let vlans = plan
        .bridge
        .as_ref()
        .and_then(|bridge| bridge.vlans.as_ref());
    if let (Some(vlans), Some(bridge)) = (vlans, bridge) {
        vlan::join(&mut host.socket, bridge, host_end, vlans)?;
    }
    let ifb = match &plan.bandwidth {
        Some(limits) => bandwidth::limit(&mut host.socket, &plan.attachment, limits, host_end)?,
        None => None,
    };
    claim(host, plan, nft)
        .and_then(|()| container::settle(host, netns, plan, container_index, &mut inside))
        .and_then(|()| veth::finish(&mut host.socket, plan, bridge, host_end))
        .inspect(|_| {
            if announce {
                container::announce(&mut inside, plan, container_index);
            }
        })
        .map(|host_end| (host_end, ifb))
        .inspect_err(|_| {
            let owner = crate::plan::alias(&plan.attachment);
            let keys = keys_of(&plan.rules);
            let _ = rules::open().and_then(|mut nft| rules::release_keys(&mut nft, &owner, &keys));
        })
}

/// Elements of nftables, and what mapped ports need beside them.
fn claim(host: &mut Host, plan: &Plan, nft: Option<Nft>) -> Result<()> {
    rules::claim(nft, &plan.rules, |other| {
        veth::is_gone(&mut host.socket, other)
    })?;
    let towards = plan
        .bridge
        .as_ref()
        .map_or(&plan.host.name, |bridge| &bridge.name);
    match &plan.ports {
        Some(ports) => ports::open_ways(ports, &plan.container.networks(), towards),
        None => Ok(()),
    }
}

/// Has a link take no routes from router advertisements: those on the host are ours to give.
/// Writing it when it is so already would cost a walk through /proc.
fn refuse_routes(link: &Link, name: &IfName) -> Result<()> {
    match link.ipv6 {
        Some(settings) if settings.accept_ra == 0 => Ok(()),
        _ => Sysctl::AcceptRa(name).set_if_there("0"),
    }
}

/// Has the host forward packets of these families. Where it does so already nothing is written: that
/// would be work for the kernel (it goes over all interfaces), and /proc/sys may be read-only.
fn forward(socket: &mut RouteSocket, families: Families) -> Result<()> {
    for (wanted, family, setting) in [
        (families.ipv4, Family::Ipv4, Sysctl::ForwardIpv4),
        (families.ipv6, Family::Ipv6, Sysctl::ForwardIpv6),
    ] {
        // A kernel that cannot say has the file, or none, which is then the error to report.
        if wanted && !forwarding::is_on(socket, family).unwrap_or(false) {
            setting.ensure("1")?;
        }
    }
    Ok(())
}
