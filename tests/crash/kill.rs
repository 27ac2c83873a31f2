//! kill -9 before each system call that changes something: the next call of the runtime heals.

use crate::pods::{Host, Scene};
use crate::strace::{changing, killed};
use common::Call;

/// Kills `call` at every point; `prepare` comes before each, `heal` after. Gives back how often.
pub fn at_every_point(call: &Call, prepare: impl Fn(), heal: impl Fn(&str)) -> usize {
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
fn add_again(scene: &Scene, after: &str) {
    let add = scene.call("ADD");
    if scene.is_committed() {
        add.run().err_code(100);
        del(scene, after);
    }
    let answer = add.run();
    assert!(answer.0.status.success(), "{after}: {answer:?}");
    scene.assert_whole(&answer.ok(), after);
}

fn del(scene: &Scene, after: &str) {
    let answer = scene.call("DEL").run();
    assert!(answer.0.status.success(), "{after}: {answer:?}");
    scene.assert_nothing_left(after);
}

#[test]
fn add_on_a_fresh_host_killed_at_any_syscall_leaves_nothing() {
    let scene = Scene::new(Host::Fresh);
    let prepare = || scene.reset();
    let kills = at_every_point(&scene.call("ADD"), prepare, |after| {
        add_again(&scene, after);
        del(&scene, after);
    });
    assert!(kills > 40, "{kills}");
}

#[test]
fn add_beside_a_neighbour_killed_at_any_syscall_leaves_nothing() {
    let scene = Scene::new(Host::Shared);
    let kills = at_every_point(
        &scene.call("ADD"),
        || (),
        |after| {
            add_again(&scene, after);
            del(&scene, after);
        },
    );
    let again = at_every_point(&scene.call("ADD"), || (), |after| del(&scene, after));
    assert!(kills > 30 && again > 30, "{kills}, {again}");
}

#[test]
fn del_killed_at_any_syscall_leaves_nothing() {
    let scene = Scene::new(Host::Shared);
    let prepare = || {
        scene.call("ADD").run().ok();
    };
    let kills = at_every_point(&scene.call("DEL"), prepare, |after| del(&scene, after));
    let again = at_every_point(&scene.call("DEL"), prepare, |after| {
        add_again(&scene, after);
        del(&scene, after);
    });
    assert!(kills > 8 && again > 8, "{kills}, {again}");
}
