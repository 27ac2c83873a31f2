//! Limits a container's bandwidth: what it receives, on the host end; what it sends, on an IFB to
//! which the host end redirects it.

use super::host_end::is_of;
use crate::cni::bandwidth::Bandwidth;
use crate::cni::request::Attachment;
use crate::cni::{Code, During, Error, Result};
use crate::kernel::link::{Link, Which};
use crate::kernel::{KernelPart, RouteSocket, link, traffic_control};
use crate::plan::{LINK_GROUP, alias, ifb_name};

const LIMITS: KernelPart = KernelPart {
    module: "sch_tbf",
    option: "CONFIG_NET_SCH_TBF",
};

const IFBS: KernelPart = KernelPart {
    module: "ifb",
    option: "CONFIG_IFB",
};

const REDIRECTION: KernelPart = KernelPart {
    module: "sch_ingress, cls_matchall or act_mirred",
    option: "CONFIG_NET_SCH_INGRESS, NET_CLS_MATCHALL and NET_ACT_MIRRED",
};

/// Sets the limits of a new attachment. Returns the IFB, if one was needed.
pub(super) fn limit(
    socket: &mut RouteSocket,
    attachment: &Attachment,
    bandwidth: &Bandwidth,
    host_end: &Link,
) -> Result<Option<Link>> {
    if let Some(limit) = bandwidth.ingress {
        traffic_control::limit(socket, host_end.index, limit).map_err(|err| {
            let attempt = format!("limit what the container receives by {}", host_end.name);
            err.during_use_of(LIMITS, attempt)
        })?;
    }
    let Some(limit) = bandwidth.egress else {
        return Ok(None);
    };
    let name = ifb_name(attachment);
    let attempt = |what: &str| format!("{what} {name}, to limit what the container sends");
    // The kernel does not remove an IFB with the container's namespace: one of an earlier
    // attachment of this name may be left.
    let left = link::get(socket, Which::Name(&name)).during_with(|| attempt("look up"))?;
    if let Some(left) = left.filter(|left| is_of(left, attachment)) {
        link::delete(socket, left.index).during_with(|| attempt("remove the old"))?;
    }
    let ifb = traffic_control::create_ifb(socket, &name, host_end.mtu, LINK_GROUP)
        .map_err(|err| err.during_use_of(IFBS, attempt("create")))?;
    let request = link::alias_request(ifb.index, &alias(attachment));
    socket
        .one(request)
        .and_then(|_| traffic_control::limit(socket, ifb.index, limit))
        .map_err(|err| err.during_use_of(LIMITS, attempt("limit")))?;
    traffic_control::redirect(socket, host_end.index, ifb.index)
        .map_err(|err| err.during_use_of(REDIRECTION, attempt("redirect to")))?;
    Ok(Some(ifb))
}

/// Checks that the limits are set as requested.
///
/// # Errors
/// Code 102 when one is not; 101 when the kernel cannot be asked.
pub(super) fn verify(
    socket: &mut RouteSocket,
    attachment: &Attachment,
    bandwidth: &Bandwidth,
    host_end: &Link,
) -> Result<()> {
    let name = ifb_name(attachment);
    let ifb = link::get(socket, Which::Name(&name)).during_with(|| format!("look up {name}"))?;
    for (what, limit, link) in [
        ("receives", bandwidth.ingress, Some(host_end)),
        ("sends", bandwidth.egress, ifb.as_ref()),
    ] {
        let Some(limit) = limit else {
            continue;
        };
        let rate = match link {
            Some(link) => traffic_control::limit_of(socket, link.index)
                .during_with(|| format!("look up the limit of {}", link.name))?,
            None => None,
        };
        if rate != Some(u32::try_from(limit.rate).unwrap_or(u32::MAX)) {
            return Err(Error::new(
                Code::AttachmentDiffers,
                format!(
                    "what the container {what} is not limited to {} bytes per second",
                    limit.rate
                ),
            ));
        }
    }
    Ok(())
}
