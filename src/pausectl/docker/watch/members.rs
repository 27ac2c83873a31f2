//! An anchor's members, seen to by the watcher: restarted where that is wished and helps, or told
//! of with the command that repairs each.

use serde_json::json;

use super::super::members::{anew, bereft, is_orphan, left_behind};
use super::super::network_location::netns_of;
use super::super::reanchor::Scene;
use super::super::record;
use super::super::restart_members::{Brought, bring};
use super::decision::{Facts, Seen, Verdict};
use super::event_log::{Topic, Voice};
use super::pass::{Broken, Case, Round, Subject};
use crate::Stop;
use crate::docker_api::{Container, ContainerName, ErrorKind, NetworkMode};
use pausenet::kernel::netns::NetnsId;
use pausenet_host::runtime::Interrupt;

impl<'a> Case<'a> {
    pub fn new(
        subject: &'a Subject<'a>,
        facts: Facts,
        verdict: Verdict,
        containers: &'a [Container],
    ) -> Self {
        let anchor = subject.container.filter(|_| verdict == Verdict::Split);
        Self {
            bereft: anchor.map_or_else(Vec::new, |anchor| bereft(&facts.home, anchor, containers)),
            subject,
            facts,
            verdict,
            containers,
        }
    }

    /// The anchor, where it runs.
    fn anchor(&self) -> Option<(&Container, NetnsId)> {
        match (self.subject.container, self.facts.seen) {
            (Some(anchor), Seen::Running(netns)) => Some((anchor, netns)),
            _ => None,
        }
    }

    /// It has its network, or has just got it.
    fn is_at_home(&self) -> bool {
        match self.verdict {
            Verdict::Attach | Verdict::AttachAgain => true,
            Verdict::Fine => self
                .anchor()
                .is_some_and(|(_, netns)| self.facts.home.netns() == Some(netns)),
            _ => false,
        }
    }

    /// The network could go where the anchor is, and nobody would lose it.
    pub fn could_follow(&self) -> bool {
        let anchor = self.subject.container;
        let own_namespace = anchor.is_some_and(|anchor| anchor.network == NetworkMode::None);
        own_namespace && self.bereft.is_empty()
    }
}

impl Round<'_> {
    /// Lets the network follow the anchor.
    pub(super) async fn follow(
        &self,
        case: &Case<'_>,
        voice: &mut Voice,
        interrupt: &mut Interrupt,
    ) -> Result<(), Stop> {
        let subject = case.subject;
        let (Some(record), Some(container)) = (subject.record.clone(), subject.container) else {
            return Ok(());
        };
        let name = container.name.clone();
        let mut scene = Scene {
            docker: self.docker.clone(),
            name: name.clone(),
            old: Some(container.clone()),
            record,
            home: case.facts.home.clone(),
            containers: case.containers.to_owned(),
        };
        let brought = scene.follow(&self.rules.runtime, interrupt).await?;
        let text = format!(
            "has its network again ({})",
            scene.record.addresses.join(", ")
        );
        tell_of_brought(&name, &text, &brought, voice)
    }

    /// `is_done`: nothing that was to be done before has failed.
    pub(super) async fn see_to_members(
        &self,
        case: &Case<'_>,
        is_done: bool,
        voice: &mut Voice,
    ) -> Result<(), Broken> {
        let brings = is_done && self.rules.restart_members;
        if brings && case.verdict == Verdict::Split && case.could_follow() {
            return Ok(()); // They were restarted with it.
        }
        match case.anchor() {
            // An attempt that was broken off, or had failed.
            Some((anchor, netns)) if brings && case.is_at_home() => {
                let brought = bring(self.docker, &anchor.id, netns, case.containers).await;
                if !brought.is_nothing() {
                    tell_of_brought(&anchor.name, "has its network", &brought, voice)?;
                }
            }
            Some((anchor, netns)) => {
                self.tell_of_left_behind(case, anchor, netns, voice).await?;
            }
            None => {}
        }
        self.tell_of_orphans(case, voice).await
    }

    /// Members in an old namespace of an anchor that Docker still knows by the same ID.
    async fn tell_of_left_behind(
        &self,
        case: &Case<'_>,
        anchor: &Container,
        netns: NetnsId,
        voice: &mut Voice,
    ) -> Result<(), Broken> {
        let name = &anchor.name;
        let home = case.facts.home.netns().filter(|home| *home != netns);
        if home.is_some() && case.facts.kind == record::Kind::Rescued {
            return Ok(()); // The network is theirs, for what it is worth.
        }
        let lives = format!("lives in an old namespace of {name}");
        let alone = "restarted by itself it would be in the new one, without a network";
        for member in left_behind(&anchor.id, Some(netns), case.containers) {
            let (text, repair) = match home {
                None => (
                    format!("{lives}; to bring it into the new one"),
                    format!("docker restart {member}"),
                ),
                Some(_) if case.could_follow() => (
                    format!("{lives}; {alone}; to bring all there, and the network"),
                    format!("pausectl docker reanchor {name} --restart-members"),
                ),
                Some(home) if netns_of(member) == Some(home) => (
                    format!("{lives}, with its network; {alone}; to have the anchor there again"),
                    format!("pausectl docker reanchor {name}"),
                ),
                Some(_) => {
                    let text = format!("{lives}, without a network; to make it anew");
                    self.tell_of_anew(member, name, false, &text, voice).await?;
                    continue;
                }
            };
            voice.stands(Topic::Member, member.name.as_str(), &text, &repair)?;
        }
        Ok(())
    }

    /// Members that no restart repairs.
    async fn tell_of_orphans(&self, case: &Case<'_>, voice: &mut Voice) -> Result<(), Broken> {
        let name = case.subject.name();
        let Ok(anchor) = ContainerName::parse(&name) else {
            return Ok(());
        };
        let home = case.facts.home.netns();
        let at_home = case.anchor().is_some_and(|(_, netns)| Some(netns) == home);
        let members = case.facts.home.containers(case.containers);
        for member in members
            .into_iter()
            .filter(|member| is_orphan(member, case.containers, None))
        {
            // An anchor that was put back looks for a survivor, and is one itself.
            let container = case.subject.container;
            if container.is_some_and(|own| own.id == member.id) {
                continue;
            }
            let text = format!(
                "a restart would fail, for it looks for an earlier {name} that was removed; to make it anew"
            );
            self.tell_of_anew(member, &anchor, at_home, &text, voice)
                .await?;
        }
        Ok(())
    }

    async fn tell_of_anew(
        &self,
        member: &Container,
        anchor: &ContainerName,
        at_home: bool,
        text: &str,
        voice: &mut Voice,
    ) -> Result<(), Broken> {
        let name = member.name.as_str();
        match anew(self.docker, member, anchor, at_home).await {
            Ok(anew) => {
                let text = format!("{text} ({})", anew.caution);
                Ok(voice.stands(Topic::Member, name, &text, &anew.command)?)
            }
            // It has gone meanwhile.
            Err(failure) if failure.kind == ErrorKind::NotFound => Ok(()),
            Err(failure) if failure.kind == ErrorKind::Other => {
                let text = format!("{text}, see what it was made with: {failure}");
                Ok(voice.stands(Topic::Member, name, &text, "")?)
            }
            Err(failure) => Err(failure.into()),
        }
    }
}

/// What was restarted is an event; what was not, stands.
fn tell_of_brought(
    anchor: &ContainerName,
    text: &str,
    brought: &Brought,
    voice: &mut Voice,
) -> Result<(), Stop> {
    let names = brought.restarted.iter().map(ContainerName::as_str);
    let names: Vec<_> = names.collect();
    let text = match names.as_slice() {
        [] => text.to_owned(),
        names => format!("{text}; restarted into it: {}", names.join(", ")),
    };
    let more = json!({"restarted": names});
    voice.done("followed", anchor.as_str(), &text, more)?;
    for (member, failure) in &brought.failed {
        let text = format!(
            "could not be restarted into the network of {anchor} ({failure}); to try it again"
        );
        let repair = format!("docker restart {member}");
        voice.stands(Topic::Member, member.as_str(), &text, &repair)?;
    }
    Ok(())
}
