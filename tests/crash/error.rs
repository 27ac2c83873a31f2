//! Each system call refused once: the plugin says so, and leaves things as they were; or it goes
//! on without harm.

use crate::pods::{Host, TwoPods};
use crate::strace::{names, refused};
use common::{Call, PluginOutput};

/// What a call may be refused with. Calls that are not here cannot fail in a way that matters.
fn errors(name: &str) -> &'static [&'static str] {
    match name {
        "open" | "openat" => &["EMFILE", "EROFS"],
        "mkdir" | "mkdirat" | "linkat" | "rename" | "renameat2" => &["ENOSPC"],
        "write" | "pwrite64" | "writev" | "ftruncate" => &["ENOSPC"],
        "unlink" | "unlinkat" | "utimensat" | "fchmod" => &["EROFS"],
        "read" | "pread64" | "getdents64" | "fstat" | "statx" => &["EIO"],
        "flock" => &["ENOLCK"],
        "socket" | "pidfd_open" => &["EMFILE"],
        "clone" | "fork" => &["EAGAIN", "ENOMEM"],
        "close_range" => &["ENOSYS"],
        "bind" | "dup2" => &["EBUSY"],
        "ppoll" => &["EINTR", "ENOMEM"],
        "sendto" | "sendmsg" | "setns" => &["ENOMEM"],
        "recvfrom" | "recvmsg" => &["ENOMEM", "ENOBUFS"],
        _ => &[],
    }
}

/// Refuses each system call of `call`; `prepare` comes before each, `judge` and `heal` after.
pub(crate) fn each_refused(
    call: &Call,
    prepare: impl Fn(),
    heal: impl Fn(&str),
    judge: impl Fn(&str, PluginOutput),
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
fn del(pods: &TwoPods, after: &str) {
    let answer = pods.call("DEL").run();
    assert!(answer.0.status.success(), "{after}: {answer:?}");
    pods.assert_nothing_left(after);
}

fn refuse_add(host: Host) {
    let pods = TwoPods::new(host);
    let add = pods.call("ADD");
    each_refused(
        &add,
        || pods.reset(),
        |after| del(&pods, after),
        |after, answer| {
            if answer.0.status.success() {
                pods.assert_complete(&answer.ok(), after);
            } else {
                pods.assert_unchanged(&format!("{after}: {}", answer.err()));
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
    let pods = TwoPods::new(Host::Shared);
    let prepare = || {
        pods.call("ADD").run().ok();
    };
    let heal = |after: &str| del(&pods, after);
    each_refused(&pods.call("DEL"), prepare, heal, |after, answer| {
        if !answer.0.status.success() {
            answer.err();
        } else if !after.contains(" read(") && !after.contains("<... read resumed>") {
            // An address file that cannot be read is kept: it may be another's, and one bad
            // block must not make the DEL of every pod fail.
            pods.assert_unchanged(after);
        }
    });
}
