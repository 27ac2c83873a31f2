//! The network goes where its anchor is, and the members are restarted into it: the other way
//! of `pausectl docker reanchor`, and what `watch --restart-members` does.

use std::time::Duration;

use serde_json::json;

use super::attachment::{self, Place};
use super::etc_hosts;
use super::members::{bereft, left_behind};
use super::network_location::{netns_of, netns_path};
use super::reanchor::Scene;
use super::up::started;
use super::who;
use crate::docker_api::{
    ApiError, Container, ContainerFilter, ContainerName, Docker, DockerId, ErrorKind, NetworkMode,
};
use crate::{Output, Result, print, print_json};
use pausenet::kernel::netns::NetnsId;
use pausenet_host::runtime::{Interrupt, Runtime};
use pausenet_host::{Error, OnPath};

/// How long a member may take to leave before it is killed.
const GRACE: Duration = Duration::from_secs(10);

/// What became of the members.
#[derive(Debug, Default)]
pub struct Brought {
    pub restarted: Vec<ContainerName>,
    pub failed: Vec<(ContainerName, ApiError)>,
}

impl Brought {
    pub fn is_nothing(&self) -> bool {
        self.restarted.is_empty() && self.failed.is_empty()
    }
}

/// Restarts who joins an anchor and lives elsewhere, the oldest first. One that cannot be does
/// not stop the others.
pub async fn bring(
    docker: &Docker,
    anchor: &DockerId,
    netns: NetnsId,
    containers: &[Container],
) -> Brought {
    let mut brought = Brought::default();
    for member in left_behind(anchor, Some(netns), containers) {
        let outcome = async {
            // As it is now: somebody else may have restarted or ended it.
            let now = docker.inspect(&member.by_id()).await?;
            if netns_of(&now).is_none_or(|own| own == netns) {
                return Ok(false);
            }
            docker.restart(&member.by_id(), GRACE).await?;
            Ok(true)
        };
        match outcome.await {
            Ok(true) => brought.restarted.push(member.name.clone()),
            Ok(false) => {}
            Err(ApiError {
                kind: ErrorKind::NotFound,
                ..
            }) if !still_there(docker, member).await => {}
            Err(failure) => brought.failed.push((member.name.clone(), failure)),
        }
    }
    brought
}

/// Docker knows no such container: the member, or the one that it joins?
async fn still_there(docker: &Docker, member: &Container) -> bool {
    docker.inspect(&member.by_id()).await.is_ok()
}

impl Scene {
    /// The network goes to where the anchor is, and the members are restarted into it. Gives
    /// back what became of them.
    ///
    /// # Errors
    /// Without the anchor, and when somebody would be cut off for good; the plugins'.
    pub async fn follow(
        &mut self,
        runtime: &Runtime,
        interrupt: &mut Interrupt,
    ) -> Result<Brought> {
        let name = self.name.clone();
        let Some(anchor) = self.old.clone() else {
            return Err(Error::new(format!("{name} was removed: no member can be restarted into what comes after it"),
            )
            .hint(format!(
                "without --restart-members its network stays with them: pausectl docker reanchor {name}"
            ))
            .into());
        };
        if anchor.network != NetworkMode::None {
            return Err(Error::new(format!(
                "{name} has no namespace of its own: it was reanchored in another's"
            ))
            .hint("make it and its members anew, when that suits you")
            .into());
        }
        if netns_of(&anchor).is_none_or(|own| Some(own) != self.home.netns()) {
            self.refuse_to_cut_off(&anchor)?;
        }
        let pid = match anchor.pid {
            Some(pid) => pid,
            None => started(&self.docker, &anchor.id, interrupt).await?,
        };
        let place = Place::of_process(pid)?;
        let netns = place
            .netns()
            .id()
            .on_path("cannot look at", &netns_path(pid))?;
        if self.home.netns() != Some(netns) {
            attachment::detach(runtime, &self.record).await?;
            self.record.container = Some(anchor.id.clone());
            attachment::attach_again(runtime, &mut self.record, &place, interrupt).await?;
            etc_hosts::name_addresses(&self.docker, &self.record).await;
        }
        let brought = bring(&self.docker, &anchor.id, netns, &self.containers).await;
        self.containers = self.docker.list(ContainerFilter::All).await?;
        Ok(brought)
    }

    /// The network is not taken from those who cannot come along.
    fn refuse_to_cut_off(&self, anchor: &Container) -> Result<(), Error> {
        let bereft = bereft(&self.home, anchor, &self.containers);
        if bereft.is_empty() {
            return Ok(());
        }
        let name = &self.name;
        Err(Error::new(format!(
            "the network of {name} stays with {}: no restart brings {} into the namespace \
                 that {name} has now; nothing was changed",
            who(&self.home, &self.containers),
            bereft.join(", ")
        ))
        .hint(format!(
            "give them the anchor again: pausectl docker reanchor {name}; or end them first"
        )))
    }

    pub fn report_followed(&self, brought: &Brought, output: Output) -> Result<()> {
        let names: Vec<_> = brought
            .restarted
            .iter()
            .map(ContainerName::as_str)
            .collect();
        let name = &self.name;
        let said = match output {
            Output::Json => {
                let failed = brought.failed.iter().map(|(member, failure)| {
                    json!({"name": member.as_str(), "error": failure.to_string()})
                });
                print_json(&json!({
                    "name": name.as_str(),
                    "addresses": self.record.addresses,
                    "restarted": names,
                    "failed": failed.collect::<Vec<_>>(),
                }))
            }
            Output::Text => {
                let addresses = self.record.addresses.join(", ");
                let lines: String = names
                    .iter()
                    .map(|member| format!("{member}: restarted into the network of {name}\n"))
                    .collect();
                print(&format!(
                    "{name}: has its network again ({addresses} on {})\n{lines}",
                    self.record.ifname
                ))
            }
        };
        said?;
        if brought.failed.is_empty() {
            return Ok(());
        }
        let (members, whys): (Vec<_>, Vec<_>) = brought
            .failed
            .iter()
            .map(|(member, failure)| (member.as_str(), failure.error.message.as_str()))
            .unzip();
        Err(Error::new(format!(
            "not all members were restarted: {}",
            whys.join("; ")
        ))
        .hint(format!(
            "once that is mended: docker restart {}",
            members.join(" ")
        ))
        .into())
    }
}
