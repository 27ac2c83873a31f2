//! Kernel settings on the host that attachments need; written only if they are not set.

use crate::cni::{Family, IfName, Result};
use crate::kernel::link::Link;
use crate::kernel::sysctl::Sysctl;
use crate::kernel::{RouteSocket, forwarding};
use crate::plan::Families;

/// Makes a link on the host ignore router advertisements: its routes come from pausenet. An
/// unnecessary write would cost a walk through /proc.
pub(super) fn refuse_router_advertisements(link: &Link, name: &IfName) -> Result<()> {
    match link.ipv6 {
        Some(settings) if settings.accept_ra == 0 => Ok(()),
        _ => Sysctl::AcceptRa(name).set_if_there("0"),
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
            setting.ensure("1")?;
        }
    }
    Ok(())
}
