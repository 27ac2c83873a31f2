//! What this kernel can do. It is asked by trying, in a network namespace that nobody else sees
//! and that ends with the thread: a kernel's configuration file may be another kernel's, and a
//! module may be missing on disk.

use std::fmt::Display;
use std::os::fd::AsFd;
use std::path::Path;

use crate::doctor::finding::{Check, Finding, OUTSIDE};
use crate::doctor::snapshot::Scene;
use pausenet::cni::bandwidth::Limit;
use pausenet::cni::ports::PortsConf;
use pausenet::cni::{self, IfName, MacAddr};
use pausenet::kernel::link::{Link, NewBridge, NewVeth, Which};
use pausenet::kernel::netns::Netns;
use pausenet::kernel::nft::expr::{self, Expression, R0};
use pausenet::kernel::nft::{Chain, Change, Hook, HookPoint, Nft, Table};
use pausenet::kernel::syscalls::enter_new_network_namespace;
use pausenet::kernel::{KernelError, RouteSocket, conntrack, link, traffic_control};
use pausenet::plan::rules::{BRIDGE_TABLE, TABLE, blocks, desired_port_elements};
use pausenet_host::runtime::conflist::NetworkList;
use pausenet_host::{During, Error, OnPath, Result};

/// Something that the kernel may or may not be able to do.
#[derive(Debug, Clone, Copy)]
struct Feature {
    name: &'static str,
    /// What a kernel that has it was built with.
    option: &'static str,
    need: Need,
}

#[derive(Debug, Clone, Copy)]
enum Need {
    /// No pod can be wired without it.
    Always,
    /// Only for these keys of a network's configuration, and this capability.
    Keys(&'static [&'static str], Option<&'static str>),
    /// For nothing that is ours to configure; what it is good for.
    Elsewhere(&'static str),
}

/// What the kernel said to a trial.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    Yes,
    /// It does not know how; its words.
    No(String),
    /// It would not say, to us.
    Forbidden(String),
}

const PORTS: Need = Need::Keys(&["ipMasq"], Some("portMappings"));
const NFTABLES: Feature = Feature {
    name: "nftables for IPv4 and IPv6",
    option: "CONFIG_NF_TABLES and CONFIG_NF_TABLES_INET",
    need: PORTS,
};
const NAT: Feature = Feature {
    name: "nat in nftables",
    option: "CONFIG_NFT_NAT",
    need: PORTS,
};
const MASQUERADE: Feature = Feature {
    name: "masquerade in nftables",
    option: "CONFIG_NFT_MASQ",
    need: PORTS,
};
const CONNTRACK: Feature = Feature {
    name: "connection tracking in nftables",
    option: "CONFIG_NFT_CT",
    need: PORTS,
};
const FIB: Feature = Feature {
    name: "look-ups of routes in nftables",
    option: "CONFIG_NFT_FIB_INET",
    need: Need::Keys(&[], Some("portMappings")),
};
const MAPS: Feature = Feature {
    name: "maps of ports in nftables",
    option: "CONFIG_NF_TABLES and CONFIG_NFT_NAT, of Linux 4.1 or newer",
    need: Need::Keys(&[], Some("portMappings")),
};
const FLOWS: Feature = Feature {
    name: "forgetting flows",
    option: "CONFIG_NF_CT_NETLINK",
    need: Need::Keys(&[], Some("portMappings")),
};
const FRAMES: Feature = Feature {
    name: "nftables for frames on bridges",
    option: "CONFIG_NF_TABLES_BRIDGE",
    need: Need::Keys(&["macspoofchk"], None),
};
const VETH: Feature = Feature {
    name: "veth pairs",
    option: "CONFIG_VETH",
    need: Need::Always,
};
const BRIDGE: Feature = Feature {
    name: "bridges",
    option: "CONFIG_BRIDGE",
    need: Need::Keys(&["bridge", "isGateway", "isDefaultGateway"], None),
};
const VLAN: Feature = Feature {
    name: "VLANs on bridges",
    option: "CONFIG_BRIDGE_VLAN_FILTERING",
    need: Need::Keys(&["vlan", "vlanTrunk"], None),
};
const SHAPING: Feature = Feature {
    name: "token buckets",
    option: "CONFIG_NET_SCH_TBF",
    need: Need::Keys(&[], Some("bandwidth")),
};
const DETOUR: Feature = Feature {
    name: "limits of what containers send",
    option: "CONFIG_IFB, CONFIG_NET_SCH_INGRESS, CONFIG_NET_CLS_U32 and CONFIG_NET_ACT_MIRRED",
    need: Need::Keys(&[], Some("bandwidth")),
};
const IPV6: Feature = Feature {
    name: "IPv6",
    option: "CONFIG_IPV6",
    need: Need::Elsewhere("networks with IPv6 subnets"),
};
const BR_NETFILTER: Feature = Feature {
    name: "IP rules for frames on bridges",
    option: "CONFIG_BRIDGE_NETFILTER (modprobe br_netfilter)",
    need: Need::Elsewhere(
        "Services of Kubernetes between pods on one bridge; mode ptp has no such need",
    ),
};

pub fn check(scene: &Scene) -> Vec<Finding> {
    // A namespace of the thread's own, which goes with it.
    let trials = std::thread::scope(|scope| scope.spawn(trials).join());
    let trials = trials.unwrap_or_else(|_| {
        Err(NoTrials::Unseen(Error::new(
            "the thread that tries it out panicked",
        )))
    });
    match trials {
        Ok(trials) => trials
            .into_iter()
            .map(|(feature, answer)| {
                let users = users(feature, scene.lists());
                judge(feature, answer, &users)
            })
            .collect(),
        Err(NoTrials::NoNamespaces(err)) => {
            vec![
                Finding::problem(Check::Kernel, "network namespaces", err.message)
                    .means("no pod can start")
                    .how(err.hint),
            ]
        }
        Err(NoTrials::Unseen(err)) => vec![Finding::unseen(
            Check::Kernel,
            "what the kernel can do",
            err,
        )],
    }
}

/// The networks whose configuration asks for a feature.
fn users<'a>(feature: Feature, lists: impl Iterator<Item = &'a NetworkList>) -> Vec<String> {
    let Need::Keys(keys, capability) = feature.need else {
        return Vec::new();
    };
    let uses = |list: &&NetworkList| {
        list.plugins.iter().any(|plugin| {
            let set = |key: &str| {
                let value = plugin.config.get(key);
                value.is_some_and(|value| !value.is_null() && value != false)
            };
            keys.iter().any(|key| set(key))
                || capability.is_some_and(|name| plugin.has_capability(name))
        })
    };
    let users = lists.filter(uses);
    users.map(|list| list.name.to_string()).collect()
}

fn judge(feature: Feature, answer: Answer, users: &[String]) -> Finding {
    let Feature { name, option, need } = feature;
    let why = match answer {
        Answer::Yes => return Finding::ok(Check::Kernel, name, "there"),
        Answer::Forbidden(why) => {
            let what = format!("not looked at: the kernel would not let us try: {why}");
            return Finding::note(Check::Kernel, name, what).how(OUTSIDE);
        }
        Answer::No(why) => format!("this kernel does not have it ({why}): it needs {option}"),
    };
    match need {
        Need::Always => Finding::problem(Check::Kernel, name, why).means("no pod can be connected"),
        Need::Elsewhere(good_for) => Finding::note(Check::Kernel, name, why)
            .means(format!("nothing needs it but {good_for}")),
        Need::Keys(keys, capability) => {
            let capability = capability.map(|name| format!("capability {name}"));
            let keys = keys.iter().map(|key| (*key).to_owned()).chain(capability);
            let keys = keys.collect::<Vec<_>>().join(", ");
            if users.is_empty() {
                Finding::note(Check::Kernel, name, why).means(format!(
                    "a network with {keys} would not work; none has it here"
                ))
            } else {
                Finding::problem(Check::Kernel, name, why).means(format!(
                    "with {keys}, ADD fails in network {}",
                    users.join(", ")
                ))
            }
        }
    }
}

type Trials = Vec<(Feature, Answer)>;

/// Why nothing could be tried out.
enum NoTrials {
    /// There can be no network namespaces at all.
    NoNamespaces(Error),
    /// They are not for us.
    Unseen(Error),
}

impl From<Error> for NoTrials {
    fn from(err: Error) -> Self {
        Self::Unseen(err)
    }
}

fn trials() -> Result<Trials, NoTrials> {
    enter_new_network_namespace().map_err(|err| match err {
        rustix::io::Errno::NOSPC => NoTrials::NoNamespaces(
            Error::new("no more can be made: the limit of this user namespace is reached").hint(
                "sysctl -w user.max_net_namespaces=65536, or look for namespaces that nobody needs: lsns -t net",
            ),
        ),
        rustix::io::Errno::INVAL => {
            NoTrials::NoNamespaces(Error::new("this kernel has none: it needs CONFIG_NET_NS"))
        }
        _ => NoTrials::Unseen(
            Error::new(format!("no namespace to try it out in: {err}")).hint(OUTSIDE),
        ),
    })?;
    let mut socket = RouteSocket::open().during("open a netlink socket")?;
    let mut trials = links(&mut socket)?;
    trials.extend(rules());
    for (feature, path) in [
        (IPV6, "/proc/sys/net/ipv6"),
        (BR_NETFILTER, "/proc/sys/net/bridge/bridge-nf-call-iptables"),
    ] {
        let there = Path::new(path).try_exists();
        let there = there.on_path("cannot look for", Path::new(path))?;
        let answer = match there {
            true => Answer::Yes,
            false => Answer::No(format!("there is no {path}")),
        };
        trials.push((feature, answer));
    }
    Ok(trials)
}

fn name(text: &str) -> IfName {
    IfName::parse(text).expect("a fine name")
}

fn links(socket: &mut RouteSocket) -> Result<Trials> {
    let mut trials = Vec::new();
    let bridge = |socket: &mut RouteSocket, bridge: &str, vlans| {
        let new = NewBridge {
            name: &name(bridge),
            mac: MacAddr::random()?,
            mtu: None,
            promiscuous: false,
            vlan_filtering: vlans,
            group: 0,
        };
        link::create_bridge(socket, &new).map_err(Attempt::Refused)?;
        let found = link::get(socket, Which::Name(&name(bridge)))?;
        Ok::<_, Attempt>(found.ok_or("it made none")?)
    };
    let plain = bridge(socket, "plain", false);
    let there = plain.is_ok();
    trials.push((BRIDGE, answer(plain)));
    if there {
        // A kernel without it passes over the wish.
        let filtering = bridge(socket, "vlans", true).and_then(|bridge| {
            if bridge.vlan_filtering {
                Ok(())
            } else {
                Err("the bridge that it made filters none".into())
            }
        });
        trials.push((VLAN, answer(filtering)));
    }
    match veth(socket) {
        Ok(veth) => {
            trials.push((VETH, Answer::Yes));
            trials.push((SHAPING, answer(limit(socket, &veth))));
            trials.push((DETOUR, answer(detour(socket, &veth))));
        }
        Err(attempt) => trials.push((VETH, answer::<()>(Err(attempt)))),
    }
    Ok(trials)
}

fn veth(socket: &mut RouteSocket) -> Result<Link, Attempt> {
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

fn limit(socket: &mut RouteSocket, veth: &Link) -> Result<(), Attempt> {
    let limit = Limit {
        rate: 1_000_000,
        burst: 100_000,
    };
    Ok(traffic_control::limit(socket, veth.index, limit)?)
}

fn detour(socket: &mut RouteSocket, veth: &Link) -> Result<(), Attempt> {
    let ifb = traffic_control::create_ifb(socket, &name("detour"), veth.mtu, 0)?;
    Ok(traffic_control::redirect(socket, veth.index, ifb.index)?)
}

/// One after the other, for each needs the one before it.
fn rules() -> Trials {
    let mut nft = match Nft::open() {
        Ok(nft) => nft,
        Err(err) => return vec![(NFTABLES, answer::<()>(Err(err.into())))],
    };
    let mut try_out = |changes: &[Change]| {
        let outcome = nft.commit(changes, None);
        answer(outcome.map_err(|failed| Attempt::Refused(failed.error)))
    };
    let table = try_out(&[Change::Table(TABLE)]);
    let mut trials = vec![(NFTABLES, table.clone())];
    if table == Answer::Yes {
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
        trials.push((NAT, chain.clone()));
        if chain == Answer::Yes {
            trials.push((MASQUERADE, try_out(&nat(Some(expr::masquerade())))));
        }
        let filter = |expression| {
            let mut changes = rule(TABLE, "filter", Some(expression));
            let Change::Chain(chain) = &mut changes[1] else {
                return changes;
            };
            chain.name = "trial_of_filters".into();
            changes
        };
        trials.push((CONNTRACK, try_out(&filter(expr::ct_status(R0)))));
        trials.push((FIB, try_out(&filter(expr::fib_destination_type(R0)))));
        if trials.iter().all(|(_, answer)| *answer == Answer::Yes) {
            trials.push((MAPS, try_out(&all_of_ours())));
        }
        let frames: Table = BRIDGE_TABLE;
        trials.push((FRAMES, try_out(&rule(frames, "filter", None))));
    }
    let forget = conntrack::forget_udp(true, &[]);
    trials.push((FLOWS, answer(forget.map_err(Attempt::Refused))));
    trials
}

/// The very objects that a pod with a port needs.
fn all_of_ours() -> Vec<Change> {
    let config = br#"{"runtimeConfig": {"portMappings": [{"hostPort": 1, "containerPort": 1}]}}"#;
    let Ok(Some(ports)) = PortsConf::new(config) else {
        return Vec::new();
    };
    let pods = ["10.0.0.2/24", "fd00::2/64"].map(|pod| pod.parse().expect("an address"));
    blocks(&desired_port_elements(&ports, &pods, ""))
}

/// Why a trial did not succeed.
enum Attempt {
    Refused(KernelError),
    /// It was accepted, and came to nothing.
    InVain(String),
}

impl From<KernelError> for Attempt {
    fn from(refusal: KernelError) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Error> for Attempt {
    fn from(err: Error) -> Self {
        Self::InVain(err.message)
    }
}

impl From<cni::Error> for Attempt {
    fn from(err: cni::Error) -> Self {
        Self::InVain(err.msg)
    }
}

impl From<&str> for Attempt {
    fn from(why: &str) -> Self {
        Self::InVain(why.to_owned())
    }
}

fn answer<T>(outcome: Result<T, Attempt>) -> Answer {
    use rustix::io::Errno;
    let said = |words: &dyn Display| format!("it says: {words}");
    match outcome {
        Ok(_) => Answer::Yes,
        Err(Attempt::InVain(why)) => Answer::No(why),
        Err(Attempt::Refused(refusal)) => {
            if refusal.is(Errno::PERM) || refusal.is(Errno::ACCESS) {
                Answer::Forbidden(refusal.to_string())
            } else {
                Answer::No(said(&refusal))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Severity;

    fn no() -> Answer {
        Answer::No("it says: no".into())
    }

    #[test]
    fn what_is_missing_is_a_problem_only_for_who_needs_it() {
        assert_eq!(judge(VETH, no(), &[]).severity, Severity::Problem);
        assert_eq!(judge(VLAN, no(), &[]).severity, Severity::Note);
        let used = judge(VLAN, no(), &["lab".into()]);
        assert_eq!(used.severity, Severity::Problem);
        assert!(
            used.what.contains("CONFIG_BRIDGE_VLAN_FILTERING"),
            "{used:?}"
        );
        assert!(
            used.means.contains("vlanTrunk") && used.means.contains("lab"),
            "{used:?}"
        );
    }

    #[test]
    fn what_we_may_not_try_is_not_missing() {
        let found = judge(VETH, Answer::Forbidden("EPERM".into()), &[]);
        assert_eq!(found.severity, Severity::Note);
        assert!(found.what.contains("not looked at"), "{found:?}");
    }

    #[test]
    fn a_key_that_is_switched_off_needs_nothing() {
        let list = |keys: &str| {
            let text = format!(r#"{{"name": "x", "type": "pausenet", {keys}}}"#);
            NetworkList::parse(text.as_bytes()).unwrap()
        };
        let lists = [
            list(r#""macspoofchk": false"#),
            list(r#""macspoofchk": null"#),
        ];
        assert!(users(FRAMES, lists.iter()).is_empty());
        let lists = [list(r#""macspoofchk": true"#)];
        assert_eq!(users(FRAMES, lists.iter()), ["x"]);
        let lists = [list(r#""capabilities": {"bandwidth": true}"#)];
        assert_eq!(users(SHAPING, lists.iter()), ["x"]);
    }
}
