//! The network configuration that most tests start from.

use serde_json::{Value, json};

/// The host end's name for network `podnet`, container `c1`, interface `eth0`. Frozen: see
/// `plan::identity`.
pub const HOST_END: &str = "vethkqtm6rbkqlw";

/// The link group of all that pausenet makes, in the words of `ip`.
pub const GROUP: &str = "1885435251";

/// A config of our plugin: a bridge that is the default gateway of one IPv4 subnet.
pub fn podnet() -> Value {
    json!({
        "cniVersion": "1.1.0",
        "name": "podnet",
        "type": "pausenet",
        "bridge": "cni0",
        "isDefaultGateway": true,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24"}]]}
    })
}

/// The config with some keys replaced (or removed, by null).
pub fn with(mut config: Value, changes: Value) -> Value {
    let target = config.as_object_mut().unwrap();
    for (key, value) in changes.as_object().unwrap() {
        if value.is_null() {
            target.remove(key);
        } else {
            target.insert(key.clone(), value.clone());
        }
    }
    config
}
