//! The reference and ours at the same time, in one store that is too small for all of them.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::Mutex;

use serde_json::{Value, json};

use crate::{Peers, error, fill_store, ips, peers};
use common::{Call, STORES, World, allocated};

/// Workers of each kind: more than twice as many as there are addresses.
const WORKERS: usize = 4;
const ROUNDS: usize = 25;

/// Who has which address, as far as the workers know.
type Holders = Mutex<HashMap<String, String>>;

#[test]
fn no_address_is_given_twice() {
    let Some(peers) = peers() else { return };
    for peers in &peers {
        churn(peers, || ());
    }
}

/// The same where ours has an index, which theirs knows nothing of.
#[test]
fn no_address_is_given_twice_in_a_large_store() {
    let Some(peers) = peers() else { return };
    for peers in &peers {
        churn(peers, || fill_store(&Path::new(STORES).join("podnet")));
    }
}

fn churn(peers: &Peers, prepare: impl Fn()) {
    let world = World::new();
    prepare();
    let before = allocated("podnet");
    let stores = Path::new(STORES);
    let config = &peers.network(json!([[{"subnet": "10.1.0.0/29"}]]), stores);
    let containers: Vec<_> = (0..WORKERS)
        .map(|at| world.container(&format!("ours{at}")))
        .collect();
    let links = world.links().len();
    let held = &Holders::default();

    let ours = containers.iter().enumerate().map(|(at, container)| {
        let id = format!("ours{at}");
        let call = |verb| Call::new(verb, config).id(&id).netns(container);
        (call("ADD"), call("DEL"), id.clone())
    });
    let theirs = (0..WORKERS).map(|at| {
        let id = format!("theirs{at}");
        let call = |verb| peers.host_local(verb, config).id(&id);
        (call("ADD"), call("DEL"), id.clone())
    });
    let served: Vec<usize> = std::thread::scope(|scope| {
        let start =
            |(add, del, id): (Call, Call, String)| scope.spawn(move || work(&id, held, &add, &del));
        let all: Vec<_> = ours.chain(theirs).map(start).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });

    // Neither kind was starved, nothing is left.
    let (ours, theirs) = served.split_at(WORKERS);
    assert!(ours.iter().any(|count| *count > 0), "{served:?}");
    assert!(theirs.iter().any(|count| *count > 0), "{served:?}");
    assert_eq!(allocated("podnet"), before);
    assert_eq!(world.links().len(), links + 1, "the bridge");
}

/// ADD and DEL in a row; how often an ADD was served.
fn work(id: &str, held: &Holders, add: &Call, del: &Call) -> usize {
    let mut served = 0;
    for _ in 0..ROUNDS {
        let answer = add.run();
        if !answer.0.status.success() {
            assert_full(&error(&answer));
            continue;
        }
        served += 1;
        let result = answer.ok();
        let (address, gateway) = &ips(&result)[0];
        let ip = address.trim_end_matches("/29");
        assert_ne!(ip, gateway);
        // From the end of ADD to the beginning of DEL it is this worker's alone.
        let other = held.lock().unwrap().insert(ip.to_owned(), id.to_owned());
        assert_eq!(other, None, "{ip} is given to {id} while another has it");
        let file = fs::read_to_string(Path::new("/var/lib/cni/networks/podnet").join(ip));
        assert_eq!(file.unwrap(), format!("{id}\r\neth0"));
        held.lock().unwrap().remove(ip);
        del.run().ok();
    }
    served
}

/// The one error that may be: no address is free.
fn assert_full(error: &Value) {
    let msg = error["msg"].as_str().unwrap();
    let full = ["no free address", "no IP addresses available"];
    assert!(full.iter().any(|words| msg.contains(words)), "{error}");
}
