//! Settings of the host's kernel that attachments need, written only where they are not set.

use crate::cni::{Family, IfName, Result};
use crate::kernel::link::Link;
use crate::kernel::sysctl::Sysctl;
use crate::kernel::{RouteSocket, forwarding};
use crate::plan::Families;

/// Has a link take no routes from router advertisements: those on the host are ours to give.
/// Writing it when it is so already would cost a walk through /proc.
pub(super) fn refuse_router_advertisements(link: &Link, name: &IfName) -> Result<()> {
    match link.ipv6 {
        Some(settings) if settings.accept_ra == 0 => Ok(()),
        _ => Sysctl::AcceptRa(name).set_if_there("0"),
    }
}

/// Has the host forward packets of these families. Where it does so already nothing is written: that
/// would be work for the kernel (it goes over all interfaces), and /proc/sys may be read-only.
pub(super) fn forward(socket: &mut RouteSocket, families: Families) -> Result<()> {
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
