//! The text output of `pausectl explain`.

use pausenet_host::anchor::advice::advice;
use pausenet_host::anchor::container::{Container, RunState, short_id};
use pausenet_host::anchor::death::{DeathEffect, death_effects, gone, summary};
use pausenet_host::anchor::origin::Origin;
use pausenet_host::anchor::sandbox::{Member, Owner, OwnerReason, Sandbox, SandboxInterface};
use pausenet_host::anchor::scan::{EngineFacts, Removed};
use pausenet_host::anchor::text::{few, list, plain};

/// The width of the text, in columns.
const WIDTH: usize = 100;

/// The least width of a column beside long names.
const NARROWEST: usize = 40;

/// The greatest width of the first column; what is longer has lines of its own.
const WIDEST: usize = 60;

/// All about a sandbox; `about` is the index of the member that was asked for.
pub(super) fn sandbox(sandbox: &Sandbox, about: Option<usize>) -> String {
    let mut screen = Screen::default();
    for line in wrap(&summary(sandbox, about), WIDTH) {
        screen.line(&line);
    }
    screen.head(&format!(
        "Network namespace {}: {}",
        sandbox.netns.number(),
        sandbox.state().as_str()
    ));
    owner(&mut screen, sandbox);
    let sharers: Vec<_> = sandbox
        .sharers()
        .map(|member| [member.title(), member_line(member)])
        .collect();
    if !sharers.is_empty() {
        screen.head(if sandbox.anchor().is_some() {
            "Shared by"
        } else {
            "Members"
        });
        screen.rows(&sharers);
    }
    screen.head("Interfaces");
    if sandbox.interfaces.is_empty() {
        screen.line("  only lo");
    }
    for wire in &sandbox.interfaces {
        screen.rows(&interface(wire));
    }
    let death_effects = death_effects(sandbox);
    if !death_effects.is_empty() {
        screen.head("What happens when one of them ends");
        screen.rows(&grouped(death_effects));
    }
    let advice = advice(sandbox, about);
    if !advice.is_empty() {
        screen.head("What to do");
        for advice in advice {
            screen.line(&format!(
                "  {}{}",
                advice.what,
                if advice.commands.is_empty() { "" } else { ":" }
            ));
            for command in advice.commands {
                screen.line(&format!("    {command}"));
            }
        }
    }
    screen.0
}

/// A process or container on the host's network.
pub(super) fn host(name: &str) -> String {
    format!(
        "{} is on the host's own network: it has no namespace of its own, and no anchor.\n",
        plain(name)
    )
}

/// A stopped container.
pub(super) fn stopped(container: &Container, survivors: &[String], facts: &EngineFacts) -> String {
    let title = plain(container.title());
    let since = match &container.run_state {
        RunState::Stopped { at: Some(at) } => format!(" (it ended at {})", plain(at)),
        _ => String::new(),
    };
    let mut text = format!("{title} is not running{since}, so it has no network namespace.\n");
    if let Some(id) = container.joined() {
        let joined = facts.containers.iter().find(|other| other.id == id);
        text.push_str(&match joined {
            None => format!(
                "It cannot be started: it was created to join the network of container {}, which \
                 no longer exists.\n",
                plain(short_id(id))
            ),
            Some(other) if other.run_state == RunState::Running => format!(
                "If it is started again, it shares the network of {}.\n",
                plain(other.title())
            ),
            Some(other) => format!(
                "It shares the network of {}, which is not running either: start that first.\n",
                plain(other.title())
            ),
        });
    }
    if let Some(first) = survivors.first() {
        text.push_str(&format!(
            "Its former namespace is still used by {}: pausectl explain {first}\n",
            list(survivors, "and")
        ));
    }
    text
}

/// A removed container.
pub(super) fn removed(removed: &Removed) -> String {
    let name = removed.name.as_deref().unwrap_or(short_id(&removed.id));
    let at = removed.at.as_deref();
    let at = at.map_or_else(String::new, |at| format!(" at {}", plain(at)));
    format!(
        "{} was removed{at}, and nothing of its network is left.\n",
        plain(name)
    )
}

fn owner(screen: &mut Screen, sandbox: &Sandbox) {
    screen.head("Owner");
    let row = match &sandbox.owner {
        Owner::Member(at, reason) => {
            let member = &sandbox.members[*at];
            screen.rows(&[
                [member.title(), member_line(member)],
                [String::new(), self::reason(*reason).to_owned()],
            ]);
            return;
        }
        Owner::Missing(absent) => {
            let id = absent.id.as_deref().filter(|_| absent.name.is_some());
            let id = id.map_or_else(String::new, |id| {
                format!("container {}, ", plain(short_id(id)))
            });
            [absent.title(), format!("{id}{}", gone(absent))]
        }
        Owner::File(path) => [
            plain(&path.to_string_lossy()),
            "the namespace is bound to this file".to_owned(),
        ],
        Owner::Unknown => [
            "none".to_owned(),
            "no owner can be seen from here".to_owned(),
        ],
    };
    screen.rows(&[row]);
}

fn reason(reason: OwnerReason) -> &'static str {
    match reason {
        OwnerReason::Sandbox => "it is the pod's sandbox",
        OwnerReason::PodOfOurs => "it is the pod's anchor",
        OwnerReason::Joined => "the others were started onto its network",
        OwnerReason::MadeFor => "the namespace was made for it",
        OwnerReason::Pause => "it runs pause",
        OwnerReason::Oldest => "it is the oldest member",
        OwnerReason::Rescued => "pausectl rescue attached it under its own name",
        OwnerReason::Registered => "the network is attached under its name",
    }
}

/// What a member is, for the line after its name.
fn member_line(member: &Member) -> String {
    let first = member.first();
    let process = match member.processes.len() {
        1 => format!("process {first}"),
        many => format!("process {first} and {} more", many - 1),
    };
    let Some(container) = &member.container else {
        return match member.processes.len() {
            1 => "a process in no container".to_owned(),
            many => format!("a process and {} descendants, in no container", many - 1),
        };
    };
    let engine = container
        .engine
        .map(|engine| format!("{} ", engine.as_str()));
    let image = container
        .image
        .as_deref()
        .map(|image| format!(", image {}", plain(image)));
    let pod = container.pod.as_ref().map(|pod| {
        format!(
            ", pod {}",
            plain(&format!("{}/{}", pod.namespace, pod.name))
        )
    });
    format!(
        "{}container {}{}{}, {process}",
        engine.unwrap_or_default(),
        plain(container.short_id()),
        image.unwrap_or_default(),
        pod.unwrap_or_default(),
    )
}

fn interface(wire: &SandboxInterface) -> Vec<[String; 2]> {
    let link = &wire.interface.link;
    let mut addresses: Vec<_> = wire
        .interface
        .addresses
        .iter()
        .map(ToString::to_string)
        .collect();
    if addresses.len() > ADDRESSES {
        addresses = vec![few(&addresses, ADDRESSES, "  ")];
    }
    if addresses.is_empty() {
        addresses.push("no address".to_owned());
    }
    addresses.extend(link.mac.map(|mac| mac.to_string()));
    if !link.up {
        addresses.push("down".to_owned());
    }
    let made = match &wire.origin {
        Origin::Pausenet { network } => format!("network {network}, made by pausenet"),
        Origin::Cni { network, plugins } => {
            let plugins: Vec<_> = plugins.iter().map(|name| plain(name)).collect();
            format!(
                "network {}, made by CNI's {}",
                plain(network),
                list(&plugins, "and")
            )
        }
        Origin::Docker {
            network: Some(network),
        } => {
            format!("network {}, made by Docker", plain(network))
        }
        Origin::Docker { network: None } => "made by Docker, it seems".to_owned(),
        Origin::Podman => "made by podman (netavark), it seems".to_owned(),
        Origin::Unknown => "made by hand or by an unknown program".to_owned(),
    };
    let host_end = match (&wire.interface.host_end, &wire.bridge) {
        (Some(host_end), Some(bridge)) => {
            format!(
                "host end {}, a port of {}",
                plain(&host_end.name),
                plain(bridge)
            )
        }
        (Some(host_end), None) => format!("host end {}, on no bridge", plain(&host_end.name)),
        (None, _) if link.kind.is_empty() => "no host end".to_owned(),
        (None, _) => format!("a {} without a host end", plain(&link.kind)),
    };
    vec![
        [plain(&link.name), addresses.join("  ")],
        [String::new(), made],
        [String::new(), host_end],
    ]
}

/// How many addresses of an interface are shown before they are only counted.
const ADDRESSES: usize = 8;

/// Members whose end has the same effect, in one row.
fn grouped(death_effects: Vec<DeathEffect>) -> Vec<[String; 2]> {
    let mut rows: Vec<(Vec<String>, String)> = Vec::new();
    for DeathEffect {
        member: who,
        effect: then,
    } in death_effects
    {
        match rows.iter_mut().find(|(_, other)| *other == then) {
            Some((all, _)) => all.push(who),
            None => rows.push((vec![who], then)),
        }
    }
    rows.into_iter()
        .map(|(who, then)| [list(&who, "or"), then])
        .collect()
}

/// Text in sections with headings.
#[derive(Default)]
struct Screen(String);

impl Screen {
    fn line(&mut self, text: &str) {
        self.0.push_str(text);
        self.0.push('\n');
    }

    fn head(&mut self, text: &str) {
        self.0.push('\n');
        self.line(text);
    }

    fn rows(&mut self, rows: &[[String; 2]]) {
        let width = rows.iter().map(|[first, _]| first.chars().count()).max();
        let width = width.unwrap_or(0).min(WIDEST);
        for [first, second] in rows {
            let mut first = first.as_str();
            if first.chars().count() > width {
                for line in wrap(first, WIDTH) {
                    self.line(&format!("  {line}"));
                }
                first = "";
            }
            for line in wrap(second, WIDTH.saturating_sub(width + 4)) {
                self.line(&format!("  {first:width$}  {line}"));
                first = "";
            }
        }
    }
}

/// Breaks a text into lines at spaces; a word that is too long is not broken.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(NARROWEST);
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split(' ') {
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(std::mem::replace(&mut line, word.to_owned()));
        }
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn long_texts_are_broken_between_words() {
        let text = "one two three four five six seven eight nine ten eleven";
        let lines = wrap(text, 40);
        assert_eq!(
            lines,
            ["one two three four five six seven eight", "nine ten eleven"]
        );
        assert_eq!(wrap("", 40), [""]);
    }

    proptest! {
        #[test]
        fn no_word_is_lost(text in "[a-z ]{0,300}", width in 0..120usize) {
            let words = |text: &str| text.split_whitespace().collect::<String>();
            prop_assert_eq!(words(&wrap(&text, width).join(" ")), words(&text));
        }
    }
}
