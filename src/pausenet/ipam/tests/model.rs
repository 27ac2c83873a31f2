//! Compares `host-local` with a model of it, for any sequence of calls and for any interference of
//! other programs with its store and its index.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{BoundHostLocal, Stores};
use crate::cni::Code;
use crate::ipam::Outcome;

/// The rules in their shortest form: for each set its addresses and the position where the search
/// left off, and the reservations.
struct Model {
    sets: Vec<(Vec<IpAddr>, Option<usize>)>,
    held: BTreeMap<IpAddr, Reservation>,
}

/// The holder in an address file, as the number of its container.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Reservation {
    Current(u8),
    /// In a file of the old form, which names the container alone.
    OldForm(u8),
}

impl Reservation {
    fn container(self) -> u8 {
        let (Self::Current(container) | Self::OldForm(container)) = self;
        container
    }

    fn content(self) -> String {
        match self {
            Self::Current(container) => format!("c{container}\r\neth0"),
            Self::OldForm(container) => format!("c{container}"),
        }
    }
}

#[derive(Debug, PartialEq)]
enum AllocationResult {
    Allocated(Vec<IpAddr>),
    AlreadyHeld(Vec<IpAddr>),
    Refused,
}

impl Model {
    fn new(sets: &[&[&str]]) -> Self {
        let parsed = |set: &&[&str]| set.iter().map(|ip| ip.parse().unwrap()).collect();
        Self {
            sets: sets.iter().map(|set| (parsed(set), None)).collect(),
            held: BTreeMap::new(),
        }
    }

    fn add(&mut self, container: u8, requested: Option<IpAddr>) -> AllocationResult {
        let held = self.held.iter();
        let held: Vec<_> = held
            .filter(|(_, held)| held.container() == container)
            .collect();
        if !held.is_empty() {
            let new = |(_, held): &&(_, &Reservation)| matches!(held, Reservation::Current(_));
            let (new, old): (Vec<_>, Vec<_>) = held.iter().partition(new);
            return AllocationResult::AlreadyHeld(
                new.iter().chain(&old).map(|(ip, _)| **ip).collect(),
            );
        }
        let mut given = Vec::new();
        for (set, cursor) in &mut self.sets {
            let next = cursor.map_or(0, |at| at + 1);
            let mut order = (next..next + set.len()).map(|at| at % set.len());
            let free = |at: &usize| !self.held.contains_key(&set[*at]);
            let requested_at =
                requested.and_then(|requested| set.iter().position(|ip| *ip == requested));
            let found = match requested_at {
                Some(at) => Some(at).filter(free),
                None => order.find(free),
            };
            let Some(at) = found else {
                self.del(container);
                return AllocationResult::Refused;
            };
            *cursor = Some(at);
            self.held.insert(set[at], Reservation::Current(container));
            given.push(set[at]);
        }
        AllocationResult::Allocated(given)
    }

    fn del(&mut self, container: u8) {
        let new = Reservation::Current(container);
        let has_new = self.held.values().any(|held| *held == new);
        let gone = if has_new {
            new
        } else {
            Reservation::OldForm(container)
        };
        self.held.retain(|_, held| *held != gone);
    }

    fn keep(&mut self, containers: u8) {
        self.held.retain(|_, held| held.container() < containers);
    }
}

#[derive(Debug, Clone)]
enum Call {
    Add(u8),
    AddWith(u8, u8),
    Del(u8),
    /// Frees the addresses of this container and all later ones.
    Collect(u8),
    /// Another program reserves or frees an address.
    Take(u8, Reservation),
    Free(u8),
    /// The index is truncated, or part of it is overwritten.
    Cut(proptest::sample::Index),
    Overwrite(proptest::sample::Index),
    /// The index is replaced with its copy of the last such call.
    PutBack,
}

/// The addresses that the calls, and the other program, reserve and free.
const SETS: [&[&str]; 2] = [
    &[
        "10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.5", "10.1.0.6", "10.2.0.3", "10.2.0.4",
    ],
    &[
        "fd00::2", "fd00::3", "fd00::4", "fd00::5", "fd00::6", "fd00::7",
    ],
];

fn nth(address: u8) -> IpAddr {
    let all = SETS.concat();
    all[usize::from(address) % all.len()].parse().unwrap()
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let container = 0u8..9;
    let held = prop_oneof![
        3 => container.clone().prop_map(Reservation::Current),
        1 => container.clone().prop_map(Reservation::OldForm),
    ];
    let call = prop_oneof![
        12 => container.clone().prop_map(Call::Add),
        3 => (container.clone(), 2u8..=6).prop_map(|(c, host)| Call::AddWith(c, host)),
        9 => container.clone().prop_map(Call::Del),
        1 => container.prop_map(Call::Collect),
        3 => (any::<u8>(), held).prop_map(|(at, held)| Call::Take(at, held)),
        3 => any::<u8>().prop_map(Call::Free),
        1 => any::<proptest::sample::Index>().prop_map(Call::Cut),
        2 => any::<proptest::sample::Index>().prop_map(Call::Overwrite),
        2 => Just(Call::PutBack),
    ];
    proptest::collection::vec(call, 1..60)
}

/// Taken addresses outside the ranges that the calls use.
const CROWD: u8 = 40;

/// `host-local` on a store that is small, or that has so many other addresses that it is indexed.
struct Scenario {
    stores: Stores,
    crowd: Vec<IpAddr>,
    ipam: Value,
    /// An earlier copy of the index.
    index: Option<Vec<u8>>,
}

impl Scenario {
    fn new(crowd: u8) -> Self {
        let ipam = json!({"ranges": [
            [{"subnet": "10.1.0.0/29", "gateway": "10.1.0.4"},
             {"subnet": "10.2.0.0/29", "rangeStart": "10.2.0.3", "rangeEnd": "10.2.0.4"}],
            [{"subnet": "fd00::/125"}]]});
        let scenario = Self {
            stores: Stores::new(),
            crowd: (0..crowd).map(|n| IpAddr::from([10, 9, 0, n])).collect(),
            ipam,
            index: None,
        };
        fs::create_dir_all(scenario.stores.dir()).unwrap();
        for ip in &scenario.crowd {
            fs::write(scenario.file(*ip), "neighbour\r\neth0").unwrap();
        }
        scenario
    }

    fn file(&self, ip: IpAddr) -> std::path::PathBuf {
        self.stores.dir().join(ip.to_string())
    }

    fn index(&self) -> Option<std::path::PathBuf> {
        let mut found = fs::read_dir(self.stores.0.path().join("index")).ok()?;
        Some(found.next()?.unwrap().path())
    }

    fn host_local(&self, container: u8, requested: Option<IpAddr>) -> BoundHostLocal {
        let args = requested
            .map(|requested| format!("IP={requested}"))
            .unwrap_or_default();
        let container = format!("c{container}");
        let host_local = self
            .stores
            .host_local(&container, &args, &self.ipam, &json!({}));
        host_local.unwrap()
    }

    fn add(&self, container: u8, requested: Option<IpAddr>) -> AllocationResult {
        match self.host_local(container, requested).allocate() {
            Ok(Outcome::Allocated(given)) => AllocationResult::Allocated(
                given
                    .addresses
                    .iter()
                    .map(|given| given.address.ip())
                    .collect(),
            ),
            Ok(Outcome::AlreadyHeld(held)) => AllocationResult::AlreadyHeld(held),
            Err(err) => {
                assert_eq!(err.code, Code::TryAgainLater);
                AllocationResult::Refused
            }
        }
    }

    fn tamper(&mut self, call: &Call) {
        let Some(path) = self.index() else { return };
        let mut bytes = fs::read(&path).unwrap();
        match call {
            Call::Cut(at) => bytes.truncate(at.index(bytes.len())),
            Call::Overwrite(at) => {
                let at = at.index(bytes.len());
                bytes[at..].iter_mut().take(700).for_each(|byte| *byte = 0);
            }
            _ => bytes = self.index.replace(bytes.clone()).unwrap_or(bytes),
        }
        fs::write(&path, bytes).unwrap();
    }

    /// Every taken address except the crowd's.
    fn taken(&self) -> Vec<IpAddr> {
        let mut taken = self.stores.taken();
        taken.retain(|ip| !self.crowd.contains(ip));
        taken
    }
}

/// Checks for a sequence of calls that no container is given an address that another holds, and
/// that each gets the one that round robin prescribes.
fn run(calls: Vec<Call>, crowd: u8) {
    let mut scenario = Scenario::new(crowd);
    let mut model = Model::new(&SETS);
    for call in calls {
        match &call {
            Call::Del(c) => {
                model.del(*c);
                scenario.host_local(*c, None).release().unwrap();
            }
            Call::Add(c) => assert_eq!(scenario.add(*c, None), model.add(*c, None)),
            Call::AddWith(c, host) => {
                // An address of either set; 10.1.0.4 would be the gateway.
                let requested = match host {
                    4 => "fd00::4".to_owned(),
                    host => format!("10.1.0.{host}"),
                };
                let requested = requested.parse().ok();
                assert_eq!(scenario.add(*c, requested), model.add(*c, requested));
            }
            Call::Collect(from) => {
                model.keep(*from);
                let valid = |container: &str, _: &str| {
                    container
                        .strip_prefix('c')
                        .is_none_or(|c| c.parse::<u8>().unwrap() < *from)
                };
                scenario
                    .host_local(0, None)
                    .ipam
                    .release_others(valid)
                    .unwrap();
            }
            Call::Take(at, held) => {
                let ip = nth(*at);
                fs::write(scenario.file(ip), held.content()).unwrap();
                if model.held.insert(ip, *held).is_some() {
                    // A file overwritten in place goes undetected without a change of the folder.
                    fs::write(scenario.file(ip).with_file_name("note"), "").unwrap();
                    fs::remove_file(scenario.file(ip).with_file_name("note")).unwrap();
                }
            }
            Call::Free(at) => {
                let ip = nth(*at);
                if model.held.remove(&ip).is_some() {
                    fs::remove_file(scenario.file(ip)).unwrap();
                }
            }
            Call::Cut(_) | Call::Overwrite(_) | Call::PutBack => scenario.tamper(&call),
        }
        let held: Vec<_> = model.held.keys().copied().collect();
        assert_eq!(scenario.taken(), held, "{call:?}");
    }
    // An index found inconsistent in the middle of a call is rebuilt by the next.
    for _ in 0..2 {
        scenario.host_local(0, None).release().unwrap();
    }
    assert!(scenario.index().is_some() || crowd == 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_calls_are_answered_as_the_rules_prescribe(calls in calls()) {
        run(calls, 0);
    }

    #[test]
    fn an_index_changes_no_answer(calls in calls()) {
        run(calls, CROWD);
    }
}
