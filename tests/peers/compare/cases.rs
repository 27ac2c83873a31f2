//! Configs and scripts that several tests share.

use serde_json::{Value, json};

use super::Node;
use common::with;

/// A bridge network with one IPv4 subnet, and nothing else.
pub(crate) fn bridge() -> Value {
    json!({
        "name": "podnet",
        "type": "bridge",
        "bridge": "cni0",
        "ipam": v4()
    })
}

/// A routed network with one IPv4 subnet.
pub(crate) fn ptp() -> Value {
    json!({"name": "podnet", "type": "ptp", "ipam": v4()})
}

/// The address store of one IPv4 subnet.
fn v4() -> Value {
    json!({"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24"}]]})
}

/// One of each family.
pub(crate) fn dual() -> Value {
    json!({"type": "host-local",
        "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]]})
}

/// A gateway for both families, with masquerade by nftables.
pub(crate) fn gateway() -> Value {
    with(
        bridge(),
        json!({
            "isDefaultGateway": true,
            "ipMasq": true,
            "ipMasqBackend": "nftables",
            "ipam": dual()
        }),
    )
}

/// A chained `portmap` with these mappings.
pub(crate) fn portmap(keys: Value, mappings: Value) -> Value {
    let config = json!({
        "name": "podnet",
        "type": "portmap",
        "backend": "nftables",
        "runtimeConfig": {"portMappings": mappings}
    });
    with(config, keys)
}

/// Two containers come and go.
pub(crate) fn attach_and_detach_two(node: &mut Node, config: &Value) {
    node.call("ADD", "c1", config);
    node.call("CHECK", "c1", config);
    node.call("ADD", "c2", config);
    node.call("DEL", "c1", config);
    node.call("DEL", "c1", config);
    node.call("DEL", "c2", config);
}

/// One container comes and goes.
pub(crate) fn attach_and_detach_one(node: &mut Node, config: &Value) {
    node.call("ADD", "c1", config);
    node.call("CHECK", "c1", config);
    node.call("DEL", "c1", config);
}
