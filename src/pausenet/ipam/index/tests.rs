//! Tests of the index alone, in a temporary folder.

use crate::cni::Family;
use std::fs;
use std::os::fd::AsFd;

use proptest::prelude::*;

use super::*;

/// A folder to index, and the folder for its index.
struct Place {
    folder: tempfile::TempDir,
    root: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            root: tempfile::tempdir().unwrap(),
        }
    }

    fn open(&self) -> Option<Index> {
        let folder = File::open(self.folder.path()).unwrap();
        Index::open(self.root.path(), folder.as_fd())
    }

    fn commit(&self, index: Index) {
        let folder = File::open(self.folder.path()).unwrap();
        index.commit(folder.as_fd());
    }

    /// An index of these addresses; holder n holds the n-th.
    fn with(&self, addresses: &[IpAddr]) -> Index {
        let folder = File::open(self.folder.path()).unwrap();
        let mut index = Index::new(self.root.path(), folder.as_fd(), addresses).unwrap();
        for (n, ip) in addresses.iter().enumerate() {
            index.add(*ip, &holder(n)).unwrap();
        }
        index
    }

    fn file(&self) -> PathBuf {
        let mut files = fs::read_dir(self.root.path()).unwrap();
        files.next().expect("an index").unwrap().path()
    }

    fn is_gone(&self) -> bool {
        fs::read_dir(self.root.path()).unwrap().next().is_none()
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn holder(n: usize) -> String {
    format!("container{n}\r\neth0")
}

fn v4(n: u32) -> IpAddr {
    std::net::Ipv4Addr::from(0x0a01_0000 + n).into()
}

fn hundred() -> Vec<IpAddr> {
    (2..102).map(v4).collect()
}

#[test]
fn a_committed_index_is_read_back() {
    let place = Place::new();
    place.commit(place.with(&hundred()));

    let mut index = place.open().unwrap();
    assert_eq!(index.addresses_of(&holder(7)).unwrap(), [v4(9)]);
    assert!(index.addresses_of("somebody else").unwrap().is_empty());
    index.remove(v4(9), &holder(7)).unwrap();
    index.add(ip("fd00::9"), &holder(8)).unwrap();
    place.commit(index);

    let mut index = place.open().unwrap();
    assert!(index.addresses_of(&holder(7)).unwrap().is_empty());
    let mut both = index.addresses_of(&holder(8)).unwrap();
    both.sort();
    assert_eq!(both, [v4(10), ip("fd00::9")]);
    assert_eq!(index.next_free(v4(2), v4(200)).unwrap(), Some(v4(9)));
    assert_eq!(index.next_free(v4(10), v4(200)).unwrap(), Some(v4(102)));
    assert_eq!(index.next_free(v4(10), v4(101)).unwrap(), None);
}

#[test]
fn an_index_is_ignored_after_another_program_changed_the_folder() {
    let place = Place::new();
    place.commit(place.with(&hundred()));
    let file = place.folder.path().join("x");
    fs::write(&file, "").unwrap();
    assert!(place.open().is_none());
    fs::remove_file(&file).unwrap();
    assert!(place.open().is_none());
}

/// A crash may leave half of it on a disk; another version may use another format.
#[test]
fn an_index_of_another_boot_or_version_is_ignored() {
    let changes: [fn(&mut Header); 2] = [
        |header| header.boot = "another".into(),
        |header| header.format += 1,
    ];
    for change in changes {
        let place = Place::new();
        let mut index = place.with(&hundred());
        change(&mut index.header);
        place.commit(index);
        assert!(place.file().exists());
        assert!(place.open().is_none());
    }
}

#[test]
fn another_folder_has_another_index() {
    let (one, other) = (Place::new(), Place::new());
    one.commit(one.with(&hundred()));
    let folder = File::open(other.folder.path()).unwrap();
    assert!(Index::open(one.root.path(), folder.as_fd()).is_none());
    // Nor is a copy of the file accepted.
    other.commit(other.with(&hundred()));
    fs::copy(one.file(), other.file()).unwrap();
    assert!(other.open().is_none());
}

#[test]
fn an_index_of_too_few_addresses_is_removed() {
    let place = Place::new();
    place.commit(place.with(&hundred()));
    let mut index = place.open().unwrap();
    for n in 0..97 {
        index.remove(v4(2 + n as u32), &holder(n)).unwrap();
    }
    place.commit(index);
    assert!(place.is_gone());
}

#[test]
fn an_inconsistent_index_is_reported() {
    let place = Place::new();
    let index = || place.with(&hundred());
    assert!(index().add(v4(2), "again").is_err());
    assert!(index().remove(v4(200), "nobody").is_err());
    assert!(index().remove(v4(2), "somebody else").is_err());
    assert!(index().compare(99).is_err());
    index().compare(100).unwrap();
}

#[test]
fn an_index_reports_that_it_is_full_and_is_correct_until_then() {
    let place = Place::new();
    let mut index = place.with(&hundred());
    let mut added = 0;
    while index.add(v4(1000 + added), &format!("more{added}")).is_ok() {
        added += 1;
        let last = format!("more{}", added - 1);
        assert_eq!(index.addresses_of(&last).unwrap(), [v4(999 + added)]);
        assert!(added < 10_000);
    }
    assert!(added > 100, "{added}");
}

/// Holders that come and go do not fill up the index.
#[test]
fn it_does_not_wear_out_by_holders_that_come_and_go() {
    let place = Place::new();
    let mut index = place.with(&hundred());
    for n in 0..20_000 {
        index.add(v4(5000), &format!("guest{n}")).unwrap();
        index.remove(v4(5000), &format!("guest{n}")).unwrap();
    }
}

#[test]
fn addresses_of_both_families_and_far_apart_are_distinguished() {
    let place = Place::new();
    let all = [
        "0.0.0.1",
        "::1",
        "::ffff:0.0.0.1",
        "255.255.255.255",
        "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    ]
    .map(ip);
    let mut index = place.with(&all);
    for (n, ip) in all.iter().enumerate() {
        assert_eq!(index.addresses_of(&holder(n)).unwrap(), [*ip]);
        assert!(index.is_taken(*ip).unwrap());
        assert_eq!(index.count(*ip, *ip).unwrap(), 1);
    }
    assert_eq!(index.count(ip("::"), all[4]).unwrap(), 3);
    assert_eq!(index.count(ip("0.0.0.0"), all[3]).unwrap(), 2);
    assert_eq!(index.next_free(all[4], all[4]).unwrap(), None);
    assert_eq!(index.next_free(all[3], all[3]).unwrap(), None);
    assert!(!index.is_taken(ip("0.0.0.0")).unwrap());
}

#[test]
fn addresses_too_far_apart_have_no_index() {
    let place = Place::new();
    let folder = File::open(place.folder.path()).unwrap();
    let sparse: Vec<_> = (0..40_000)
        .map(|n| address(n << 64, Family::Ipv6))
        .collect();
    assert!(Index::new(place.root.path(), folder.as_fd(), &sparse).is_none());
}

#[test]
fn an_index_that_cannot_be_written_does_not_exist() {
    let mut place = Place::new();
    place.root = tempfile::tempdir().unwrap();
    let file = place.root.path().join("a file");
    fs::write(&file, "").unwrap();
    let folder = File::open(place.folder.path()).unwrap();
    let index = Index::new(&file, folder.as_fd(), &hundred()).unwrap();
    index.commit(folder.as_fd());
    assert!(Index::open(&file, folder.as_fd()).is_none());
}

/// A long run of taken addresses, as in a crowded network.
#[test]
fn the_next_free_address_is_found_across_pages() {
    let place = Place::new();
    let run: Vec<_> = (2..20_000).map(v4).collect();
    let mut index = place.with(&run);
    assert_eq!(
        index.next_free(v4(3), v4(65_000)).unwrap(),
        Some(v4(20_000))
    );
    assert_eq!(index.next_free(v4(3), v4(19_999)).unwrap(), None);
    assert_eq!(index.count(v4(0), v4(65_535)).unwrap(), 19_998);
    assert_eq!(index.count(v4(4000), v4(4999)).unwrap(), 1000);
    index.remove(v4(12_287), &holder(12_285)).unwrap();
    assert_eq!(
        index.next_free(v4(3), v4(65_000)).unwrap(),
        Some(v4(12_287))
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever happens to the file, it is rejected, reports an inconsistency, or is right.
    #[test]
    fn a_corrupted_index_gives_no_wrong_answer(
        at in any::<proptest::sample::Index>(),
        length in 1usize..2000,
        fill in proptest::option::of(any::<u8>()),
    ) {
        let place = Place::new();
        place.commit(place.with(&hundred()));
        let path = place.file();
        let mut bytes = fs::read(&path).unwrap();
        let at = at.index(bytes.len());
        match fill {
            // Truncated.
            None => bytes.truncate(at),
            Some(fill) => {
                let end = (at + length).min(bytes.len());
                bytes[at..end].fill(fill);
            }
        }
        fs::write(&path, &bytes).unwrap();
        let Some(mut index) = place.open() else {
            return Ok(());
        };
        for n in 0..100 {
            if let Ok(found) = index.addresses_of(&holder(n)) {
                prop_assert_eq!(found, [v4(2 + n as u32)]);
            }
            if let Ok(taken) = index.is_taken(v4(2 + n as u32)) {
                prop_assert!(taken);
            }
        }
        if let Ok(free) = index.next_free(v4(2), v4(200)) {
            prop_assert_eq!(free, Some(v4(102)));
        }
        if let Ok(count) = index.count(v4(0), v4(200)) {
            prop_assert_eq!(count, 100);
        }
    }
}
