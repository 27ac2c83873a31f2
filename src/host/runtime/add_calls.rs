//! Reconstructs the ADD calls of our plugins: from a runtime's result cache, or, for an attachment
//! without an entry there, from the network's configuration.

use std::ffi::OsStr;
use std::path::PathBuf;

use ipnetwork::IpNetwork;
use serde_json::{Map, Value};

use super::cache::Entry;
use super::conflist::NetworkList;
use super::run::execution_config;
use crate::Result;
use pausenet::cni::Plugin;
use pausenet::cni::args::Args;
use pausenet::cni::request::{Attachment, Request};
use pausenet::cni::result::{AddResult, Interface, IpConfig};
use pausenet::plan::elements::DesiredElement;
use pausenet::verbs::{self, ExpectedState, PromisedBy};

/// What has to be known about the plugins that a runtime calls.
#[derive(Debug, Clone, Copy)]
pub struct Plugins<'a> {
    /// The folders that hold them (CNI_PATH).
    pub path: &'a [PathBuf],
    /// The `portmap` among them is ours.
    pub portmap_is_ours: bool,
}

/// The ADD of one plugin for an attachment.
#[derive(Debug)]
pub struct AddCall {
    pub plugin: Plugin,
    /// Its prevResult has the attachment's addresses.
    pub request: Request,
    /// Where those come from.
    pub promised: PromisedBy,
}

impl AddCall {
    /// The links, addresses and routes that it made, if it wires.
    ///
    /// # Errors
    /// They are not known.
    pub fn expected_state(&self) -> Result<ExpectedState> {
        Ok(verbs::expected_state(&self.request, self.promised)?)
    }

    /// The elements that nftables should hold for it.
    pub fn desired_elements(&self) -> Vec<DesiredElement> {
        verbs::desired_elements(self.plugin, &self.request)
    }
}

/// The ADD calls of an attachment that we wired, from its runtime's result cache. `seen` are the
/// addresses of the interface; they are used if the entry has no result.
pub fn remembered(entry: &Entry, seen: &[IpNetwork], plugins: Plugins) -> Vec<AddCall> {
    let pairs = entry.parameters.args.iter();
    let args: Vec<_> = pairs.map(|[key, value]| format!("{key}={value}")).collect();
    let source = Source {
        list: &entry.list,
        attachment: &entry.parameters.attachment,
        capabilities: &entry.parameters.capabilities,
        result: entry.result.as_ref(),
        args: Args::parse(&args.join(";")).unwrap_or_default(),
        plugins,
    };
    source.add_calls(seen)
}

/// The ADD calls of an attachment without an entry in a result cache, from the network's current
/// configuration. That may have changed since the ADD, and does not contain published ports.
pub fn configured(
    list: &NetworkList,
    attachment: &Attachment,
    seen: &[IpNetwork],
    plugins: Plugins,
) -> Vec<AddCall> {
    let source = Source {
        list,
        attachment,
        capabilities: &Map::new(),
        result: None,
        args: Args::default(),
        plugins,
    };
    source.add_calls(seen)
}

/// The ADD calls of our `portmap` for a container that a foreign plugin wired.
pub fn chained(entry: &Entry, plugins: Plugins) -> Vec<AddCall> {
    let mut add_calls = remembered(entry, &[], plugins);
    add_calls.retain(|add_call| add_call.plugin == Plugin::Portmap);
    add_calls
}

struct Source<'a> {
    list: &'a NetworkList,
    attachment: &'a Attachment,
    capabilities: &'a Map<String, Value>,
    result: Option<&'a Value>,
    args: Args,
    plugins: Plugins<'a>,
}

impl Source<'_> {
    fn add_calls(&self, seen: &[IpNetwork]) -> Vec<AddCall> {
        let plugins = 0..self.list.plugins.len();
        plugins.filter_map(|at| self.add_call(at, seen)).collect()
    }

    fn add_call(&self, at: usize, seen: &[IpNetwork]) -> Option<AddCall> {
        let plugin = &self.list.plugins[at];
        let called = Plugin::called(OsStr::new(&plugin.r#type));
        let is_ours = match called {
            // The host end is ours, so the plugin that wires was too, under any name.
            Plugin::Pausenet | Plugin::Bridge | Plugin::Ptp => self.list.wiring() == at,
            Plugin::Portmap => self.plugins.portmap_is_ours,
            Plugin::HostLocal
            | Plugin::Loopback
            | Plugin::Firewall
            | Plugin::Bandwidth
            | Plugin::Tuning => false,
        };
        if !is_ours {
            return None;
        }
        let config = execution_config(self.list, plugin, self.capabilities, self.result);
        let Attachment {
            container, ifname, ..
        } = self.attachment.clone();
        let mut request = Request::of_add(
            called,
            (container, ifname),
            &self.args,
            self.plugins.path,
            config.to_string().into_bytes(),
        )
        .ok()?;
        let promised = match request.network.prev_result {
            Some(_) => PromisedBy::Result,
            None => PromisedBy::Config,
        };
        if promised == PromisedBy::Config {
            request.network.prev_result = Some(self.as_seen(seen));
        }
        Some(AddCall {
            plugin: called,
            request,
            promised,
        })
    }

    /// A result made from the interface's addresses. The container's MAC address is not known.
    fn as_seen(&self, seen: &[IpNetwork]) -> AddResult {
        let inside = Interface {
            name: self.attachment.ifname.to_string(),
            sandbox: "unknown".into(),
            ..Interface::default()
        };
        let ips = seen.iter().map(|address| IpConfig {
            interface: Some(0),
            address: *address,
            gateway: None,
        });
        AddResult {
            interfaces: vec![inside],
            ips: ips.collect(),
            ..AddResult::default()
        }
    }
}
