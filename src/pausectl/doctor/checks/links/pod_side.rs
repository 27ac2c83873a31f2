//! The pods' side of attachments: the interface, its addresses and its routes.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::Path;

use ipnetwork::IpNetwork;

use super::Expected;
use super::host_side::{ip_of, is_ipv6_disabled, no_probe, without_ipv6};
use super::namespaces::Namespaces;
use crate::doctor::finding::Finding;
use crate::doctor::snapshot::exists;
use pausenet::apply::is_locked;
use pausenet::cni::{Family, IfName};
use pausenet::kernel::link::{self, Link, Which};
use pausenet::kernel::netns::Netns;
use pausenet::kernel::route::{self, MAIN_TABLE, Present};
use pausenet::kernel::{KernelError, RouteSocket, address};
use pausenet::verbs::ExpectedRoute;
use pausenet_host::anchor::interfaces::on_separate_thread;
use pausenet_host::anchor::text::few;
use pausenet_host::{During, Result};

/// How many losses a finding names before it only counts them.
const SHOWN: usize = 6;

/// What an attachment has in its pod.
#[derive(Debug)]
struct Inside {
    link: Link,
    is_ipv6_disabled: bool,
    addresses: HashSet<IpNetwork>,
    routes: Vec<Present>,
    is_lo_up: bool,
}

/// The index of lo in every namespace.
const LO: u32 = 1;

/// Interfaces that are down, or have lost an address or a route.
///
/// # Errors
/// Our own namespace cannot be opened.
pub(super) fn findings(expected: &[Expected], namespaces: &Namespaces) -> Result<Vec<Finding>> {
    if expected.is_empty() {
        return Ok(Vec::new());
    }
    on_separate_thread(|| {
        let home = Netns::own()?;
        let mut findings = Vec::new();
        for one in expected {
            let path = namespaces.path_into(one.live);
            if let Some(path) = path.filter(|_| !is_locked(&one.live.attachment)) {
                findings.extend(judge(one, path, &home));
            }
        }
        Ok(findings)
    })
}

fn judge(one: &Expected, path: &Path, home: &Netns) -> Option<Finding> {
    let subject = format!("{} ({})", one.live.host_end.name, one.live.attachment);
    let index = one.live.host_end.peer?;
    let inside = match look_into(path, index, home) {
        Ok(inside) => inside?,
        Err(_) if !exists(&one.live.attachment) => return None,
        Err(err) => return Some(Finding::not_checked(subject, err)),
    };
    let lost = Lost::of(one, &inside);
    if lost.what.is_empty() || is_locked(&one.live.attachment) || !exists(&one.live.attachment) {
        return None;
    }
    let within = format!("nsenter --net={} ", path.display());
    let commands = lost
        .commands
        .iter()
        .map(|command| format!("{within}{command}"));
    Some(
        Finding::problem(
            subject,
            format!("in the pod, {}", few(&lost.what, SHOWN, ", and ")),
        )
        .means("the pod is cut off, or does not reach all that its network promises")
        .how(commands.collect::<Vec<_>>().join("; ")),
    )
}

/// None if the interface is gone: then its host end is, too.
fn look_into(path: &Path, index: u32, home: &Netns) -> Result<Option<Inside>> {
    let attempt = || format!("look into {}", path.display());
    let netns = Netns::open(path)?;
    let read = || -> Result<Option<Inside>, KernelError> {
        let mut socket = RouteSocket::open()?;
        let Some(link) = link::get(&mut socket, Which::Index(index))? else {
            return Ok(None);
        };
        let addresses = address::of_link(&mut socket, index)?.into_iter().collect();
        let lo = link::get(&mut socket, Which::Index(LO))?;
        Ok(Some(Inside {
            is_ipv6_disabled: IfName::parse(&link.name).is_ok_and(|name| is_ipv6_disabled(&name)),
            link,
            addresses,
            routes: route::list(&mut socket)?,
            is_lo_up: lo.is_some_and(|lo| lo.up),
        }))
    };
    netns.enter(home, || Ok(read()))?.during_with(attempt)
}

/// What is gone in a pod, and the commands that bring it back.
#[derive(Debug, Default, PartialEq)]
struct Lost {
    what: Vec<String>,
    commands: Vec<String>,
}

impl Lost {
    fn of(one: &Expected, inside: &Inside) -> Self {
        let Expected { state, .. } = one;
        let name = &inside.link.name;
        let mut lost = Self::default();
        if one.live.has_loopback && !inside.is_lo_up {
            lost.what.push("lo is down".to_owned());
            lost.commands.push("ip link set lo up".to_owned());
        }
        let is_down = state.up && !inside.link.up;
        if is_down {
            lost.what.push(format!("{name} is down"));
            lost.commands.push(format!("ip link set {name} up"));
        }
        let missing: HashSet<_> = state
            .addresses
            .iter()
            .filter(|net| !inside.addresses.contains(net))
            .collect();
        if missing.iter().any(|net| net.is_ipv6())
            && let Some((why, command)) = without_ipv6(&inside.link, inside.is_ipv6_disabled)
        {
            lost.what.push(why);
            lost.commands.push(command);
        }
        for net in state.addresses.iter().filter(|net| missing.contains(net)) {
            lost.what.push(format!("{name} has lost its address {net}"));
            let option = if state.prefix_routes {
                ""
            } else {
                " noprefixroute"
            };
            lost.commands.push(format!(
                "ip address replace {net} dev {name}{}{option}",
                no_probe(*net)
            ));
        }
        if !one.routes_are_ours || !state.up {
            return lost;
        }
        // The kernel's own routes come back with the link, or with the address.
        let by_kernel = state
            .addresses
            .iter()
            .filter(|net| state.prefix_routes && !is_down && !missing.contains(net))
            .filter_map(|net| {
                Some(ExpectedRoute {
                    dst: IpNetwork::new(net.network(), net.prefix()).ok()?,
                    via: None,
                    source: Some(net.ip()).filter(IpAddr::is_ipv4),
                    table: MAIN_TABLE,
                })
            });
        for route in by_kernel.chain(state.routes.iter().cloned()) {
            if is_single_host(route.dst)
                && route.via.is_none()
                && route.source.map(IpNetwork::from) == Some(route.dst)
            {
                continue; // its own address
            }
            if !has_route(&inside.routes, &route, inside.link.index) {
                let via = route
                    .via
                    .map_or_else(String::new, |via| format!(" via {via}"));
                lost.what
                    .push(format!("the route to {}{via} is gone", shown(route.dst)));
                lost.commands.push(add_route(&route, name));
            }
        }
        lost
    }
}

fn is_single_host(net: IpNetwork) -> bool {
    u32::from(net.prefix()) == u32::from(Family::from(net).bits())
}

/// Whether a route is there. One by another link to the same destination was made on purpose: by a
/// VPN in the pod, for instance.
fn has_route(present: &[Present], wanted: &ExpectedRoute, link: u32) -> bool {
    let of_destination = |route: &&Present| route.dst == wanted.dst && route.table == wanted.table;
    let mut found = present.iter().filter(of_destination);
    found.any(|route| route.link != Some(link) || wanted.via.is_none() || route.via == wanted.via)
}

fn shown(dst: IpNetwork) -> String {
    match dst.prefix() {
        0 => "everywhere (default)".to_owned(),
        _ => dst.to_string(),
    }
}

fn add_route(route: &ExpectedRoute, link: &str) -> String {
    let ip = ip_of(route.dst.into());
    let dst = match route.dst.prefix() {
        0 => "default".to_owned(),
        _ => route.dst.to_string(),
    };
    let via = route
        .via
        .map_or_else(String::new, |via| format!(" via {via}"));
    let source = route
        .source
        .map_or_else(String::new, |ip| format!(" src {ip}"));
    let table = match route.table {
        MAIN_TABLE => String::new(),
        table => format!(" table {table}"),
    };
    format!("{ip} route replace {dst}{via} dev {link}{source}{table}")
}
