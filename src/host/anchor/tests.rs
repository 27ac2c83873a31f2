//! The owner of a namespace and the effects of its members' deaths, for made-up facts.

use std::path::PathBuf;

use proptest::prelude::*;

use super::advice::advice;
use super::cgroup::Engine;
use super::container::{Container, NetworkFrom, Role};
use super::death::{death_effects, summary};
use super::interfaces::Interface;
use super::origin::Origin;
use super::processes::Process;
use super::registration::{RegisteredBy, Registration};
use super::sandbox::{
    LastKnownState, Member, MissingContainer, OtherNamespace, Owner, OwnerReason, Sandbox,
    SandboxInterface, State, owner,
};
use pausenet::cni::NetworkName;
use pausenet::kernel::link::Link;
use pausenet::kernel::netns::NetnsId;

fn container(name: &str, network: NetworkFrom) -> Container {
    Container {
        engine: Some(Engine::Docker),
        name: Some(name.to_owned()),
        network,
        ..Container::new(&format!("id-of-{name}"))
    }
}

fn joined(name: &str, other: &str) -> Member {
    let network = NetworkFrom::Container(format!("id-of-{other}"));
    member(name, Some(container(name, network)))
}

fn own(name: &str) -> Member {
    member(name, Some(container(name, NetworkFrom::Itself)))
}

fn member(process: &str, container: Option<Container>) -> Member {
    Member {
        container,
        processes: vec![Process::for_test(7, process)],
    }
}

fn wire(name: &str, origin: Origin) -> SandboxInterface {
    SandboxInterface {
        interface: Interface {
            link: Link {
                name: name.to_owned(),
                ..Link::default()
            },
            addresses: Vec::new(),
            host_end: None,
        },
        bridge: None,
        origin,
    }
}

fn by_docker() -> SandboxInterface {
    let network = Some("bridge".to_owned());
    wire("eth0", Origin::Docker { network })
}

fn by_us() -> SandboxInterface {
    let network = NetworkName::parse("podnet").unwrap();
    wire("eth0", Origin::Pausenet { network })
}

fn holder(id: &str, name: Option<&str>, by: RegisteredBy) -> Registration {
    Registration {
        id: id.to_owned(),
        name: name.map(str::to_owned),
        container: None,
        by,
    }
}

/// The commands of all the advice, in order.
fn commands(sandbox: &Sandbox) -> Vec<String> {
    let advice = advice(sandbox, Some(0)).into_iter();
    advice.flat_map(|advice| advice.commands).collect()
}

/// Docker has removed the container.
fn removed(id: &str) -> MissingContainer {
    MissingContainer {
        id: Some(id.to_owned()),
        name: id.strip_prefix("id-of-").map(str::to_owned),
        was: LastKnownState::Removed {
            at: Some("2026-11-24T11:20:03Z".to_owned()),
        },
        networks: vec!["bridge".to_owned()],
    }
}

fn sandbox(members: Vec<Member>, interfaces: Vec<SandboxInterface>, bound_to: &[&str]) -> Sandbox {
    let bound_to: Vec<_> = bound_to.iter().map(PathBuf::from).collect();
    let owner = owner(&members, &bound_to, removed);
    let missing = match &owner {
        Owner::Missing(absent) => vec![absent.clone()],
        _ => Vec::new(),
    };
    Sandbox {
        netns: NetnsId::of_process(std::process::id()).unwrap(),
        owner,
        missing,
        members,
        bound_to,
        interfaces,
        holder: None,
        left_behind: Vec::new(),
    }
}

fn then(sandbox: &Sandbox, who: &str) -> String {
    let death_effects = death_effects(sandbox);
    let effect = death_effects.iter().find(|effect| effect.member == who);
    effect
        .unwrap_or_else(|| panic!("{death_effects:?}"))
        .effect
        .clone()
}

#[test]
fn the_owner_is_the_container_that_the_others_joined() {
    let scene = sandbox(vec![own("a"), joined("b", "a")], vec![by_docker()], &[]);
    assert_eq!(scene.owner, Owner::Member(0, OwnerReason::Joined));
    assert_eq!(scene.state(), State::Running);
    assert_eq!(summary(&scene, Some(1)), "b shares the network of a.");
    assert_eq!(summary(&scene, Some(0)), "a owns its network; b shares it.");
    // A container that joined through another one, and is older than the owner.
    let scene = sandbox(
        vec![joined("c", "b"), joined("b", "a"), own("a")],
        Vec::new(),
        &[],
    );
    assert_eq!(scene.owner, Owner::Member(2, OwnerReason::Joined));
}

#[test]
fn members_of_a_removed_container_are_orphaned() {
    let scene = sandbox(vec![joined("b", "a")], Vec::new(), &[]);
    assert_eq!(scene.owner, Owner::Missing(removed("id-of-a")));
    assert_eq!(scene.state(), State::Orphaned);
    assert_eq!(
        summary(&scene, Some(0)),
        "b has lost its network: eth0 is gone with its owner a, which was removed at \
         2026-11-24T11:20:03Z; only lo is left."
    );
    assert_eq!(commands(&scene)[0], "pausectl rescue b --network NET");
}

#[test]
fn an_orphan_with_a_network_of_ours_keeps_it() {
    let scene = sandbox(vec![joined("b", "a"), joined("c", "a")], vec![by_us()], &[]);
    assert_eq!(scene.state(), State::Orphaned);
    let said = summary(&scene, Some(0));
    assert!(
        said.ends_with("eth0 stays until its last member ends."),
        "{said}"
    );
    let by_hand = ["docker run -d --name a --net=container:b pausenet/pause"];
    assert_eq!(commands(&scene), by_hand);
    let known = Sandbox {
        holder: Some(holder("docker-a", Some("a"), RegisteredBy::Anchoring)),
        ..scene.clone()
    };
    assert_eq!(commands(&known), ["pausectl docker reanchor a"]);
    let said = then(&scene, "c");
    assert!(said.contains("it cannot be started again"), "{said}");
    let both = summary(&scene, None);
    assert!(
        both.starts_with("b and c still use the network of a, "),
        "{both}"
    );
}

#[test]
fn a_name_that_docker_has_forgotten_is_the_holder_s() {
    let nameless = |id: &str| MissingContainer {
        name: None,
        was: LastKnownState::Removed { at: None },
        ..removed(id)
    };
    let members = [joined("b", "a")];
    let owner = owner(&members, &[], nameless);
    let holder = holder("docker-web", Some("web"), RegisteredBy::Anchoring);
    let scene = Sandbox {
        owner: owner.corrected(&members, Some(&holder)),
        holder: Some(holder),
        ..sandbox(members.to_vec(), vec![by_us()], &[])
    };
    assert_eq!(scene.title(), "web");
    assert_eq!(commands(&scene), ["pausectl docker reanchor web"]);
}

#[test]
fn the_network_of_an_ended_container_goes_when_nerdctl_removes_it() {
    let of_nerdctl = |member: Member| {
        let container = member.container.map(|container| Container {
            engine: Some(Engine::Containerd),
            by_nerdctl: true,
            ..container
        });
        Member {
            container,
            ..member
        }
    };
    let running = [own("a"), joined("b", "a")].map(of_nerdctl);
    let said = then(&sandbox(running.into(), vec![by_us()], &[]), "a");
    assert_eq!(
        said,
        "eth0 stays with b: the address is kept, and connections survive, until nerdctl removes a \
         or starts it again"
    );
    let members = vec![of_nerdctl(joined("b", "a"))];
    let ended = |id: &str| MissingContainer {
        was: LastKnownState::EndedInNerdctl,
        ..removed(id)
    };
    let scene = Sandbox {
        owner: owner(&members, &[], ended),
        ..sandbox(members, vec![by_us()], &[])
    };
    assert_eq!(
        summary(&scene, Some(0)),
        "b still uses the network of a, which has ended: eth0 stays until its last member ends, or \
         nerdctl removes a or starts it again."
    );
    assert_eq!(commands(&scene), [""; 0]);
}

#[test]
fn an_owner_of_which_only_the_process_was_known_is_called_as_its_network() {
    let container = container("b", NetworkFrom::Process(77));
    let members = [member("b", Some(container))];
    let owner = owner(&members, &[], removed);
    let scene = |by| {
        let holder = holder("default-a", None, by);
        Sandbox {
            owner: owner.clone().corrected(&members, Some(&holder)),
            ..sandbox(members.to_vec(), vec![by_us()], &[])
        }
    };
    assert_eq!(scene(RegisteredBy::Others).title(), "default-a");
    assert_eq!(scene(RegisteredBy::Rescue).title(), "another container");
}

#[test]
fn a_rescued_container_owns_its_network_and_a_rescued_process_does_not() {
    let members = [joined("b", "a"), joined("c", "b")];
    let with = |id: &str| {
        let holder = holder(id, Some("b"), RegisteredBy::Rescue);
        let owner = owner(&members, &[], removed).corrected(&members, Some(&holder));
        Sandbox {
            owner,
            holder: Some(holder),
            missing: vec![removed("id-of-a")],
            ..sandbox(members.to_vec(), vec![by_us()], &[])
        }
    };
    let scene = with("id-of-b");
    assert_eq!(scene.owner, Owner::Member(0, OwnerReason::Rescued));
    assert_eq!(
        summary(&scene, Some(0)),
        "b was rescued: it shared the network of a, which was removed at 2026-11-24T11:20:03Z, \
         and now has eth0 of its own; c shares it."
    );
    let said = then(&scene, "b");
    assert!(said.contains("b cannot be started again"), "{said}");
    assert!(!said.contains("rejoins"), "{said}");

    let scene = with("rescue-4026531840");
    assert_eq!(scene.state(), State::Orphaned);
    let said = summary(&scene, Some(0));
    assert!(
        said.starts_with("b was rescued: it shared the network of a, "),
        "{said}"
    );
    assert_eq!(
        commands(&scene),
        ["docker run -d --name a --net=container:b pausenet/pause"]
    );
}

#[test]
fn members_left_behind_by_our_anchor_are_not_advised_to_follow_it() {
    let scene = |is_its_own, with: &[&str]| {
        let elsewhere = OtherNamespace {
            is_its_own,
            with: with.iter().map(|name| (*name).to_owned()).collect(),
        };
        let restarted = |id: &str| MissingContainer {
            was: LastKnownState::Restarted(elsewhere.clone()),
            networks: Vec::new(),
            ..removed(id)
        };
        let members = vec![joined("b", "a")];
        Sandbox {
            owner: owner(&members, &[], restarted),
            holder: Some(holder("docker-a", Some("a"), RegisteredBy::Anchoring)),
            ..sandbox(members, vec![by_us()], &[])
        }
    };
    let stay = "pausectl docker reanchor a";
    let follow = "pausectl docker reanchor a --restart-members";
    let by_hand = "docker run -d --name ANCHOR --net=container:b pausenet/pause";
    for (is_its_own, with, expected) in [
        (true, &[][..], &[stay, follow][..]),
        (true, &["c"], &[follow]),
        (false, &[], &[stay]),
        (false, &["c"], &[by_hand]),
    ] {
        assert_eq!(commands(&scene(is_its_own, with)), expected);
    }
}

#[test]
fn a_new_pause_takes_the_place_of_an_owner_that_is_gone() {
    let mut pause = joined("anchor2", "b");
    pause.processes[0].is_pause = true;
    let scene = sandbox(vec![joined("b", "a"), pause], vec![by_us()], &[]);
    assert_eq!(scene.owner, Owner::Member(1, OwnerReason::Pause));
    assert_eq!(scene.state(), State::Running);
    let said = then(&scene, "anchor2");
    assert!(said.contains("it rejoins this namespace"), "{said}");
    assert!(!said.contains("removed"), "{said}");
}

#[test]
fn docker_takes_its_own_network_and_leaves_ours() {
    let members = || vec![own("a"), joined("b", "a")];
    let docker_s = sandbox(members(), vec![by_docker()], &[]);
    let said = then(&docker_s, "a");
    assert!(
        said.starts_with("Docker removes eth0 for every member; b keeps running with only lo."),
        "{said}"
    );
    let ours = sandbox(members(), vec![by_us()], &[]);
    let said = then(&ours, "a");
    assert!(
        said.starts_with("eth0 stays with b: the address is kept"),
        "{said}"
    );
    assert!(
        said.contains("if it is removed, b cannot be restarted"),
        "{said}"
    );
    for scene in [docker_s, ours] {
        assert_eq!(then(&scene, "b"), "nothing for the others");
    }
}

#[test]
fn the_last_one_takes_the_namespace_along_unless_a_file_holds_it() {
    let scene = sandbox(vec![own("a")], vec![by_us()], &[]);
    let said = then(&scene, "a");
    assert!(
        said.starts_with("the namespace ends, and eth0 with it"),
        "{said}"
    );
    assert!(
        said.ends_with("its address stays reserved until DEL or GC is run"),
        "{said}"
    );
    let held = sandbox(vec![own("a")], vec![by_us()], &["/run/netns/a"]);
    assert_eq!(
        then(&held, "a"),
        "the namespace stays: it is bound to /run/netns/a"
    );
}

#[test]
fn a_sandbox_of_kubernetes_owns_its_pod() {
    let in_pod = |name: &str, role| {
        let mut container = container(name, NetworkFrom::Process(1));
        container.role = role;
        member(name, Some(container))
    };
    let members = vec![
        in_pod("client", Role::Application),
        in_pod("POD", Role::Sandbox),
    ];
    let scene = sandbox(members, vec![by_us()], &["/run/netns/cni-1"]);
    assert_eq!(scene.owner, Owner::Member(1, OwnerReason::Sandbox));
    let of_sandbox = then(&scene, "POD");
    assert!(
        of_sandbox.starts_with("Kubernetes recreates the pod, unless its restartPolicy is Never")
    );
    let of_container = then(&scene, "client");
    assert!(of_container.contains("in the same one, if its restartPolicy or a rule says so"));
    assert!(of_container.contains("with the rule RestartAllContainers the others too"));
    assert!(of_container.contains("an ephemeral container (kubectl debug) it never starts again"));
}

/// What podman 4 and 5 leave in /proc, with netavark: a namespace at a file of podman's own.
#[test]
fn podman_takes_the_network_of_a_container_with_it_whatever_made_it() {
    let file = "/run/netns/netns-0d5d9f0c-8a3a-4c1e-9f9e-6f0b0a5f8b11";
    let of_podman = |name: &str, network| {
        let mut container = container(name, network);
        container.engine = Some(Engine::Podman);
        member(name, Some(container))
    };
    let own = || of_podman("web", NetworkFrom::File(file.into()));
    for origin in [Origin::Podman, Origin::Unknown] {
        let scene = sandbox(vec![own()], vec![wire("eth0", origin)], &[file]);
        assert_eq!(scene.owner, Owner::Member(0, OwnerReason::MadeFor));
        assert_eq!(
            then(&scene, "web"),
            "podman removes eth0; nothing else uses it"
        );
    }
    // Without an interface, nor does its file hold the namespace.
    let scene = sandbox(vec![own()], Vec::new(), &[file]);
    assert_eq!(then(&scene, "web"), "the namespace ends");
}

#[test]
fn a_file_of_docker_s_does_not_keep_the_namespace_of_a_lone_container() {
    let unknown = wire("eth0", Origin::Unknown);
    let scene = sandbox(
        vec![own("web")],
        vec![unknown],
        &["/run/docker/netns/0a1b2c"],
    );
    assert_eq!(then(&scene, "web"), "the namespace ends, and eth0 with it");
    let unknown = wire("eth0", Origin::Unknown);
    let scene = sandbox(vec![own("web")], vec![unknown], &["/run/netns/web"]);
    assert!(then(&scene, "web").starts_with("the namespace stays"));
}

#[test]
fn a_pod_of_ours_belongs_to_its_pause_or_its_name() {
    let mut pause = member("pause", None);
    pause.processes[0].is_pause = true;
    let file = "/run/pausenet/netns/web";
    let scene = sandbox(vec![member("sleep", None), pause], vec![by_us()], &[file]);
    assert_eq!(scene.owner, Owner::Member(1, OwnerReason::PodOfOurs));
    assert_eq!(scene.title(), "web");
    let scene = sandbox(vec![member("sleep", None)], vec![by_us()], &[file]);
    assert_eq!(scene.state(), State::Orphaned);
    assert!(summary(&scene, None).starts_with("Pod web has lost its pause process"));
    let scene = sandbox(Vec::new(), vec![by_us()], &[file]);
    assert_eq!(scene.state(), State::Empty);
}

#[test]
fn without_other_information_the_oldest_process_owns_it() {
    let scene = sandbox(vec![member("x", None), member("y", None)], Vec::new(), &[]);
    assert_eq!(scene.owner, Owner::Member(0, OwnerReason::Oldest));
    let scene = sandbox(Vec::new(), Vec::new(), &[]);
    assert_eq!(scene.owner, Owner::Unknown);
}

proptest! {
    /// Whatever the containers claim to have joined, in cycles too, each member has one effect of
    /// death, and no name is printed unescaped.
    #[test]
    fn every_member_has_a_death_effect(
        joins in proptest::collection::vec(0..7usize, 0..6),
        name in "\\PC{0,3}\x1b?",
        ours: bool,
    ) {
        let called = |at: usize| format!("{name}{at}");
        let members = joins.iter().enumerate().map(|(at, other)| match other {
            6 => own(&called(at)),
            other => joined(&called(at), &called(*other)),
        });
        let wire = if ours { by_us() } else { by_docker() };
        let scene = sandbox(members.collect(), vec![wire], &[]);
        let death_effects = death_effects(&scene);
        prop_assert_eq!(death_effects.len(), joins.len());
        let mut said: Vec<_> = death_effects.into_iter().flat_map(|effect| [effect.member, effect.effect]).collect();
        said.push(scene.title());
        for about in (0..joins.len()).map(Some).chain([None]) {
            said.push(summary(&scene, about));
            said.extend(advice(&scene, about).into_iter().map(|advice| advice.what));
        }
        prop_assert!(!said.concat().contains(char::is_control));
    }
}
