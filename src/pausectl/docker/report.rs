//! What the commands print about an attachment.

use ipnetwork::IpNetwork;
use serde_json::{Value, json};

use super::record::Record;
use crate::attachment_settings::AttachmentSettings;
use pausenet::cni::result::AddResult;

/// The lines about a new attachment: its addresses, and each published port.
pub(crate) fn attached_text(record: &Record, result: &AddResult) -> String {
    let addresses: Vec<_> = result
        .ips
        .iter()
        .map(|ip| ip.address)
        .map(|address: IpNetwork| address.to_string())
        .collect();
    let addresses = match addresses.as_slice() {
        [] => "no address".to_owned(),
        addresses => addresses.join(", "),
    };
    let mut text = format!(
        "{}: {addresses} on {} (network {})\n",
        record.name, record.ifname, record.list.name
    );
    text.push_str(&published_text(&record.name, &record.settings));
    text
}

/// A line for each published port.
pub(super) fn published_text(name: &str, settings: &AttachmentSettings) -> String {
    settings
        .ports
        .iter()
        .map(|port| {
            format!(
                "{name}: host port {} forwards to port {}\n",
                port.host_side(),
                port.container_port
            )
        })
        .collect()
}

pub(crate) fn attached_json(record: &Record, result: &AddResult) -> Value {
    json!({
        "name": record.name,
        "container": record.container.as_ref().map(|id| id.as_str()),
        "containerId": record.identity.as_str(),
        "network": record.list.name.as_str(),
        "ifname": record.ifname.as_str(),
        "addresses": result.ips.iter().map(|ip| ip.address.to_string()).collect::<Vec<_>>(),
        "ports": record.settings.ports,
    })
}
