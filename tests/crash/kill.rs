//! kill -9 before each system call that changes something: the next call of the runtime heals.

use crate::pods::{Host, TwoPods};
use crate::strace::{changing, killed};
use common::Call;

/// Kills `call` at every point; `prepare` comes before each, `heal` after. Gives back how often.
pub(crate) fn at_every_point(call: &Call, prepare: impl Fn(), heal: impl Fn(&str)) -> usize {
    let mut kills = 0;
    prepare();
    let names = changing(call);
    heal("not killed");
    for name in names {
        for nth in 1.. {
            prepare();
            let killed = killed(call, &name, nth);
            heal(&format!("killed before {name} number {nth}"));
            if !killed {
                assert!(nth > 1, "never killed before {name}");
                break;
            }
            kills += 1;
        }
    }
    kills
}

/// ADD, as a runtime tries it again. One that was finished before it could say so is refused,
/// and has to be deleted first.
fn add_again(pods: &TwoPods, after: &str) {
    let add = pods.call("ADD");
    if pods.is_committed() {
        add.run().err_code(100);
        del(pods, after);
    }
    let answer = add.run();
    assert!(answer.0.status.success(), "{after}: {answer:?}");
    pods.assert_complete(&answer.ok(), after);
}

fn del(pods: &TwoPods, after: &str) {
    let answer = pods.call("DEL").run();
    assert!(answer.0.status.success(), "{after}: {answer:?}");
    pods.assert_nothing_left(after);
}

#[test]
fn add_on_a_fresh_host_killed_at_any_syscall_leaves_nothing() {
    let pods = TwoPods::new(Host::Fresh);
    let prepare = || pods.reset();
    let kills = at_every_point(&pods.call("ADD"), prepare, |after| {
        add_again(&pods, after);
        del(&pods, after);
    });
    assert!(kills > 40, "{kills}");
}

#[test]
fn add_beside_a_neighbour_killed_at_any_syscall_leaves_nothing() {
    let pods = TwoPods::new(Host::Shared);
    let kills = at_every_point(
        &pods.call("ADD"),
        || (),
        |after| {
            add_again(&pods, after);
            del(&pods, after);
        },
    );
    let again = at_every_point(&pods.call("ADD"), || (), |after| del(&pods, after));
    assert!(kills > 30 && again > 30, "{kills}, {again}");
}

#[test]
fn del_killed_at_any_syscall_leaves_nothing() {
    let pods = TwoPods::new(Host::Shared);
    let prepare = || {
        pods.call("ADD").run().ok();
    };
    let kills = at_every_point(&pods.call("DEL"), prepare, |after| del(&pods, after));
    let again = at_every_point(&pods.call("DEL"), prepare, |after| {
        add_again(&pods, after);
        del(&pods, after);
    });
    assert!(kills > 8 && again > 8, "{kills}, {again}");
}
