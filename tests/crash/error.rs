//! Each system call refused once: the plugin says so, and leaves things as they were; or it goes
//! on without harm.

use crate::common::{Answer, Call};
use crate::scene::{Host, Scene};
use crate::strace::{names, refused};

/// What a call may be refused with. Calls that are not here cannot fail in a way that matters.
fn errors(name: &str) -> &'static [&'static str] {
    match name {
        "open" | "openat" => &["EMFILE", "ENOSPC", "EROFS"],
        "mkdir" | "mkdirat" | "linkat" | "rename" | "renameat2" => &["ENOSPC", "EROFS"],
        "write" | "pwrite64" | "writev" | "ftruncate" => &["ENOSPC", "EIO"],
        "unlink" | "unlinkat" | "utimensat" | "fchmod" => &["EROFS", "EIO"],
        "read" | "getdents64" | "fstat" | "statx" => &["EIO"],
        "flock" => &["ENOLCK"],
        "socket" => &["EMFILE", "ENOMEM"],
        "sendto" | "sendmsg" | "recvfrom" | "recvmsg" | "setns" => &["ENOMEM"],
        _ => &[],
    }
}

/// Refuses each system call of `call`; `prepare` comes before each, `judge` after.
fn each_refused(call: &Call, prepare: impl Fn(), judge: impl Fn(&str, Answer)) {
    prepare();
    for name in names(call) {
        for errno in errors(&name) {
            for nth in 1.. {
                prepare();
                let Some(refused) = refused(call, &name, nth, errno) else {
                    break;
                };
                if refused.can_be() {
                    judge(&refused.line, refused.answer);
                }
            }
        }
    }
}

/// DEL once more, without a fault: nothing is left.
#[track_caller]
fn del(scene: &Scene, after: &str) {
    let answer = scene.call("DEL").run();
    assert!(answer.0.status.success(), "{after}: {answer:?}");
    scene.assert_nothing_left(after);
}

fn refuse_add(host: Host) {
    let scene = Scene::new(host);
    let add = scene.call("ADD");
    each_refused(
        &add,
        || scene.reset(),
        |after, answer| {
            if answer.0.status.success() {
                scene.assert_whole(&answer.ok(), after);
            } else {
                scene.assert_as_before(&format!("{after}: {}", answer.err()));
            }
            del(&scene, after);
        },
    );
}

#[test]
fn an_add_on_a_fresh_host() {
    refuse_add(Host::Fresh);
}

#[test]
fn an_add_beside_a_neighbour() {
    refuse_add(Host::Shared);
}

#[test]
fn a_del() {
    let scene = Scene::new(Host::Shared);
    let prepare = || {
        scene.reset();
        scene.call("ADD").run().ok();
    };
    each_refused(&scene.call("DEL"), prepare, |after, answer| {
        if !answer.0.status.success() {
            answer.err();
        } else if !after.contains(" read(") {
            // An address file that cannot be read is kept: it may be another's, and one bad
            // block must not make the DEL of every pod fail.
            scene.assert_as_before(after);
        }
        del(&scene, after);
    });
}
