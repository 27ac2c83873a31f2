//! The config of the plugin `tuning`: kernel settings of the container, and attributes of its interface.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::error::{Result, invalid};
use super::json::Json;
use super::names::{IfName, MacAddr};

/// Where the reference keeps what DEL restores.
const DATA_DIR: &str = "/run/cni/tuning";

/// What stands for the interface's name in a key of `sysctl`.
const IFNAME: &str = "IFNAME";

/// The keys of the config itself.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct TuningKeys {
    /// The folder for what DEL restores; `/run/cni/tuning` by default.
    data_dir: String,
    /// Settings under `net`, by name.
    sysctl: Entries,
    mac: String,
    /// The interface receives every frame.
    promisc: bool,
    /// In bytes; 0 leaves it as it is.
    mtu: i64,
    /// How many packets wait to be sent.
    tx_q_len: Option<i64>,
    /// The interface receives every multicast frame.
    allmulti: Option<bool>,
}

/// The keys of `args.cni`, which replace those of the config.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct TuningArgs {
    sysctl: Entries,
    promisc: Option<bool>,
    mtu: Option<i64>,
    tx_q_len: Option<i64>,
    allmulti: Option<bool>,
}

/// The entries of an object, each as often as it is written.
#[derive(Debug, Default, Clone)]
struct Entries(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        struct All;

        impl<'de> Visitor<'de> for All {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }

        from.deserialize_map(All)
    }
}

/// The checked settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tuning {
    pub(crate) settings: Vec<Setting>,
    /// The MAC is the config's own; a request may have another.
    pub(crate) attributes: Attributes,
    /// The folder for what DEL restores.
    pub(crate) data_dir: PathBuf,
}

/// A kernel setting under /proc/sys/net.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// As it is written in the config.
    pub(crate) key: String,
    pub(crate) value: String,
    /// Its folders and its name; the first is `net`.
    parts: Vec<String>,
}

/// Attributes of an interface; None: left as it is, or not known. As JSON, the reference's form of what DEL
/// restores.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attributes {
    #[serde(
        serialize_with = "as_text",
        deserialize_with = "from_text",
        skip_serializing_if = "Option::is_none"
    )]
    pub(crate) mac: Option<MacAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) promisc: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mtu: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) allmulti: Option<bool>,
    #[serde(rename = "txQLen", skip_serializing_if = "Option::is_none")]
    pub(crate) queue: Option<u32>,
}

impl Attributes {
    /// Whether none is set.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// These, and for those that are not set the others.
    pub(crate) fn or(self, others: Self) -> Self {
        Self {
            mac: self.mac.or(others.mac),
            promisc: self.promisc.or(others.promisc),
            mtu: self.mtu.or(others.mtu),
            allmulti: self.allmulti.or(others.allmulti),
            queue: self.queue.or(others.queue),
        }
    }

    /// Those that are set in `asked` too.
    pub(crate) fn only(self, asked: &Self) -> Self {
        Self {
            mac: self.mac.filter(|_| asked.mac.is_some()),
            promisc: self.promisc.filter(|_| asked.promisc.is_some()),
            mtu: self.mtu.filter(|_| asked.mtu.is_some()),
            allmulti: self.allmulti.filter(|_| asked.allmulti.is_some()),
            queue: self.queue.filter(|_| asked.queue.is_some()),
        }
    }
}

fn as_text<S: serde::Serializer>(
    mac: &Option<MacAddr>,
    to: S,
) -> std::result::Result<S::Ok, S::Error> {
    mac.map(|mac| mac.to_string()).serialize(to)
}

fn from_text<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Option<MacAddr>, D::Error> {
    let text = String::deserialize(from)?;
    Ok(MacAddr::parse(&text).ok())
}

impl Tuning {
    /// Reads a config, with what `args.cni` replaces in it.
    ///
    /// # Errors
    /// Code 6 for a key of the wrong type, 7 for a value that cannot be; both name the key.
    pub(super) fn new(config: &Json) -> Result<Self> {
        let keys: TuningKeys = config.read()?;
        let args: TuningArgs = config.read_part(&["args", "cni"])?;
        let mac = match keys.mac.as_str() {
            "" => None,
            text => Some(MacAddr::parse(text).map_err(|why| invalid(format!("mac: {why}")))?),
        };
        let mtu = args.mtu.unwrap_or(keys.mtu);
        let queue = args.tx_q_len.or(keys.tx_q_len);
        Ok(Self {
            settings: settings(keys.sysctl, args.sysctl)?,
            attributes: Attributes {
                mac,
                // The reference leaves it as it is where it is false, and so must we: it is the default.
                promisc: Some(args.promisc.unwrap_or(keys.promisc)).filter(|on| *on),
                mtu: number("mtu", mtu)?.filter(|mtu| *mtu != 0),
                allmulti: args.allmulti.or(keys.allmulti),
                queue: queue.map_or(Ok(None), |queue| number("txQLen", queue))?,
            },
            data_dir: match keys.data_dir.as_str() {
                "" => DATA_DIR.into(),
                folder => folder.into(),
            },
        })
    }
}

fn number(key: &str, value: i64) -> Result<Option<u32>> {
    match i32::try_from(value)
        .ok()
        .and_then(|value| u32::try_from(value).ok())
    {
        Some(value) => Ok(Some(value)),
        None => Err(invalid(format!(
            "{key}: {value} is not from 0 to {}",
            i32::MAX
        ))),
    }
}

/// The settings of the config and, in place of those with the same key, the others.
fn settings(own: Entries, args: Entries) -> Result<Vec<Setting>> {
    let mut settings: BTreeMap<Vec<String>, Setting> = BTreeMap::new();
    for (key, value) in own.0 {
        let setting = Setting::new(key, value)?;
        let key = setting.key.clone();
        if let Some(other) = settings.insert(setting.parts.clone(), setting) {
            return Err(invalid(format!(
                "sysctl: {} and {key} are the same setting, which is there twice",
                other.key
            )));
        }
    }
    for (key, value) in args.0 {
        let setting = Setting::new(key, value)?;
        settings.insert(setting.parts.clone(), setting);
    }
    Ok(settings.into_values().collect())
}

impl Setting {
    /// Parts are separated as in sysctl(8): by dots or by slashes, whichever comes first; the other is a dot of
    /// an interface's name.
    fn new(key: String, value: String) -> Result<Self> {
        let separator = key.chars().find(|c| matches!(c, '.' | '/'));
        let parts: Vec<_> = match separator {
            Some('/') => key.split('/').map(str::to_owned).collect(),
            _ => key.split('.').map(|part| part.replace('/', ".")).collect(),
        };
        let is_part = |part: &String| !matches!(part.as_str(), "" | "." | "..");
        if parts.len() < 2 || parts[0] != "net" || !parts.iter().all(is_part) {
            return Err(
                invalid(format!("sysctl: {key:?} is not a setting of the network")).hint(
                    "what a container may have of its own is below net, such as net.core.somaxconn",
                ),
            );
        }
        Ok(Self { key, value, parts })
    }

    /// The file of the setting, for an interface.
    pub(crate) fn path(&self, ifname: &IfName) -> PathBuf {
        let mut path = PathBuf::from("/proc/sys");
        let mut is_replaced = false;
        for part in &self.parts {
            if !is_replaced && part.contains(IFNAME) {
                is_replaced = true;
                path.push(part.replacen(IFNAME, ifname.as_str(), 1));
            } else {
                path.push(part);
            }
        }
        path
    }
}

#[cfg(test)]
mod tests {
    use super::super::error::Code;
    use super::*;
    use proptest::prelude::*;

    fn tuning(json: &str) -> Result<Tuning> {
        Tuning::new(&Json::config(json.as_bytes()).unwrap())
    }

    fn paths(json: &str) -> Vec<String> {
        let ifname = IfName::parse("eth0.7").unwrap();
        let settings = tuning(json).unwrap().settings.into_iter();
        let paths = settings.map(|setting| setting.path(&ifname).display().to_string());
        paths.collect()
    }

    #[test]
    fn an_empty_config_leaves_all_as_it_is() {
        let tuning = tuning(r#"{"sysctl": null, "promisc": false, "mtu": 0, "mac": ""}"#).unwrap();
        assert!(tuning.attributes.is_empty() && tuning.settings.is_empty());
        assert_eq!(tuning.data_dir.to_str(), Some(DATA_DIR));
    }

    #[test]
    fn keys_are_those_of_sysctl_and_name_the_interface() {
        assert_eq!(
            paths(
                r#"{"sysctl": {"net.core.somaxconn": "500", "net/ipv4/conf/IFNAME/forwarding": "1",
                "net.ipv4.conf.eth0/7.rp_filter": "2"}}"#
            ),
            [
                "/proc/sys/net/core/somaxconn",
                "/proc/sys/net/ipv4/conf/eth0.7/forwarding",
                "/proc/sys/net/ipv4/conf/eth0.7/rp_filter",
            ]
        );
    }

    #[test]
    fn args_replace_what_the_config_says() {
        let json = r#"{"sysctl": {"net.core.somaxconn": "1"}, "mtu": 1400, "promisc": true,
            "allmulti": true, "txQLen": 0,
            "args": {"cni": {"sysctl": {"net.core.somaxconn": "2", "net.ipv4.ip_forward": "0"},
                "mtu": 1300, "promisc": false, "allmulti": false}}}"#;
        let tuning = tuning(json).unwrap();
        let values: Vec<_> = tuning
            .settings
            .iter()
            .map(|one| one.value.as_str())
            .collect();
        assert_eq!(values, ["2", "0"]);
        assert_eq!(
            tuning.attributes,
            Attributes {
                mtu: Some(1300),
                allmulti: Some(false),
                queue: Some(0),
                ..Attributes::default()
            }
        );
    }

    #[test]
    fn what_cannot_be_is_code_7_and_a_wrong_type_is_code_6() {
        for bad in [
            r#"{"sysctl": {"kernel.panic": "1"}}"#,
            r#"{"sysctl": {"net": "1"}}"#,
            r#"{"sysctl": {"": "1"}}"#,
            r#"{"sysctl": {"net/../kernel/panic": "1"}}"#,
            r#"{"sysctl": {"net..core": "1"}}"#,
            r#"{"sysctl": {"net.core.somaxconn": "1", "net.core.somaxconn": "2"}}"#,
            r#"{"sysctl": {"net.core.somaxconn": "1", "net/core/somaxconn": "2"}}"#,
            r#"{"mtu": -5}"#,
            r#"{"txQLen": -1}"#,
            r#"{"mtu": 4294967296}"#,
            r#"{"mac": "zz"}"#,
        ] {
            assert_eq!(tuning(bad).unwrap_err().code, Code::InvalidConfig, "{bad}");
        }
        for bad in [
            r#"{"sysctl": {"net.core.somaxconn": 1}}"#,
            r#"{"sysctl": []}"#,
            r#"{"args": {"cni": {"mtu": "1"}}}"#,
        ] {
            let err = tuning(bad).unwrap_err();
            assert_eq!(err.code, Code::Decode, "{bad}");
            assert!(
                err.msg.contains("sysctl") || err.msg.contains("mtu"),
                "{err}"
            );
        }
    }

    #[test]
    fn what_del_restores_has_the_reference_s_form() {
        let all = Attributes {
            mac: Some(MacAddr::parse("02:00:00:00:00:01").unwrap()),
            promisc: Some(false),
            mtu: Some(1500),
            allmulti: Some(true),
            queue: Some(1000),
        };
        let json = r#"{"mac":"02:00:00:00:00:01","promisc":false,"mtu":1500,"allmulti":true,"txQLen":1000}"#;
        assert_eq!(serde_json::to_string(&all).unwrap(), json);
        assert_eq!(serde_json::from_str::<Attributes>(json).unwrap(), all);
        let only = all.only(&Attributes {
            mtu: Some(9000),
            ..Attributes::default()
        });
        assert_eq!(serde_json::to_string(&only).unwrap(), r#"{"mtu":1500}"#);
    }

    proptest! {
        #[test]
        fn no_key_leads_out_of_the_network_s_settings(key: String) {
            let ifname = IfName::parse("eth0").unwrap();
            if let Ok(setting) = Setting::new(key, String::new()) {
                let path = setting.path(&ifname);
                prop_assert!(path.starts_with("/proc/sys/net/"));
                let mut parts = path.components();
                prop_assert!(parts.all(|part| part.as_os_str() != ".."));
            }
        }
    }
}
