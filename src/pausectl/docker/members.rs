//! The members of an anchor, according to Docker, which stores the anchor's ID with each.

use std::path::Path;

use super::network_location::{NetworkLocation, netns_of};
use crate::docker_api::{
    self, Container, ContainerName, Docker, DockerId, NetworkMode, RunCommand,
};
use crate::shell;
use pausenet::kernel::netns::NetnsId;
use pausenet_host::anchor::cgroup;

/// Members of an anchor, and members of those, that are in another namespace than `netns`, oldest
/// first.
pub(super) fn members_elsewhere<'a>(
    anchor: &DockerId,
    netns: Option<NetnsId>,
    containers: &'a [Container],
) -> Vec<&'a Container> {
    let mut members = joined(anchor, containers, |container| container.pid.is_some());
    // One that exited meanwhile has no namespace.
    members.retain(|member| netns_of(member).is_some_and(|own| Some(own) != netns));
    members
}

/// Members of an anchor, and members of those, that a restart brings into its namespace `netns`, oldest first.
pub(super) fn to_restart<'a>(
    anchor: &DockerId,
    netns: NetnsId,
    containers: &'a [Container],
) -> Vec<&'a Container> {
    let mut members = joined(anchor, containers, |container| {
        container.pid.is_some() || lacked_its_owner(container)
    });
    members.retain(|member| needs_restart(member, netns));
    members
}

/// Whether a restart brings a member into this namespace.
pub(super) fn needs_restart(member: &Container, netns: NetnsId) -> bool {
    match netns_of(member) {
        Some(own) => own != netns,
        None => lacked_its_owner(member),
    }
}

/// Whether Docker could not start a container because the one whose network it joins did not run then. A restart
/// stops it first, so it may have run until then.
fn lacked_its_owner(container: &Container) -> bool {
    let says = |words: &&str| container.error.contains(*words);
    container.pid.is_none() && OWNER_DID_NOT_RUN.iter().any(says)
}

/// Docker's words for that: the second is for an owner that is about to be restarted.
const OWNER_DID_NOT_RUN: [&str; 2] = [
    "of a non running container",
    "wait until the container is running",
];

/// The `wanted` containers that joined an anchor, and those that joined them, oldest first.
fn joined<'a>(
    anchor: &DockerId,
    containers: &'a [Container],
    wanted: impl Fn(&Container) -> bool,
) -> Vec<&'a Container> {
    let mut joined: Vec<&Container> = Vec::new();
    let mut owners = vec![anchor.to_string()];
    let mut at = 0;
    while let Some(owner) = owners.get(at).cloned() {
        let joins = NetworkMode::Container(owner);
        let mut next: Vec<_> = containers
            .iter()
            .filter(|container| container.network == joins && wanted(container))
            .filter(|container| !joined.iter().any(|other| other.id == container.id))
            .collect();
        next.sort_by(|one, other| one.created.cmp(&other.created));
        owners.extend(next.iter().map(|container| container.id.to_string()));
        joined.extend(next);
        at += 1;
    }
    joined
}

/// What would lose the network if it moved to the anchor's namespace: every process there that no
/// restart of a member moves along. Container names, or `process PID`.
pub(super) fn stranded(
    location: &NetworkLocation,
    anchor: &Container,
    containers: &[Container],
) -> Vec<String> {
    let NetworkLocation::Occupied { netns, pids } = location else {
        return Vec::new();
    };
    let restartable = members_elsewhere(&anchor.id, netns_of(anchor), containers);
    let mut stranded = Vec::new();
    for pid in pids {
        let name = match container_of(*pid, containers) {
            Some(own) if restartable.iter().any(|member| member.id == own.id) => continue,
            Some(own) => own.to_string(),
            // It may have exited meanwhile.
            None if NetnsId::of_process(*pid) != Some(*netns) => continue,
            None => format!("process {pid}"),
        };
        if !stranded.contains(&name) {
            stranded.push(name);
        }
    }
    stranded
}

/// The container that a process belongs to.
fn container_of(pid: u32, containers: &[Container]) -> Option<&Container> {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let named = cgroup::container(&groups);
    containers.iter().find(|container| {
        let is_named = |named: &cgroup::Named| named.id == container.id.as_str();
        container.pid == Some(pid) || named.as_ref().is_some_and(is_named)
    })
}

/// True when a container joins one that Docker does not have any more. `gone` counts as removed.
pub(super) fn is_orphaned(
    member: &Container,
    containers: &[Container],
    gone: Option<&Container>,
) -> bool {
    let NetworkMode::Container(owner) = &member.network else {
        return false;
    };
    let mut there = containers
        .iter()
        .filter(|other| gone.is_none_or(|gone| gone.id != other.id));
    !there.any(|other| other.id.as_str() == owner)
}

/// A shell command that recreates a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RecreateCommand {
    pub(super) command: String,
    /// What the user should know before running it.
    pub(super) caution: String,
}

/// The command that recreates a member in the network of an anchor. While the anchor itself is not
/// in the network's namespace (`is_anchored` is false), the command reanchors it first.
pub(super) async fn recreate_command(
    docker: &Docker,
    member: &Container,
    anchor: &ContainerName,
    is_anchored: bool,
) -> docker_api::Result<RecreateCommand> {
    let mut recreate = match recreate_with_compose(member) {
        Some(words) => RecreateCommand {
            command: shell::line(words),
            caution: DATA_IS_LOST.into(),
        },
        None => recreate_with_run(member, anchor, docker.run_command(&member.by_id()).await?),
    };
    if !is_anchored {
        recreate.command = format!("pausectl docker reanchor {anchor} && {}", recreate.command);
    }
    Ok(recreate)
}

const DATA_IS_LOST: &str = "data outside its volumes is lost";

/// Keeps the old container, unless Docker removes it by itself (--rm); stops at the first failing
/// step.
fn recreate_with_run(
    member: &Container,
    anchor: &ContainerName,
    run: RunCommand,
) -> RecreateCommand {
    let (name, network) = (member.name.as_str(), format!("--net=container:{anchor}"));
    let mut words = ["docker", "run", "-d", "--name", name, &network]
        .map(str::to_owned)
        .to_vec();
    words.extend(run.options);
    words.push(run.image);
    words.extend(run.command);
    let docker_run = shell::line(words);
    let (command, mut caution) = if run.auto_remove {
        (
            format!("docker rm -f {name} && {docker_run}"),
            DATA_IS_LOST.to_owned(),
        )
    } else {
        let command =
            format!("docker rename {name} {name}.old && docker stop {name}.old && {docker_run}");
        let caution = format!("data outside its volumes stays in {name}.old");
        (command, caution)
    };
    if !run.not_reproduced.is_empty() {
        let not_reproduced = run.not_reproduced.join(", and ");
        caution.push_str(&format!("; the command does not restore {not_reproduced}"));
    }
    RecreateCommand { command, caution }
}

/// The command for a service of docker compose, if its files are still there.
fn recreate_with_compose(member: &Container) -> Option<Vec<String>> {
    let label = |name: &str| {
        let label = member.labels.get(&format!("com.docker.compose.{name}"));
        label.filter(|value| !value.is_empty()).cloned()
    };
    if label("oneoff").is_some_and(|once| once == "True") {
        return None;
    }
    let (project, service) = (label("project")?, label("service")?);
    let (folder, files) = (
        label("project.working_dir")?,
        label("project.config_files")?,
    );
    // Compose 1 is a separate program; it labels containers with file names as they were given.
    let program = match label("version") {
        Some(version) if version.starts_with("1.") => vec!["docker-compose"],
        _ => vec!["docker", "compose"],
    };
    let mut words: Vec<String> = program.into_iter().map(str::to_owned).collect();
    words.extend([
        "-p".into(),
        project,
        "--project-directory".into(),
        folder.clone(),
    ]);
    for file in files.split(',') {
        let file = Path::new(&folder).join(file);
        if !file.is_file() {
            return None;
        }
        words.extend(["-f".into(), file.to_str()?.to_owned()]);
    }
    if let Some(environment) = label("project.environment_file") {
        words.extend(["--env-file".into(), environment]);
    }
    words.extend(["up", "-d", "--force-recreate", "--no-deps"].map(str::to_owned));
    words.push(service);
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker_api::{RestartPolicy, State};

    fn container(labels: &[(&str, &str)]) -> Container {
        let label = |(name, value): &(&str, &str)| {
            (format!("com.docker.compose.{name}"), (*value).to_owned())
        };
        Container {
            id: DockerId::parse(&"0a".repeat(32)).unwrap(),
            hosts: None,
            name: ContainerName::parse("api").unwrap(),
            image: "app".into(),
            state: State::Running,
            pid: None,
            network: NetworkMode::Container("0b".repeat(32)),
            restart: RestartPolicy::No,
            labels: labels.iter().map(label).collect(),
            hostname: String::new(),
            created: String::new(),
            error: String::new(),
        }
    }

    fn run_command() -> RunCommand {
        RunCommand {
            options: ["--env", "A=it's", "--tty"].map(str::to_owned).into(),
            image: "app".into(),
            command: vec!["say".into(), "a b".into()],
            auto_remove: false,
            not_reproduced: Vec::new(),
        }
    }

    #[test]
    fn the_old_container_stays_and_lost_settings_are_named() {
        let anchor = ContainerName::parse("web").unwrap();
        let kept = recreate_with_run(&container(&[]), &anchor, run_command());
        assert_eq!(
            kept.command,
            r"docker rename api api.old && docker stop api.old && docker run -d --name api --net=container:web --env 'A=it'\''s' --tty app say 'a b'"
        );
        assert!(kept.caution.ends_with("stays in api.old"), "{kept:?}");
        let passing = RunCommand {
            auto_remove: true,
            not_reproduced: vec!["its seccomp profile".into()],
            ..run_command()
        };
        let passing = recreate_with_run(&container(&[]), &anchor, passing);
        assert!(
            passing
                .command
                .starts_with("docker rm -f api && docker run")
        );
        assert!(passing.caution.contains("is lost"), "{passing:?}");
        assert!(
            passing.caution.ends_with("its seccomp profile"),
            "{passing:?}"
        );
    }

    #[test]
    fn a_compose_service_is_recreated_by_compose() {
        let folder = env!("CARGO_MANIFEST_DIR");
        let labels = [
            ("project", "shop"),
            ("service", "client"),
            ("oneoff", "False"),
            ("project.working_dir", folder),
            ("project.config_files", "Cargo.toml,lib.rs"),
            ("version", "1.29.2"),
        ];
        let words = recreate_with_compose(&container(&labels))
            .unwrap()
            .join(" ");
        let files = format!("-f {folder}/Cargo.toml -f {folder}/lib.rs");
        let rest = "up -d --force-recreate --no-deps client";
        assert_eq!(
            words,
            format!("docker-compose -p shop --project-directory {folder} {files} {rest}")
        );
        let file = format!("{folder}/Cargo.toml");
        let with = |changed: &[(&'static str, &'static str)]| {
            let mut all = labels.to_vec();
            all[4].1 = &file;
            all.extend(changed);
            recreate_with_compose(&container(&all)).map(|words| words.join(" "))
        };
        let second = with(&[("version", "2.30.1"), ("project.environment_file", "/e")]).unwrap();
        assert_eq!(
            second,
            format!(
                "docker compose -p shop --project-directory {folder} -f {file} --env-file /e {rest}"
            )
        );
        // The files are gone, or it was a one-off container (docker compose run).
        assert_eq!(with(&[("project.config_files", "-")]), None);
        assert_eq!(with(&[("oneoff", "True")]), None);
        assert_eq!(recreate_with_compose(&container(&labels[..2])), None);
    }
}
