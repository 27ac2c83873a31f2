//! Tests of `host-local` as a whole, from config to addresses, on a store in a temporary folder.

mod model;

use std::ffi::OsString;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use serde_json::{Value, json};

use super::store::Store;
use super::*;
use crate::cni::Plugin;
use crate::cni::env::Environment;

/// A folder for stores, and `host-local` configured to use it.
struct Stores(tempfile::TempDir);

impl Stores {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// The network's store.
    fn dir(&self) -> std::path::PathBuf {
        self.0.path().join("podnet")
    }

    /// `host-local` for a container, with these keys added to `ipam` and to the config around it.
    fn host_local(
        &self,
        container: &str,
        args: &str,
        ipam: &Value,
        beside: &Value,
    ) -> Result<BoundHostLocal> {
        let mut conf = json!({"cniVersion": "1.1.0", "name": "podnet", "ipam": {
            "type": "host-local", "dataDir": self.0.path()}});
        merge(&mut conf, beside);
        merge(&mut conf["ipam"], ipam);
        let environment = Environment::parse(|name| {
            let value = match name {
                "CNI_COMMAND" => "ADD",
                "CNI_CONTAINERID" => container,
                "CNI_IFNAME" => "eth0",
                "CNI_NETNS" => "/run/netns/x",
                "CNI_PATH" => "/opt/cni/bin",
                "CNI_ARGS" => args,
                _ => return None,
            };
            Some(OsString::from(value))
        });
        let conf = conf.to_string().into_bytes();
        let request = Request::new(Plugin::HostLocal, &environment?.unwrap(), conf)?;
        match Ipam::new(&request.network)? {
            Some(Ipam::HostLocal(ipam)) => Ok(BoundHostLocal {
                ipam: ipam.with_indexes(self.0.path().join("index")),
                request,
            }),
            other => panic!("{other:?}"),
        }
    }

    fn allocate(&self, container: &str, ipam: &Value) -> Result<Vec<String>> {
        addresses(self.host_local(container, "", ipam, &json!({}))?.allocate())
    }

    fn release(&self, container: &str, ipam: &Value) {
        let host_local = self.host_local(container, "", ipam, &json!({}));
        host_local.unwrap().release().unwrap();
    }

    /// All taken addresses, sorted.
    fn taken(&self) -> Vec<IpAddr> {
        let store = Store::open_existing(&self.dir()).unwrap();
        let mut taken = store.map_or_else(Vec::new, |store| store.taken().unwrap());
        taken.sort();
        taken
    }
}

/// `host-local` and the attachment that it allocates for.
#[derive(Debug)]
struct BoundHostLocal {
    ipam: HostLocal,
    request: Request,
}

impl BoundHostLocal {
    fn allocate(&self) -> Result<Outcome> {
        let requested = &self.request.requested_ips;
        self.ipam.allocate(&self.request.attachment, requested)
    }

    fn release(&self) -> Result<()> {
        self.ipam.release(&self.request.attachment)
    }

    fn first_not_held(&self, expected: &[IpAddr]) -> Result<Option<IpAddr>> {
        self.ipam.first_not_held(&self.request.attachment, expected)
    }
}

fn merge(into: &mut Value, from: &Value) {
    for (key, value) in from.as_object().unwrap() {
        into[key] = value.clone();
    }
}

fn addresses(outcome: Result<Outcome>) -> Result<Vec<String>> {
    match outcome? {
        Outcome::Allocated(given) => {
            let addresses = given.addresses.iter();
            Ok(addresses.map(|given| given.address.to_string()).collect())
        }
        Outcome::AlreadyHeld(held) => panic!("holds {held:?} already"),
    }
}

fn subnet(text: &str) -> Value {
    json!({"ranges": [[{"subnet": text}]]})
}

#[test]
fn each_range_set_gives_an_address_with_its_prefix_length_and_gateway() {
    let stores = Stores::new();
    let ipam = json!({
        "ranges": [
            [{"subnet": "10.1.0.0/24"}],
            [{"subnet": "10.2.0.0/16", "rangeStart": "10.2.7.9", "gateway": "10.2.0.254"}],
            [{"subnet": "fd00::/64"}]
        ],
        "routes": [{"dst": "0.0.0.0/0"}]
    });

    let given = stores.host_local("c1", "", &ipam, &json!({}));
    let Outcome::Allocated(given) = given.unwrap().allocate().unwrap() else {
        panic!("nothing is held yet");
    };

    let shown: Vec<_> = given
        .addresses
        .iter()
        .map(|given| {
            (
                given.address.to_string(),
                given.gateway.unwrap().to_string(),
            )
        })
        .collect();
    let expected = [
        ("10.1.0.2/24", "10.1.0.1"),
        ("10.2.7.9/16", "10.2.0.254"),
        ("fd00::2/64", "fd00::1"),
    ];
    assert_eq!(
        shown,
        expected.map(|(address, gateway)| (address.to_owned(), gateway.to_owned()))
    );
    assert_eq!(given.routes.len(), 1);
    for set in 0..3 {
        assert!(
            stores
                .dir()
                .join(format!("last_reserved_ip.{set}"))
                .exists()
        );
    }
}

#[test]
fn the_legacy_form_is_the_first_set() {
    let stores = Stores::new();
    let ipam = json!({"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.20", "rangeEnd": "10.1.0.21",
                      "gateway": "10.1.0.20", "ranges": [[{"subnet": "10.2.0.0/24"}]]});
    assert_eq!(
        stores.allocate("c1", &ipam).unwrap(),
        ["10.1.0.21/24", "10.2.0.2/24"]
    );
}

#[test]
fn ranges_of_the_runtime_go_before_all() {
    let stores = Stores::new();
    let ipam = json!({"subnet": "10.1.0.0/24"});
    let beside = json!({"runtimeConfig": {"ipRanges": [[{"subnet": "10.9.0.0/24"}]]}});
    let host_local = stores.host_local("c1", "", &ipam, &beside).unwrap();
    assert_eq!(
        addresses(host_local.allocate()).unwrap(),
        ["10.9.0.2/24", "10.1.0.2/24"]
    );
}

#[test]
fn a_range_alone_may_come_from_the_runtime() {
    let stores = Stores::new();
    let beside = json!({"runtimeConfig": {"ipRanges": [[{"subnet": "10.9.0.0/24"}]]}});
    let host_local = stores.host_local("c1", "", &json!({}), &beside).unwrap();
    assert_eq!(addresses(host_local.allocate()).unwrap(), ["10.9.0.2/24"]);
    assert!(stores.host_local("c1", "", &json!({}), &json!({})).is_err());
}

#[test]
fn requests_of_all_sources_are_served_together_each_by_its_set() {
    let stores = Stores::new();
    let ipam = json!({"ranges": [
        [{"subnet": "10.1.0.0/24"}], [{"subnet": "10.2.0.0/24"}],
        [{"subnet": "10.3.0.0/24"}], [{"subnet": "fd00::/64"}]]});
    let beside = json!({
        "args": {"cni": {"ips": ["10.2.0.20/24"]}},
        "runtimeConfig": {"ips": ["fd00::44", "10.1.0.10"]}
    });
    let host_local = stores.host_local("c1", "IP=10.1.0.10", &ipam, &beside);
    assert_eq!(
        addresses(host_local.unwrap().allocate()).unwrap(),
        ["10.1.0.10/24", "10.2.0.20/24", "10.3.0.2/24", "fd00::44/64"],
        "the same address asked for twice is one requested"
    );
}

#[test]
fn a_request_that_cannot_be_met_reserves_nothing() {
    let ipam = json!({"ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "10.2.0.0/24"}]]});
    for (requested, code, words) in [
        ("IP=10.2.0.1", Code::InvalidConfig, "is the gateway"),
        ("IP=10.2.0.9", Code::TryAgainLater, "10.2.0.9 is taken"),
        ("IP=10.3.0.9", Code::InvalidConfig, "in no range set"),
        ("IP=10.2.0.255", Code::InvalidConfig, "in no range set"),
        ("IP=fd00::9", Code::InvalidConfig, "in no range set"),
    ] {
        let stores = Stores::new();
        fs::create_dir_all(stores.dir()).unwrap();
        fs::write(stores.dir().join("10.2.0.9"), "other\r\neth0").unwrap();
        let before = stores.taken();

        let host_local = stores.host_local("c1", requested, &ipam, &json!({}));
        let err = host_local.unwrap().allocate().unwrap_err();

        assert_eq!(err.code, code, "{requested}: {err}");
        assert!(err.msg.contains(words), "{requested}: {err}");
        assert_eq!(stores.taken(), before, "{requested}");
    }
}

#[test]
fn two_requests_for_one_set_are_refused() {
    let stores = Stores::new();
    let beside = json!({"runtimeConfig": {"ips": ["10.1.0.8", "10.1.0.9"]}});
    let host_local = stores.host_local("c1", "", &subnet("10.1.0.0/24"), &beside);
    let err = host_local.unwrap().allocate().unwrap_err();
    assert!(err.msg.contains("10.1.0.9"), "{err}");
    assert!(stores.taken().is_empty());
}

/// An address that has just been freed must not be reused at once: the search goes on.
#[test]
fn the_search_continues_after_the_last_address_and_wraps() {
    let stores = Stores::new();
    let ipam = subnet("10.1.0.0/29");
    let mut given = Vec::new();
    for n in 0..7 {
        given.extend(stores.allocate("c1", &ipam).unwrap());
        stores.release("c1", &ipam);
        assert!(stores.taken().is_empty(), "round {n}");
    }
    assert_eq!(
        given,
        [2, 3, 4, 5, 6, 2, 3].map(|host| format!("10.1.0.{host}/29"))
    );
}

#[test]
fn a_crowded_range_gives_its_last_free_address() {
    let stores = Stores::new();
    let ipam = subnet("10.1.0.0/24");
    for n in 0..253 {
        stores.allocate(&format!("c{n}"), &ipam).unwrap();
    }
    stores.release("c100", &ipam);
    assert_eq!(stores.allocate("new", &ipam).unwrap(), ["10.1.0.102/24"]);
}

#[test]
fn exhaustion_names_the_range_its_size_and_the_store_and_takes_nothing() {
    let stores = Stores::new();
    let ipam = json!({"ranges": [
        [{"subnet": "fd00::/64"}],
        [{"subnet": "10.1.0.0/30"}, {"subnet": "10.2.0.0/30"}]]});
    stores.allocate("c1", &ipam).unwrap();
    stores.allocate("c2", &ipam).unwrap();
    let before = stores.taken();

    let err = stores.allocate("c3", &ipam).unwrap_err();

    assert_eq!(err.code, Code::TryAgainLater);
    for words in [
        "range set 1",
        "10.1.0.1-10.1.0.2,10.2.0.1-10.2.0.2",
        "2 of 2 in use",
    ] {
        assert!(err.msg.contains(words), "no {words:?} in {err}");
    }
    assert!(
        err.details.contains(stores.dir().to_str().unwrap()),
        "{err}"
    );
    assert_eq!(stores.taken(), before, "the IPv6 one is given back");
}

#[test]
fn a_second_allocation_is_refused_and_names_the_first() {
    let stores = Stores::new();
    let ipam = subnet("10.1.0.0/24");
    stores.allocate("c1", &ipam).unwrap();
    for requested in ["", "IP=10.1.0.50"] {
        let host_local = stores
            .host_local("c1", requested, &ipam, &json!({}))
            .unwrap();
        match host_local.allocate().unwrap() {
            Outcome::AlreadyHeld(held) => assert_eq!(held, stores.taken()),
            Outcome::Allocated(given) => panic!("{given:?}"),
        }
    }
    assert_eq!(stores.taken().len(), 1);
}

#[test]
fn overlapping_sets_are_distinguished_by_number() {
    let stores = Stores::new();
    let ipam = json!({"ranges": [
        [{"subnet": "10.1.0.0/24"}], [{"subnet": "10.2.0.0/24"}], [{"subnet": "10.1.0.128/25"}]]});
    let err = stores.allocate("c1", &ipam).unwrap_err();
    assert_eq!(err.code, Code::InvalidConfig);
    assert!(
        err.msg
            .starts_with("ipam.ranges[2]: the range set overlaps with ipam.ranges[0]"),
        "{err}"
    );
}

#[test]
fn old_versions_have_room_for_one_address_of_each_family() {
    let stores = Stores::new();
    let two_families = json!({"ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]]});
    let two_of_one = json!({"ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "10.2.0.0/24"}]]});
    for version in ["0.1.0", "0.2.0"] {
        let beside = json!({"cniVersion": version});
        assert!(stores.host_local("c1", "", &two_families, &beside).is_ok());
        let err = stores
            .host_local("c1", "", &two_of_one, &beside)
            .unwrap_err();
        assert_eq!(err.code, Code::InvalidConfig);
    }
    let beside = json!({"cniVersion": "0.3.0"});
    assert!(stores.host_local("c1", "", &two_of_one, &beside).is_ok());
}

#[test]
fn resolv_conf_is_read_before_an_address_is_taken() {
    let stores = Stores::new();
    let file = stores.0.path().join("resolv.conf");
    let ipam = json!({"subnet": "10.1.0.0/24", "resolvConf": file});

    let err = stores.allocate("c1", &ipam).unwrap_err();
    assert_eq!(err.code, Code::Io);
    assert!(err.msg.contains(file.to_str().unwrap()), "{err}");
    assert!(!stores.dir().exists());

    fs::write(&file, "nameserver 10.9.9.9\n").unwrap();
    let host_local = stores.host_local("c1", "", &ipam, &json!({})).unwrap();
    match host_local.allocate().unwrap() {
        Outcome::Allocated(given) => assert_eq!(given.dns.nameservers, ["10.9.9.9"]),
        held => panic!("{held:?}"),
    }
}

#[test]
fn no_data_dir_means_the_reference_s() {
    let stores = Stores::new();
    for empty in [json!(null), json!("")] {
        let host_local = stores.host_local(
            "c1",
            "",
            &json!({"subnet": "10.1.0.0/24", "dataDir": empty}),
            &json!({}),
        );
        assert_eq!(
            host_local.unwrap().ipam.dir(),
            Path::new("/var/lib/cni/networks/podnet")
        );
    }
}

#[test]
fn release_makes_no_store() {
    let stores = Stores::new();
    stores.release("c1", &subnet("10.1.0.0/24"));
    assert!(!stores.dir().exists());
}

#[test]
fn a_lost_address_is_named_unless_it_is_outside_our_ranges() {
    let stores = Stores::new();
    let ipam = subnet("10.1.0.0/24");
    let host_local = stores.host_local("c1", "", &ipam, &json!({})).unwrap();
    let (ours, foreign): (IpAddr, IpAddr) =
        ("10.1.0.2".parse().unwrap(), "192.168.0.2".parse().unwrap());
    assert_eq!(
        host_local.first_not_held(&[foreign, ours]).unwrap(),
        Some(ours)
    );
    host_local.allocate().unwrap();
    assert_eq!(host_local.first_not_held(&[foreign, ours]).unwrap(), None);
    host_local.release().unwrap();
    assert_eq!(
        host_local.first_not_held(&[foreign, ours]).unwrap(),
        Some(ours)
    );
}
