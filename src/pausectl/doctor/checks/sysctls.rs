//! Settings of the kernel: what running attachments need, and limits that are nearly reached.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;

use crate::doctor::finding::{Check, Finding};
use crate::doctor::repair;
use crate::doctor::snapshot::{Attached, Scene};
use pausenet::apply::Host;
use pausenet::cni::IfName;
use pausenet::cni::link::{GatewayRole, LinkConf};
use pausenet::kernel::sysctl::Sysctl;
use pausenet::kernel::{RouteSocket, route};
use pausenet_host::Result;

/// A setting that the plugin itself makes so at every ADD that needs it.
#[derive(Debug, Clone)]
pub enum Repair {
    ForwardIpv4,
    ForwardIpv6,
    RouteLocalnet(IfName),
}

impl Repair {
    fn sysctl(&self) -> Sysctl<'_> {
        match self {
            Self::ForwardIpv4 => Sysctl::ForwardIpv4,
            Self::ForwardIpv6 => Sysctl::ForwardIpv6,
            Self::RouteLocalnet(link) => Sysctl::RouteLocalnet(link),
        }
    }

    pub fn done(&self) -> String {
        format!("{} is 1", self.sysctl().name())
    }

    pub fn carry_out(&self) -> Result<bool> {
        let sysctl = self.sysctl();
        if sysctl.get().is_ok_and(|value| value == "1") {
            return Ok(false);
        }
        sysctl.set("1")?;
        Ok(true)
    }
}

pub fn check(scene: &Scene) -> Vec<Finding> {
    let needs = Needs::of(&scene.attached);
    let mut findings = forwarding(&needs);
    findings.extend(localhost(&needs));
    findings.extend(strict_filters(&needs));
    findings.extend(limits(scene));
    findings
}

/// What the attachments that run now need.
#[derive(Debug, Default)]
struct Needs {
    /// Networks whose pods are routed, by family: IPv4 first.
    routed: [BTreeSet<String>; 2],
    /// Links by which mapped ports of 127.0.0.1 are reached, and whose those are.
    localhost: BTreeMap<IfName, String>,
    /// IPv4 addresses by the link that leads to them.
    addresses: BTreeMap<IfName, Vec<IpAddr>>,
}

impl Needs {
    fn of(attached: &[Attached]) -> Self {
        let mut needs = Self::default();
        for attached in attached {
            let mut towards = None;
            for add_call in &attached.add_calls {
                let network = &add_call.request.network;
                let is_routed = match &network.link {
                    Some(LinkConf::Bridge(conf)) => {
                        towards = Some(conf.name.clone());
                        conf.gateway >= GatewayRole::Gateway
                    }
                    Some(LinkConf::Ptp) => {
                        towards = IfName::parse(&attached.host_end.name).ok();
                        true
                    }
                    None => false,
                };
                let seen = attached.addresses.iter().flatten();
                let name = network.name.to_string();
                for net in seen.filter(|_| is_routed) {
                    needs.routed[usize::from(net.is_ipv6())].insert(name.clone());
                    if let Some(towards) = towards.clone().filter(|_| net.is_ipv4()) {
                        needs.addresses.entry(towards).or_default().push(net.ip());
                    }
                }
                let has_ipv4 = attached.addresses.iter().flatten().any(|net| net.is_ipv4());
                let ports = network
                    .ports
                    .as_ref()
                    .filter(|ports| ports.snat && has_ipv4);
                if let (Some(_), Some(towards)) = (ports, &towards) {
                    let whose = attached.attachment.to_string();
                    needs.localhost.entry(towards.clone()).or_insert(whose);
                }
            }
        }
        needs
    }
}

fn set(sysctl: Sysctl) -> String {
    format!(
        "sysctl -w {}=1, and a line in /etc/sysctl.d for the next boot",
        sysctl.name()
    )
}

fn forwarding(needs: &Needs) -> Vec<Finding> {
    let families = [("IPv4", Repair::ForwardIpv4), ("IPv6", Repair::ForwardIpv6)];
    let mut findings = Vec::new();
    for ((family, repair), networks) in families.into_iter().zip(&needs.routed) {
        let sysctl = repair.sysctl();
        if networks.is_empty() || sysctl.get().is_ok_and(|value| value != "0") {
            continue;
        }
        let networks = networks.iter().cloned().collect::<Vec<_>>().join(", ");
        findings.push(
            Finding::problem(
                Check::Sysctls,
                sysctl.name(),
                format!("the host does not forward {family}, and pods of {networks} run"),
            )
            .means("they reach the host, and nothing beyond it")
            .how(set(sysctl))
            .repair(repair::Repair::Sysctl(repair.clone())),
        );
    }
    findings
}

/// True where a switch is on for a link, or for all.
fn is_on(of: impl Fn(&IfName) -> Option<String>, link: &IfName) -> bool {
    let all = IfName::parse("all").expect("a fine name");
    [&all, link]
        .into_iter()
        .any(|link| of(link).is_some_and(|value| value == "1"))
}

fn localhost(needs: &Needs) -> Vec<Finding> {
    let off = needs.localhost.iter().filter(|(link, _)| {
        !is_on(|link| Sysctl::RouteLocalnet(link).get().ok(), link)
            && Sysctl::RouteLocalnet(link).get().is_ok()
    });
    let finding = |(link, whose): (&IfName, &String)| {
        let sysctl = Sysctl::RouteLocalnet(link);
        Finding::problem(
            Check::Sysctls,
            sysctl.name(),
            format!("127.0.0.1 may not be routed to {link}, and {whose} has mapped ports there"),
        )
        .means("from the host itself, its ports do not answer at 127.0.0.1")
        .how(set(sysctl))
        .repair(repair::Repair::Sysctl(Repair::RouteLocalnet(link.clone())))
    };
    off.map(finding).collect()
}

/// A strict filter harms where the way to a pod is not the one that its packets come by.
fn strict_filters(needs: &Needs) -> Vec<Finding> {
    let Ok(mut socket) = Host::open_socket() else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    for (link, addresses) in &needs.addresses {
        let value = |link: &IfName| -> u8 {
            let value = Sysctl::RpFilter(link).get().unwrap_or_default();
            value.parse().unwrap_or_default()
        };
        let all = IfName::parse("all").expect("a fine name");
        // The higher of the two counts; 1 is strict, 2 is loose.
        if value(&all).max(value(link)) != 1 {
            continue;
        }
        let elsewhere = addresses.iter().find_map(|ip| {
            let by = leads_by(&mut socket, *ip)?;
            (by != link.as_str()).then_some((ip, by))
        });
        if let Some((ip, by)) = elsewhere {
            findings.push(
                Finding::problem(
                    Check::Sysctls,
                    Sysctl::RpFilter(link).name(),
                    format!("it is strict, and the way to {ip} leads by {by}, not by {link}"),
                )
                .means(format!("the kernel drops what {ip} sends"))
                .how(format!(
                    "find the route that leads there (ip route get {ip}) and remove it"
                )),
            );
        }
    }
    findings
}

fn leads_by(socket: &mut RouteSocket, ip: IpAddr) -> Option<String> {
    use pausenet::kernel::link::{self, Which};
    let index = route::link_towards(socket, ip).ok()??;
    Some(link::get(socket, Which::Index(index)).ok()??.name)
}

fn limits(scene: &Scene) -> Vec<Finding> {
    let number = |path: &str| -> Option<u64> { fs::read_to_string(path).ok()?.trim().parse().ok() };
    let mut findings = Vec::new();
    let flows = number("/proc/sys/net/netfilter/nf_conntrack_count")
        .zip(number("/proc/sys/net/netfilter/nf_conntrack_max"));
    findings.extend(flows.and_then(|(count, max)| judge_flows(count, max)));
    let in_use = scene
        .behind
        .as_ref()
        .map_or(0, |behind| behind.namespaces());
    let namespaces = number("/proc/sys/user/max_net_namespaces");
    findings.extend(namespaces.and_then(|max| judge_namespaces(in_use as u64, max)));
    findings
}

fn judge_flows(count: u64, max: u64) -> Option<Finding> {
    // Without a limit there is nothing to reach.
    let percent = count.saturating_mul(100).checked_div(max)?;
    let what = format!("{count} of {max} connections are tracked, {percent} %");
    let finding = match percent {
        0..75 => return None,
        75..90 => Finding::note(Check::Sysctls, "net.netfilter.nf_conntrack_max", what),
        _ => Finding::problem(Check::Sysctls, "net.netfilter.nf_conntrack_max", what),
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

/// What else on the machine has namespaces is not counted: room is asked for.
const ROOM: u64 = 16;

fn judge_namespaces(in_use: u64, max: u64) -> Option<Finding> {
    if max > in_use.saturating_add(ROOM) {
        return None;
    }
    let what = format!("{max} network namespaces are allowed, and pods here have {in_use}");
    let name = "user.max_net_namespaces";
    let finding = match max {
        0 => Finding::problem(Check::Sysctls, name, what),
        _ => Finding::note(Check::Sysctls, name, what),
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
    fn the_table_of_connections_is_told_of_before_it_is_full() {
        let severity = |count, max| judge_flows(count, max).map(|found| found.severity);
        assert_eq!(severity(0, 0), None);
        assert_eq!(severity(749, 1000), None);
        assert_eq!(severity(750, 1000), Some(Severity::Note));
        assert_eq!(severity(900, 1000), Some(Severity::Problem));
        assert_eq!(severity(u64::MAX, 1), Some(Severity::Problem));
    }

    #[test]
    fn namespaces_want_room_for_more_pods() {
        let severity = |in_use, max| judge_namespaces(in_use, max).map(|found| found.severity);
        assert_eq!(severity(0, 0), Some(Severity::Problem));
        assert_eq!(severity(100, 110), Some(Severity::Note));
        assert_eq!(severity(100, 1000), None);
    }
}
