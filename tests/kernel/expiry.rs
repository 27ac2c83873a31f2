//! Removal of nftables elements: they expire in the kernel, so that DEL does not wait for nftables
//! locks. Where elements cannot expire, they are deleted.

use std::fs::{self, File};
use std::process::{Command, Stdio};

use pausenet::kernel::nft::{Change, Element, Kind, Nft, Set, Table, TableFamily};
use serde_json::{Value, json};

use crate::ports::{mapped, mapping};
use common::nftables::{element_count, ruleset};
use common::traffic::{HOST, listen, tcp};
use common::wait::wait_until;
use common::{World, added, call, podnet, run, with};

fn masqueraded() -> Value {
    with(podnet(), json!({"ipMasq": true}))
}

/// The events of `work` that `nft monitor` prints.
fn news_of(work: impl FnOnce()) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("news");
    let mut monitor = Command::new("nft")
        .arg("monitor")
        .stdout(File::create(&path).unwrap())
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let news = || fs::read_to_string(&path).unwrap();
    wait_until("nft monitor listens", || {
        run("nft", ["add table ip first; delete table ip first"]);
        news().contains("ip first")
    });
    work();
    run("nft", ["add table ip last; delete table ip last"]);
    wait_until("nft monitor has printed everything", || {
        news().contains("ip last")
    });
    monitor.kill().unwrap();
    monitor.wait().unwrap();
    news()
}

#[test]
fn del_lets_elements_expire() {
    let world = World::new();
    let config = with(mapped(), json!({"ipMasq": true}));
    let (x, result) = added(&world, &config, "x");
    let owner = "pausenet podnet x eth0";
    assert!(element_count(owner) > 1);
    let config = with(config, json!({"prevResult": result}));

    let news = news_of(|| {
        call("DEL", &config, &x).run().ok();
        // Not a moment later than the answer.
        assert_eq!(element_count(owner), 0);
    });

    if news.contains("delete element") && is_older_than(6, 12) {
        return common::lab::skip_for_the_kernel("timeouts that can be changed (Linux 6.12)");
    }
    assert!(!news.contains("delete element"), "{news}");
    assert!(news.contains("expires"), "{news}");
}

fn is_older_than(major: u32, minor: u32) -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release
        .split(['.', '-'])
        .map(|part| part.trim().parse().unwrap_or(0));
    (numbers.next().unwrap(), numbers.next().unwrap()) < (major, minor)
}

/// Sets that were made otherwise, or by another version.
#[test]
fn del_removes_elements_that_cannot_expire() {
    let world = World::new();
    let (first, _) = added(&world, &masqueraded(), "first");
    call("DEL", &masqueraded(), &first).run().ok();
    let plain: String = ruleset()
        .lines()
        .filter(|line| {
            !["flags timeout", "gc-interval"].contains(&line.trim().trim_end_matches("1m").trim())
        })
        .map(|line| format!("{line}\n"))
        .collect();
    assert_ne!(plain, ruleset());
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, format!("flush ruleset\n{plain}")).unwrap();
    run("nft", ["-f", file.path().to_str().unwrap()]);
    let before = ruleset();
    let (x, result) = added(&world, &masqueraded(), "x");
    assert_eq!(element_count("pausenet podnet x eth0"), 1);

    let config = with(masqueraded(), json!({"prevResult": result}));
    call("DEL", &config, &x).run().ok();

    assert_eq!(ruleset(), before);
}

/// A DEL was killed before it had seen the end of them.
#[test]
fn an_expiring_element_counts_as_absent() {
    let world = World::new();
    let port = |target| {
        mapping(
            podnet(),
            json!([{"hostPort": 8080, "containerPort": target}]),
        )
    };
    let (x, result) = added(&world, &port(80), "x");
    let config = with(port(80), json!({"prevResult": result}));
    call("CHECK", &config, &x).run().ok();
    run(
        "nft",
        ["add element inet pausenet ports4 { tcp . 8080 timeout 1h : 10.1.0.2 . 80 }"],
    );

    call("CHECK", &config, &x).run().err_code(102);
    let (y, _) = added(&world, &port(80), "y");

    tcp(&listen(Some(&y), "[::]:80"), HOST, "10.1.0.1:8080");
    // And a late DEL of its former holder removes nothing.
    call("DEL", &config, &x).run().ok();
    tcp(&listen(Some(&y), "[::]:80"), HOST, "10.1.0.1:8080");
    let z = world.container("z");
    call("ADD", &port(81), &z).run().err_code(103);
}

#[test]
fn an_element_with_different_data_does_not_expire() {
    let _world = World::new();
    let table = Table {
        family: TableFamily::Inet,
        name: "pausenet",
    };
    let map = Set {
        table,
        name: "map".to_owned(),
        key: vec![Kind::Ipv4],
        data: vec![Kind::Ipv4],
    };
    let element = |data: [u8; 4]| Element {
        key: vec![10, 0, 0, 1],
        data: data.to_vec(),
        owner: "x".to_owned(),
        expires: false,
    };
    let mut nft = Nft::open().unwrap();
    nft.commit(
        &[
            Change::Table(table),
            Change::Set(map.clone()),
            Change::Add(map.clone(), element([1; 4])),
        ],
        None,
    )
    .unwrap();

    let refusal = nft
        .commit(&[Change::Expire(map.clone(), element([2; 4]))], None)
        .unwrap_err()
        .error;

    assert!(refusal.is(rustix::io::Errno::EXIST), "{refusal:?}");
    let mut look = || nft.look_up(&[(&map, vec![10, 0, 0, 1])]).unwrap().remove(0);
    assert_eq!(look(), Some(element([1; 4])));
}
