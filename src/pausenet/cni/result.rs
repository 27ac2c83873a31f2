//! The result of an ADD. It is stored in the newest form and written in the requested version
//! (specification, section 5, "ADD Success", and the same section of older versions).

use std::borrow::Cow;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::{During, Result, invalid};
use super::family::Family;
use super::json::{Json, address, cidr, last, positive};
use super::names::{IfName, MacAddr};
use super::version::SpecVersion;

/// An attachment's interfaces, addresses, routes and name servers.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct AddResult {
    pub interfaces: Vec<Interface>,
    #[serde(deserialize_with = "last")]
    pub ips: Vec<IpConfig>,
    #[serde(deserialize_with = "last")]
    pub routes: Vec<Route>,
    pub dns: Dns,
}

/// An interface of the attachment, in the container (`sandbox` is set) or on the host.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Interface {
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// In bytes; from 1.1.0 on.
    #[serde(deserialize_with = "positive", skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// `CNI_NETNS` for interfaces in the container, empty on the host.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
    /// From 1.1.0 on; passed through.
    #[serde(rename = "socketPath", skip_serializing_if = "String::is_empty")]
    pub socket_path: String,
    /// From 1.1.0 on; passed through.
    #[serde(rename = "pciID", skip_serializing_if = "String::is_empty")]
    pub pci_id: String,
}

/// An address of the attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpConfig {
    /// Index into `interfaces`. Plugins write -1 for "none of them".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<i64>,
    /// The address with the prefix length of its subnet.
    #[serde(with = "cidr")]
    pub address: IpNetwork,
    #[serde(
        default,
        deserialize_with = "address",
        skip_serializing_if = "Option::is_none"
    )]
    pub gateway: Option<IpAddr>,
}

/// A route of the attachment. The numbers are the kernel's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    #[serde(with = "cidr")]
    pub(crate) dst: IpNetwork,
    /// None: the gateway of the first address of the same family.
    #[serde(
        default,
        deserialize_with = "address",
        skip_serializing_if = "Option::is_none"
    )]
    pub(crate) gw: Option<IpAddr>,
    #[serde(
        default,
        deserialize_with = "positive",
        skip_serializing_if = "Option::is_none"
    )]
    pub(crate) mtu: Option<u32>,
    #[serde(
        default,
        deserialize_with = "positive",
        skip_serializing_if = "Option::is_none"
    )]
    pub(crate) advmss: Option<u32>,
    /// Lower is preferred.
    #[serde(
        default,
        deserialize_with = "positive",
        skip_serializing_if = "Option::is_none"
    )]
    pub(crate) priority: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) table: Option<u32>,
    /// 0 global, 253 link, 254 host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) scope: Option<u8>,
}

impl Route {
    /// A route to `dst` via `gw`, everything else left to the kernel.
    pub(crate) fn via(dst: IpNetwork, gw: Option<IpAddr>) -> Self {
        Self {
            dst,
            gw,
            mtu: None,
            advmss: None,
            priority: None,
            table: None,
            scope: None,
        }
    }
}

/// Name servers for the container. The plugin only passes them on.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dns {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub domain: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl Dns {
    /// True without any name server, domain, search list and option.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The `ip4` and `ip6` objects of 0.1.0 and 0.2.0.
#[derive(Serialize, Deserialize)]
struct OldIpConfig {
    #[serde(with = "cidr")]
    ip: IpNetwork,
    #[serde(
        default,
        deserialize_with = "address",
        skip_serializing_if = "Option::is_none"
    )]
    gateway: Option<IpAddr>,
    #[serde(
        default,
        deserialize_with = "last",
        skip_serializing_if = "Vec::is_empty"
    )]
    routes: Vec<Route>,
}

/// A result of 0.1.0 or 0.2.0.
#[derive(Default, Deserialize)]
#[serde(default)]
struct OldResult {
    #[serde(deserialize_with = "last")]
    ip4: Option<OldIpConfig>,
    #[serde(deserialize_with = "last")]
    ip6: Option<OldIpConfig>,
    dns: Dns,
}

impl AddResult {
    /// Reads a result of any version.
    ///
    /// # Errors
    /// Those of [`AddResult::from_json`].
    pub(super) fn read(json: &Json, config_version: SpecVersion) -> Result<Self> {
        let version: String = json.read_part(&["cniVersion"])?;
        let version = match version.as_str() {
            "" => config_version,
            text => SpecVersion::parse(Some(text)).during_with(|| json.place())?,
        };
        if version >= SpecVersion::V0_3_0 {
            return json.read();
        }
        let old: OldResult = json.read()?;
        let mut result = Self {
            dns: old.dns,
            ..Self::default()
        };
        for old in [old.ip4, old.ip6].into_iter().flatten() {
            result.ips.push(IpConfig {
                interface: None,
                address: old.ip,
                gateway: old.gateway,
            });
            result.routes.extend(old.routes);
        }
        Ok(result)
    }

    /// Parses a result of any version.
    ///
    /// Its `cniVersion` says which; a result without one has the config's version.
    ///
    /// # Errors
    /// Code 1 for an unknown version, code 6 for a result that does not have its version's form.
    pub fn from_json(value: &Value, config_version: SpecVersion) -> Result<Self> {
        Self::read(&Json::of("result", value)?, config_version)
    }

    /// Refuses a result that a version has no form for, as the reference does: before 0.3.0, there
    /// is none without an address.
    ///
    /// # Errors
    /// Code 7.
    pub(crate) fn check_form(version: SpecVersion, has_address: bool) -> Result<()> {
        if has_address || version >= SpecVersion::V0_3_0 {
            return Ok(());
        }
        Err(invalid(format!(
            "cniVersion {version} has no result without an address"
        ))
        .hint("give the network an \"ipam\", or a cniVersion of 0.3.0 or newer"))
    }

    /// The MAC of the container's interface of this name, if the result contains it.
    pub(crate) fn mac_of(&self, ifname: &IfName) -> Option<MacAddr> {
        let ours = |interface: &&Interface| {
            interface.name == ifname.as_str() && !interface.sandbox.is_empty()
        };
        let interface = self.interfaces.iter().find(ours)?;
        MacAddr::parse(&interface.mac).ok()
    }

    /// The place in `interfaces` of the one that has an address, if the result says one that it has.
    pub(crate) fn interface_of(&self, ip: &IpConfig) -> Option<usize> {
        let index = usize::try_from(ip.interface?).ok()?;
        (index < self.interfaces.len()).then_some(index)
    }

    /// The addresses of the container's interface of this name. Results of old versions name no
    /// interfaces; then all addresses are the container's.
    pub fn addresses_of(&self, ifname: &IfName) -> Vec<IpNetwork> {
        let inside = |index: usize| {
            let interface = &self.interfaces[index];
            interface.name == ifname.as_str() && !interface.sandbox.is_empty()
        };
        let ours = (self.ips.iter()).filter(|ip| self.interface_of(ip).is_none_or(inside));
        ours.map(|ip| ip.address).collect()
    }

    /// The result as JSON of the given version, without fields that the version lacks.
    #[expect(clippy::expect_used, reason = "all keys are strings")]
    pub(crate) fn to_json(&self, version: SpecVersion) -> String {
        let mut written = Written {
            version: version.as_str(),
            ..Written::default()
        };
        if version < SpecVersion::V0_3_0 {
            written.ip4 = self.old_ip(Family::Ipv4);
            written.ip6 = self.old_ip(Family::Ipv6);
        } else {
            let interfaces = self.interfaces.iter();
            written.interfaces = interfaces.map(|link| known(link, version)).collect();
            let ips = self.ips.iter();
            written.ips = ips.map(|ip| NumberedIp::new(ip, version)).collect();
            written.routes = &self.routes;
        }
        // Before 1.0.0 the reference writes an empty object too.
        if version < SpecVersion::V1_0_0 || !self.dns.is_empty() {
            written.dns = Some(&self.dns);
        }
        serde_json::to_string(&written).expect("a struct's names are text")
    }

    /// The first address of a family: the old form has one per family.
    fn old_ip(&self, family: Family) -> Option<OldIpConfig> {
        let of_family = |net: &IpNetwork| Family::from(*net) == family;
        let ip = self.ips.iter().find(|ip| of_family(&ip.address))?;
        let routes = self.routes.iter().filter(|route| of_family(&route.dst));
        Some(OldIpConfig {
            ip: ip.address,
            gateway: ip.gateway,
            routes: routes
                .map(|route| Route::via(route.dst, route.gw))
                .collect(),
        })
    }
}

/// A result in the form of one version.
#[derive(Default, Serialize)]
struct Written<'a> {
    #[serde(rename = "cniVersion")]
    version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip4: Option<OldIpConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip6: Option<OldIpConfig>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    interfaces: Vec<Cow<'a, Interface>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ips: Vec<NumberedIp<'a>>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    routes: &'a [Route],
    #[serde(skip_serializing_if = "Option::is_none")]
    dns: Option<&'a Dns>,
}

/// An interface without the fields that a version lacks.
fn known(interface: &Interface, version: SpecVersion) -> Cow<'_, Interface> {
    if version >= SpecVersion::V1_1_0 {
        return Cow::Borrowed(interface);
    }
    Cow::Owned(Interface {
        mtu: None,
        socket_path: String::new(),
        pci_id: String::new(),
        ..interface.clone()
    })
}

/// An address, with its family's number in versions before 1.0.0.
#[derive(Serialize)]
struct NumberedIp<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'static str>,
    #[serde(flatten)]
    ip: &'a IpConfig,
}

impl<'a> NumberedIp<'a> {
    fn new(ip: &'a IpConfig, version: SpecVersion) -> Self {
        let number = match Family::from(ip.address) {
            Family::Ipv4 => "4",
            Family::Ipv6 => "6",
        };
        Self {
            version: (version < SpecVersion::V1_0_0).then_some(number),
            ip,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::error::Code;
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn sample() -> AddResult {
        AddResult {
            interfaces: vec![Interface {
                name: "eth0".into(),
                mac: "02:00:00:00:00:01".into(),
                mtu: Some(1450),
                sandbox: "/run/netns/x".into(),
                ..Interface::default()
            }],
            ips: vec![
                IpConfig {
                    interface: Some(0),
                    address: "10.1.0.5/16".parse().unwrap(),
                    gateway: Some("10.1.0.1".parse().unwrap()),
                },
                IpConfig {
                    interface: Some(0),
                    address: "fd00::5/64".parse().unwrap(),
                    gateway: None,
                },
            ],
            routes: vec![Route {
                priority: Some(10),
                ..Route::via("0.0.0.0/0".parse().unwrap(), None)
            }],
            dns: Dns {
                nameservers: vec!["10.1.0.1".into()],
                ..Dns::default()
            },
        }
    }

    fn written(result: &AddResult, version: SpecVersion) -> Value {
        serde_json::from_str(&result.to_json(version)).unwrap()
    }

    #[test]
    fn version_1_1_has_the_mtu_and_older_ones_do_not() {
        let newest = written(&sample(), SpecVersion::V1_1_0);
        assert_eq!(newest["interfaces"][0]["mtu"], 1450);
        let older = written(&sample(), SpecVersion::V1_0_0);
        assert!(older["interfaces"][0].get("mtu").is_none());
        assert!(older["ips"][0].get("version").is_none());
    }

    #[test]
    fn version_0_4_numbers_the_address_families() {
        let json = written(&sample(), SpecVersion::V0_4_0);
        assert_eq!(json["ips"][0]["version"], "4");
        assert_eq!(json["ips"][1]["version"], "6");
    }

    #[test]
    fn version_0_2_has_one_object_per_family() {
        let json = written(&sample(), SpecVersion::V0_2_0);
        assert_eq!(json["ip4"]["ip"], "10.1.0.5/16");
        assert_eq!(json["ip4"]["routes"][0]["dst"], "0.0.0.0/0");
        assert_eq!(json["ip6"]["ip"], "fd00::5/64");
        assert!(json.get("ips").is_none() && json.get("interfaces").is_none());
    }

    #[test]
    fn the_newest_form_reads_back_as_itself() {
        let json = written(&sample(), SpecVersion::V1_1_0);
        let back = AddResult::from_json(&json, SpecVersion::V0_1_0).unwrap();
        assert_eq!(back, sample());
    }

    #[test]
    fn a_result_without_a_version_is_of_the_config_s() {
        let json = json!({"ip4": {"ip": "10.0.0.2/24", "gateway": "10.0.0.1"}});
        let result = AddResult::from_json(&json, SpecVersion::V0_2_0).unwrap();
        assert_eq!(result.ips[0].address.to_string(), "10.0.0.2/24");
    }

    #[test]
    fn a_json_list_is_not_a_result() {
        let err = AddResult::from_json(&json!([]), SpecVersion::V1_1_0).unwrap_err();
        assert_eq!(err.code, Code::Decode);
    }

    #[test]
    fn nulls_are_taken_as_absent() {
        let json = json!({"cniVersion": "0.4.0", "interfaces": null, "ips": null, "dns": null});
        assert_eq!(
            AddResult::from_json(&json, SpecVersion::V0_4_0).unwrap(),
            AddResult::default()
        );
    }

    proptest! {
        #[test]
        fn addresses_survive_every_version_there_and_back(a: [u8; 4], version in 0usize..7) {
            let version = SpecVersion::ALL[version];
            let address = IpNetwork::new(IpAddr::from(a), 24).unwrap();
            let ips = vec![IpConfig { interface: None, address, gateway: None }];
            let result = AddResult { ips, ..AddResult::default() };
            let back = AddResult::from_json(&written(&result, version), version).unwrap();
            prop_assert_eq!(back, result);
        }
    }
}
