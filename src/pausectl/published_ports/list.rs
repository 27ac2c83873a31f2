//! The list of published ports: `pausectl docker ports` and `pausectl pod ports`.
//!
//! The result cache has the ports that an attachment was made with, and nftables those that are in
//! force.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

use super::PublishedPort;
use crate::attachment_settings::PORT_MAPPINGS;
use crate::command::{Output, Result, print, print_json};
use pausenet::apply::{MappedPort, mapped_ports, nft_elements};
use pausenet::cni::Family;
use pausenet::cni::request::Attachment;
use pausenet::cni::result::AddResult;
use pausenet_host::runtime::cache::Entry;
use pausenet_host::table::table;
use pausenet_host::{During, Error};

/// A published port of an attachment.
struct Row {
    name: String,
    attachment: Attachment,
    port: PublishedPort,
    /// The container's addresses that it leads to.
    to: Vec<IpAddr>,
    /// nftables has it.
    in_force: bool,
}

/// Prints the published ports of attachments, each with the name of its container.
///
/// # Errors
/// nftables cannot be read.
pub(crate) fn print_ports(entries: &[(String, Entry)], output: Output) -> Result<()> {
    let mut nft = nft_elements::open()?;
    let mapped = mapped_ports(&mut nft).during("list the mapped ports in nftables")?;
    let rows = rows(entries, &mapped)?;
    match output {
        Output::Json => {
            let ports: Vec<_> = rows.iter().map(Row::json).collect();
            print_json(&json!({"ports": ports}))
        }
        Output::Text => print(&text(&rows)),
    }
}

fn rows(entries: &[(String, Entry)], mapped: &[MappedPort]) -> Result<Vec<Row>, Error> {
    let mut rows = Vec::new();
    for (name, entry) in entries {
        let attachment = &entry.parameters.attachment;
        let Some(json) = entry.parameters.capabilities.get(PORT_MAPPINGS) else {
            continue;
        };
        let ports: Vec<PublishedPort> = serde_json::from_value(json.clone()).map_err(|err| {
            let what = format!("{name}: the result cache has invalid ports: {err}");
            Error::new(what)
        })?;
        let own: Vec<_> = mapped
            .iter()
            .filter(|mapped| mapped.owner.as_ref() == Some(attachment))
            .collect();
        for port in ports {
            let host_ip = port.host_ip.filter(|ip| !ip.is_unspecified());
            let is_it = |mapped: &&&MappedPort| {
                let here = (mapped.host_ip, mapped.host_port, mapped.protocol);
                here == (host_ip, port.host_port, port.protocol)
                    && mapped.to.port() == port.container_port
            };
            let to: Vec<_> = own
                .iter()
                .filter(is_it)
                .map(|mapped| mapped.to.ip())
                .collect();
            rows.push(Row {
                name: name.clone(),
                attachment: attachment.clone(),
                in_force: !to.is_empty(),
                to: match to.is_empty() {
                    true => remembered(entry, &port),
                    false => to,
                },
                port,
            });
        }
    }
    Ok(rows)
}

/// The addresses that the port should lead to: the first of each family.
fn remembered(entry: &Entry, port: &PublishedPort) -> Vec<IpAddr> {
    let result = entry.result.as_ref();
    let result = result.and_then(|json| AddResult::from_json(json, entry.list.version).ok());
    let ifname = &entry.parameters.attachment.ifname;
    let all = result.map_or_else(Vec::new, |result| result.addresses_of(ifname));
    let of = |family: &Family| {
        all.iter()
            .map(|net| net.ip())
            .find(|ip| Family::from(*ip) == *family)
    };
    let wanted = |family: &&Family| port.host_ip.is_none_or(|ip| Family::from(ip) == **family);
    Family::ALL.iter().filter(wanted).filter_map(of).collect()
}

impl Row {
    fn state(&self) -> &'static str {
        match self.in_force {
            true => "published",
            false => "missing",
        }
    }

    fn json(&self) -> Value {
        let mut json = json!(self.port);
        json["name"] = json!(self.name);
        json["containerId"] = json!(self.attachment.container.as_str());
        json["network"] = json!(self.attachment.network.as_str());
        json["ifname"] = json!(self.attachment.ifname.as_str());
        json["addresses"] = json!(self.to);
        json["state"] = json!(self.state());
        json
    }
}

fn text(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "no published ports\n".to_owned();
    }
    let cells = |row: &Row| {
        let to = row.to.iter();
        let to: Vec<_> = to
            .map(|ip| SocketAddr::new(*ip, row.port.container_port).to_string())
            .collect();
        let to = match to.as_slice() {
            [] => row.port.container_port.to_string(),
            to => to.join(","),
        };
        [
            row.name.clone(),
            row.attachment.network.to_string(),
            row.attachment.ifname.to_string(),
            row.port.host_side(),
            to,
            row.state().to_owned(),
        ]
    };
    let cells: Vec<_> = rows.iter().map(cells).collect();
    let head = [
        "NAME",
        "NETWORK",
        "INTERFACE",
        "HOST PORT",
        "LEADS TO",
        "STATE",
    ];
    table(head, &cells)
}
