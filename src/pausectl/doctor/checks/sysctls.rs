//! Kernel settings: what running attachments need, and limits that are nearly reached.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;

use crate::doctor::check::Check;
use crate::doctor::finding::Finding;
use crate::doctor::repair::Repair;
use crate::doctor::snapshot::{LiveAttachment, PeerAddresses, Snapshot};
use pausenet::apply::{Host, keep_router_advertisements};
use pausenet::cni::link::{GatewayRole, LinkConf};
use pausenet::cni::{Family, IfName};
use pausenet::kernel::RouteSocket;
use pausenet::kernel::link::{self, Which};
use pausenet::kernel::route::{self, MAIN_TABLE};
use pausenet::kernel::sysctl::Sysctl;
use pausenet_host::Result;

pub(super) const CHECK: Check = Check {
    name: "sysctls",
    about: "forwarding, reverse path filters and limits under /proc/sys",
    all_is_well: "forwarding, reverse path filters and limits are as the attachments need them",
    run,
};

/// Sets to 1 what every ADD that needs it sets to 1.
#[derive(Debug, Clone)]
enum SysctlRepair {
    Forward(Family),
    RouteLocalnet(IfName),
}

impl SysctlRepair {
    fn sysctl(&self) -> Sysctl<'_> {
        match self {
            Self::Forward(Family::Ipv4) => Sysctl::ForwardIpv4,
            Self::Forward(Family::Ipv6) => Sysctl::ForwardIpv6,
            Self::RouteLocalnet(link) => Sysctl::RouteLocalnet(link),
        }
    }
}

impl Repair for SysctlRepair {
    fn done(&self) -> String {
        format!("set {} to 1", self.sysctl().name())
    }

    fn carry_out(&self) -> Result<bool> {
        let sysctl = self.sysctl();
        if sysctl.get().is_ok_and(|value| value == "1") {
            return Ok(false);
        }
        if matches!(self, Self::Forward(Family::Ipv6)) {
            keep_router_advertisements(&mut Host::open_socket()?)?;
        }
        sysctl.set("1")?;
        Ok(true)
    }
}

fn run(snapshot: &Snapshot) -> Vec<Finding> {
    let needs = Needs::of(&snapshot.attachments);
    let mut findings = forwarding(&needs);
    findings.extend(forwarding_of_links(&needs));
    findings.extend(localhost(&needs));
    findings.extend(strict_rp_filters(&needs));
    findings.extend(limits(snapshot));
    findings
}

/// What the attachments that run now need.
#[derive(Debug, Default)]
struct Needs {
    /// Networks whose pods are routed, by family.
    routed: BTreeMap<Family, BTreeSet<String>>,
    /// Links to which ports published at 127.0.0.1 are forwarded, with one attachment of each.
    localhost: BTreeMap<IfName, String>,
    /// The IPv4 addresses behind each link.
    addresses: BTreeMap<IfName, Vec<IpAddr>>,
}

impl Needs {
    fn of(attachments: &[LiveAttachment]) -> Self {
        let mut needs = Self::default();
        for live in attachments {
            let mut link = None;
            for add_call in &live.add_calls {
                let network = &add_call.request.network;
                let is_routed = match &network.link {
                    Some(LinkConf::Bridge(conf)) => {
                        link = Some(conf.name.clone());
                        conf.gateway >= GatewayRole::Gateway
                    }
                    Some(LinkConf::Ptp) => {
                        link = IfName::parse(&live.host_end.name).ok();
                        true
                    }
                    None => false,
                };
                let seen = live.addresses.iter().flatten();
                let name = network.name.to_string();
                for net in seen.filter(|_| is_routed) {
                    let routed = needs.routed.entry(Family::from(*net)).or_default();
                    routed.insert(name.clone());
                    if let Some(link) = link.clone().filter(|_| net.is_ipv4()) {
                        needs.addresses.entry(link).or_default().push(net.ip());
                    }
                }
                let has_ipv4 = live.addresses.iter().flatten().any(|net| net.is_ipv4());
                let ports = network
                    .ports
                    .as_ref()
                    .filter(|ports| ports.are_for_localhost() && has_ipv4);
                if let (Some(_), Some(link)) = (ports, &link) {
                    let attachment = live.attachment.to_string();
                    needs.localhost.entry(link.clone()).or_insert(attachment);
                }
            }
        }
        needs
    }
}

fn set(sysctl: Sysctl) -> String {
    format!(
        "sysctl -w {}=1, and add it to /etc/sysctl.d for the next boot",
        sysctl.name()
    )
}

fn forwarding(needs: &Needs) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (family, networks) in &needs.routed {
        let repair = SysctlRepair::Forward(*family);
        let sysctl = repair.sysctl();
        if sysctl.get().is_ok_and(|value| value != "0") {
            continue;
        }
        let networks = networks.iter().cloned().collect::<Vec<_>>().join(", ");
        findings.push(
            Finding::problem(
                sysctl.name(),
                format!("the host does not forward {family}, but pods of {networks} need it"),
            )
            .means("they reach the host and nothing beyond it")
            .how(match family {
                Family::Ipv4 => set(sysctl),
                // Otherwise the host loses its default route.
                Family::Ipv6 => format!(
                    "{}; before that, set accept_ra=2 on interfaces with routes from router \
                     advertisements (ip -6 route show proto ra)",
                    set(sysctl)
                ),
            })
            .repair(repair),
        );
    }
    findings
}

/// Links on the way of packets of pods that do not forward, though the host does. (For IPv6, only
/// the setting of the host counts.)
fn forwarding_of_links(needs: &Needs) -> Vec<Finding> {
    let is_off = |sysctl: Sysctl| sysctl.get().is_ok_and(|value| value == "0");
    if needs.addresses.is_empty() || is_off(Sysctl::ForwardIpv4) {
        return Vec::new();
    }
    let uplink = Host::open_socket().ok().and_then(|mut socket| {
        let everywhere = IpAddr::from([0, 0, 0, 0]);
        let routes = route::list(&mut socket).ok()?;
        let mut defaults = routes.iter().filter(|route| {
            route.dst.ip() == everywhere && route.dst.prefix() == 0 && route.table == MAIN_TABLE
        });
        let index = defaults.find_map(|route| route.link)?;
        let link = link::get(&mut socket, Which::Index(index)).ok()??;
        IfName::parse(&link.name).ok()
    });
    let pods = needs.addresses.keys().map(|link| {
        (
            link,
            "what pods behind it send is not forwarded: they reach the host and nothing beyond it",
        )
    });
    let uplink = uplink.iter().map(|link| {
        (
            link,
            "the answers to what pods send come by it, and are not forwarded",
        )
    });
    let off = pods
        .chain(uplink)
        .filter(|(link, _)| is_off(Sysctl::Forwarding(link)));
    off.map(|(link, means)| {
        let sysctl = Sysctl::Forwarding(link);
        Finding::problem(
            sysctl.name(),
            format!("the host forwards IPv4, but not what comes by {link}"),
        )
        .means(means)
        .how(set(sysctl))
    })
    .collect()
}

/// Whether a switch is on for a link, or for all of them.
fn is_on(of: impl Fn(&IfName) -> Option<String>, link: &IfName) -> bool {
    [&IfName::all(), link]
        .into_iter()
        .any(|link| of(link).is_some_and(|value| value == "1"))
}

fn localhost(needs: &Needs) -> Vec<Finding> {
    let off = needs.localhost.iter().filter(|(link, _)| {
        !is_on(|link| Sysctl::RouteLocalnet(link).get().ok(), link)
            && Sysctl::RouteLocalnet(link).get().is_ok()
    });
    let finding = |(link, attachment): (&IfName, &String)| {
        let sysctl = Sysctl::RouteLocalnet(link);
        Finding::problem(sysctl.name(),
            format!("it is 0, so 127.0.0.1 is not routed to {link}, and {attachment} has published ports there"),
        )
        .means("on the host itself, its ports do not answer at 127.0.0.1")
        .how(set(sysctl))
        .repair(SysctlRepair::RouteLocalnet(link.clone()))
    };
    off.map(finding).collect()
}

/// A strict reverse path filter drops the packets of a pod that the host reaches by another link.
fn strict_rp_filters(needs: &Needs) -> Vec<Finding> {
    let Ok(mut socket) = Host::open_socket() else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    for (link, addresses) in &needs.addresses {
        let value = |link: &IfName| -> u8 {
            let value = Sysctl::RpFilter(link).get().unwrap_or_default();
            value.parse().unwrap_or_default()
        };
        // The higher of the two counts; 1 is strict, 2 is loose.
        if value(&IfName::all()).max(value(link)) != 1 {
            continue;
        }
        let elsewhere = addresses.iter().find_map(|ip| {
            let other = link_towards(&mut socket, *ip)?;
            (other != link.as_str()).then_some((ip, other))
        });
        if let Some((ip, other)) = elsewhere {
            findings.push(
                Finding::problem(
                    Sysctl::RpFilter(link).name(),
                    format!("it is strict, but the route to {ip} leads to {other}, not to {link}"),
                )
                .means(format!("the kernel drops what {ip} sends"))
                .how(format!("find that route (ip route get {ip}) and remove it")),
            );
        }
    }
    findings
}

fn link_towards(socket: &mut RouteSocket, ip: IpAddr) -> Option<String> {
    let index = route::link_towards(socket, ip).ok()??;
    Some(link::get(socket, Which::Index(index)).ok()??.name)
}

fn limits(snapshot: &Snapshot) -> Vec<Finding> {
    let number = |path: &str| -> Option<u64> { fs::read_to_string(path).ok()?.trim().parse().ok() };
    let mut findings = Vec::new();
    let flows = number("/proc/sys/net/netfilter/nf_conntrack_count")
        .zip(number("/proc/sys/net/netfilter/nf_conntrack_max"));
    findings.extend(flows.and_then(|(count, max)| check_flows(count, max)));
    let in_use = snapshot
        .peers
        .as_ref()
        .map_or(0, PeerAddresses::namespace_count);
    let namespaces = number("/proc/sys/user/max_net_namespaces");
    findings.extend(namespaces.and_then(|max| check_namespaces(in_use as u64, max)));
    findings
}

fn check_flows(count: u64, max: u64) -> Option<Finding> {
    // A limit of 0 is none.
    let percent = count.saturating_mul(100).checked_div(max)?;
    let what = format!("{count} of at most {max} connections are tracked, {percent} %");
    let finding = match percent {
        0..75 => return None,
        75..90 => Finding::note("net.netfilter.nf_conntrack_max", what),
        _ => Finding::problem("net.netfilter.nf_conntrack_max", what),
    };
    Some(
        finding
            .means("at 100 % the kernel drops new connections, of pods and of the host")
            .how(format!(
                "sysctl -w net.netfilter.nf_conntrack_max={}",
                max.saturating_mul(2)
            )),
    )
}

/// Spare namespaces: those that others on the machine have are not counted.
const SPARE: u64 = 16;

fn check_namespaces(in_use: u64, max: u64) -> Option<Finding> {
    if max > in_use.saturating_add(SPARE) {
        return None;
    }
    let what = format!("{max} network namespaces are allowed, and pods use {in_use}");
    let name = "user.max_net_namespaces";
    let finding = match max {
        0 => Finding::problem(name, what),
        _ => Finding::note(name, what),
    };
    Some(
        finding
            .means("when they are used up, no new pod can start")
            .how(format!("sysctl -w {name}=65536")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Severity;

    #[test]
    fn the_connection_table_is_reported_before_it_is_full() {
        let severity = |count, max| check_flows(count, max).map(|found| found.severity);
        assert_eq!(severity(0, 0), None);
        assert_eq!(severity(749, 1000), None);
        assert_eq!(severity(750, 1000), Some(Severity::Note));
        assert_eq!(severity(900, 1000), Some(Severity::Problem));
        assert_eq!(severity(u64::MAX, 1), Some(Severity::Problem));
    }

    #[test]
    fn namespaces_are_reported_before_they_run_out() {
        let severity = |in_use, max| check_namespaces(in_use, max).map(|found| found.severity);
        assert_eq!(severity(0, 0), Some(Severity::Problem));
        assert_eq!(severity(100, 110), Some(Severity::Note));
        assert_eq!(severity(100, 1000), None);
    }
}
