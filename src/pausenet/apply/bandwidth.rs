//! Limits a container's bandwidth: what it receives, on the host end; what it sends, on an IFB to
//! which the host end redirects it.

use super::host_end::is_of;
use crate::cni::bandwidth::{Bandwidth, Limit, Shaped};
use crate::cni::request::Attachment;
use crate::cni::{Code, During, Error, IfName, Result};
use crate::kernel::link::{Link, Which};
use crate::kernel::traffic_control::{self, End};
use crate::kernel::{KernelError, KernelPart, RouteSocket, link};
use crate::plan::{LINK_GROUP, alias, ifb_name, reference};

const LIMITS: KernelPart = KernelPart {
    module: "sch_tbf",
    option: "CONFIG_NET_SCH_TBF",
};

const LIMITS_OF_SOME: KernelPart = KernelPart {
    module: "sch_htb or cls_u32",
    option: "CONFIG_NET_SCH_HTB and NET_CLS_U32",
};

const IFBS: KernelPart = KernelPart {
    module: "ifb",
    option: "CONFIG_IFB",
};

const REDIRECTION: KernelPart = KernelPart {
    module: "sch_ingress, cls_matchall or act_mirred",
    option: "CONFIG_NET_SCH_INGRESS, NET_CLS_MATCHALL and NET_ACT_MIRRED",
};

/// What the limits of an attachment are set on.
pub(crate) struct Limiter<'a> {
    attachment: &'a Attachment,
    host_end: &'a Link,
    ifb: IfName,
    /// Of the IFB: it tells that one without an alias is ours, if its name tells which lock it is under.
    group: u32,
    shaped: &'a Shaped,
}

impl<'a> Limiter<'a> {
    /// Of a container that this plugin attaches.
    pub(super) fn own(attachment: &'a Attachment, host_end: &'a Link) -> Self {
        Self {
            attachment,
            host_end,
            ifb: ifb_name(attachment),
            group: LINK_GROUP,
            shaped: &Shaped::All,
        }
    }

    /// Of the chained plugin `bandwidth`, whose IFB has the reference's name: either removes the other's.
    pub(crate) fn chained(
        attachment: &'a Attachment,
        host_end: &'a Link,
        shaped: &'a Shaped,
    ) -> Self {
        Self {
            attachment,
            host_end,
            ifb: reference::ifb_name(attachment),
            group: 0,
            shaped,
        }
    }

    /// Sets the limits of a new attachment. Returns the IFB, if one was needed.
    ///
    /// # Errors
    /// Code 101, naming the change that the kernel refused.
    pub(crate) fn set(
        &self,
        socket: &mut RouteSocket,
        bandwidth: &Bandwidth,
    ) -> Result<Option<Link>> {
        let host_end = self.host_end;
        if let Some(limit) = bandwidth.ingress {
            let attempt = format!("limit what the container receives by {}", host_end.name);
            self.limit(socket, host_end, limit, End::Source)
                .map_err(|err| err.during_use_of(self.part(), attempt))?;
        }
        let Some(limit) = bandwidth.egress else {
            return Ok(None);
        };
        let name = &self.ifb;
        let attempt = |what: &str| format!("{what} {name}, to limit what the container sends");
        // The kernel does not remove an IFB with the container's namespace: one of an earlier
        // attachment of this name may be left.
        let left = link::get(socket, Which::Name(name)).during_with(|| attempt("look up"))?;
        if let Some(left) = left.filter(|left| self.is_own(left)) {
            link::delete(socket, left.index).during_with(|| attempt("remove the old"))?;
        }
        let ifb = traffic_control::create_ifb(socket, name, host_end.mtu, self.group)
            .map_err(|err| err.during_use_of(IFBS, attempt("create")))?;
        let request = link::alias_request(ifb.index, &alias(self.attachment));
        socket
            .one(request)
            .and_then(|_| self.limit(socket, &ifb, limit, End::Destination))
            .map_err(|err| err.during_use_of(self.part(), attempt("limit")))?;
        traffic_control::redirect(socket, host_end.index, ifb.index)
            .map_err(|err| err.during_use_of(REDIRECTION, attempt("redirect to")))?;
        Ok(Some(ifb))
    }

    /// Checks that the limits are set as requested.
    ///
    /// # Errors
    /// Code 102 when one is not; 101 when the kernel cannot be asked.
    pub(crate) fn verify(&self, socket: &mut RouteSocket, bandwidth: &Bandwidth) -> Result<()> {
        let name = &self.ifb;
        let ifb = link::get(socket, Which::Name(name)).during_with(|| format!("look up {name}"))?;
        for (what, limit, link) in [
            ("receives", bandwidth.ingress, Some(self.host_end)),
            ("sends", bandwidth.egress, ifb.as_ref()),
        ] {
            let Some(limit) = limit else {
                continue;
            };
            let limit_of = match self.shaped {
                Shaped::All => traffic_control::limit_of,
                Shaped::Only(_) | Shaped::AllBut(_) => traffic_control::limit_of_some,
            };
            let rate = match link {
                Some(link) => limit_of(socket, link.index)
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

    /// Takes the limits off again, of a host end that stays.
    pub(crate) fn clear(&self, socket: &mut RouteSocket) {
        traffic_control::clear(socket, self.host_end.index);
        // The error to report is the one that led here.
        let _ = remove_ifb(socket, &self.ifb, |found| self.is_own(found));
    }

    fn is_own(&self, found: &Link) -> bool {
        match self.group {
            LINK_GROUP => is_of(found, self.attachment),
            // The reference's has no alias.
            _ => found.kind == "ifb",
        }
    }

    fn limit(
        &self,
        socket: &mut RouteSocket,
        on: &Link,
        limit: Limit,
        end: End,
    ) -> Result<(), KernelError> {
        let (subnets, others) = match self.shaped {
            Shaped::All => return traffic_control::limit(socket, on.index, limit),
            Shaped::Only(subnets) => (subnets, false),
            Shaped::AllBut(subnets) => (subnets, true),
        };
        traffic_control::limit_some(socket, on.index, limit, end, subnets, others)
    }

    fn part(&self) -> KernelPart {
        match self.shaped {
            Shaped::All => LIMITS,
            Shaped::Only(_) | Shaped::AllBut(_) => LIMITS_OF_SOME,
        }
    }
}

/// Removes the IFB of the chained plugin `bandwidth`. The limit on what a container receives goes with its host end.
pub(crate) fn remove_chained(socket: &mut RouteSocket, attachment: &Attachment) -> Result<()> {
    remove_ifb(socket, &reference::ifb_name(attachment), |found| {
        found.kind == "ifb"
    })
}

fn remove_ifb(
    socket: &mut RouteSocket,
    name: &IfName,
    is_own: impl Fn(&Link) -> bool,
) -> Result<()> {
    let attempt = || format!("remove {name}, which limits what the container sends");
    let found = link::get(socket, Which::Name(name)).during_with(attempt)?;
    match found.filter(is_own) {
        Some(found) => link::delete(socket, found.index).during_with(attempt),
        None => Ok(()),
    }
}
