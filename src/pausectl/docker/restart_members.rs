//! Moves a network to the new namespace of its restarted anchor, and restarts the members into it:
//! `pausectl docker reanchor --restart-members` and `watch --restart-members`.

use std::time::Duration;

use serde_json::json;

use super::attachment::{self, TargetNetns};
use super::etc_hosts;
use super::lookup::member_names;
use super::members::{needs_restart, stranded, to_restart};
use super::network_location::{netns_of, netns_path};
use super::reanchor::AnchorState;
use super::up::start;
use crate::command::{Output, Result, print, print_json};
use crate::docker_api::{
    ApiError, Container, ContainerFilter, ContainerName, Docker, DockerId, ErrorKind, NetworkMode,
};
use pausenet::kernel::netns::NetnsId;
use pausenet_host::runtime::{Interrupt, Runtime};
use pausenet_host::{Error, OnPath};

/// How long a member may take to stop before it is killed.
const GRACE: Duration = Duration::from_secs(10);

/// The outcome of restarting members.
#[derive(Debug, Default)]
pub(super) struct MemberRestarts {
    pub(super) restarted: Vec<ContainerName>,
    pub(super) failed: Vec<(ContainerName, ApiError)>,
}

impl MemberRestarts {
    pub(super) fn is_empty(&self) -> bool {
        self.restarted.is_empty() && self.failed.is_empty()
    }
}

/// Restarts the members of an anchor that are not in its namespace `netns`, oldest first, and starts those that
/// an earlier restart could only stop. A failure does not stop the others.
pub(super) async fn restart_members(
    docker: &Docker,
    anchor: &DockerId,
    netns: NetnsId,
    containers: &[Container],
) -> MemberRestarts {
    let mut restarts = MemberRestarts::default();
    for member in to_restart(anchor, netns, containers) {
        let outcome = async {
            // It may have been restarted or stopped since the list was made.
            let now = docker.inspect(&member.by_id()).await?;
            if !needs_restart(&now, netns) {
                return Ok(false);
            }
            docker.restart(&member.by_id(), GRACE).await?;
            Ok(true)
        };
        match outcome.await {
            Ok(true) => restarts.restarted.push(member.name.clone()),
            Ok(false) => {}
            Err(ApiError {
                kind: ErrorKind::NotFound,
                ..
            }) if !still_exists(docker, member).await => {}
            Err(failure) => restarts.failed.push((member.name.clone(), failure)),
        }
    }
    restarts
}

/// Tells "no such container" of the member from that of the container which it joins.
async fn still_exists(docker: &Docker, member: &Container) -> bool {
    docker.inspect(&member.by_id()).await.is_ok()
}

impl AnchorState {
    /// Moves the network to the anchor's namespace, starting the anchor if it is stopped, and
    /// restarts the members into it.
    ///
    /// # Errors
    /// When the anchor is gone, or a container would lose the network for good.
    pub(super) async fn move_network_to_anchor(
        &mut self,
        runtime: &Runtime,
        interrupt: &mut Interrupt,
    ) -> Result<MemberRestarts> {
        let name = self.name.clone();
        let Some(anchor) = self.old.clone() else {
            return Err(Error::new(format!("{name} was removed: its members cannot be restarted into a new anchor"),
            )
            .hint(format!(
                "leave out --restart-members, and the network stays with them: pausectl docker reanchor {name}"
            ))
            .into());
        };
        if anchor.network != NetworkMode::None {
            return Err(Error::new(format!(
                "{name} has no namespace of its own: it runs in a member's namespace"
            ))
            .hint("recreate it and its members when it suits you")
            .into());
        }
        if netns_of(&anchor).is_none_or(|own| Some(own) != self.location.netns()) {
            self.refuse_to_strand(&anchor)?;
        }
        let pid = match anchor.pid {
            Some(pid) => pid,
            None => start(&self.docker, &anchor.id, interrupt).await?,
        };
        let target_netns = TargetNetns::of_process(pid)?;
        let netns = target_netns
            .netns()
            .id()
            .on_path("cannot look at", &netns_path(pid))?;
        if self.location.netns() != Some(netns) {
            attachment::detach(runtime, &self.record).await?;
        }
        attachment::remove_unfinished(runtime, &self.record).await?;
        attachment::complete_record(&mut self.record)?;
        if self.record.wanted().count() > target_netns.attached(&self.record)?.len() {
            self.record.container = Some(anchor.id.clone());
            attachment::reattach_missing(runtime, &mut self.record, &target_netns, interrupt)
                .await?;
        }
        etc_hosts::set_addresses(&self.docker, &self.record).await;
        let restarts = restart_members(&self.docker, &anchor.id, netns, &self.containers).await;
        self.containers = self.docker.list(ContainerFilter::All).await?;
        Ok(restarts)
    }

    /// An error if moving the network would take it from containers that no restart moves along.
    fn refuse_to_strand(&self, anchor: &Container) -> Result<(), Error> {
        let stranded = stranded(&self.location, anchor, &self.containers);
        if stranded.is_empty() {
            return Ok(());
        }
        let name = &self.name;
        Err(Error::new(format!(
            "the network of {name} stays with {}: a restart cannot move {} into the new \
                 namespace of {name}; nothing was changed",
            member_names(&self.location, &self.containers),
            stranded.join(", ")
        ))
        .hint(format!(
            "give them a new anchor: pausectl docker reanchor {name}; or stop them first"
        )))
    }

    pub(super) fn report_moved(&self, restarts: &MemberRestarts, output: Output) -> Result<()> {
        let names: Vec<_> = restarts
            .restarted
            .iter()
            .map(ContainerName::as_str)
            .collect();
        let name = &self.name;
        let printed = match output {
            Output::Json => {
                let failed = restarts.failed.iter().map(|(member, failure)| {
                    json!({"name": member.as_str(), "error": failure.to_string()})
                });
                print_json(&json!({
                    "name": name.as_str(),
                    "addresses": self.record.addresses(),
                    "restarted": names,
                    "failed": failed.collect::<Vec<_>>(),
                }))
            }
            Output::Text => {
                let lines: String = names
                    .iter()
                    .map(|member| format!("{member}: restarted into the network of {name}\n"))
                    .collect();
                print(&format!(
                    "{name}: has its network again ({})\n{lines}",
                    self.record.shown_addresses()
                ))
            }
        };
        printed?;
        if restarts.failed.is_empty() {
            return Ok(());
        }
        let (members, reasons): (Vec<_>, Vec<_>) = restarts
            .failed
            .iter()
            .map(|(member, failure)| (member.as_str(), failure.error.message.as_str()))
            .unzip();
        Err(Error::new(format!(
            "not all members were restarted: {}",
            reasons.join("; ")
        ))
        .hint(format!(
            "once that is fixed, run: docker restart {}",
            members.join(" ")
        ))
        .into())
    }
}
