//! The measured networks, each with a config for the reference plugins and one for ours.

use std::process::Command;

use serde_json::{Value, json};

use crate::Result;
use crate::call::EVERYTHING;
use crate::network::{Attachment, Floor, Implementation, Network, Shape, Step, Tools};
use crate::series::{BEFORE, FLOOR, IPTABLES, OURS, REFERENCE, Side};
use crate::world::{NFT_ONLY, World, index_of};

/// The bridge's name.
const BRIDGE: &str = "bench0";

/// The kind of network: the link mode, and what is on it besides addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scenario {
    Bridge,
    Masquerade,
    /// A bridge and three published ports.
    Ports,
    /// A bridge and one published port, of UDP.
    UdpPort,
    Ptp,
    /// kind's chain: ptp, host-local, and portmap with one port.
    Kind,
    /// nerdctl's and podman 4's chain: bridge, host-local, portmap with one port, firewall and tuning, by these names
    /// on both sides.
    Four,
    Loopback,
    DualStack,
    /// Our link plugin with the reference's IPAM.
    TheirIpam,
    /// The reference's link plugin with our IPAM.
    OurIpam,
}

/// All of them, in the order of the report.
pub(crate) const ALL: [Scenario; 11] = [
    Scenario::Bridge,
    Scenario::Masquerade,
    Scenario::Ports,
    Scenario::UdpPort,
    Scenario::Ptp,
    Scenario::Kind,
    Scenario::Four,
    Scenario::Loopback,
    Scenario::DualStack,
    Scenario::TheirIpam,
    Scenario::OurIpam,
];

impl Scenario {
    /// Its name in the report and on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Masquerade => "bridge-masquerade",
            Self::Ports => "bridge-3-ports",
            Self::UdpPort => "bridge-udp-port",
            Self::Ptp => "ptp",
            Self::Kind => "kind-chain",
            Self::Four => "chain-of-four",
            Self::Loopback => "loopback",
            Self::DualStack => "dual-stack",
            Self::TheirIpam => "ours-with-their-ipam",
            Self::OurIpam => "theirs-with-our-ipam",
        }
    }

    /// The sides that are measured.
    pub(crate) fn sides(self) -> Vec<Side> {
        match self {
            Self::Bridge | Self::Masquerade | Self::Ptp | Self::DualStack => {
                vec![REFERENCE, OURS, FLOOR]
            }
            // kind's conflist leaves the backend to portmap, which uses iptables.
            Self::Kind | Self::Ports => vec![REFERENCE, IPTABLES, OURS],
            // The reference's firewall has iptables only.
            Self::Four => vec![IPTABLES, OURS],
            _ => vec![REFERENCE, OURS],
        }
    }

    /// The network of one side, for use in this world.
    fn implementation(self, tools: &Tools, side: Side, world: &World) -> Result<Implementation> {
        Ok(Implementation::Plugins(match side {
            OURS | BEFORE => self.ours(&tools.of(side)),
            FLOOR => return self.floor(tools, world),
            _ => self.theirs(tools, side),
        }))
    }

    /// The network of the reference plugins.
    pub(crate) fn theirs(self, tools: &Tools, side: Side) -> Network {
        // If it finds iptables, DEL of the nftables backend uses that too.
        let search = match side {
            IPTABLES => EVERYTHING,
            _ => NFT_ONLY,
        };
        let step = |name: &str, config: Value| Step {
            program: tools.peer(name).searching(search),
            config,
        };
        let network = |steps| Network::new(tools, steps);
        let backend = if side == IPTABLES {
            "iptables"
        } else {
            "nftables"
        };
        let portmap = || step("portmap", json!({"type": "portmap", "backend": backend}));
        match self {
            Self::Bridge | Self::TheirIpam => network(vec![step("bridge", bridge("bridge"))]),
            Self::Masquerade => network(vec![step(
                "bridge",
                with(
                    bridge("bridge"),
                    json!({"ipMasq": true, "ipMasqBackend": backend}),
                ),
            )]),
            Self::Ports => {
                network(vec![step("bridge", bridge("bridge")), portmap()]).with_ports(2, 1)
            }
            Self::UdpPort => {
                network(vec![step("bridge", bridge("bridge")), portmap()]).with_ports(0, 1)
            }
            Self::Ptp => network(vec![step("ptp", ptp("ptp"))]),
            Self::Kind => network(vec![step("ptp", ptp("ptp")), portmap()]).with_ports(1, 0),
            Self::Four => {
                let steps = four().map(|config| {
                    let name = config["type"].as_str().unwrap_or_default().to_owned();
                    step(&name, with(config, json!({"backend": backend})))
                });
                network(steps.into()).with_ports(1, 0)
            }
            Self::Loopback => network(vec![step("loopback", json!({"type": "loopback"}))]),
            Self::DualStack => network(vec![step("bridge", dual("bridge"))]),
            Self::OurIpam => network(vec![step("bridge", bridge("bridge"))]),
        }
    }

    /// The network of our plugin.
    pub(crate) fn ours(self, tools: &Tools) -> Network {
        let called = |name: &str, config: Value| Step {
            program: tools.ours(name),
            config,
        };
        let ours = |config| Network::new(tools, vec![called("pausenet", config)]);
        match self {
            Self::Bridge => ours(bridge("pausenet")),
            Self::Masquerade => ours(with(bridge("pausenet"), json!({"ipMasq": true}))),
            Self::Ports => ours(bridge("pausenet")).with_ports(2, 1),
            Self::UdpPort => ours(bridge("pausenet")).with_ports(0, 1),
            Self::Ptp => ours(with(ptp("pausenet"), json!({"mode": "ptp"}))),
            Self::Kind => ours(with(ptp("pausenet"), json!({"mode": "ptp"}))).with_ports(1, 0),
            Self::Four => {
                let steps = four().map(|config| {
                    let name = config["type"].as_str().unwrap_or_default().to_owned();
                    called(&name, config)
                });
                Network::new(tools, steps.into()).with_ports(1, 0)
            }
            Self::Loopback => {
                Network::new(tools, vec![called("loopback", json!({"type": "loopback"}))])
            }
            Self::DualStack => ours(dual("pausenet")),
            Self::TheirIpam => Network {
                path: DELEGATES.to_owned(),
                ..ours(with(
                    bridge("pausenet"),
                    json!({"ipam": ipam("their-host-local")}),
                ))
            },
            Self::OurIpam => {
                let step = Step {
                    program: tools.peer("bridge"),
                    config: bridge("bridge"),
                };
                Network {
                    path: DELEGATES.to_owned(),
                    ..Network::new(tools, vec![step])
                }
            }
        }
    }

    fn floor(self, tools: &Tools, world: &World) -> Result<Implementation> {
        let shape = match self {
            Self::Masquerade => Shape::Masquerade,
            Self::Ptp => Shape::Ptp,
            Self::DualStack => Shape::DualStack,
            _ => Shape::Bridge,
        };
        Ok(Implementation::Floor(Floor {
            program: crate::call::Program::new(&tools.floor),
            shape,
            bridge: match shape {
                Shape::Ptp => 0,
                _ => world.inside(|| index_of(BRIDGE))?,
            },
        }))
    }
}

/// The number of the attachment that is present all the time.
const RESIDENT: usize = 0;

/// The folder in a world with the IPAM plugins to delegate to.
const DELEGATES: &str = "/run/delegates";

/// A host prepared for a scenario: the shared objects and one attachment are present, so that the
/// measured attachment is neither the first nor the last.
pub(crate) struct Setup {
    pub(crate) world: World,
    pub(crate) implementation: Implementation,
}

impl Setup {
    pub(crate) fn new(scenario: Scenario, tools: &Tools, side: Side) -> Result<Self> {
        let world = World::new()?;
        let resident = world.containers("resident", 1)?.remove(0);
        let first = match side {
            FLOOR => Implementation::Plugins(scenario.ours(tools)), // creates the shared objects for the floor
            side => scenario.implementation(tools, side, &world)?,
        };
        world.inside(|| {
            if scenario == Scenario::Four {
                // A host where iptables is in use, as the firewalls of both sides find it.
                for program in ["iptables", "ip6tables"] {
                    run(program, &["-P", "FORWARD", "ACCEPT"])?;
                }
            }
            std::fs::create_dir(DELEGATES)?;
            let link = |from, name| std::os::unix::fs::symlink(from, format!("{DELEGATES}/{name}"));
            link(tools.peers.join("host-local"), "their-host-local")?;
            link(tools.pausenet.clone(), "host-local")?;
            first.add(&Attachment::new(RESIDENT, &resident)).map(drop)
        })?;
        let implementation = scenario.implementation(tools, side, &world)?;
        Ok(Self {
            world,
            implementation,
        })
    }
}

/// An `ipam` object.
fn ipam(plugin: &str) -> Value {
    json!({"type": plugin, "ranges": [[{"subnet": "10.1.0.0/16"}]]})
}

fn bridge(plugin: &str) -> Value {
    json!({
        "type": plugin,
        "bridge": BRIDGE,
        "isDefaultGateway": true,
        "ipam": ipam("host-local"),
    })
}

/// The chain of [`Scenario::Four`].
fn four() -> [Value; 4] {
    [
        bridge("bridge"),
        json!({"type": "portmap"}),
        json!({"type": "firewall", "ingressPolicy": "same-bridge"}),
        json!({"type": "tuning", "mtu": 1400, "sysctl": {"net.core.somaxconn": "500"}}),
    ]
}

fn run(program: &str, args: &[&str]) -> Result<()> {
    let status = Command::new(program).args(args).status()?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("{program} {}: {status}", args.join(" ")).into()),
    }
}

fn ptp(plugin: &str) -> Value {
    with(
        json!({"type": plugin}),
        json!({"ipam": with(ipam("host-local"), json!({"routes": [{"dst": "0.0.0.0/0"}]}))}),
    )
}

fn dual(plugin: &str) -> Value {
    let ranges = json!([[{"subnet": "10.1.0.0/16"}], [{"subnet": "fd00:1::/64"}]]);
    with(
        bridge(plugin),
        json!({"ipam": {"type": "host-local", "ranges": ranges}}),
    )
}

/// The config with additional keys.
fn with(mut config: Value, more: Value) -> Value {
    if let (Some(config), Value::Object(more)) = (config.as_object_mut(), more) {
        config.extend(more);
    }
    config
}
