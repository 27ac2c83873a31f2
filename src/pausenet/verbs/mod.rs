//! The verbs that a runtime calls: one file for each verb of the plugins that wire containers
//! ([`add`], [`del`], [`check`], [`gc`], [`status`]), and one for each of the other plugins.
//! [`serve`] is the table of both.

mod add;
mod bandwidth;
mod check;
mod del;
mod expected;
mod firewall;
mod gc;
mod host_local;
mod loopback;
mod portmap;
mod status;
mod tuning;
mod version;

pub use expected::{ExpectedRoute, ExpectedState, PromisedBy, expected_state};

use crate::cni::call::Call;
use crate::cni::calls;
use crate::cni::error::invalid;
use crate::cni::request::Request;
use crate::cni::result::{AddResult, Interface};
use crate::cni::{Plugin, Result};
use crate::kernel::link::Link;
use crate::plan::elements::DesiredElement;

/// Serves a call. Returns the text for stdout, which is empty for most verbs.
///
/// # Errors
/// The verb's own, as the runtime is to see it.
pub(crate) fn serve(plugin: Plugin, call: &Call) -> Result<String> {
    // Only these run other plugins.
    if let Some(network) = call.network().filter(|_| plugin.is_wiring()) {
        calls::refuse_repeated(&network.name)?;
    }
    match call {
        Call::Add(request) => match plugin {
            Plugin::Pausenet | Plugin::Bridge | Plugin::Ptp => add::run(request),
            Plugin::HostLocal => host_local::add(request),
            Plugin::Loopback => loopback::add(request),
            Plugin::Portmap => portmap::add(request),
            Plugin::Firewall => firewall::add(request),
            Plugin::Bandwidth => bandwidth::add(request),
            Plugin::Tuning => tuning::add(request),
        },
        Call::Del(request) => without_output(match plugin {
            Plugin::Pausenet | Plugin::Bridge | Plugin::Ptp => del::run(request),
            Plugin::HostLocal => host_local::del(request),
            Plugin::Loopback => loopback::del(request),
            Plugin::Portmap => portmap::del(request),
            Plugin::Firewall => firewall::del(request),
            Plugin::Bandwidth => bandwidth::del(request),
            Plugin::Tuning => tuning::del(request),
        }),
        Call::Check(request) => without_output(match plugin {
            Plugin::Pausenet | Plugin::Bridge | Plugin::Ptp => check::run(request),
            Plugin::HostLocal => host_local::check(request),
            Plugin::Loopback => loopback::check(request),
            Plugin::Portmap => portmap::check(request),
            Plugin::Firewall => firewall::check(request),
            Plugin::Bandwidth => bandwidth::check(request),
            Plugin::Tuning => tuning::check(request),
        }),
        Call::Gc(network) => without_output(match plugin {
            Plugin::Pausenet | Plugin::Bridge | Plugin::Ptp => gc::run(network),
            Plugin::HostLocal => gc::addresses(network),
            Plugin::Portmap => gc::ports(network),
            Plugin::Firewall => gc::firewall(network),
            Plugin::Bandwidth => gc::limits(network),
            // The files of tuning do not say their network.
            Plugin::Loopback | Plugin::Tuning => Ok(()),
        }),
        Call::Status(network) => without_output(match plugin {
            Plugin::Pausenet | Plugin::Bridge | Plugin::Ptp => status::run(network),
            Plugin::HostLocal => status::host_local(network),
            Plugin::Loopback => Ok(()),
            Plugin::Portmap | Plugin::Firewall | Plugin::Bandwidth | Plugin::Tuning => {
                status::kernel()
            }
        }),
        Call::Version => Ok(version::run()),
    }
}

/// The result of the plugins before, which a chained plugin's ADD returns.
///
/// # Errors
/// Code 7 when there is none, or the config's version has no form for it.
fn chained_result(request: &Request) -> Result<&AddResult> {
    let before = request.network.prev_result.as_ref().ok_or_else(|| {
        invalid("there is no prevResult").hint(
            "this plugin goes into a conflist behind the one that makes the container's interface",
        )
    })?;
    AddResult::check_form(request.network.version, !before.ips.is_empty())?;
    Ok(before)
}

/// A link on the host, for the result.
fn on_host(link: Link) -> Interface {
    Interface {
        name: link.name,
        mac: link.mac.map(|mac| mac.to_string()).unwrap_or_default(),
        mtu: Some(link.mtu),
        ..Interface::default()
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
        Plugin::HostLocal
        | Plugin::Loopback
        | Plugin::Firewall
        | Plugin::Bandwidth
        | Plugin::Tuning => Vec::new(),
    }
}
