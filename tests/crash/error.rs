//! Each system call refused once: the plugin says so, and leaves things as they were; or it goes
//! on without harm.

use crate::pods::{Host, Scene};
use crate::strace::{names, refused};
use common::{Answer, Call};

/// What a call may be refused with. Calls that are not here cannot fail in a way that matters.
fn errors(name: &str) -> &'static [&'static str] {
    match name {
        "open" | "openat" => &["EMFILE", "EROFS"],
        "mkdir" | "mkdirat" | "linkat" | "rename" | "renameat2" => &["ENOSPC"],
        "write" | "pwrite64" | "writev" | "ftruncate" => &["ENOSPC"],
        "unlink" | "unlinkat" | "utimensat" | "fchmod" => &["EROFS"],
        "read" | "pread64" | "getdents64" | "fstat" | "statx" => &["EIO"],
        "flock" => &["ENOLCK"],
        "socket" => &["EMFILE"],
        "sendto" | "sendmsg" | "recvfrom" | "recvmsg" | "setns" => &["ENOMEM"],
        _ => &[],
    }
}

/// Refuses each system call of `call`; `prepare` comes before each, `judge` and `heal` after.
pub fn each_refused(
    call: &Call,
    prepare: impl Fn(),
    heal: impl Fn(&str),
    judge: impl Fn(&str, Answer),
) {
    prepare();
    let names = names(call);
    heal("no error");
    for name in names {
        for errno in errors(&name) {
            for nth in 1.. {
                prepare();
                let Some(refused) = refused(call, &name, nth, errno) else {
                    heal("no error");
                    break;
                };
                if refused.can_be() {
                    judge(&refused.line, refused.answer);
                }
                heal(&refused.line);
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
        |after| del(&scene, after),
        |after, answer| {
            if answer.0.status.success() {
                scene.assert_whole(&answer.ok(), after);
            } else {
                scene.assert_as_before(&format!("{after}: {}", answer.err()));
            }
        },
    );
}

#[test]
fn an_add_on_a_fresh_host_survives_any_failed_syscall() {
    refuse_add(Host::Fresh);
}

#[test]
fn an_add_beside_a_neighbour_survives_any_failed_syscall() {
    refuse_add(Host::Shared);
}

#[test]
fn a_del_survives_any_failed_syscall() {
    let scene = Scene::new(Host::Shared);
    let prepare = || {
        scene.call("ADD").run().ok();
    };
    let heal = |after: &str| del(&scene, after);
    each_refused(&scene.call("DEL"), prepare, heal, |after, answer| {
        if !answer.0.status.success() {
            answer.err();
        } else if !after.contains(" read(") {
            // An address file that cannot be read is kept: it may be another's, and one bad
            // block must not make the DEL of every pod fail.
            scene.assert_as_before(after);
        }
    });
}
