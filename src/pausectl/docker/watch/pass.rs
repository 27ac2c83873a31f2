//! One pass: observes every container that is ours to look after, and acts on each.

use std::path::PathBuf;

use serde_json::json;

use super::super::attachment::{self, Attached, TargetNetns};
use super::super::etc_hosts;
use super::super::lookup::{member_names, refuse_taken_ports};
use super::super::network_location::Namespaces;
use super::super::record::{self, NETWORK_LABEL, NetworkRecord, Record, Template};
use super::decision::{Decision, decide};
use super::event_log::{EventLog, ProblemKind};
use super::members::{handle_members, move_network};
use super::target::{Assessment, PassError, WatchTarget, targets};
use crate::attachment_settings::AttachmentSettings;
use crate::command::Stop;
use crate::docker_api::{Container, ContainerFilter, Docker};
use crate::published_ports::{PublishedPort, in_use};
use pausenet::apply::Host;
use pausenet::cni::IfName;
use pausenet_host::Error;
use pausenet_host::runtime::{Interrupt, Runtime};

/// The labels with settings of a container's attachment.
const IP_LABEL: &str = "pausenet.ip";
const PUBLISH_LABEL: &str = "pausenet.publish";

/// The options of every pass.
pub(super) struct WatchConfig {
    pub(super) runtime: Runtime,
    pub(super) conf_dir: PathBuf,
    pub(super) restart_members: bool,
}

/// When the next pass is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NextPass {
    OnEvent,
    Soon,
}

/// A pass over all containers.
pub(super) struct Pass<'a> {
    pub(super) docker: &'a Docker,
    pub(super) config: &'a WatchConfig,
}

impl<'a> Pass<'a> {
    pub(super) fn new(docker: &'a Docker, config: &'a WatchConfig) -> Self {
        Self { docker, config }
    }

    /// Runs the pass. One target's failure is reported, and does not stop the others.
    ///
    /// # Errors
    /// When the daemon does not reply, and on a signal.
    pub(super) async fn run(
        &self,
        log: &mut EventLog,
        interrupt: &mut Interrupt,
    ) -> Result<NextPass, PassError> {
        let containers = self.docker.list(ContainerFilter::All).await?;
        let namespaces = Namespaces::read()?;
        let mut socket = Host::open_socket()?;
        let mut next = NextPass::OnEvent;
        for target in targets(&containers, log)? {
            // Another pausectl is working on it.
            let Some(_lock) = record::try_lock(&target.identity)? else {
                next = NextPass::Soon;
                continue;
            };
            // As it is now, under the lock.
            let target = WatchTarget {
                record: record::load(&target.identity),
                ..target
            };
            let mut observed = target.observed(&namespaces, &mut socket)?;
            let mut decision = decide(&observed);
            if !matches!(decision, Decision::NoAction | Decision::Recheck) {
                // Observed again before anything is changed: processes come and go while /proc
                // is read.
                observed = target.observed(&Namespaces::read()?, &mut socket)?;
                decision = decide(&observed);
            }
            if decision == Decision::Recheck {
                next = NextPass::Soon;
            }
            let assessment = Assessment::new(&target, observed, decision, &containers);
            let succeeded = self.apply(&assessment, log, interrupt).await?;
            let restart = succeeded && self.config.restart_members;
            handle_members(self.docker, &assessment, restart, log).await?;
            if let Some(signal) = interrupt.pending().await {
                return Err(Stop::Interrupted(signal).into());
            }
        }
        log.end_pass();
        Ok(next)
    }

    /// True on success.
    async fn apply(
        &self,
        assessment: &Assessment<'_>,
        log: &mut EventLog,
        interrupt: &mut Interrupt,
    ) -> Result<bool, PassError> {
        let Assessment {
            target,
            observed,
            containers,
            ..
        } = assessment;
        let name = target.name();
        let done = match assessment.decision {
            Decision::NoAction | Decision::Recheck => Ok(()),
            decision @ (Decision::Attach | Decision::Reattach | Decision::Complete) => {
                self.attach(target, decision, log, interrupt).await
            }
            Decision::Detach => self.detach(target, log).await,
            Decision::Split if self.config.restart_members && assessment.can_move_network() => {
                move_network(
                    self.docker,
                    &self.config.runtime,
                    assessment,
                    log,
                    interrupt,
                )
                .await
            }
            Decision::Split => report_split(assessment, log),
            Decision::Orphaned => log.problem(
                ProblemKind::Anchor,
                &name,
                &format!(
                    "is gone, but its network stays with {}; to give them a new anchor",
                    member_names(&observed.location, containers)
                ),
                &format!("pausectl docker reanchor {name}"),
            ),
            Decision::UnusableLabel => log.problem(
                ProblemKind::Label,
                &name,
                &format!(
                    "its label {NETWORK_LABEL} requests a network, but it was created with \
                     --net={}; recreate it with",
                    target.mode()
                ),
                "--net=none",
            ),
        };
        match done {
            Ok(()) => Ok(true),
            // If the daemon is down, the next request will show it.
            Err(Stop::Failed(err)) => {
                log.problem(ProblemKind::Failure, &name, &err.to_string(), "")?;
                Ok(false)
            }
            Err(stop) => Err(stop.into()),
        }
    }

    async fn attach(
        &self,
        target: &WatchTarget<'_>,
        decision: Decision,
        log: &mut EventLog,
        interrupt: &mut Interrupt,
    ) -> Result<(), Stop> {
        let Some((container, pid)) = target.container.and_then(|found| Some((found, found.pid?)))
        else {
            return Ok(());
        };
        let mut record = self.desired(target, container).await?;
        let target_netns = TargetNetns::of_process(pid)?;
        if decision == Decision::Reattach {
            attachment::detach(&self.config.runtime, &record).await?;
        }
        let attached = attachment::reattach_missing(
            &self.config.runtime,
            &mut record,
            &target_netns,
            interrupt,
        );
        let attached = attached.await;
        // Of several, some may have been attached.
        etc_hosts::set_addresses(self.docker, &record).await;
        for Attached { network, result } in attached? {
            let addresses: Vec<_> = result.ips.iter().map(|ip| ip.address.to_string()).collect();
            let text = format!(
                "attached to network {}: {} on {}",
                network.list.name,
                addresses.join(", "),
                network.ifname
            );
            let more = json!({"network": network.list.name.as_str(), "addresses": addresses});
            log.event("attached", &record.name, &text, more)?;
        }
        Ok(())
    }

    /// The desired attachments: those of its record if it is the same container (or an anchor), else
    /// what its labels say.
    async fn desired(
        &self,
        target: &WatchTarget<'_>,
        container: &Container,
    ) -> Result<Record, Error> {
        let is_same = |record: &&Record| {
            record.container.as_ref() == Some(&container.id) || record.kind == record::Kind::Anchor
        };
        if let Some(record) = target.record.as_ref().filter(is_same) {
            let mut own = Record {
                container: Some(container.id.clone()),
                name: container.name.to_string(),
                unfinished: false,
                ..record.clone()
            };
            if record.container.as_ref() != Some(&container.id) {
                // What was detached was another container's.
                own.networks
                    .iter_mut()
                    .for_each(|network| network.wanted = true);
            }
            return Ok(own);
        }
        let label = |name: &str| container.labels.get(name).map(String::as_str);
        let wrong = |name: &str, why: String| Error::new(format!("label {name}: {why}"));
        let names = label(NETWORK_LABEL).unwrap_or_default();
        let lists = record::labelled_networks(names, &self.config.conf_dir)?;
        let ips: Vec<_> = label(IP_LABEL).into_iter().map(str::to_owned).collect();
        let mut settings =
            AttachmentSettings::parse(&ips, None).map_err(|why| wrong(IP_LABEL, why))?;
        let ports = label(PUBLISH_LABEL)
            .into_iter()
            .flat_map(|text| text.split(','));
        let ports = PublishedPort::parse_all(ports.map(str::trim), in_use::is_free_now())
            .map_err(|why| wrong(PUBLISH_LABEL, why))?;
        refuse_taken_ports(Some(self.docker), &ports, &target.identity).await?;
        let by_reference: Vec<_> = lists.iter().collect();
        let first_only = AttachmentSettings {
            ports,
            ..AttachmentSettings::default()
        };
        let each = first_only.for_networks(None, &by_reference);
        let mut each = each.map_err(|why| wrong(PUBLISH_LABEL, why))?;
        if let Some(first) = each.first_mut() {
            first.ips.append(&mut settings.ips);
        }
        let mut record = Record {
            identity: target.identity.clone(),
            kind: record::Kind::Attached,
            container: Some(container.id.clone()),
            name: container.name.to_string(),
            unfinished: false,
            networks: Vec::new(),
            template: Some(Template::from_container(container)),
        };
        for (at, (list, settings)) in lists.into_iter().zip(each).enumerate() {
            let ifname = IfName::parse(&format!("eth{at}")).map_err(Error::new)?;
            let earlier = target.record.as_ref();
            let earlier = earlier.and_then(|record| record.network(&ifname));
            record.set_network(NetworkRecord {
                addresses: earlier.map_or_else(Vec::new, |earlier| earlier.addresses.clone()),
                ..NetworkRecord::new(ifname, list, settings)
            });
        }
        Ok(record)
    }

    async fn detach(&self, target: &WatchTarget<'_>, log: &mut EventLog) -> Result<(), Stop> {
        let Some(record) = &target.record else {
            return Ok(());
        };
        let networks = record.networks.iter();
        let is_cached =
            |network: &&NetworkRecord| attachment::cached_entry(record, network).is_some();
        let was_attached: Vec<_> = networks.filter(is_cached).collect();
        attachment::detach(&self.config.runtime, record).await?;
        // A stopped container gets its address and ports again when it starts.
        if target.container.is_none() || record.kind == record::Kind::Rescued {
            record.delete()?;
        }
        for network in was_attached {
            let (name, addresses) = (&network.list.name, &network.addresses);
            let text = format!("detached from network {name}: no process is left in it");
            let more = json!({"network": name.as_str(), "addresses": addresses});
            log.event("detached", &record.name, &text, more)?;
        }
        Ok(())
    }
}

/// The anchor is not in the namespace of its network.
fn report_split(assessment: &Assessment<'_>, log: &mut EventLog) -> Result<(), Stop> {
    let name = assessment.target.name();
    let known = assessment.target.record.as_ref();
    let known = known.and_then(|record| record.container.as_ref());
    let what = match known == assessment.target.container.map(|own| &own.id) {
        true => "was restarted",
        false => "was recreated",
    };
    let mut text = format!(
        "{what}, but its network stays with {} in the old namespace",
        member_names(&assessment.observed.location, assessment.containers)
    );
    let mut repair = format!("pausectl docker reanchor {name}");
    if assessment.can_move_network() {
        repair.push_str(&format!(
            " (or, to restart them into the new namespace: {repair} --restart-members)"
        ));
    } else if !assessment.stranded.is_empty() {
        text.push_str(&format!(
            " (a restart cannot move {} into the new one)",
            assessment.stranded.join(", ")
        ));
    }
    text.push_str("; to give them a new anchor");
    log.problem(ProblemKind::Anchor, &name, &text, &repair)
}
