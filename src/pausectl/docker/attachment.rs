//! A container's network, made and taken down by the network's plugins, and what is remembered
//! of it kept true. Whoever calls holds the identity's lock.

use std::path::PathBuf;

use super::network_location::{has_interface, netns_path};
use super::record::{self, Record};
use crate::attachment_settings::Wishes;
use crate::{Stop, warn};
use pausenet::apply::{self, Host};
use pausenet::cni::result::AddResult;
use pausenet::kernel::netns::Netns;
use pausenet_host::Error;
use pausenet_host::runtime::cache::{self, Entry};
use pausenet_host::runtime::{Interrupt, NotAttached, Runtime};

/// A namespace to attach, opened, and the path that the plugins get.
pub struct Place {
    netns: Netns,
    path: PathBuf,
}

impl Place {
    /// The namespace of a process, which may not be the host's.
    pub fn of_process(pid: u32) -> Result<Self, Error> {
        Self::open(netns_path(pid))
    }

    /// A namespace by path, which may not be the host's.
    pub fn open(path: PathBuf) -> Result<Self, Error> {
        let netns = Netns::open(&path)?;
        if netns.is_same(&Netns::own()?).unwrap_or(false) {
            return Err(Error::new(format!(
                "{} is the host's own network namespace",
                path.display()
            ))
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
        return Err(Error::new(format!(
            "{} has an interface {} already",
            record.name, record.ifname
        ))
        .hint("nothing was changed; --ifname gives the new one another name")
        .into());
    }
    runtime.detach_all(&record.identity).await?;
    let parameters = wishes.parameters(
        &record.list,
        record.identity.clone(),
        record.ifname.clone(),
        place.path.clone(),
    )?;
    let mut entry = Entry::new(record.list.clone(), parameters);
    let before = record::of(&record.identity);
    // Both this and the cache before anything is there, so that nothing can be there which
    // nobody knows of.
    record.write()?;
    let attached = runtime.attach(&mut entry, interrupt, |entry, result| {
        wishes.check(entry, result)?;
        if !place.still_leads_there() {
            let msg = format!("{} has ended meanwhile", record.name);
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

/// Makes the record as it was before. What cannot be undone is said, and left for the next
/// attempt.
fn undo(record: &Record, before: Option<Record>, detached: Result<(), Error>) {
    let restore = || match before {
        Some(before) => before.write(),
        None => record.forget(),
    };
    if let Err(err) = detached.and_then(|()| restore()) {
        let hint = format!(
            "once that is mended: pausectl docker detach {}",
            record.name
        );
        let what = format!("what was begun for {} is not wholly undone", record.name);
        warn(&err.context(what).hint(hint));
    }
}

/// Takes the network down.
///
/// # Errors
/// The first failure of a plugin.
pub async fn detach(runtime: &Runtime, record: &Record) -> Result<(), Error> {
    runtime.detach_all(&record.identity).await?;
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
        runtime.detach(&entry).await?;
    }
    Ok(())
}

/// What is remembered of the record's attachment.
pub fn remembered(record: &Record) -> Option<Entry> {
    let attachment = record.attachment();
    let entries = cache::of_container(&record.identity).ok()?;
    entries
        .into_iter()
        .find(|entry| entry.parameters.attachment == attachment)
}
