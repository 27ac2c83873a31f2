//! Keys of a config that are nearly ones that the plugin reads: most likely misspelled. The plugin
//! ignores them; tools warn of them.

use serde_json::Value;

use super::bandwidth::{OwnKeys, ShapedKeys};
use super::config::{
    DnsKeys, FirewallKeys, Heading, Ipam, LinkKeys, Range, StaticAddress, VlanTrunk,
};
use super::firewall::FirewallPluginKeys;
use super::json::{keys_of, names};
use super::plugin::Plugin;
use super::ports::PortKeys;
use super::result::Route;
use super::tuning::TuningKeys;

/// A key that nothing reads, and the one that it is nearly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NearMiss {
    /// Such as `ipam.ranges[0][0].subnett`.
    pub path: String,
    pub meant: &'static str,
}

/// The keys of an object of the config, or of each object in a list.
#[derive(Default)]
struct Part {
    keys: Vec<&'static str>,
    /// Names in a map count only as they are spelled.
    exact: bool,
    within: Vec<(&'static str, Part)>,
}

impl Part {
    fn of(keys: &[&'static str]) -> Self {
        Self {
            keys: keys.to_vec(),
            ..Self::default()
        }
    }

    fn with(mut self, key: &'static str, part: Self) -> Self {
        self.keys.push(key);
        self.within.push((key, part));
        self
    }
}

/// The misspelled keys in a plugin's config.
pub fn near_misses(plugin: Plugin, config: &Value) -> Vec<NearMiss> {
    let mut found = Vec::new();
    search(&whole(plugin, config), config, "", &mut found);
    found
}

/// The misspelled keys of a list of plugins itself, which count only as they are spelled.
pub fn near_misses_of_list(list: &Value) -> Vec<NearMiss> {
    let keys = [
        "cniVersion",
        "cniVersions",
        "name",
        "plugins",
        "disableCheck",
        "disableGC",
        "loadOnlyInlinedPlugins",
    ];
    let part = Part {
        exact: true,
        ..Part::of(&keys)
    };
    let mut found = Vec::new();
    search(&part, list, "", &mut found);
    found
}

fn whole(plugin: Plugin, config: &Value) -> Part {
    let mut keys = vec!["type", "args", "runtimeConfig", "prevResult"];
    keys.extend(keys_of::<Heading>());
    if plugin.is_wiring() {
        keys.extend(keys_of::<LinkKeys>());
        keys.push("statusIgnoresExhaustion");
    }
    if plugin == Plugin::Pausenet {
        keys.extend(keys_of::<FirewallKeys>());
    }
    if matches!(plugin, Plugin::Pausenet | Plugin::Portmap) {
        keys.extend(keys_of::<PortKeys>());
    }
    match plugin {
        Plugin::Firewall => keys.extend(keys_of::<FirewallPluginKeys>()),
        Plugin::Bandwidth => {
            keys.extend(keys_of::<OwnKeys>());
            keys.extend(keys_of::<ShapedKeys>());
        }
        Plugin::Tuning => keys.extend(keys_of::<TuningKeys>()),
        _ => {}
    }
    let capabilities = Part {
        keys: vec!["ips", "mac", "ipRanges", "portMappings", "bandwidth"],
        exact: true,
        within: Vec::new(),
    };
    let mut whole = Part::of(&keys)
        .with("dns", Part::of(keys_of::<DnsKeys>()))
        .with("vlanTrunk", Part::of(keys_of::<VlanTrunk>()))
        .with("capabilities", capabilities);
    whole = match type_of_ipam(config) {
        // Another plugin's keys are not known.
        Some("host-local" | "static") => whole.with("ipam", ipam()),
        _ => whole.with("ipam", Part::default()),
    };
    whole
}

fn ipam() -> Part {
    let mut keys = vec!["type", "name"];
    keys.extend(keys_of::<Ipam>());
    Part::of(&keys)
        .with("ranges", Part::of(keys_of::<Range>()))
        .with("routes", Part::of(keys_of::<Route>()))
        .with("addresses", Part::of(keys_of::<StaticAddress>()))
        .with("dns", Part::of(keys_of::<DnsKeys>()))
}

fn type_of_ipam(config: &Value) -> Option<&str> {
    field(field(config, "ipam")?, "type")?.as_str()
}

fn field<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    let mut entries = object.as_object()?.iter();
    entries
        .find(|(key, _)| names(key, name))
        .map(|(_, value)| value)
}

fn search(part: &Part, value: &Value, path: &str, found: &mut Vec<NearMiss>) {
    match value {
        Value::Array(list) => {
            for (at, item) in list.iter().enumerate() {
                search(part, item, &format!("{path}[{at}]"), found);
            }
        }
        Value::Object(entries) => {
            for (key, value) in entries {
                let dot = if path.is_empty() { "" } else { "." };
                let path = format!("{path}{dot}{}", key.escape_debug());
                found.extend(meant(part, key).map(|meant| NearMiss {
                    path: path.clone(),
                    meant,
                }));
                let within = part.within.iter().find(|(name, _)| names(key, name));
                if let Some((_, within)) = within {
                    search(within, value, &path, found);
                }
            }
        }
        _ => {}
    }
}

/// The key that a misspelled one is nearest to.
fn meant(part: &Part, key: &str) -> Option<&'static str> {
    let is_known = |known: &&str| {
        if part.exact {
            key == *known
        } else {
            names(key, known)
        }
    };
    if part.keys.iter().any(is_known) {
        return None;
    }
    let near = part.keys.iter().filter_map(|known| {
        let edits = edits(&key.to_lowercase(), &known.to_lowercase());
        (edits <= tolerance(known)).then_some((edits, *known))
    });
    near.min_by_key(|(edits, _)| *edits).map(|(_, known)| known)
}

/// How many edits away a key is taken for another: between short words there are few.
fn tolerance(known: &str) -> usize {
    match known.len() {
        0..=2 => 0,
        3..=5 => 1,
        _ => 2,
    }
}

/// How many letters to insert, remove, replace or swap with the next to make one word of another.
/// More than two is not counted to the end.
fn edits(one: &str, other: &str) -> usize {
    let one: Vec<char> = one.chars().collect();
    let other: Vec<char> = other.chars().collect();
    if one.len().abs_diff(other.len()) > 2 {
        return usize::MAX;
    }
    let mut before = Vec::new();
    let mut last: Vec<usize> = (0..=other.len()).collect();
    for (i, letter) in one.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, wanted) in other.iter().enumerate() {
            let replaced = last[j] + usize::from(letter != wanted);
            let mut least = replaced.min(last[j + 1] + 1).min(row[j] + 1);
            let is_swap = i > 0 && j > 0 && *letter == other[j - 1] && one[i - 1] == *wanted;
            if is_swap {
                let swapped: &usize = &before[j - 1];
                least = least.min(swapped + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(plugin: Plugin, config: &Value) -> Vec<(String, &'static str)> {
        let found = near_misses(plugin, config).into_iter();
        found.map(|near| (near.path, near.meant)).collect()
    }

    #[test]
    fn misspelled_keys_are_found_at_every_depth() {
        let config = json!({
            "isMasq": true, "bridgge": "x", "mut": 1400, "Firewal": "off",
            "capabilities": {"portMapping": true, "portmappings": true},
            "ipam": {
                "Type": "host-local", "rnages": [], "range_start": "",
                "ranges": [[{"subnett": "", "gatewy": ""}]], "routes": [{"dts": ""}]
            },
            "dns": {"nameserver": []}, "vlanTrunk": [{}, {"minIDs": 1}],
        });
        let mut found = found(Plugin::Pausenet, &config);
        found.sort();
        let expected = [
            ("Firewal", "firewall"),
            ("bridgge", "bridge"),
            ("capabilities.portMapping", "portMappings"),
            ("capabilities.portmappings", "portMappings"),
            ("dns.nameserver", "nameservers"),
            ("ipam.range_start", "rangeStart"),
            ("ipam.ranges[0][0].gatewy", "gateway"),
            ("ipam.ranges[0][0].subnett", "subnet"),
            ("ipam.rnages", "ranges"),
            ("ipam.routes[0].dts", "dst"),
            ("isMasq", "ipMasq"),
            ("mut", "mtu"),
            ("vlanTrunk[1].minIDs", "minID"),
        ];
        assert_eq!(
            found,
            expected.map(|(path, meant)| (path.to_owned(), meant))
        );
    }

    #[test]
    fn the_keys_of_a_list_are_exact() {
        let list = json!({"cniversion": "1.1.0", "CNIVersions": [], "name": "", "nerdctlID": "",
            "nerdctlLabels": {}, "labels": {}, "disableCheck": true,
            "plugins": [{"cniversion": "1.0.0"}]});
        let found = near_misses_of_list(&list);
        let found: Vec<_> = found.iter().map(|near| (&*near.path, near.meant)).collect();
        let expected = [("CNIVersions", "cniVersions"), ("cniversion", "cniVersion")];
        assert_eq!(found, expected);
    }

    /// Keys in another letter case are read; others are those of other plugins and runtimes.
    #[test]
    fn keys_that_mean_something_are_no_near_misses() {
        let mut config = json!({
            "cniVersion": "", "name": "", "type": "", "isDefaultGateWay": true, "IPMASQ": true,
            "ipam": {"type": "whereabouts", "range": "", "range_start": "", "routess": []},
            "args": {"cni": {}, "podman_labels": {}, "podman_options": {}},
            "capabilities": {
                "aliases": true, "ips": true, "dns": true, "infinibandGUID": true, "deviceID": true,
                "cgroupPath": true, "io.kubernetes.cri.pod-annotations": true
            },
        });
        let others = "sysctl mac promisc allmulti txQLen dataDir ingressPolicy \
            iptablesAdminChainName firewalldZone ingressRate ingressBurst egressRate egressBurst \
            unshapedSubnets shapedSubnets table addSourceHints master linkContNs bcqueuelen device \
            hwaddr kernelpath pciBusID runtimeConfig delegate hairpin hairpin_mode logLevel logFile \
            log_level kubernetes policy labels disableCheck plugins description _comment // \
            nerdctlID nerdctlLabels vrfname multiQueue selinuxcontext owner group tap";
        for other in others.split(' ').filter(|key| !key.is_empty()) {
            config[other] = json!({});
        }
        for plugin in [
            Plugin::Pausenet,
            Plugin::Bridge,
            Plugin::Ptp,
            Plugin::Portmap,
            Plugin::Firewall,
            Plugin::Bandwidth,
            Plugin::Tuning,
        ] {
            let found = found(plugin, &config);
            let expected: &[(String, &str)] = match plugin {
                // Nearly "hairpinMode".
                _ if !plugin.is_wiring() => &[],
                _ => &[("hairpin_mode".to_owned(), "hairpinMode")],
            };
            assert_eq!(found, expected, "{plugin:?}");
        }
    }

    #[test]
    fn edits_count_a_swap_once() {
        for (one, other, number) in [
            ("ismasq", "ipmasq", 1),
            ("mut", "mtu", 1),
            ("", "ab", 2),
            ("ranges", "rnages", 1),
            ("subnet", "subnets", 1),
            ("abc", "xyz", 3),
        ] {
            assert_eq!(edits(one, other), number, "{one} {other}");
            assert_eq!(edits(other, one), number, "{one} {other}");
        }
    }
}
