//! Attaching a container to its networks and detaching it, by running the networks' plugins, with its
//! record kept in step. The caller holds the identity's lock.

use std::path::PathBuf;

use super::network_location::{LinksInside, netns_path};
use super::record::{self, NetworkRecord, Record};
use crate::attachment_settings::AttachmentSettings;
use crate::command::{Stop, waiting, warn};
use pausenet::apply::{self, Host};
use pausenet::cni::IfName;
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

/// A network that was just attached, as it is in the record, and what its plugins returned.
pub(crate) struct Attached {
    pub(crate) network: NetworkRecord,
    pub(crate) result: AddResult,
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

    /// The interfaces of those of the record's networks that the namespace has.
    pub(crate) fn attached(&self, record: &Record) -> Result<Vec<IfName>, Error> {
        let inside = LinksInside::of(&self.netns)?;
        let mut socket = Host::open_socket()?;
        let remembered = cache::of_container(&record.identity)?;
        let mut attached = Vec::new();
        for network in &record.networks {
            let attachment = record.attachment(network);
            let is_this = |entry: &&Entry| entry.parameters.attachment == attachment;
            let entry = remembered.iter().find(is_this);
            if entry.is_some_and(is_unfinished) {
                continue;
            }
            if inside.has(&mut socket, &self.netns, &attachment, entry)? {
                attached.push(network.ifname.clone());
            }
        }
        Ok(attached)
    }
}

/// Attaches a namespace to a network, or changes nothing. Takes that network, and any other of the
/// identity's networks, from other namespaces: see [`super::lookup::refuse_if_members_remain`].
pub(crate) async fn attach(
    runtime: &Runtime,
    record: &mut Record,
    network: NetworkRecord,
    target_netns: &TargetNetns,
    interrupt: &mut Interrupt,
) -> Result<Attached, Stop> {
    attach_with(
        runtime,
        record,
        &network,
        &network.settings,
        target_netns,
        interrupt,
    )
    .await
}

/// Attaches a container again, with its last addresses if they are still free.
pub(crate) async fn reattach(
    runtime: &Runtime,
    record: &mut Record,
    network: NetworkRecord,
    target_netns: &TargetNetns,
    interrupt: &mut Interrupt,
) -> Result<Attached, Stop> {
    let mut previous = network.settings.clone();
    if previous.ips.is_empty() {
        previous.ips.clone_from(&network.addresses);
    }
    match attach_with(
        runtime,
        record,
        &network,
        &previous,
        target_netns,
        interrupt,
    )
    .await
    {
        // The address is taken, or the network does not take requests for one.
        Err(Stop::Failed(_)) if previous != network.settings => {
            attach(runtime, record, network, target_netns, interrupt).await
        }
        outcome => outcome,
    }
}

/// Attaches a container again to each of its networks that the namespace does not have. A network
/// that fails does not stop the others.
///
/// # Errors
/// The first failure.
pub(crate) async fn reattach_missing(
    runtime: &Runtime,
    record: &mut Record,
    target_netns: &TargetNetns,
    interrupt: &mut Interrupt,
) -> Result<Vec<Attached>, Stop> {
    remove_unfinished(runtime, record).await?;
    let there = target_netns.attached(record)?;
    let missing = record
        .wanted()
        .filter(|network| !there.contains(&network.ifname));
    let missing: Vec<_> = missing.cloned().collect();
    let (mut attached, mut failure) = (Vec::new(), None);
    for network in missing {
        match reattach(runtime, record, network, target_netns, interrupt).await {
            Ok(one) => attached.push(one),
            Err(Stop::Failed(err)) => failure = failure.or(Some(err)),
            Err(stop) => return Err(stop),
        }
    }
    failure.map_or(Ok(attached), |err| Err(err.into()))
}

/// `settings` are those of this attempt; the record gets the network's own.
async fn attach_with(
    runtime: &Runtime,
    record: &mut Record,
    network: &NetworkRecord,
    settings: &AttachmentSettings,
    target_netns: &TargetNetns,
    interrupt: &mut Interrupt,
) -> Result<Attached, Stop> {
    runtime.find_all(&network.list)?;
    remove_unfinished(runtime, record).await?;
    let inside = LinksInside::of(&target_netns.netns)?;
    if inside.named(&network.ifname).is_some() {
        return Err(already_has(record, &network.ifname).into());
    }
    remove_stale(runtime, record, &network.ifname, target_netns, &inside).await?;
    let parameters = settings.parameters(
        &network.list,
        record.identity.clone(),
        network.ifname.clone(),
        target_netns.path.clone(),
    )?;
    let mut entry = Entry::new(network.list.clone(), parameters);
    let (name, entry_list) = (record.name.clone(), network.list.name.clone());
    let before = (record::load(&record.identity), record.networks.clone());
    // The record and the result cache come first, so that a crash leaves nothing unknown.
    let mut network = network.clone();
    network.wanted = true;
    record.set_network(network.clone());
    record.write()?;
    let attached = runtime.attach(&mut entry, interrupt, |entry, result| {
        settings.check(entry, result)?;
        if !target_netns.is_still_at_path() {
            let msg = format!("{} exited in the meantime", record.name);
            return Err(Error::new(msg));
        }
        let result = AddResult::from_json(result, entry.list.version)?;
        network.set_addresses(&result);
        record.set_network(network.clone());
        record.write()?;
        Ok(result)
    });
    let list = &entry_list;
    let what = || format!("the plugins of network {list} to attach {name}");
    match waiting(what, attached).await {
        Ok(result) => Ok(Attached { network, result }),
        Err(NotAttached { stop, undone }) => {
            undo(record, before, undone);
            Err(stop.into())
        }
    }
}

/// Whether whatever attached a container was killed before it knew the result. The plugins may have done
/// their work.
fn is_unfinished(entry: &Entry) -> bool {
    entry.result.is_none()
}

/// Runs DEL for the attachments of a container that are unfinished. The caller holds the identity's lock,
/// so nothing is at work on them.
pub(crate) async fn remove_unfinished(runtime: &Runtime, record: &Record) -> Result<(), Error> {
    for mut entry in cache::of_container(&record.identity)? {
        if is_unfinished(&entry) {
            entry.parameters.netns = None;
            runtime.detach(&entry).await?;
            entry.forget()?;
        }
    }
    Ok(())
}

/// Writes the record with the addresses in the result cache: what attached the container may have been killed
/// between the two.
pub(crate) fn complete_record(record: &mut Record) -> Result<(), Error> {
    let mut is_attached = false;
    for mut network in record.networks.clone() {
        let result = cached_entry(record, &network).and_then(|entry| {
            AddResult::from_json(entry.result.as_ref()?, entry.list.version).ok()
        });
        if let Some(result) = result {
            is_attached = true;
            network.set_addresses(&result);
            record.set_network(network);
        }
    }
    match is_attached {
        true => record.write(),
        false => Ok(()),
    }
}

/// The error for an interface that is there already.
pub(crate) fn already_has(record: &Record, ifname: &IfName) -> Error {
    let network = record.network(ifname).map(|network| &network.list.name);
    let of = network.map_or_else(String::new, |network| format!(", of network {network}"));
    Error::new(format!(
        "{} already has an interface {ifname}{of}",
        record.name
    ))
    .hint("nothing was changed; choose another name with --ifname")
}

/// Removes what the identity has on this interface, and what is in other namespaces.
async fn remove_stale(
    runtime: &Runtime,
    record: &Record,
    ifname: &IfName,
    target_netns: &TargetNetns,
    inside: &LinksInside,
) -> Result<(), Error> {
    let mut socket = Host::open_socket()?;
    for mut entry in cache::of_container(&record.identity)? {
        let attachment = &entry.parameters.attachment;
        let stays = attachment.ifname != *ifname
            && inside.has(&mut socket, &target_netns.netns, attachment, Some(&entry))?;
        if !stays {
            entry.parameters.netns = None;
            runtime.detach(&entry).await?;
            entry.forget()?;
        }
    }
    Ok(())
}

/// Restores the record. A failure is a warning; the next attempt cleans up.
fn undo(
    record: &mut Record,
    before: (Option<Record>, Vec<NetworkRecord>),
    detached: Result<(), Error>,
) {
    let (file, networks) = before;
    record.networks = networks;
    let restore = || match file {
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

/// Runs DEL for all attachments of the container.
pub(crate) async fn detach(runtime: &Runtime, record: &Record) -> Result<(), Error> {
    let what = || format!("the plugins to detach {}", record.name);
    waiting(what, runtime.detach_all(&record.identity)).await?;
    for network in &record.networks {
        detach_uncached(runtime, record, network).await?;
    }
    Ok(())
}

/// Runs DEL for one of the container's attachments.
pub(super) async fn detach_network(
    runtime: &Runtime,
    record: &Record,
    network: &NetworkRecord,
) -> Result<(), Error> {
    for mut entry in cache::of_container(&record.identity)? {
        if entry.parameters.attachment.ifname == network.ifname {
            entry.parameters.netns = None;
            runtime.detach(&entry).await?;
            entry.forget()?;
        }
    }
    detach_uncached(runtime, record, network).await
}

/// Runs DEL for an attachment that is not in the result cache, but in the kernel.
async fn detach_uncached(
    runtime: &Runtime,
    record: &Record,
    network: &NetworkRecord,
) -> Result<(), Error> {
    let mut socket = Host::open_socket()?;
    if apply::host_end(&mut socket, &record.attachment(network))?.is_none() {
        return Ok(());
    }
    let parameters = network.settings.parameters(
        &network.list,
        record.identity.clone(),
        network.ifname.clone(),
        PathBuf::new(),
    )?;
    let mut entry = Entry::new(network.list.clone(), parameters);
    entry.parameters.netns = None;
    runtime.detach(&entry).await
}

/// The result cache's entry for one of the record's attachments.
pub(super) fn cached_entry(record: &Record, network: &NetworkRecord) -> Option<Entry> {
    let attachment = record.attachment(network);
    let entries = cache::of_container(&record.identity).ok()?;
    entries
        .into_iter()
        .find(|entry| entry.parameters.attachment == attachment)
}

/// Whether the result cache has any of the record's attachments.
pub(super) fn is_cached(record: &Record) -> bool {
    let networks = record.networks.iter();
    networks
        .into_iter()
        .any(|network| cached_entry(record, network).is_some())
}
