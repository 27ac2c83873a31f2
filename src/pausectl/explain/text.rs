//! The screens of `pausectl explain`.

use pausenet_host::anchor::advice::advice;
use pausenet_host::anchor::container::{Container, Life, short_id};
use pausenet_host::anchor::death::{DeathEffect, death_effects, gone, summary};
use pausenet_host::anchor::origin::Origin;
use pausenet_host::anchor::sandbox::{Member, Owner, OwnerReason, Sandbox, SandboxInterface};
use pausenet_host::anchor::scan::{EngineFacts, Removed};
use pausenet_host::anchor::text::{list, plain};

/// How wide a page is.
const WIDTH: usize = 100;

/// How narrow a column of text may become beside long names.
const NARROWEST: usize = 40;

/// The whole story of a namespace; `about` is the member that was asked for.
pub fn story(sandbox: &Sandbox, about: Option<usize>) -> String {
    let mut page = Page::default();
    for line in wrap(&summary(sandbox, about), WIDTH) {
        page.line(&line);
    }
    page.head(&format!(
        "Network namespace {}: {}",
        sandbox.netns.number(),
        sandbox.state().as_str()
    ));
    owner(&mut page, sandbox);
    let sharers: Vec<_> = sandbox
        .sharers()
        .map(|member| [member.title(), member_line(member)])
        .collect();
    if !sharers.is_empty() {
        page.head(if sandbox.anchor().is_some() {
            "Shared by"
        } else {
            "Members"
        });
        page.rows(&sharers);
    }
    page.head("Interfaces");
    if sandbox.interfaces.is_empty() {
        page.rows(&[["lo".to_owned(), "alone".to_owned()]]);
    }
    for wire in &sandbox.interfaces {
        page.rows(&interface(wire));
    }
    let death_effects = death_effects(sandbox);
    if !death_effects.is_empty() {
        page.head("What happens when one of them ends");
        page.rows(&together(death_effects));
    }
    let advice = advice(sandbox, about);
    if !advice.is_empty() {
        page.head("What to do");
        for advice in advice {
            page.line(&format!(
                "  {}{}",
                advice.what,
                if advice.commands.is_empty() { "" } else { ":" }
            ));
            for command in advice.commands {
                page.line(&format!("    {command}"));
            }
        }
    }
    page.0
}

/// Somebody without a namespace of its own.
pub fn host(who: &str) -> String {
    format!(
        "{} is on the host's own network: it has no namespace of its own, and no anchor.\n",
        plain(who)
    )
}

/// A container that does not run.
pub fn stopped(container: &Container, survivors: &[String], told: &EngineFacts) -> String {
    let title = plain(container.title());
    let since = match &container.life {
        Life::Stopped { at: Some(at) } => format!(" (it ended at {})", plain(at)),
        _ => String::new(),
    };
    let mut text = format!("{title} does not run{since}, so it has no network namespace.\n");
    if let Some(id) = container.joined() {
        let joined = told.containers.iter().find(|other| other.id == id);
        text.push_str(&match joined {
            None => format!(
                "It cannot be started: it was made with the network of container {}, and that no \
                 longer exists.\n",
                plain(short_id(id))
            ),
            Some(other) if other.life == Life::Running => format!(
                "Started again, it shares the network of {}.\n",
                plain(other.title())
            ),
            Some(other) => format!(
                "It shares the network of {}, which does not run either: start that one first.\n",
                plain(other.title())
            ),
        });
    }
    if let Some(first) = survivors.first() {
        text.push_str(&format!(
            "The namespace that it had lives on, with {}: pausectl explain {first}\n",
            list(survivors, "and")
        ));
    }
    text
}

/// A container that is no more.
pub fn removed(removed: &Removed) -> String {
    let name = removed.name.as_deref().unwrap_or(short_id(&removed.id));
    let at = removed.at.as_deref();
    let at = at.map_or_else(String::new, |at| format!(" at {}", plain(at)));
    format!(
        "{} was removed{at}, and nothing of its network is left.\n",
        plain(name)
    )
}

fn owner(page: &mut Page, sandbox: &Sandbox) {
    page.head("Owner");
    let row = match &sandbox.owner {
        Owner::Member(at, reason) => {
            let member = &sandbox.members[*at];
            page.rows(&[
                [member.title(), member_line(member)],
                [String::new(), why(*reason).to_owned()],
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
            "the file holds it".to_owned(),
        ],
        Owner::Nobody => [
            "nobody".to_owned(),
            "nobody that can be seen from here".to_owned(),
        ],
    };
    page.rows(&[row]);
}

fn why(reason: OwnerReason) -> &'static str {
    match reason {
        OwnerReason::Sandbox => "it is the pod's sandbox",
        OwnerReason::PodOfOurs => "it stands for the pod",
        OwnerReason::Joined => "the others were started onto its network",
        OwnerReason::MadeFor => "the namespace was made for it",
        OwnerReason::Pause => "it runs a pause",
        OwnerReason::Oldest => "it is the oldest here",
        OwnerReason::Rescued => "pausectl rescue gave it a network, in its own name",
        OwnerReason::Registered => "the network is in its name",
    }
}

/// What a member is, after its name.
fn member_line(member: &Member) -> String {
    let first = member.first();
    let process = match member.processes.len() {
        1 => format!("process {first}"),
        many => format!("process {first} and {} more", many - 1),
    };
    let Some(container) = &member.container else {
        return match member.processes.len() {
            1 => "a process in no container".to_owned(),
            many => format!("a process and {} below it, in no container", many - 1),
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
    if addresses.is_empty() {
        addresses.push("no address".to_owned());
    }
    addresses.extend(link.mac.map(|mac| mac.to_string()));
    if !link.up {
        addresses.push("switched off".to_owned());
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
        Origin::Unknown => "made by hand, or by somebody unknown".to_owned(),
    };
    let way = match (&wire.interface.host_end, &wire.bridge) {
        (Some(host_end), Some(bridge)) => {
            format!(
                "host end {}, a port of {}",
                plain(&host_end.name),
                plain(bridge)
            )
        }
        (Some(host_end), None) => format!("host end {}, on no bridge", plain(&host_end.name)),
        (None, _) if link.kind.is_empty() => "no end on the host".to_owned(),
        (None, _) => format!("a {} without an end on the host", plain(&link.kind)),
    };
    vec![
        [plain(&link.name), addresses.join("  ")],
        [String::new(), made],
        [String::new(), way],
    ]
}

/// Members with the same fate in one row.
fn together(death_effects: Vec<DeathEffect>) -> Vec<[String; 2]> {
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

/// Text in sections.
#[derive(Default)]
struct Page(String);

impl Page {
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
        let width = width.unwrap_or(0);
        for [first, second] in rows {
            let mut first = first.as_str();
            for line in wrap(second, WIDTH.saturating_sub(width + 4)) {
                self.line(&format!("  {first:width$}  {line}"));
                first = "";
            }
        }
    }
}

/// Breaks a text into lines at spaces; a word that is too long stays whole.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(NARROWEST);
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("there is always one");
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
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
