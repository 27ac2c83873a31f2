//! Trials of what the kernel supports, in a network namespace that nobody else uses and that ends
//! with the thread. Nothing else is reliable: the configuration file may be another kernel's, and
//! a module may be missing on disk.

use std::os::fd::AsFd;
use std::path::Path;

use super::features::*;
use crate::doctor::finding::OUTSIDE;
use pausenet::cni::bandwidth::Limit;
use pausenet::cni::json::Json;
use pausenet::cni::ports::PortsConf;
use pausenet::cni::{self, Family, IfName, MacAddr};
use pausenet::kernel::conntrack::{self, UdpFlows};
use pausenet::kernel::link::{Link, NewBridge, NewVeth, Which};
use pausenet::kernel::netns::Netns;
use pausenet::kernel::nft::expr::{self, Expression, R0};
use pausenet::kernel::nft::{Chain, Change, Hook, HookPoint, Nft, Table};
use pausenet::kernel::syscalls::enter_new_network_namespace;
use pausenet::kernel::{KernelError, RouteSocket, link, traffic_control};
use pausenet::plan::elements::{BRIDGE_TABLE, TABLE, desired_port_elements, shared_objects};
use pausenet_host::{During, Error, OnPath, Result};

/// The outcome of a trial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Support {
    Yes,
    /// No, with the kernel's message.
    No(String),
    /// We have no privilege to try; the kernel's message.
    Unknown(String),
}

/// Why nothing could be tried out.
pub(super) enum TrialsError {
    /// This kernel has no network namespaces, or no more of them.
    NoNamespaces(Error),
    /// The kernel does not let us have one.
    NotPermitted(Error),
}

impl From<Error> for TrialsError {
    fn from(err: Error) -> Self {
        Self::NotPermitted(err)
    }
}

type Results = Vec<(Feature, Support)>;

/// Tries everything out. The calling thread stays in a new network namespace.
///
/// # Errors
/// There is no namespace to try it out in.
pub(super) fn run() -> Result<Results, TrialsError> {
    enter_new_network_namespace().map_err(|err| match err {
        rustix::io::Errno::NOSPC => TrialsError::NoNamespaces(
            Error::new("the limit of this user namespace is reached").hint(
                "sysctl -w user.max_net_namespaces=65536, or find namespaces that are not needed: lsns -t net",
            ),
        ),
        rustix::io::Errno::INVAL => TrialsError::NoNamespaces(Error::new(
            "this kernel does not support them: it needs CONFIG_NET_NS",
        )),
        _ => TrialsError::NotPermitted(
            Error::new(format!("cannot make a namespace for the trials: {err}")).hint(OUTSIDE),
        ),
    })?;
    let mut socket = RouteSocket::open().during("open a netlink socket")?;
    let mut results = links(&mut socket)?;
    results.extend(rules());
    for (feature, path) in [
        (IPV6, "/proc/sys/net/ipv6"),
        (BR_NETFILTER, "/proc/sys/net/bridge/bridge-nf-call-iptables"),
    ] {
        let exists = Path::new(path).try_exists();
        let exists = exists.on_path("cannot look for", Path::new(path))?;
        let support = match exists {
            true => Support::Yes,
            false => Support::No(format!("there is no {path}")),
        };
        results.push((feature, support));
    }
    Ok(results)
}

#[expect(clippy::expect_used, reason = "all names are literals")]
fn name(text: &str) -> IfName {
    IfName::parse(text).expect("a valid name")
}

fn links(socket: &mut RouteSocket) -> Result<Results> {
    let mut results = Vec::new();
    let bridge = |socket: &mut RouteSocket, bridge: &str, vlans| {
        let new = NewBridge {
            name: &name(bridge),
            mac: MacAddr::random()?,
            mtu: None,
            promiscuous: false,
            vlan_filtering: vlans,
            group: 0,
        };
        link::create_bridge(socket, &new).map_err(TrialError::Refused)?;
        let found = link::get(socket, Which::Name(&name(bridge)))?;
        Ok::<_, TrialError>(found.ok_or("it made no bridge")?)
    };
    let plain = bridge(socket, "plain", false);
    let has_bridges = plain.is_ok();
    results.push((BRIDGE, support(plain)));
    if has_bridges {
        // A kernel without it ignores the attribute.
        let filtering = bridge(socket, "vlans", true).and_then(|bridge| {
            if bridge.vlan_filtering {
                Ok(())
            } else {
                Err("its bridge does not filter VLANs".into())
            }
        });
        results.push((VLAN, support(filtering)));
    }
    match veth(socket) {
        Ok(veth) => {
            results.push((VETH, Support::Yes));
            results.push((SHAPING, support(limit(socket, &veth))));
            results.push((IFB, support(ifb(socket, &veth))));
        }
        Err(err) => results.push((VETH, support::<()>(Err(err)))),
    }
    Ok(results)
}

fn veth(socket: &mut RouteSocket) -> Result<Link, TrialError> {
    let here = Netns::own()?;
    Ok(link::create_veth(
        socket,
        &NewVeth {
            host_name: &name("one"),
            container_name: &name("other"),
            container_netns: here.as_fd(),
            container_mac: MacAddr::random()?,
            host_mac: MacAddr::random()?,
            mtu: None,
            controller: None,
            group: 0,
        },
    )?)
}

fn limit(socket: &mut RouteSocket, veth: &Link) -> Result<(), TrialError> {
    let limit = Limit {
        rate: 1_000_000,
        burst: 100_000,
    };
    Ok(traffic_control::limit(socket, veth.index, limit)?)
}

fn ifb(socket: &mut RouteSocket, veth: &Link) -> Result<(), TrialError> {
    let ifb = traffic_control::create_ifb(socket, &name("ifb"), veth.mtu, 0)?;
    Ok(traffic_control::redirect(socket, veth.index, ifb.index)?)
}

/// In order: each needs the one before it.
fn rules() -> Results {
    let mut nft = match Nft::open() {
        Ok(nft) => nft,
        Err(err) => return vec![(NFTABLES, support::<()>(Err(err.into())))],
    };
    let mut try_out = |changes: &[Change]| {
        let outcome = nft.commit(changes, None);
        support(outcome.map_err(|failed| TrialError::Refused(failed.error)))
    };
    let table = try_out(&[Change::Table(TABLE)]);
    let mut results = vec![(NFTABLES, table.clone())];
    if table == Support::Yes {
        let rule = |table, kind, expression: Option<Expression>| {
            [
                Change::Table(table),
                Change::Chain(Chain {
                    table,
                    name: "trial".into(),
                    hook: Some(Hook {
                        kind,
                        point: HookPoint::PostRouting,
                        priority: 100,
                    }),
                    rules: expression
                        .into_iter()
                        .map(|expression| vec![expression])
                        .collect(),
                }),
            ]
        };
        let nat = |expression| rule(TABLE, "nat", expression);
        let chain = try_out(&nat(None));
        results.push((NAT, chain.clone()));
        if chain == Support::Yes {
            results.push((MASQUERADE, try_out(&nat(Some(expr::masquerade())))));
        }
        let filter = |expression| {
            let mut changes = rule(TABLE, "filter", Some(expression));
            let Change::Chain(chain) = &mut changes[1] else {
                return changes;
            };
            chain.name = "trial_of_filters".into();
            changes
        };
        results.push((CONNTRACK, try_out(&filter(expr::ct_status(R0)))));
        results.push((FIB, try_out(&filter(expr::fib_destination_type(R0)))));
        if results.iter().all(|(_, support)| *support == Support::Yes) {
            results.push((MAPS, try_out(&published_port())));
        }
        let frames: Table = BRIDGE_TABLE;
        results.push((FRAMES, try_out(&rule(frames, "filter", None))));
    }
    let nothing = UdpFlows {
        to_port: Some(0),
        ..UdpFlows::default()
    };
    let deleted = conntrack::forget_udp(Family::Ipv4, &[nothing]);
    results.push((FLOWS, support(deleted.map_err(TrialError::Refused))));
    results
}

/// All objects that a pod with a published port needs.
fn published_port() -> Vec<Change> {
    let config = br#"{"runtimeConfig": {"portMappings": [{"hostPort": 1, "containerPort": 1}]}}"#;
    let config = Json::config(config);
    let Ok(Some(ports)) = config.and_then(|config| PortsConf::new(&config)) else {
        return Vec::new();
    };
    #[expect(clippy::expect_used, reason = "literals")]
    let pods = ["10.0.0.2/24", "fd00::2/64"].map(|pod| pod.parse().expect("a valid address"));
    shared_objects(&desired_port_elements(&ports, &pods, ""))
}

/// Why a trial failed.
enum TrialError {
    Refused(KernelError),
    /// The kernel accepted it, but it had no effect.
    NoEffect(String),
}

impl From<KernelError> for TrialError {
    fn from(refusal: KernelError) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Error> for TrialError {
    fn from(err: Error) -> Self {
        Self::NoEffect(err.message)
    }
}

impl From<cni::Error> for TrialError {
    fn from(err: cni::Error) -> Self {
        Self::NoEffect(err.msg)
    }
}

impl From<&str> for TrialError {
    fn from(why: &str) -> Self {
        Self::NoEffect(why.to_owned())
    }
}

fn support<T>(outcome: Result<T, TrialError>) -> Support {
    use rustix::io::Errno;
    match outcome {
        Ok(_) => Support::Yes,
        Err(TrialError::NoEffect(why)) => Support::No(why),
        Err(TrialError::Refused(refusal)) => {
            if refusal.is(Errno::PERM) || refusal.is(Errno::ACCESS) {
                Support::Unknown(refusal.to_string())
            } else {
                Support::No(format!("it says: {refusal}"))
            }
        }
    }
}
