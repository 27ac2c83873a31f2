//! A container's network, made and taken down by the network's plugins, and what is remembered
//! of it kept true. Whoever calls holds the identity's lock.

use std::path::PathBuf;

use serde_json::Value;

use super::record::{self, Record};
use super::survey::{has_interface, netns_path};
use crate::wishes::Wishes;
use crate::{Stop, warn};
use pausenet::apply::{self, Host};
use pausenet::cni::result::AddResult;
use pausenet::cni::{Code, Error};
use pausenet::kernel::netns::Netns;
use pausenet_host::runtime::cache::{self, Entry};
use pausenet_host::runtime::{Interrupt, Progress, Runtime};

/// A namespace to attach, opened, and the path that the plugins get.
pub struct Place {
    netns: Netns,
    path: PathBuf,
}

impl Place {
    /// The namespace of a process, which may not be the host's.
    ///
    /// # Errors
    /// Code 8.
    pub fn of_process(pid: u32) -> Result<Self, Error> {
        Self::open(netns_path(pid))
    }

    /// A namespace by path, which may not be the host's.
    ///
    /// # Errors
    /// Code 8.
    pub fn open(path: PathBuf) -> Result<Self, Error> {
        let netns = Netns::open(&path)?;
        if netns.is_same(&Netns::own()?).unwrap_or(false) {
            return Err(Error::new(
                Code::InvalidNetns,
                format!("{} is the host's own network namespace", path.display()),
            )
            .hint("it needs no network of ours; a container with --net=host has the host's"));
        }
        Ok(Self { netns, path })
    }

    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The path may have come to mean another namespace: a PID that was given anew.
    fn still_leads_there(&self) -> bool {
        Netns::open(&self.path).is_ok_and(|now| now.is_same(&self.netns).unwrap_or(false))
    }
}

/// Attaches a namespace as the record says, or changes nothing. Whoever else has the identity's
/// network loses it: see [`super::refuse_survivors`].
///
/// # Errors
/// What stood in the way, after everything was undone.
pub async fn attach(
    runtime: &Runtime,
    record: &mut Record,
    place: &Place,
    wishes: &Wishes,
    interrupt: &mut Interrupt,
) -> Result<AddResult, Stop> {
    runtime.find_all(&record.list)?;
    if has_interface(&place.netns, &record.ifname)? {
        return Err(Error::new(
            Code::InterfaceExists,
            format!("{} has an interface {} already", record.name, record.ifname),
        )
        .hint("nothing was changed; --ifname gives the new one another name")
        .into());
    }
    clear(runtime, record).await?;
    let parameters = wishes.parameters(
        &record.list,
        record.identity.clone(),
        record.ifname.clone(),
        place.path.clone(),
    )?;
    let mut entry = Entry::new(record.list.clone(), parameters);
    let mut progress = Progress::default();
    let before = record::of(&record.identity);
    let outcome = async {
        // Both before anything is there, so that nothing can be there which nobody knows of.
        record.write()?;
        entry.write()?;
        let result = runtime
            .add(&entry.list, &entry.parameters, &mut progress, interrupt)
            .await?;
        wishes.check(&entry, &result)?;
        if !place.still_leads_there() {
            let msg = format!("{} has ended meanwhile", record.name);
            return Err(Error::new(Code::TryAgainLater, msg).into());
        }
        entry.result = Some(result.clone());
        entry.write()?;
        let result = AddResult::from_json(&result, entry.list.version)?;
        record.addresses = result
            .ips
            .iter()
            .map(|ip| ip.address.ip().to_string())
            .collect();
        record.wanted = true;
        record.write()?;
        match interrupt.pending().await {
            Some(signal) => Err(Stop::Interrupted(signal)),
            None => Ok(result),
        }
    };
    match outcome.await {
        Ok(result) => Ok(result),
        Err(stop) => {
            undo(runtime, &entry, &progress, record, before).await;
            Err(stop)
        }
    }
}

/// Attaches what was attached before, with its old address if that is still to be had.
///
/// # Errors
/// What stood in the way, after everything was undone.
pub async fn attach_again(
    runtime: &Runtime,
    record: &mut Record,
    place: &Place,
    interrupt: &mut Interrupt,
) -> Result<AddResult, Stop> {
    let wishes = record.wishes.clone();
    let mut as_before = wishes.clone();
    if as_before.ips.is_empty() {
        as_before.ips.clone_from(&record.addresses);
    }
    match attach(runtime, record, place, &as_before, interrupt).await {
        // Somebody else has it by now, or the network takes no such wish.
        Err(Stop::Failed(_)) if as_before != wishes => {
            attach(runtime, record, place, &wishes, interrupt).await
        }
        outcome => outcome,
    }
}

/// What cannot be undone is said, and left for the next attempt.
async fn undo(
    runtime: &Runtime,
    entry: &Entry,
    progress: &Progress,
    record: &Record,
    before: Option<Record>,
) {
    let result = progress.result.as_ref();
    let undone = runtime
        .del(&entry.list, &entry.parameters, progress.tried, result)
        .await;
    let forget = || {
        entry.forget()?;
        match &before {
            Some(before) => before.write(),
            None => record.forget(),
        }
    };
    if let Err(err) = undone.and_then(|()| forget()) {
        let hint = format!(
            "once that is mended: pausectl docker detach {}",
            record.name
        );
        let what = format!("what was begun for {} is not wholly undone", record.name);
        warn(&err.context(what).hint(hint));
    }
}

/// DEL of everything that is remembered under the identity. Nothing to remove is success.
///
/// # Errors
/// The first failure of a plugin; what it was about stays remembered.
pub async fn clear(runtime: &Runtime, record: &Record) -> Result<(), Error> {
    for mut entry in cache::of_container(&record.identity)? {
        // By name: the namespace may be another's by now.
        entry.parameters.netns = None;
        del(runtime, &entry, entry.result.as_ref()).await?;
        entry.forget()?;
    }
    Ok(())
}

/// Takes the network down.
///
/// # Errors
/// The first failure of a plugin.
pub async fn detach(runtime: &Runtime, record: &Record) -> Result<(), Error> {
    clear(runtime, record).await?;
    let mut socket = Host::open_socket()?;
    if apply::host_end(&mut socket, &record.attachment())?.is_some() {
        // The memory of it is lost, and the kernel still has it.
        let parameters = record.wishes.parameters(
            &record.list,
            record.identity.clone(),
            record.ifname.clone(),
            PathBuf::new(),
        )?;
        let mut entry = Entry::new(record.list.clone(), parameters);
        entry.parameters.netns = None;
        del(runtime, &entry, None).await?;
    }
    Ok(())
}

async fn del(runtime: &Runtime, entry: &Entry, result: Option<&Value>) -> Result<(), Error> {
    runtime.find_all(&entry.list)?;
    let plugins = entry.list.plugins.len();
    runtime
        .del(&entry.list, &entry.parameters, plugins, result)
        .await
}

/// What is remembered of the record's attachment.
pub fn remembered(record: &Record) -> Option<Entry> {
    let attachment = record.attachment();
    let entries = cache::of_container(&record.identity).ok()?;
    entries
        .into_iter()
        .find(|entry| entry.parameters.attachment == attachment)
}
