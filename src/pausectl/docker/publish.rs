//! `pausectl docker publish` and `unpublish`: published ports of a running container.

use serde_json::json;

use super::port_attachment::OpenContainer;
use super::record::Record;
use super::report::published_text;
use crate::attachment_settings::AttachmentSettings;
use crate::command::{Output, Result, Stop, print, print_json};
use crate::options::{DockerOptions, PluginOptions};
use crate::published_ports::{Notation, PublishedPort, in_use};
use pausenet_host::Error;

const PUBLISH_EXAMPLES: &str = "\
Examples:
  pausectl docker publish web 8443:443
  pausectl docker publish web 127.0.0.1:9000:9000 5353:53/udp
  pausectl docker publish web 8000-8010:8000-8010

The container keeps running, and open connections stay. The ports survive a restart.";

const UNPUBLISH_EXAMPLES: &str = "\
Examples:
  pausectl docker unpublish web 8443
  pausectl docker unpublish web 127.0.0.1:9000 5353/udp
  pausectl docker unpublish web 8443:443
  pausectl docker unpublish web 8000-8010

New connections no longer reach the container; open ones stay.";

/// Publish host ports of a running container
#[derive(Debug, clap::Args)]
#[command(after_help = PUBLISH_EXAMPLES)]
pub(crate) struct Publish {
    /// An anchor, or another container that pausectl attached
    container: String,

    /// The host ports, and the container ports that they forward to
    #[arg(required = true, value_name = "[HOSTIP:]HOSTPORT:PORT[/PROTOCOL]")]
    ports: Vec<String>,

    /// The network to publish them on [default: the container's first that maps ports]
    #[arg(long, value_name = "NAME")]
    network: Option<String>,

    #[command(flatten)]
    plugins: PluginOptions,

    #[command(flatten)]
    docker: DockerOptions,
}

/// Remove published ports of a running container
#[derive(Debug, clap::Args)]
#[command(after_help = UNPUBLISH_EXAMPLES)]
pub(crate) struct Unpublish {
    /// An anchor, or another container that pausectl attached
    container: String,

    /// The host ports
    #[arg(required = true, value_name = "[HOSTIP:]HOSTPORT[:PORT][/PROTOCOL]")]
    ports: Vec<String>,

    #[command(flatten)]
    plugins: PluginOptions,

    #[command(flatten)]
    docker: DockerOptions,
}

/// Publishes ports, all or none.
///
/// # Errors
/// When a port is taken, or pausectl did not attach the container.
pub(super) fn publish(options: &Publish, output: Output) -> Result<()> {
    let texts = options.ports.iter().map(String::as_str);
    let new = PublishedPort::parse_all(texts, in_use::is_free_now()).map_err(Stop::usage)?;
    let mut container = OpenContainer::open(&options.container, &options.docker)?;
    let mut attachment = container.mapping(options.network.as_deref(), &options.plugins)?;
    let before = attachment.ports()?;
    let others = container.ports_of_others(&attachment);
    let name = container.record.name.clone();
    let mut ports = before.clone();
    let mut added = Vec::new();
    for port in &new {
        let mut all = before.iter().chain(&others);
        match all.find(|other| other.has_same_host_side(port)) {
            None => added.push(port.clone()),
            Some(same) if same == port && before.contains(port) => {}
            Some(other) => return Err(taken(&name, other).into()),
        }
    }
    container.refuse_taken(&added, &options.docker)?;
    ports.extend(added);
    // The ports must also be valid as a whole.
    attachment.conf(&ports)?;
    container.remember(&mut attachment, &ports)?;
    if let Err(err) = attachment.map(&new) {
        container.remember(&mut attachment, &before)?;
        return Err(err.into());
    }
    let shown = AttachmentSettings {
        ports: new,
        ..AttachmentSettings::default()
    };
    let record = &container.record;
    report(record, &ports, output, &published_text(&name, &shown))
}

/// Removes published ports, all or none.
///
/// # Errors
/// When a port is not published.
pub(super) fn unpublish(options: &Unpublish, output: Output) -> Result<()> {
    let each = options.ports.iter().map(|text| PortSelector::parse(text));
    let each = each.collect::<Result<Vec<_>, _>>().map_err(Stop::usage)?;
    let selectors: Vec<_> = each.into_iter().flatten().collect();
    let mut container = OpenContainer::open(&options.container, &options.docker)?;
    let name = container.record.name.clone();
    let mut attachments = container.with_ports(&options.plugins)?;
    let each = attachments
        .iter()
        .map(|attachment| container.all_ports(attachment));
    let before: Vec<_> = each.collect::<Result<_, Error>>()?;
    for selector in &selectors {
        let mut all = before.iter().flatten();
        if !all.any(|port| selector.matches(port)) {
            let has = before.iter().flatten().map(PublishedPort::to_string);
            let has: Vec<_> = has.collect();
            let shown = selector.shown();
            let msg = format!("{name} does not publish port {shown}");
            let hint = match has.as_slice() {
                [] => "it has no published ports".to_owned(),
                has => format!("its published ports: {}", has.join(", ")),
            };
            return Err(Error::new(msg).hint(hint).into());
        }
    }
    let matches = |port: &PublishedPort| selectors.iter().any(|selector| selector.matches(port));
    let mut lines = String::new();
    let mut all_kept = Vec::new();
    for (attachment, ports) in attachments.iter_mut().zip(before) {
        let (gone, kept): (Vec<_>, Vec<_>) = ports.into_iter().partition(matches);
        if !gone.is_empty() {
            attachment.unmap(&gone, &kept)?;
            container.remember(attachment, &kept)?;
        }
        for port in gone {
            let port = port.host_side();
            lines.push_str(&format!(
                "{name}: host port {port} is no longer published\n"
            ));
        }
        all_kept.extend(kept);
    }
    report(&container.record, &all_kept, output, &lines)
}

fn taken(name: &str, port: &PublishedPort) -> Error {
    Error::new(format!(
        "host port {} already forwards to port {} of {name}",
        port.host_side(),
        port.container_port
    ))
    .hint(format!(
        "remove that first: pausectl docker unpublish {name} {}",
        port.host_side()
    ))
}

fn report(record: &Record, ports: &[PublishedPort], output: Output, lines: &str) -> Result<()> {
    match output {
        Output::Json => print_json(&json!({"name": record.name, "ports": ports})),
        Output::Text => print(lines),
    }
}

/// A published port to remove.
#[derive(Debug)]
enum PortSelector {
    Mapping(PublishedPort),
    /// By its host side only; the container port is a placeholder.
    HostSide(PublishedPort),
}

impl PortSelector {
    /// One for each port of a range.
    fn parse(text: &str) -> Result<Vec<Self>, String> {
        let (host_side, protocol) = match text.split_once('/') {
            Some((host_side, protocol)) => (host_side, format!("/{protocol}")),
            None => (text, String::new()),
        };
        // A range of host ports leads to one of the same container ports.
        let hosts = host_side.rsplit(':').next().unwrap_or_default();
        let as_mapping = format!("{host_side}:{hosts}{protocol}");
        // Neither `IP:PORT` nor `PORT:PORT:PORT` parses as a mapping.
        let host_sides = Notation::parse(&as_mapping)
            .ok()
            .and_then(|found| found.each());
        if let Some(ports) = host_sides {
            return Ok(ports.into_iter().map(Self::HostSide).collect());
        }
        let each = Notation::parse(text)?.each();
        let each = each.ok_or_else(|| format!("{text:?} has ranges of different lengths"))?;
        Ok(each.into_iter().map(Self::Mapping).collect())
    }

    fn matches(&self, port: &PublishedPort) -> bool {
        match self {
            Self::Mapping(mapping) => mapping == port,
            Self::HostSide(other) => other.has_same_host_side(port),
        }
    }

    fn shown(&self) -> String {
        match self {
            Self::Mapping(port) => port.to_string(),
            Self::HostSide(port) => port.host_side(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_selected_by_its_host_side_or_as_a_mapping() {
        let port = |text: &str| Notation::parse(text).unwrap().each().unwrap().remove(0);
        let at_loopback = port("127.0.0.1:8080:80");
        for (text, matches) in [
            ("127.0.0.1:8080", &[true][..]),
            ("127.0.0.1:8080/tcp", &[true]),
            ("127.0.0.1:8080:80", &[true]),
            ("127.0.0.1:8080:81", &[false]),
            ("127.0.0.1:8080/udp", &[false]),
            ("8080", &[false]),
            ("127.0.0.1:8079-8080", &[false, true]),
            ("127.0.0.1:8080-8081:80-81", &[true, false]),
        ] {
            let selectors = PortSelector::parse(text).unwrap();
            let each = selectors.iter().map(|one| one.matches(&at_loopback));
            assert_eq!(each.collect::<Vec<_>>(), matches, "{text}");
        }
        for bad in ["", "x", "80:0", "0", "1:2:3", "1-2:1", "2-1"] {
            PortSelector::parse(bad).unwrap_err();
        }
    }
}
