use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::cni::config::{self, LinkKeys};
use crate::cni::ports::PortsConf;
use crate::cni::result::Route;

/// The fields of the Go program that the expectations of
/// [`keys_and_duplicates_are_read_as_go_reads_them`] come from.
#[derive(Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
struct Fields {
    kelvins: i64,
    is_gateway: bool,
    bridge: String,
    mtu: i64,
    snat: Option<bool>,
    inner: Inner,
    pointer: Option<Inner>,
    list: Option<Vec<String>>,
    ranges: Vec<Vec<Item>>,
    map: BTreeMap<String, Inner>,
    #[serde(deserialize_with = "address")]
    gateway: Option<IpAddr>,
    #[serde(deserialize_with = "last")]
    routes: Vec<Route>,
    interfaces: Vec<Item>,
}

#[derive(Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
struct Inner {
    a: i64,
    b: String,
}

#[derive(Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
struct Item {
    subnet: String,
    gateway: String,
}

fn read(text: &str) -> Result<Fields> {
    parse(text.as_bytes())
}

/// Each line was given to encoding/json of Go 1.26.8, with the types of containernetworking/cni
/// 1.3.1 for addresses and routes: the right side is what it made of it.
#[test]
fn keys_and_duplicates_are_read_as_go_reads_them() {
    let inner = |a, b: &str| json!({"a": a, "b": b});
    for (text, expected) in [
        // Letter case.
        (r#"{"ISGATEWAY": true}"#, json!({"isGateway": true})),
        (r#"{"isGateway": true, "ISGATEWAY": false}"#, json!({})),
        (
            r#"{"ISGATEWAY": false, "isGateway": true}"#,
            json!({"isGateway": true}),
        ),
        (
            r#"{"isGateway": false, "isgateway": true}"#,
            json!({"isGateway": true}),
        ),
        ("{\"\u{212a}elvin\u{17f}\": 5}", json!({"kelvins": 5})),
        ("{\"\u{17f}nat\": false}", json!({"snat": false})),
        (r#"{"br\u0131dge": "a", "is_gateway": true}"#, json!({})),
        (
            r#"{"bridge": "a", "\u0062ridge": "b"}"#,
            json!({"bridge": "b"}),
        ),
        // null.
        (r#"{"mtu": 5, "MTU": null}"#, json!({"mtu": 5})),
        (r#"{"snat": false, "snat": null}"#, json!({})),
        (r#"{"bridge": "a", "bridge": null}"#, json!({"bridge": "a"})),
        (
            r#"{"inner": {"a": 1}, "INNER": null}"#,
            json!({"inner": inner(1, "")}),
        ),
        (r#"{"pointer": {"a": 1}, "pointer": null}"#, json!({})),
        (
            r#"{"pointer": {"a": 1}, "pointer": null, "Pointer": {"b": "x"}}"#,
            json!({"pointer": inner(0, "x")}),
        ),
        (r#"{"list": ["a", "b"], "List": null}"#, json!({})),
        (r#"{"map": {"x": {"a": 1}}, "map": null}"#, json!({})),
        (r#"{"gateway": "10.0.0.1", "gateway": null}"#, json!({})),
        (r#"{"list": ["a", null]}"#, json!({"list": ["a", ""]})),
        // Objects and maps add up, lists are read over one another.
        (
            r#"{"inner": {"a": 1}, "inner": {"b": "x"}}"#,
            json!({"inner": inner(1, "x")}),
        ),
        (
            r#"{"pointer": {"a": 1}, "Pointer": {"b": "x"}}"#,
            json!({"pointer": inner(1, "x")}),
        ),
        (
            r#"{"map": {"x": {"a": 1}}, "map": {"X": {"a": 2}, "x": {"b": "y"}}}"#,
            json!({"map": {"X": inner(2, ""), "x": inner(0, "y")}}),
        ),
        (
            r#"{"list": ["a", "b"], "List": ["c"]}"#,
            json!({"list": ["c"]}),
        ),
        (
            r#"{"list": ["a", "b"], "List": [null, null, "x"]}"#,
            json!({"list": ["a", "b", "x"]}),
        ),
        (
            r#"{"list": ["a", "b"], "list": ["c"], "list": [null, null]}"#,
            json!({"list": ["c", "b"]}),
        ),
        (
            r#"{"list": ["a", "b"], "list": [], "list": [null, null]}"#,
            json!({"list": ["", ""]}),
        ),
        (r#"{"list": ["a", "b"], "List": []}"#, json!({"list": []})),
        (
            r#"{"ranges": [[{"subnet": "s", "gateway": "g"}]], "RANGES": [[{"subnet": "t"}]]}"#,
            json!({"ranges": [[{"subnet": "t", "gateway": "g"}]]}),
        ),
        (r#"{"ranges": [null]}"#, json!({"ranges": [[]]})),
        (
            r#"{"ranges": [[null]]}"#,
            json!({"ranges": [[{"subnet": "", "gateway": ""}]]}),
        ),
        // But what has a method of its own to read it is replaced.
        (
            r#"{"routes": [{"dst": "10.0.0.0/8", "gw": "10.0.0.1"}], "routes": [{"dst": "11.0.0.0/8"}]}"#,
            json!({"routes": [{"dst": "11.0.0.0/8"}]}),
        ),
        // Empty addresses.
        (r#"{"gateway": ""}"#, json!({})),
        (r#"{"gateway": "10.0.0.1", "gateway": ""}"#, json!({})),
        (
            r#"{"routes": [{"DST": "10.0.0.0/8", "Gw": "", "MTU": 5}]}"#,
            json!({"routes": [{"dst": "10.0.0.0/8", "mtu": 5}]}),
        ),
    ] {
        let mut whole = serde_json::to_value(Fields::default()).unwrap();
        for (key, value) in expected.as_object().unwrap() {
            whole[key] = value.clone();
        }
        let found = serde_json::to_value(read(text).unwrap()).unwrap();
        assert_eq!(found, whole, "{text}");
    }
}

/// Go refuses each of these too.
#[test]
fn an_error_names_the_key_what_was_found_and_what_was_expected() {
    for (text, expected) in [
        (
            r#"{"isGateway": "yes"}"#,
            r#"isGateway: expected true or false, found the string "yes""#,
        ),
        (
            r#"{"ISGATEWAY": 1}"#,
            "isGateway: expected true or false, found the number 1",
        ),
        (
            r#"{"isGateway": "yes", "isGateway": true}"#,
            r#"isGateway: expected true or false, found the string "yes""#,
        ),
        (
            r#"{"bridge": ["a"]}"#,
            "bridge: expected a string, found a list",
        ),
        (
            r#"{"bridge": false}"#,
            "bridge: expected a string, found false",
        ),
        (
            r#"{"mtu": 1.5}"#,
            "mtu: expected a whole number, found the number 1.5",
        ),
        (r#"{"list": {}}"#, "list: expected a list, found an object"),
        (
            r#"{"list": ["a", 5]}"#,
            "list[1]: expected a string, found the number 5",
        ),
        (
            r#"{"inner": []}"#,
            "inner: expected an object, found a list",
        ),
        (
            r#"{"ranges": [[{}, {"subnet": 5}]]}"#,
            "ranges[0][1].subnet: expected a string, found the number 5",
        ),
        (
            r#"{"ranges": [[], "x"]}"#,
            r#"ranges[1]: expected a list, found the string "x""#,
        ),
        (
            r#"{"map": {"some key": {"a": {}}}}"#,
            "map.some key.a: expected a whole number, found an object",
        ),
        (
            r#"{"gateway": "x"}"#,
            r#"gateway: "x" is not an IP address"#,
        ),
        (
            r#"{"gateway": 3}"#,
            "gateway: expected a string, found the number 3",
        ),
        (
            r#"{"routes": [{"dst": "10.0.0.0/8"}, {"dst": "10.0.0.0"}]}"#,
            r#"routes[1].dst: "10.0.0.0" is not an address with a prefix length (CIDR)"#,
        ),
        (
            r#"{"routes": [{"gw": "10.0.0.1"}]}"#,
            "routes[0].dst: missing",
        ),
        (
            r#"{"routes": [{"dst": "10.0.0.0/8", "scope": 256}]}"#,
            "routes[0].scope: expected a whole number from 0 to 255, found the number 256",
        ),
    ] {
        let err = read(text).unwrap_err();
        assert_eq!(err.code, Code::Decode, "{text}");
        assert_eq!(err.msg, format!("network config: {expected}"));
    }
    let long = read(&format!(r#"{{"mtu": "{}"}}"#, "é".repeat(1_000_000))).unwrap_err();
    assert!(long.msg.len() < 400, "{} bytes", long.msg.len());
}

#[test]
fn a_part_is_found_and_named_by_its_whole_path() {
    let text = r#"{"Args": {"CNI": {"ips": ["a"]}}, "args": {"cni": {"mac": 5}, "x": 1}}"#;
    let json = Json::config(text.as_bytes()).unwrap();
    let ips: Vec<String> = json.read_part(&["args", "cni", "ips"]).unwrap();
    assert_eq!(ips, ["a"]);
    for read in [
        json.read_part::<String>(&["args", "cni", "mac"]),
        json.part(&["args", "cni"]).unwrap().read_part(&["mac"]),
    ] {
        assert_eq!(
            read.unwrap_err().msg,
            "network config: args.cni.mac: expected a string, found the number 5"
        );
    }
    assert!(json.part(&["nothing", "there"]).unwrap().is_absent());
    let through_a_number = json.read_part::<String>(&["args", "x", "y"]);
    assert_eq!(
        through_a_number.unwrap_err().msg,
        "network config: args.x: expected an object, found the number 1"
    );
}

/// Go's plugins read prevResult into a map and write it again, which sorts its keys, before they
/// read it as a result.
#[test]
fn what_goes_through_a_map_is_sorted_first() {
    let text =
        r#"{"prevResult": {"dns": {"domain": "a"}, "Dns": {"domain": "b", "x": 1, "x": 2}}}"#;
    let json = Json::config(text.as_bytes()).unwrap();
    let part = json.part(&["prevResult"]).unwrap();
    let domain = |json: &Json| json.read_part::<String>(&["dns", "domain"]).unwrap();
    assert_eq!(domain(&part), "b");
    assert_eq!(domain(&part.as_map().unwrap()), "a");
}

#[test]
fn an_address_without_a_prefix_length_is_no_subnet() {
    assert!(cidr::parse("10.0.0.0").is_err());
    assert!(cidr::parse("10.0.0.0/33").is_err());
    assert!(cidr::parse("10.0.0.0/8").is_ok());
}

/// A config with every kind of value, the keys of all its parts as documented.
fn whole_config() -> Value {
    json!({
        "cniVersion": "1.1.0", "name": "x", "type": "pausenet", "bridge": "br0", "mtu": 1400,
        "isGateway": true, "isDefaultGateway": true, "ipMasq": true, "vlan": 5,
        "vlanTrunk": [{"id": 7}, {"minID": 10, "maxID": 12}], "preserveDefaultVlan": true,
        "snat": false, "dns": {"nameservers": ["10.0.0.53"], "search": ["a.b"]},
        "ipam": {
            "type": "host-local", "dataDir": "/x", "resolvConf": "/y",
            "ranges": [[{"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.9", "gateway": "10.0.0.1"}],
                [{"subnet": "fd00::/64"}]],
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.0.0.1", "mtu": 1300, "priority": 5}],
            "addresses": [{"address": "10.0.0.5/24", "gateway": "10.0.0.1"}]
        },
        "runtimeConfig": {"portMappings": [
            {"hostPort": 80, "containerPort": 8080, "protocol": "tcp", "hostIP": "192.0.2.1"}
        ]}
    })
}

/// Another letter case for each letter that `choose` says.
fn in_other_case(value: &Value, choose: &mut impl FnMut() -> bool) -> Value {
    match value {
        Value::Array(list) => list
            .iter()
            .map(|item| in_other_case(item, choose))
            .collect(),
        Value::Object(entries) => {
            let mut other = serde_json::Map::new();
            for (key, value) in entries {
                let letters = key.chars().map(|letter| match choose() {
                    true if letter.is_ascii_lowercase() => letter.to_ascii_uppercase(),
                    true => letter.to_ascii_lowercase(),
                    false => letter,
                });
                other.insert(letters.collect(), in_other_case(value, choose));
            }
            Value::Object(other)
        }
        other => other.clone(),
    }
}

fn debug_of_all(value: &Value) -> [String; 3] {
    let json = Json::of("network config", value).unwrap();
    [
        format!("{:?}", json.read::<LinkKeys>()),
        format!("{:?}", json.read_part::<config::Ipam>(&["ipam"])),
        format!("{:?}", PortsConf::new(&json)),
    ]
}

/// Any JSON, often with keys that mean something.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z0-9./:]{0,12}".prop_map(Value::from),
        Just(Value::from("10.1.0.0/24")),
    ];
    let keys = prop_oneof![
        "(?i)(ipam|ranges|subnet|routes|dst|gw|dns|args|cni|ips|mac|type|mtu|vlan|vlanTrunk)",
        "(?i)(runtimeConfig|portMappings|hostPort|prevResult|interfaces|address|interface)",
        "[a-zſ]{1,6}",
    ];
    leaf.prop_recursive(5, 40, 5, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(keys.clone(), inner, 0..6)
                .prop_map(|map| map.into_iter().collect::<serde_json::Map<_, _>>().into()),
        ]
    })
}

proptest! {
    #[test]
    fn a_config_means_the_same_in_any_letter_case(flips: Vec<bool>) {
        let mut flips = flips.into_iter().cycle();
        let other = in_other_case(&whole_config(), &mut || flips.next().unwrap_or(true));
        prop_assert_eq!(debug_of_all(&other), debug_of_all(&whole_config()));
    }

    #[test]
    fn reading_any_json_never_panics(value in any_json()) {
        let Ok(json) = Json::of("network config", &value) else { return Ok(()) };
        let _ = json.read::<LinkKeys>();
        let _ = json.read_part::<config::Ipam>(&["ipam"]);
        let _ = PortsConf::new(&json);
        let _ = json.read::<Value>();
        if let Ok(previous) = json.part(&["prevResult"]) {
            let _ = previous.as_map().and_then(|map| map.read::<crate::cni::result::AddResult>());
        }
    }

    /// Read as JSON of any form, nothing changes.
    #[test]
    fn json_of_any_form_reads_back_as_itself(value in any_json()) {
        let Ok(json) = Json::of("network config", &value) else { return Ok(()) };
        prop_assert_eq!(json.read::<Value>().unwrap(), value);
    }
}

#[test]
fn networks_are_read_as_go_reads_them() {
    for (text, read) in [
        ("10.1.0.5/16", "10.1.0.5/16"),
        ("10.1.0.5/016", "10.1.0.5/16"),
        ("::ffff:10.1.0.5/112", "10.1.0.5/16"),
        ("::ffff:10.1.0.5/96", "10.1.0.5/0"),
        ("::10.1.0.5/112", "::a01:5/112"),
    ] {
        assert_eq!(cidr::parse(text).unwrap().to_string(), read, "{text}");
    }
    for bad in [
        "10.1.0.5",
        "10.1.0.5/",
        "10.1.0.5/33",
        "10.1.0.5/255.255.0.0",
        "10.1.0.5/+16",
        "10.1.0.5/16 ",
        "10.1.0.05/16",
        "fd00::1/129",
        "",
    ] {
        assert!(cidr::parse(bad).is_err(), "{bad:?}");
    }
}
