//! The networks that are measured: the same one as the reference's plugins have it, and as ours.

use serde_json::{Value, json};

use crate::Result;
use crate::call::EVERYTHING;
use crate::network::{Attachment, Floor, Network, Shape, Step, Tools, Wirer};
use crate::series::{FLOOR, IPTABLES, OURS, REFERENCE, Side};
use crate::world::{NFT_ALONE, World, index_of};

/// The bridge's name.
pub const BRIDGE: &str = "bench0";

/// What is on a network beside a link and addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scene {
    Bridge,
    Masquerade,
    /// A bridge and three mapped ports.
    Ports,
    Ptp,
    /// What kind installs: ptp, host-local, and portmap with one port.
    Kind,
    Loopback,
    DualStack,
    /// Our link with the reference's IPAM.
    TheirIpam,
    /// The reference's link with our IPAM.
    OurIpam,
}

/// All of them, in the order of the report.
pub const ALL: [Scene; 9] = [
    Scene::Bridge,
    Scene::Masquerade,
    Scene::Ports,
    Scene::Ptp,
    Scene::Kind,
    Scene::Loopback,
    Scene::DualStack,
    Scene::TheirIpam,
    Scene::OurIpam,
];

impl Scene {
    /// Its name in the report and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Masquerade => "bridge-masquerade",
            Self::Ports => "bridge-3-ports",
            Self::Ptp => "ptp",
            Self::Kind => "kind-chain",
            Self::Loopback => "loopback",
            Self::DualStack => "dual-stack",
            Self::TheirIpam => "ours-with-their-ipam",
            Self::OurIpam => "theirs-with-our-ipam",
        }
    }

    /// Who is measured at it.
    pub fn sides(self) -> Vec<Side> {
        match self {
            Self::Bridge | Self::Masquerade | Self::Ptp => vec![REFERENCE, OURS, FLOOR],
            // kind's own conflist leaves the backend to portmap, which takes iptables.
            Self::Kind | Self::Ports => vec![REFERENCE, IPTABLES, OURS],
            _ => vec![REFERENCE, OURS],
        }
    }

    /// The network of one side, in the world that it will be used in.
    pub fn wirer(self, tools: &Tools, side: Side, world: &World) -> Result<Wirer> {
        Ok(Wirer::Plugins(match side {
            OURS => self.ours(tools),
            FLOOR => return self.floor(tools, world),
            _ => self.theirs(tools, side),
        }))
    }

    /// The reference's plugins.
    pub fn theirs(self, tools: &Tools, side: Side) -> Network {
        // Where there is iptables, DEL of the nftables backends would use that too.
        let search = match side {
            IPTABLES => EVERYTHING,
            _ => NFT_ALONE,
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
            Self::Ports => network(vec![step("bridge", bridge("bridge")), portmap()]).with_ports(3),
            Self::Ptp => network(vec![step("ptp", ptp("ptp"))]),
            Self::Kind => network(vec![step("ptp", ptp("ptp")), portmap()]).with_ports(1),
            Self::Loopback => network(vec![step("loopback", json!({"type": "loopback"}))]),
            Self::DualStack => network(vec![step("bridge", dual("bridge"))]),
            Self::OurIpam => network(vec![step("bridge", bridge("bridge"))]),
        }
    }

    /// Our plugin.
    pub fn ours(self, tools: &Tools) -> Network {
        let called = |name: &str, config: Value| Step {
            program: tools.ours(name),
            config,
        };
        let ours = |config| Network::new(tools, vec![called("pausenet", config)]);
        match self {
            Self::Bridge => ours(bridge("pausenet")),
            Self::Masquerade => ours(with(bridge("pausenet"), json!({"ipMasq": true}))),
            Self::Ports => ours(bridge("pausenet")).with_ports(3),
            Self::Ptp => ours(with(ptp("pausenet"), json!({"mode": "ptp"}))),
            Self::Kind => ours(with(ptp("pausenet"), json!({"mode": "ptp"}))).with_ports(1),
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

    fn floor(self, tools: &Tools, world: &World) -> Result<Wirer> {
        let shape = match self {
            Self::Masquerade => Shape::Masquerade,
            Self::Ptp => Shape::Ptp,
            _ => Shape::Bridge,
        };
        Ok(Wirer::Floor(Floor {
            program: crate::call::Program::new(&tools.floor),
            shape,
            bridge: match shape {
                Shape::Ptp => 0,
                _ => world.inside(|| index_of(BRIDGE))?,
            },
        }))
    }
}

/// The number of the attachment that is there all the time.
pub const RESIDENT: usize = 0;

/// Where, in a world, plugins find the IPAM that they delegate to.
const DELEGATES: &str = "/run/delegates";

/// A host on which a scene can be played: what attachments share is there, and one attachment,
/// so that what is measured is neither the first nor the last.
pub struct Stage {
    pub world: World,
    pub wirer: Wirer,
}

impl Stage {
    pub fn new(scene: Scene, tools: &Tools, side: Side) -> Result<Self> {
        let world = World::new()?;
        let resident = world.containers("resident", 1)?.remove(0);
        let first = match side {
            FLOOR => Wirer::Plugins(scene.ours(tools)), // makes the shared objects for it
            side => scene.wirer(tools, side, &world)?,
        };
        world.inside(|| {
            std::fs::create_dir(DELEGATES)?;
            let link = |from, name| std::os::unix::fs::symlink(from, format!("{DELEGATES}/{name}"));
            link(tools.peers.join("host-local"), "their-host-local")?;
            link(tools.pausenet.clone(), "host-local")?;
            first.add(&Attachment::new(RESIDENT, &resident)).map(drop)
        })?;
        let wirer = scene.wirer(tools, side, &world)?;
        Ok(Self { world, wirer })
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

/// The config with more keys.
fn with(mut config: Value, more: Value) -> Value {
    if let (Some(config), Value::Object(more)) = (config.as_object_mut(), more) {
        config.extend(more);
    }
    config
}
