//! One look at everything, and what follows from it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::json;

use super::super::attachment::{self, Place};
use super::super::etc_hosts;
use super::super::network_location::{Home, Namespaces, netns_of};
use super::super::record::{self, NETWORK_LABEL, Record, Template};
use super::super::who;
use super::decision::{Facts, Seen, Verdict, decide};
use super::event_log::{Topic, Voice};
use crate::Stop;
use crate::attachment_settings::Wishes;
use crate::docker_api::{ApiError, Container, ContainerFilter, Docker, NetworkMode, State};
use crate::published_ports::Port;
use pausenet::apply::Host;
use pausenet::cni::{self, ContainerId, IfName};
use pausenet::kernel::RouteSocket;
use pausenet_host::Error;
use pausenet_host::runtime::conflist::NetworkList;
use pausenet_host::runtime::{Interrupt, Runtime};

/// The labels with what a container asks of its network.
const IP_LABEL: &str = "pausenet.ip";
const PUBLISH_LABEL: &str = "pausenet.publish";

/// What holds for every round.
pub struct Rules {
    pub runtime: Runtime,
    pub conf_dir: PathBuf,
    pub restart_members: bool,
}

/// When to look again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    AfterAnEvent,
    Soon,
}

/// Why a round was broken off.
pub enum Broken {
    /// The daemon does not answer.
    Docker(ApiError),
    Stop(Stop),
}

impl From<ApiError> for Broken {
    fn from(failure: ApiError) -> Self {
        Self::Docker(failure)
    }
}

impl From<Stop> for Broken {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}

impl From<Error> for Broken {
    fn from(err: Error) -> Self {
        Self::Stop(err.into())
    }
}

impl From<cni::Error> for Broken {
    fn from(err: cni::Error) -> Self {
        Self::Stop(err.into())
    }
}

impl From<Broken> for Stop {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Docker(failure) => failure.into(),
            Broken::Stop(stop) => stop,
        }
    }
}

/// A round.
pub struct Round<'a> {
    pub(super) docker: &'a Docker,
    pub(super) rules: &'a Rules,
}

/// Somebody to look after.
pub struct Subject<'a> {
    identity: ContainerId,
    pub record: Option<Record>,
    pub container: Option<&'a Container>,
}

/// One subject, and what is to be done for it.
pub struct Case<'a> {
    pub subject: &'a Subject<'a>,
    pub facts: Facts,
    pub verdict: Verdict,
    pub containers: &'a [Container],
    /// Who would lose the network for good if it went where the anchor is now.
    pub bereft: Vec<String>,
}

impl<'a> Round<'a> {
    pub fn new(docker: &'a Docker, rules: &'a Rules) -> Self {
        Self { docker, rules }
    }

    /// Looks at everything, and does what there is to do. One subject's failure is said, and
    /// does not stop the others.
    ///
    /// # Errors
    /// The daemon's silence; a signal.
    pub async fn run(&self, voice: &mut Voice, interrupt: &mut Interrupt) -> Result<Next, Broken> {
        let containers = self.docker.list(ContainerFilter::All).await?;
        let namespaces = Namespaces::read()?;
        let mut socket = Host::open_socket()?;
        let mut next = Next::AfterAnEvent;
        for subject in subjects(&containers, voice)? {
            // Somebody else is at work on it: a person, or another of us.
            let Some(_lock) = record::try_lock(&subject.identity)? else {
                next = Next::Soon;
                continue;
            };
            // As it is now that nobody else is.
            let subject = Subject {
                record: record::of(&subject.identity),
                ..subject
            };
            let mut facts = subject.facts(&namespaces, &mut socket)?;
            let mut verdict = decide(&facts);
            if !matches!(verdict, Verdict::Fine | Verdict::Unclear) {
                // Looked at once more before anything is changed: processes come and go while
                // /proc is read.
                facts = subject.facts(&Namespaces::read()?, &mut socket)?;
                verdict = decide(&facts);
            }
            if verdict == Verdict::Unclear {
                next = Next::Soon;
            }
            let case = Case::new(&subject, facts, verdict, &containers);
            let is_done = self.act(&case, voice, interrupt).await?;
            self.see_to_members(&case, is_done, voice).await?;
            if let Some(signal) = interrupt.pending().await {
                return Err(Stop::Interrupted(signal).into());
            }
        }
        voice.end_of_round();
        Ok(next)
    }

    /// True when nothing has failed.
    async fn act(
        &self,
        case: &Case<'_>,
        voice: &mut Voice,
        interrupt: &mut Interrupt,
    ) -> Result<bool, Broken> {
        let Case {
            subject,
            facts,
            containers,
            ..
        } = case;
        let name = subject.name();
        let done = match case.verdict {
            Verdict::Fine | Verdict::Unclear => Ok(()),
            verdict @ (Verdict::Attach | Verdict::AttachAgain) => {
                self.attach(subject, verdict, voice, interrupt).await
            }
            Verdict::Detach => self.detach(subject, voice).await,
            Verdict::Split if self.rules.restart_members && case.could_follow() => {
                self.follow(case, voice, interrupt).await
            }
            Verdict::Split => tell_of_split(case, voice),
            Verdict::Orphaned => voice.stands(
                Topic::Anchor,
                &name,
                &format!(
                    "is gone, and its network stays with {}; to give them an anchor again",
                    who(&facts.home, containers)
                ),
                &format!("pausectl docker reanchor {name}"),
            ),
            Verdict::NotOurs => voice.stands(
                Topic::Label,
                &name,
                &format!(
                    "its label {NETWORK_LABEL} asks for a network, but Docker made it with \
                     --net={}; make it with",
                    subject.mode()
                ),
                "--net=none",
            ),
        };
        match done {
            Ok(()) => Ok(true),
            // Not the daemon's absence: that shows at the next request.
            Err(Stop::Failed(err)) => {
                voice.stands(Topic::ApiError, &name, &err.to_string(), "")?;
                Ok(false)
            }
            Err(stop) => Err(stop.into()),
        }
    }

    async fn attach(
        &self,
        subject: &Subject<'_>,
        verdict: Verdict,
        voice: &mut Voice,
        interrupt: &mut Interrupt,
    ) -> Result<(), Stop> {
        let Some((container, pid)) = subject
            .container
            .and_then(|found| Some((found, found.pid?)))
        else {
            return Ok(());
        };
        let mut record = self.wanted(subject, container)?;
        let place = Place::of_process(pid)?;
        if verdict == Verdict::AttachAgain {
            attachment::detach(&self.rules.runtime, &record).await?;
        }
        let result =
            attachment::attach_again(&self.rules.runtime, &mut record, &place, interrupt).await?;
        etc_hosts::name_addresses(self.docker, &record).await;
        let addresses: Vec<_> = result.ips.iter().map(|ip| ip.address.to_string()).collect();
        let text = format!(
            "attached to network {}: {} on {}",
            record.list.name,
            addresses.join(", "),
            record.ifname
        );
        let more = json!({"network": record.list.name.as_str(), "addresses": addresses});
        voice.done("attached", &record.name, &text, more)
    }

    /// What the container is to have: as before, if it is the same; else as its labels say.
    fn wanted(&self, subject: &Subject<'_>, container: &Container) -> Result<Record, Error> {
        let is_same = |record: &&Record| {
            record.container.as_ref() == Some(&container.id) || record.kind == record::Kind::Anchor
        };
        if let Some(record) = subject.record.as_ref().filter(is_same) {
            return Ok(Record {
                container: Some(container.id.clone()),
                name: container.name.to_string(),
                ..record.clone()
            });
        }
        let label = |name: &str| container.labels.get(name).map(String::as_str);
        let wrong = |name: &str, why: String| Error::new(format!("label {name}: {why}"));
        let list = NetworkList::find(&self.rules.conf_dir, label(NETWORK_LABEL))?;
        let ips: Vec<_> = label(IP_LABEL).into_iter().map(str::to_owned).collect();
        let mut wishes = Wishes::parse(&ips, None).map_err(|why| wrong(IP_LABEL, why))?;
        let ports = label(PUBLISH_LABEL)
            .into_iter()
            .flat_map(|text| text.split(','));
        wishes.ports =
            Port::parse_all(ports.map(str::trim)).map_err(|why| wrong(PUBLISH_LABEL, why))?;
        wishes.ports.iter().try_for_each(Port::refuse_served)?;
        Ok(Record {
            identity: subject.identity.clone(),
            kind: record::Kind::Attached,
            container: Some(container.id.clone()),
            name: container.name.to_string(),
            wanted: true,
            ifname: IfName::parse("eth0").map_err(Error::new)?,
            list,
            wishes,
            addresses: subject
                .record
                .as_ref()
                .map_or_else(Vec::new, |record| record.addresses.clone()),
            template: Some(Template::of(container)),
        })
    }

    async fn detach(&self, subject: &Subject<'_>, voice: &mut Voice) -> Result<(), Stop> {
        let Some(record) = &subject.record else {
            return Ok(());
        };
        let was_attached = attachment::remembered(record).is_some();
        attachment::detach(&self.rules.runtime, record).await?;
        // A stopped container is to have its address and its ports again.
        if subject.container.is_none() || record.kind == record::Kind::Rescued {
            record.forget()?;
        }
        if !was_attached {
            return Ok(());
        }
        let text = format!(
            "detached from network {}: nobody is left in it",
            record.list.name
        );
        let more = json!({"network": record.list.name.as_str(), "addresses": record.addresses});
        voice.done("detached", &record.name, &text, more)
    }
}

/// The anchor is in another namespace than its network.
fn tell_of_split(case: &Case<'_>, voice: &mut Voice) -> Result<(), Stop> {
    let name = case.subject.name();
    let known = case.subject.record.as_ref();
    let known = known.and_then(|record| record.container.as_ref());
    let what = match known == case.subject.container.map(|own| &own.id) {
        true => "was restarted",
        false => "was made anew",
    };
    let mut text = format!(
        "{what}, and its network stays with {} in the old namespace",
        who(&case.facts.home, case.containers)
    );
    let mut repair = format!("pausectl docker reanchor {name}");
    if case.could_follow() {
        repair.push_str(&format!(
            " (or, to restart them into the new one: {repair} --restart-members)"
        ));
    } else if !case.bereft.is_empty() {
        text.push_str(&format!(
            " (no restart brings {} into the new one)",
            case.bereft.join(", ")
        ));
    }
    text.push_str("; to give them the anchor again");
    voice.stands(Topic::Anchor, &name, &text, &repair)
}

/// Everybody to look after: who has a label, and who is remembered.
fn subjects<'a>(
    containers: &'a [Container],
    voice: &mut Voice,
) -> Result<Vec<Subject<'a>>, Broken> {
    let mut subjects: BTreeMap<ContainerId, Subject<'a>> = BTreeMap::new();
    for record in record::all() {
        let own = record.container.as_ref();
        subjects.insert(
            record.identity.clone(),
            Subject {
                container: containers
                    .iter()
                    .find(|container| Some(&container.id) == own),
                identity: record.identity.clone(),
                record: Some(record),
            },
        );
    }
    for container in containers {
        if !container.labels.contains_key(NETWORK_LABEL) {
            continue;
        }
        let identity = match record::identity_of(container) {
            Ok(identity) => identity,
            Err(err) => {
                voice.stands(Topic::Label, container.name.as_str(), &err.to_string(), "")?;
                continue;
            }
        };
        let subject = subjects.entry(identity.clone()).or_insert(Subject {
            identity,
            record: None,
            container: None,
        });
        match subject.container {
            None => subject.container = Some(container),
            Some(other) if other.id != container.id && container.pid.is_some() => {
                let text = format!("claims to be {}, as {other} does", subject.identity);
                voice.stands(Topic::Label, container.name.as_str(), &text, "")?;
            }
            Some(_) => {}
        }
    }
    Ok(subjects.into_values().collect())
}

impl Subject<'_> {
    /// As people call it.
    pub fn name(&self) -> String {
        match (self.container, &self.record) {
            (Some(container), _) => container.name.to_string(),
            (None, Some(record)) => record.name.clone(),
            (None, None) => self.identity.to_string(),
        }
    }

    fn mode(&self) -> String {
        self.container
            .map_or_else(String::new, |container| container.network.to_string())
    }

    fn facts(&self, namespaces: &Namespaces, socket: &mut RouteSocket) -> Result<Facts, Error> {
        let remembered = self.record.as_ref().and_then(attachment::remembered);
        let home = match &self.record {
            Some(record) => namespaces.home(socket, &record.attachment(), remembered.as_ref())?,
            None => Home::Gone,
        };
        let record = self.record.as_ref();
        Ok(Facts {
            kind: record.map_or(record::Kind::Attached, |record| record.kind),
            outside: record.is_some_and(|record| record.container.is_none()),
            // What was detached was that container, not one made after it.
            wanted: record.is_none_or(|record| {
                record.wanted
                    || self
                        .container
                        .is_some_and(|own| record.container.as_ref() != Some(&own.id))
            }),
            own_namespace: self
                .container
                .is_some_and(|container| container.network == NetworkMode::None),
            remembered: remembered.is_some(),
            seen: self.container.map_or(Seen::Absent, seen),
            home,
        })
    }
}

fn seen(container: &Container) -> Seen {
    match container.state {
        State::Restarting => Seen::Restarting,
        _ if container.pid.is_none() => Seen::Stopped,
        _ => netns_of(container).map_or(Seen::Ending, Seen::Running),
    }
}
