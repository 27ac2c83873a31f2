//! The capability `bandwidth` (CONVENTIONS.md of the specification): limits on a container's
//! traffic. Directions are the container's: ingress is what it receives.

use ipnetwork::IpNetwork;
use serde::Deserialize;

use super::error::{Code, Error, Result, invalid};
use super::json::{Json, cidr};

/// The unchecked object: rates in bits per second, bursts in bits.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct BandwidthKeys {
    ingress_rate: u64,
    ingress_burst: u64,
    egress_rate: u64,
    egress_burst: u64,
}

/// The same in a config itself, where it counts if a single key of it is there.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct OwnKeys {
    ingress_rate: Option<u64>,
    ingress_burst: Option<u64>,
    egress_rate: Option<u64>,
    egress_burst: Option<u64>,
}

impl OwnKeys {
    fn keys(&self) -> Option<BandwidthKeys> {
        let all = [
            self.ingress_rate,
            self.ingress_burst,
            self.egress_rate,
            self.egress_burst,
        ];
        let [ingress_rate, ingress_burst, egress_rate, egress_burst] =
            all.map(Option::unwrap_or_default);
        all.iter().any(Option::is_some).then_some(BandwidthKeys {
            ingress_rate,
            ingress_burst,
            egress_rate,
            egress_burst,
        })
    }
}

/// The limit of one direction, in the kernel's units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Bytes per second.
    pub rate: u64,
    /// Bytes that may be sent at once.
    pub burst: u32,
}

/// The limits of a container; at least one is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bandwidth {
    /// The limit on what it receives.
    pub(crate) ingress: Option<Limit>,
    /// The limit on what it sends.
    pub(crate) egress: Option<Limit>,
}

/// Which of the container's traffic is limited, by the address at its other end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Shaped {
    /// All of it.
    #[default]
    All,
    /// `shapedSubnets`: what goes to these and comes from them.
    Only(Vec<IpNetwork>),
    /// `unshapedSubnets`: all else.
    AllBut(Vec<IpNetwork>),
}

/// The keys of the plugin `bandwidth` beside the limits.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ShapedKeys {
    shaped_subnets: Vec<String>,
    unshaped_subnets: Vec<String>,
}

impl Shaped {
    /// Reads the config of the plugin `bandwidth`.
    ///
    /// # Errors
    /// Code 6 for a key of the wrong type, 7 for a subnet that is none, and for both lists at once.
    pub(super) fn new(config: &Json) -> Result<Self> {
        let keys: ShapedKeys = config.read()?;
        let subnets = |key: &str, list: &[String]| -> Result<Vec<IpNetwork>> {
            let parse = |(at, text): (usize, &String)| {
                cidr::parse(text).map_err(|why| invalid(format!("{key}[{at}]: {why}")))
            };
            list.iter().enumerate().map(parse).collect()
        };
        match (&keys.shaped_subnets[..], &keys.unshaped_subnets[..]) {
            ([], []) => Ok(Self::All),
            (only, []) => subnets("shapedSubnets", only).map(Self::Only),
            ([], others) => subnets("unshapedSubnets", others).map(Self::AllBut),
            _ => Err(invalid(
                "shapedSubnets and unshapedSubnets exclude each other",
            )),
        }
    }
}

impl Bandwidth {
    /// Reads the runtime's wish. None when it limits nothing.
    ///
    /// # Errors
    /// Code 6 for a key of the wrong type, 7 for values that do not fit together.
    pub(super) fn of_runtime(config: &Json) -> Result<Option<Self>> {
        const CAPABILITY: [&str; 2] = ["runtimeConfig", "bandwidth"];
        Self::new(&CAPABILITY.join("."), &config.read_part(&CAPABILITY)?)
    }

    /// Reads the config of the plugin `bandwidth`: limits in the config itself, or else the runtime's.
    ///
    /// # Errors
    /// Those of [`Bandwidth::of_runtime`].
    pub(super) fn of_plugin(config: &Json) -> Result<Option<Self>> {
        let own: OwnKeys = config.read()?;
        match own.keys() {
            Some(keys) => Self::new("", &keys),
            None => Self::of_runtime(config),
        }
    }

    /// Checks the values. None when they limit nothing. `place` is where they are, for errors.
    fn new(place: &str, keys: &BandwidthKeys) -> Result<Option<Self>> {
        let bandwidth = Self {
            ingress: limit(place, "ingress", keys.ingress_rate, keys.ingress_burst)?,
            egress: limit(place, "egress", keys.egress_rate, keys.egress_burst)?,
        };
        Ok((bandwidth.ingress.is_some() || bandwidth.egress.is_some()).then_some(bandwidth))
    }
}

/// What runtimes write as the burst of a Kubernetes annotation, which has a rate only: containerd,
/// kubelet's dockershim and CRI-O, in this order. It means that no burst was asked for.
const NO_BURST: [u64; 4] = [
    u32::MAX as u64,
    i32::MAX as u64,
    u32::MAX as u64 * 8 - 1,
    u32::MAX as u64 * 8,
];

/// A tenth of a second's worth: what passes in the first second is the rate, and little more. Not
/// less than a few frames, since what is larger than the burst can never be sent.
fn burst_for(rate_bytes: u64) -> u32 {
    const FRAMES: u64 = 16 * 1024;
    const MOST: u64 = 1 << 30;
    u32::try_from((rate_bytes / 10).clamp(FRAMES, MOST)).unwrap_or(u32::MAX)
}

fn limit(place: &str, direction: &str, rate: u64, burst: u64) -> Result<Option<Limit>> {
    let invalid = |key: &str, what: &str| {
        let dot = if place.is_empty() { "" } else { "." };
        let key = format!("{place}{dot}{direction}{key}");
        Err(Error::new(Code::InvalidConfig, format!("{key}: {what}")))
    };
    match (rate, burst) {
        (0, 0) => return Ok(None),
        (0, _) => return invalid("Rate", &format!("missing, and the burst is {burst}")),
        (_, 0) => return invalid("Burst", &format!("missing, and the rate is {rate}")),
        _ => {}
    }
    // Less than a byte could never be sent; the kernel has 32 bits for a burst.
    let rate_bytes = rate / 8;
    let burst_bytes = if NO_BURST.contains(&burst) {
        Some(burst_for(rate_bytes))
    } else {
        u32::try_from(burst / 8)
            .ok()
            .filter(|bytes| *bytes < u32::MAX)
    };
    match burst_bytes {
        _ if rate_bytes == 0 => invalid("Rate", &format!("{rate} is less than a byte per second")),
        None => invalid("Burst", &format!("{burst} is over 4 GiB")),
        Some(0) => invalid("Burst", &format!("{burst} is less than a byte")),
        Some(burst) => Ok(Some(Limit {
            rate: rate_bytes,
            burst,
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bandwidth(json: &str) -> Result<Option<Bandwidth>> {
        Bandwidth::of_plugin(&Json::config(json.as_bytes()).unwrap())
    }

    #[test]
    fn limits_of_the_config_precede_the_runtime_s() {
        let runtime = r#""runtimeConfig": {"bandwidth": {"egressRate": 8, "egressBurst": 80}}"#;
        let of_runtime = bandwidth(&format!("{{{runtime}}}")).unwrap().unwrap();
        assert!(of_runtime.egress.is_some() && of_runtime.ingress.is_none());
        let both = format!(r#"{{"ingressRate": 8, "ingressBurst": 80, {runtime}}}"#);
        let own = bandwidth(&both).unwrap().unwrap();
        assert!(own.ingress.is_some() && own.egress.is_none());
        // As Go takes an embedded object: one key of it is enough.
        let none = bandwidth(&format!(r#"{{"egressRate": 0, {runtime}}}"#));
        assert_eq!(none.unwrap(), None);
    }

    #[test]
    fn one_list_of_subnets_says_what_is_limited() {
        let shaped = |json: &str| Shaped::new(&Json::config(json.as_bytes()).unwrap());
        let subnet = || vec!["10.0.0.0/8".parse().unwrap()];
        let only = shaped(r#"{"shapedSubnets": ["10.0.0.0/8"], "unshapedSubnets": []}"#);
        assert_eq!(only.unwrap(), Shaped::Only(subnet()));
        let but = shaped(r#"{"unshapedSubnets": ["10.0.0.0/8"]}"#);
        assert_eq!(but.unwrap(), Shaped::AllBut(subnet()));
        assert_eq!(shaped("{}").unwrap(), Shaped::All);
        for bad in [
            r#"{"shapedSubnets": ["10.0.0.0"]}"#,
            r#"{"shapedSubnets": ["10.0.0.0/8"], "unshapedSubnets": ["fd00::/8"]}"#,
        ] {
            assert_eq!(shaped(bad).unwrap_err().code, Code::InvalidConfig, "{bad}");
        }
    }

    #[test]
    fn bits_become_bytes() {
        let json = r#"{"ingressRate": 8000000, "ingressBurst": 80000, "egressRate": null}"#;
        let limit = bandwidth(json).unwrap().unwrap();
        assert_eq!(
            limit.ingress,
            Some(Limit {
                rate: 1_000_000,
                burst: 10_000
            })
        );
        assert_eq!(limit.egress, None);
        assert_eq!(bandwidth("{}").unwrap(), None);
    }

    #[test]
    fn names_of_go_fields_mean_the_same() {
        let go = r#"{"IngressRate": 8, "IngressBurst": 80, "EgressRate": 16, "EgressBurst": 160}"#;
        let json =
            r#"{"ingressRate": 8, "ingressBurst": 80, "egressRate": 16, "egressBurst": 160}"#;
        assert_eq!(bandwidth(go).unwrap(), bandwidth(json).unwrap());
        assert!(bandwidth(go).unwrap().is_some());
    }

    #[test]
    fn the_burst_that_runtimes_write_for_none_is_a_tenth_of_a_second() {
        for none in ["4294967295", "2147483647", "34359738359", "34359738360"] {
            for (rate, burst) in [
                (10_000_000, 125_000),
                (100_000, 16 * 1024),
                (1_000_000_000_000, 1 << 30),
            ] {
                let json = format!(r#"{{"ingressRate": {rate}, "ingressBurst": {none}}}"#);
                let limit = bandwidth(&json).unwrap().unwrap().ingress.unwrap();
                assert_eq!((limit.rate, limit.burst), (rate / 8, burst), "{none}");
            }
        }
        let json = r#"{"ingressRate": 10000000, "ingressBurst": 4294967288}"#;
        let wished = bandwidth(json).unwrap().unwrap().ingress.unwrap();
        assert_eq!(wished.burst, 536_870_911);
    }

    #[test]
    fn half_a_limit_and_one_out_of_range_are_code_7() {
        for bad in [
            r#"{"ingressRate": 8}"#,
            r#"{"egressBurst": 8}"#,
            r#"{"egressRate": 1, "egressBurst": 8}"#,
            r#"{"egressRate": 8, "egressBurst": 1}"#,
            r#"{"egressRate": 8, "egressBurst": 34359738368}"#,
        ] {
            assert_eq!(
                bandwidth(bad).unwrap_err().code,
                Code::InvalidConfig,
                "{bad}"
            );
        }
    }
}
