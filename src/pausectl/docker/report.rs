//! What the commands print about an attachment.

use ipnetwork::IpNetwork;
use serde_json::{Value, json};

use super::attachment::Attached;
use super::record::Record;
use crate::attachment_settings::AttachmentSettings;

/// The lines about new attachments: of each its addresses, and each published port.
pub(crate) fn attached_text(record: &Record, attached: &[Attached]) -> String {
    attached.iter().map(|one| one_text(record, one)).collect()
}

fn one_text(record: &Record, Attached { network, result }: &Attached) -> String {
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
        record.name, network.ifname, network.list.name
    );
    text.push_str(&published_text(&record.name, &network.settings));
    text
}

/// A line for each published port.
pub(crate) fn published_text(name: &str, settings: &AttachmentSettings) -> String {
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

/// The first new attachment, with the others in `more`.
pub(crate) fn attached_json(record: &Record, attached: &[Attached]) -> Value {
    let mut all = attached.iter().map(|one| one_json(record, one));
    let mut first = all.next().unwrap_or_default();
    let more: Vec<_> = all.collect();
    if !more.is_empty() {
        first["more"] = Value::Array(more);
    }
    first
}

fn one_json(record: &Record, Attached { network, result }: &Attached) -> Value {
    json!({
        "name": record.name,
        "container": record.container.as_ref().map(|id| id.as_str()),
        "containerId": record.identity.as_str(),
        "network": network.list.name.as_str(),
        "ifname": network.ifname.as_str(),
        "addresses": result.ips.iter().map(|ip| ip.address.to_string()).collect::<Vec<_>>(),
        "ports": network.settings.ports,
    })
}
