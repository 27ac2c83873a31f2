//! Who has joined an anchor, as Docker remembers it: by the anchor's ID.

use std::path::Path;

use super::network_location::{Home, netns_of};
use crate::docker_api::{
    self, Container, ContainerName, Docker, DockerId, NetworkMode, RunCommand,
};
use crate::shell;
use pausenet::kernel::netns::NetnsId;
use pausenet_host::anchor::cgroup;

/// Who joins an anchor and lives elsewhere than it, the oldest first; and who joins those.
pub fn left_behind<'a>(
    anchor: &DockerId,
    netns: Option<NetnsId>,
    containers: &'a [Container],
) -> Vec<&'a Container> {
    let mut joined: Vec<&Container> = Vec::new();
    let mut owners = vec![anchor.to_string()];
    let mut at = 0;
    while let Some(owner) = owners.get(at).cloned() {
        let joins = NetworkMode::Container(owner);
        let mut next: Vec<_> = containers
            .iter()
            .filter(|container| container.network == joins && container.pid.is_some())
            .filter(|container| !joined.iter().any(|other| other.id == container.id))
            .collect();
        next.sort_by(|one, other| one.created.cmp(&other.created));
        owners.extend(next.iter().map(|container| container.id.to_string()));
        joined.extend(next);
        at += 1;
    }
    // One whose process is gone meanwhile is nowhere.
    joined.retain(|member| netns_of(member).is_some_and(|own| Some(own) != netns));
    joined
}

/// Who would lose the network if it followed an anchor out of its home: whoever lives there and
/// cannot be restarted into the anchor's namespace. A container's name, or a process.
pub fn bereft(home: &Home, anchor: &Container, containers: &[Container]) -> Vec<String> {
    let Home::Lived { netns, pids } = home else {
        return Vec::new();
    };
    let brought = left_behind(&anchor.id, netns_of(anchor), containers);
    let mut bereft = Vec::new();
    for pid in pids {
        let name = match container_of(*pid, containers) {
            Some(own) if brought.iter().any(|member| member.id == own.id) => continue,
            Some(own) => own.to_string(),
            // It may have ended since.
            None if NetnsId::of_process(*pid) != Some(*netns) => continue,
            None => format!("process {pid}"),
        };
        if !bereft.contains(&name) {
            bereft.push(name);
        }
    }
    bereft
}

/// The container that a process is in, its first or any other.
fn container_of(pid: u32, containers: &[Container]) -> Option<&Container> {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let named = cgroup::container(&groups);
    containers.iter().find(|container| {
        let is_named = |named: &cgroup::Named| named.id == container.id.as_str();
        container.pid == Some(pid) || named.as_ref().is_some_and(is_named)
    })
}

/// True when a container joins one that Docker does not have (any more).
pub fn is_orphan(member: &Container, containers: &[Container], gone: Option<&Container>) -> bool {
    let NetworkMode::Container(owner) = &member.network else {
        return false;
    };
    let mut there = containers
        .iter()
        .filter(|other| gone.is_none_or(|gone| gone.id != other.id));
    !there.any(|other| other.id.as_str() == owner)
}

/// How a member is made anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anew {
    /// For a shell.
    pub command: String,
    /// What is different afterwards.
    pub caution: String,
}

/// The command that makes a member anew, in the network of an anchor. `at_home` is false while
/// the anchor has yet to be brought there.
///
/// # Errors
/// Docker's.
pub async fn anew(
    docker: &Docker,
    member: &Container,
    anchor: &ContainerName,
    at_home: bool,
) -> docker_api::Result<Anew> {
    let mut anew = match composed(member) {
        Some(words) => Anew {
            command: shell::line(words),
            caution: LOST.into(),
        },
        None => by_run(member, anchor, docker.run_command(&member.by_id()).await?),
    };
    if !at_home {
        anew.command = format!("pausectl docker reanchor {anchor} && {}", anew.command);
    }
    Ok(anew)
}

const LOST: &str = "what it has written outside its volumes is lost";

/// Nothing is thrown away that is not thrown away anyhow, and nothing done when the first step
/// fails.
fn by_run(member: &Container, anchor: &ContainerName, recipe: RunCommand) -> Anew {
    let (name, network) = (member.name.as_str(), format!("--net=container:{anchor}"));
    let mut words = ["docker", "run", "-d", "--name", name, &network]
        .map(str::to_owned)
        .to_vec();
    words.extend(recipe.options);
    words.push(recipe.image);
    words.extend(recipe.command);
    let run = shell::line(words);
    let (command, mut caution) = if recipe.auto_remove {
        (format!("docker rm -f {name} && {run}"), LOST.to_owned())
    } else {
        let command = format!("docker rename {name} {name}.old && docker stop {name}.old && {run}");
        let caution = format!("what it has written outside its volumes stays in {name}.old");
        (command, caution)
    };
    if !recipe.not_reproduced.is_empty() {
        let not_reproduced = recipe.not_reproduced.join(", and ");
        caution.push_str(&format!("; this does not give it {not_reproduced}"));
    }
    Anew { command, caution }
}

/// A service of compose's is made anew by compose, if its files are still there.
fn composed(member: &Container) -> Option<Vec<String>> {
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
    // The first compose is a program of its own, and writes files as they were named to it.
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

    fn recipe() -> RunCommand {
        RunCommand {
            options: ["--env", "A=it's", "--tty"].map(str::to_owned).into(),
            image: "app".into(),
            command: vec!["say".into(), "a b".into()],
            auto_remove: false,
            not_reproduced: Vec::new(),
        }
    }

    #[test]
    fn what_docker_keeps_is_kept_and_what_has_no_words_is_told() {
        let anchor = ContainerName::parse("web").unwrap();
        let kept = by_run(&container(&[]), &anchor, recipe());
        assert_eq!(
            kept.command,
            r"docker rename api api.old && docker stop api.old && docker run -d --name api --net=container:web --env 'A=it'\''s' --tty app say 'a b'"
        );
        assert!(kept.caution.ends_with("stays in api.old"), "{kept:?}");
        let passing = RunCommand {
            auto_remove: true,
            not_reproduced: vec!["its seccomp profile".into()],
            ..recipe()
        };
        let passing = by_run(&container(&[]), &anchor, passing);
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
    fn compose_is_called_as_it_was_wherever_one_is() {
        let folder = env!("CARGO_MANIFEST_DIR");
        let labels = [
            ("project", "shop"),
            ("service", "client"),
            ("oneoff", "False"),
            ("project.working_dir", folder),
            ("project.config_files", "Cargo.toml,Cargo.lock"),
            ("version", "1.29.2"),
        ];
        let words = composed(&container(&labels)).unwrap().join(" ");
        let files = format!("-f {folder}/Cargo.toml -f {folder}/Cargo.lock");
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
            composed(&container(&all)).map(|words| words.join(" "))
        };
        let second = with(&[("version", "2.30.1"), ("project.environment_file", "/e")]).unwrap();
        assert_eq!(
            second,
            format!(
                "docker compose -p shop --project-directory {folder} -f {file} --env-file /e {rest}"
            )
        );
        // Its files are gone, or were never files; or it is none of the service's own.
        assert_eq!(with(&[("project.config_files", "-")]), None);
        assert_eq!(with(&[("oneoff", "True")]), None);
        assert_eq!(composed(&container(&labels[..2])), None);
    }
}
