//! The verbs that a runtime calls: one file for each verb of the plugins that wire containers
//! ([`add`], [`del`], [`check`], [`gc`], [`status`]), and one for each of the other plugins.
//! [`serve`] is the table of both.

mod add;
mod check;
mod del;
mod expected;
mod gc;
mod host_local;
mod loopback;
mod portmap;
mod status;
mod version;

pub use expected::{ExpectedRoute, ExpectedState, PromisedBy, expected_state};

use crate::cni::call::Call;
use crate::cni::calls;
use crate::cni::request::Request;
use crate::cni::{Plugin, Result};
use crate::plan::elements::DesiredElement;

/// Serves a call. Returns the text for stdout, which is empty for most verbs.
///
/// # Errors
/// The verb's own, as the runtime is to see it.
pub(crate) fn serve(plugin: Plugin, call: &Call) -> Result<String> {
    // Only these run other plugins.
    if let (Plugin::Pausenet | Plugin::Bridge | Plugin::Ptp, Some(network)) =
        (plugin, call.network())
    {
        calls::refuse_repeated(&network.name)?;
    }
    match call {
        Call::Add(request) => match plugin {
            Plugin::Pausenet | Plugin::Bridge | Plugin::Ptp => add::run(request),
            Plugin::HostLocal => host_local::add(request),
            Plugin::Loopback => loopback::add(request),
            Plugin::Portmap => portmap::add(request),
        },
        Call::Del(request) => without_output(match plugin {
            Plugin::Pausenet | Plugin::Bridge | Plugin::Ptp => del::run(request),
            Plugin::HostLocal => host_local::del(request),
            Plugin::Loopback => loopback::del(request),
            Plugin::Portmap => portmap::del(request),
        }),
        Call::Check(request) => without_output(match plugin {
            Plugin::Pausenet | Plugin::Bridge | Plugin::Ptp => check::run(request),
            Plugin::HostLocal => host_local::check(request),
            Plugin::Loopback => loopback::check(request),
            Plugin::Portmap => portmap::check(request),
        }),
        Call::Gc(network) => without_output(match plugin {
            Plugin::Pausenet | Plugin::Bridge | Plugin::Ptp => gc::run(network),
            Plugin::HostLocal => gc::addresses(network),
            Plugin::Loopback => Ok(()),
            Plugin::Portmap => gc::ports(network),
        }),
        Call::Status(network) => without_output(match plugin {
            Plugin::Pausenet | Plugin::Bridge | Plugin::Ptp => status::run(network),
            Plugin::HostLocal => status::host_local(network),
            Plugin::Loopback => Ok(()),
            Plugin::Portmap => status::kernel(),
        }),
        Call::Version => Ok(version::run()),
    }
}

fn without_output(outcome: Result<()>) -> Result<String> {
    outcome.map(|()| String::new())
}

/// The desired nftables elements of an attachment, from its ADD's result in prevResult.
pub fn desired_elements(plugin: Plugin, request: &Request) -> Vec<DesiredElement> {
    let Some(promised) = &request.network.prev_result else {
        return Vec::new();
    };
    match plugin {
        Plugin::Pausenet | Plugin::Bridge | Plugin::Ptp => {
            check::desired_elements(request, promised)
        }
        Plugin::Portmap => portmap::desired_elements(request, promised),
        Plugin::HostLocal | Plugin::Loopback => Vec::new(),
    }
}
