//! Attaching a container to a network and detaching it, by running the network's plugins, with its
//! record kept in step. The caller holds the identity's lock.

use std::path::PathBuf;

use super::network_location::{has_interface, netns_path};
use super::record::{self, Record};
use crate::attachment_settings::AttachmentSettings;
use crate::command::{Stop, warn};
use pausenet::apply::{self, Host};
use pausenet::cni::result::AddResult;
use pausenet::kernel::netns::Netns;
use pausenet_host::Error;
use pausenet_host::runtime::cache::{self, Entry};
use pausenet_host::runtime::{Interrupt, NotAttached, Runtime};

/// A network namespace to attach, opened, with the path that the plugins get.
pub(crate) struct TargetNetns {
    netns: Netns,
    path: PathBuf,
}

impl TargetNetns {
    /// The namespace of a process. The host's own is an error.
    pub(crate) fn of_process(pid: u32) -> Result<Self, Error> {
        Self::open(netns_path(pid))
    }

    /// The namespace at a path. The host's own is an error.
    pub(crate) fn open(path: PathBuf) -> Result<Self, Error> {
        let netns = Netns::open(&path)?;
        if netns.is_same(&Netns::own()?).unwrap_or(false) {
            return Err(Error::new(format!(
                "{} is the host's own network namespace",
                path.display()
            ))
            .hint("nothing to do there: a container with --net=host uses the host's network"));
        }
        Ok(Self { netns, path })
    }

    pub(crate) fn netns(&self) -> &Netns {
        &self.netns
    }

    /// False when the path leads to another namespace by now, because the PID was reused.
    fn is_still_at_path(&self) -> bool {
        Netns::open(&self.path).is_ok_and(|now| now.is_same(&self.netns).unwrap_or(false))
    }
}

/// Attaches a namespace as the record says, or changes nothing. Takes the identity's network from
/// any other namespace: see [`super::lookup::refuse_if_members_remain`].
pub(crate) async fn attach(
    runtime: &Runtime,
    record: &mut Record,
    target_netns: &TargetNetns,
    settings: &AttachmentSettings,
    interrupt: &mut Interrupt,
) -> Result<AddResult, Stop> {
    runtime.find_all(&record.list)?;
    if has_interface(&target_netns.netns, &record.ifname)? {
        return Err(Error::new(format!(
            "{} already has an interface {}",
            record.name, record.ifname
        ))
        .hint("nothing was changed; choose another name with --ifname")
        .into());
    }
    runtime.detach_all(&record.identity).await?;
    let parameters = settings.parameters(
        &record.list,
        record.identity.clone(),
        record.ifname.clone(),
        target_netns.path.clone(),
    )?;
    let mut entry = Entry::new(record.list.clone(), parameters);
    let before = record::load(&record.identity);
    // The record and the result cache come first, so that a crash leaves nothing unknown.
    record.write()?;
    let attached = runtime.attach(&mut entry, interrupt, |entry, result| {
        settings.check(entry, result)?;
        if !target_netns.is_still_at_path() {
            let msg = format!("{} exited in the meantime", record.name);
            return Err(Error::new(msg));
        }
        let result = AddResult::from_json(result, entry.list.version)?;
        let addresses = result.ips.iter().map(|ip| ip.address.ip().to_string());
        record.addresses = addresses.collect();
        record.wanted = true;
        record.write()?;
        Ok(result)
    });
    match attached.await {
        Ok(result) => Ok(result),
        Err(NotAttached { stop, undone }) => {
            undo(record, before, undone);
            Err(stop.into())
        }
    }
}

/// Attaches a container again, with its last addresses if they are still free.
pub(super) async fn reattach(
    runtime: &Runtime,
    record: &mut Record,
    target_netns: &TargetNetns,
    interrupt: &mut Interrupt,
) -> Result<AddResult, Stop> {
    let settings = record.settings.clone();
    let mut previous = settings.clone();
    if previous.ips.is_empty() {
        previous.ips.clone_from(&record.addresses);
    }
    match attach(runtime, record, target_netns, &previous, interrupt).await {
        // The address is taken, or the network does not take requests for one.
        Err(Stop::Failed(_)) if previous != settings => {
            attach(runtime, record, target_netns, &settings, interrupt).await
        }
        outcome => outcome,
    }
}

/// Restores the record. A failure is a warning; the next attempt cleans up.
fn undo(record: &Record, before: Option<Record>, detached: Result<(), Error>) {
    let restore = || match before {
        Some(before) => before.write(),
        None => record.delete(),
    };
    if let Err(err) = detached.and_then(|()| restore()) {
        let hint = format!(
            "once that is fixed, run: pausectl docker detach {}",
            record.name
        );
        let what = format!(
            "the failed attachment of {} could not be undone",
            record.name
        );
        warn(&err.context(what).hint(hint));
    }
}

/// Runs DEL for the container's attachment.
pub(crate) async fn detach(runtime: &Runtime, record: &Record) -> Result<(), Error> {
    runtime.detach_all(&record.identity).await?;
    let mut socket = Host::open_socket()?;
    if apply::host_end(&mut socket, &record.attachment())?.is_some() {
        // Not in the result cache, but in the kernel.
        let parameters = record.settings.parameters(
            &record.list,
            record.identity.clone(),
            record.ifname.clone(),
            PathBuf::new(),
        )?;
        let mut entry = Entry::new(record.list.clone(), parameters);
        entry.parameters.netns = None;
        runtime.detach(&entry).await?;
    }
    Ok(())
}

/// The result cache's entry for the record's attachment.
pub(super) fn cached_entry(record: &Record) -> Option<Entry> {
    let attachment = record.attachment();
    let entries = cache::of_container(&record.identity).ok()?;
    entries
        .into_iter()
        .find(|entry| entry.parameters.attachment == attachment)
}
