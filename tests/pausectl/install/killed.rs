//! `install` and `--uninstall`, killed or refused at any step.

use std::fs;
use std::os::unix::fs::MetadataExt;

use common::World;

use super::folders::{ALL, InstallFolders, NEWER, said};

/// Under each name there is a whole file: theirs, or one of these versions.
#[track_caller]
fn assert_whole(folders: &InstallFolders, versions: &[&str], after: &str) {
    let mut known: Vec<_> = versions.iter().map(|name| folders.version(name)).collect();
    known.push(b"theirs".to_vec());
    // ptp is theirs while it leads to bridge, whichever that is.
    for name in ["bridge", "ptp"] {
        assert!(known.contains(&folders.read(name)), "{after}: {name}");
    }
    if folders.net().join("10-podnet.conflist").exists() {
        let mode = fs::metadata(folders.bin().join("pausenet")).unwrap().mode();
        assert_eq!(mode & 0o777, 0o755, "{after}: the network came first");
    }
}

#[test]
fn an_install_killed_at_any_step_can_be_undone() {
    let _world = World::new();
    let folders = InstallFolders::with_others();
    let before = folders.files();
    let prepare = || assert_eq!(folders.files(), before);
    let kills = folders.at_each_step(&ALL, "signal=KILL", prepare, |after, _| {
        assert_whole(&folders, &["v1"], after);
    });
    prepare();
    assert!(kills > 40, "{kills}");
}

#[test]
fn an_install_killed_at_any_step_can_be_repeated() {
    let _world = World::new();
    let folders = InstallFolders::with_others();
    let before = folders.files();
    let prepare = || assert_eq!(folders.files(), before);
    folders.at_each_step(&ALL, "signal=KILL", prepare, |after, _| {
        folders.ok(&NEWER);
        let v2 = folders.version("v2");
        for name in ["pausenet", "bridge", "ptp"] {
            assert_eq!(folders.read(name), v2, "{after}: {name}");
        }
        assert_eq!(
            folders.read(".pausenet-replaced/bridge"),
            b"theirs",
            "{after}"
        );
    });
    prepare();
}

#[test]
fn an_upgrade_killed_at_any_step_loses_nothing() {
    let _world = World::new();
    let folders = InstallFolders::with_others();
    let before = folders.files();
    let prepare = || {
        assert_eq!(folders.files(), before);
        folders.ok(&ALL);
    };
    let kills = folders.at_each_step(&NEWER, "signal=KILL", prepare, |after, _| {
        assert_whole(&folders, &["v1", "v2"], after);
        assert_eq!(
            folders.read(".pausenet-replaced/bridge"),
            b"theirs",
            "{after}"
        );
    });
    assert_eq!(folders.files(), before);
    assert!(kills > 20, "{kills}");
}

#[test]
fn an_uninstall_killed_at_any_step_can_be_finished() {
    let _world = World::new();
    let folders = InstallFolders::with_others();
    let before = folders.files();
    let prepare = || {
        assert_eq!(folders.files(), before);
        folders.ok(&ALL);
    };
    let kills = folders.at_each_step(&["--uninstall"], "signal=KILL", prepare, |after, _| {
        assert_whole(&folders, &["v1"], after);
    });
    assert_eq!(folders.files(), before);
    assert!(kills > 10, "{kills}");
}

#[test]
fn an_install_with_any_failed_syscall_reports_it_and_loses_nothing() {
    let _world = World::new();
    let folders = InstallFolders::with_others();
    let before = folders.files();
    let prepare = || assert_eq!(folders.files(), before);
    folders.at_each_step(&ALL, "error=ENOSPC", prepare, |after, output| {
        assert_whole(&folders, &["v1"], after);
        if !output.status.success() {
            let said = said(output);
            assert_eq!(output.status.code(), Some(1), "{after}: {said}");
            assert!(said.contains("error: "), "{after}: {said}");
        }
    });
    prepare();
}
