//! podman's own network beside ours: a bridge with masquerade and a published port, made and removed for one
//! container. netavark does that in one call each, as our plugin does.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::{Benchmark, Context, order};
use crate::Result;
use crate::call::{EVERYTHING, timed};
use crate::network::{Attachment, Implementation, first_port};
use crate::scenario::Scenario;
use crate::series::{NETAVARK, OURS, Unit};
use crate::world::{World, await_orphans, settle};

/// The benchmark's name in the report.
const NAME: &str = "podman-network";

/// Rounds before the measured ones.
const WARM_UP: usize = 3;

/// The attachment that is present all the time, and the measured one.
const NUMBERS: [usize; 2] = [0, 1];

pub(super) fn benchmarks() -> Vec<Benchmark> {
    vec![Benchmark::new(NAME, false, run)]
}

fn run(context: &mut Context) -> Result<()> {
    let Some(netavark) = context.tools.netavark.clone() else {
        return Err("scripts/bench has built no netavark".into());
    };
    let ours = Scenario::Masquerade.ours(context.tools).with_ports(1, 0);
    let ours = Implementation::Plugins(ours);
    let sides = [NETAVARK, OURS];
    let worlds = [World::new()?, World::new()?];
    let mut measured = Vec::new();
    for (side, world) in sides.into_iter().zip(&worlds) {
        let containers = world.containers("c", NUMBERS.len())?;
        let [resident, at] = NUMBERS.map(|number| Attachment::new(number, &containers[number]));
        world.inside(|| match side {
            OURS => ours.add(&resident).map(drop),
            _ => call(&netavark, "setup", &resident).map(drop),
        })?;
        measured.push((side, world, at));
    }
    for round in 0..WARM_UP + context.extent.pick(20, 60) {
        for next in order(round, measured.len()) {
            let (side, world, at) = &measured[next];
            let [setup, teardown] = world.inside(|| {
                let taken = match *side {
                    OURS => {
                        let added = ours.add(at)?;
                        [added.time, ours.del(at, &added.value)?]
                    }
                    _ => [
                        call(&netavark, "setup", at)?,
                        call(&netavark, "teardown", at)?,
                    ],
                };
                await_orphans()?;
                Ok(taken)
            })?;
            let both = setup + teardown;
            for (case, taken) in [("setup", setup), ("teardown", teardown), ("both", both)] {
                if round >= WARM_UP {
                    let taken = taken.as_secs_f64() * 1e3;
                    context
                        .results
                        .add(NAME, case, side, Unit::Milliseconds, taken);
                }
            }
        }
    }
    drop(measured);
    drop(worlds);
    settle()
}

/// Calls netavark as podman does.
fn call(netavark: &Path, verb: &str, at: &Attachment) -> Result<std::time::Duration> {
    let mut command = Command::new(netavark);
    command
        .env_clear()
        .envs([("PATH", EVERYTHING), ("NETAVARK_FW", "nftables")])
        .args(["--config", "/run/netavark", "--rootless", "false", verb])
        .arg(&at.netns)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Ok(timed(command, request(at.number).to_string().as_bytes())?.time)
}

/// What podman writes to netavark's stdin.
fn request(number: usize) -> Value {
    let id = |of: usize| format!("{of:064x}");
    json!({
        "container_id": id(number + 1),
        "container_name": format!("bench{number}"),
        "port_mappings": [{
            "container_port": 8000,
            "host_ip": "",
            "host_port": first_port(number, 1),
            "protocol": "tcp",
            "range": 1,
        }],
        "networks": {
            "bench": {"interface_name": "eth0", "static_ips": [format!("10.1.0.{}", number + 2)]},
        },
        "network_info": {
            "bench": {
                "name": "bench",
                "id": id(0),
                "driver": "bridge",
                "network_interface": "bench0",
                "created": "2026-01-01T00:00:00Z",
                "subnets": [{"subnet": "10.1.0.0/16", "gateway": "10.1.0.1"}],
                "ipv6_enabled": false,
                "internal": false,
                "dns_enabled": false,
                "ipam_options": {"driver": "host-local"},
            },
        },
    })
}
