//! Changes of the plugin `tuning`, in the container: kernel settings and attributes of the interface; and what DEL
//! restores of them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::container;
use crate::cni::error::io as io_error;
use crate::cni::request::Attachment;
use crate::cni::tuning::{Attributes, Setting, Tuning};
use crate::cni::{Code, During, Error, IfName, OnPath, Result, warn};
use crate::kernel::RouteSocket;
use crate::kernel::file::{self, Symlinks};
use crate::kernel::link::{self, Link, Which};
use crate::kernel::lock::make_dir;
use crate::kernel::netns::Netns;

/// The longest name of a file, less the dot of its draft.
const LONGEST_NAME: usize = 254;

/// The most bytes of a setting, or of what DEL restores.
const SHORT: u64 = 64 * 1024;

/// Makes the changes, or none: on failure, those that were made are undone. What DEL restores of the interface is
/// written before it is changed.
///
/// # Errors
/// Code 5 for a setting or a file, 101 for the interface; each names what was attempted.
pub(crate) fn tune(
    netns: &Netns,
    home: &Netns,
    attachment: &Attachment,
    tuning: &Tuning,
    wanted: &Attributes,
) -> Result<()> {
    netns.enter(home, || {
        let mut done: Vec<(&Setting, String)> = Vec::new();
        set_all(&tuning.settings, &attachment.ifname, &mut done)
            .and_then(|()| change_interface(netns, attachment, tuning, wanted))
            .inspect_err(|_| {
                // The error to report is the first one.
                for (setting, value) in done.iter().rev() {
                    let _ = fs::write(setting.path(&attachment.ifname), value);
                }
            })
    })
}

/// From within the namespace.
fn change_interface(
    netns: &Netns,
    attachment: &Attachment,
    tuning: &Tuning,
    wanted: &Attributes,
) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    let mut inside = container::open()?;
    let found = find(&mut inside, netns, &attachment.ifname)?;
    let backup = Backup::of(attachment, &tuning.data_dir);
    let before = attributes(&found).only(wanted);
    // An earlier plugin of the list has written what was there before its own changes.
    let earlier = backup.read();
    backup.write(earlier.unwrap_or_default().or(before))?;
    change(&mut inside, &found, wanted).inspect_err(|_| {
        let _ = change(&mut inside, &found, &before);
        match earlier {
            Some(earlier) => drop(backup.write(earlier)),
            None => backup.remove(),
        }
    })
}

/// Restores what the interface had before, and forgets it. Without a namespace (it is gone, or the path leads to
/// another), there is nothing to restore.
pub(crate) fn restore(
    netns: Option<&Netns>,
    home: &Netns,
    attachment: &Attachment,
    tuning: &Tuning,
) -> Result<()> {
    let backup = Backup::of(attachment, &tuning.data_dir);
    if let (Some(netns), Some(before)) = (netns, backup.read()) {
        let restored = netns.enter(home, || {
            let mut inside = container::open()?;
            let found = find(&mut inside, netns, &attachment.ifname)?;
            change(&mut inside, &found, &before)
        });
        if let Err(err) = restored {
            warn(format_args!("{err}; what it had before is forgotten"));
        }
    }
    backup.remove();
    Ok(())
}

/// Checks that settings and attributes are as the config has them.
///
/// # Errors
/// Code 102 for the first that is not; 5 and 101 for what cannot be read.
pub(crate) fn verify(
    netns: &Netns,
    home: &Netns,
    attachment: &Attachment,
    tuning: &Tuning,
    wanted: &Attributes,
) -> Result<()> {
    let differs = |what: String| Err(Error::new(Code::AttachmentDiffers, what));
    netns.enter(home, || {
        for setting in &tuning.settings {
            let now = read(setting, &setting.path(&attachment.ifname))?;
            if !is_same(&now, &setting.value) {
                return differs(format!(
                    "{} is {:?}, and the config has {:?}",
                    setting.key,
                    now.trim_end(),
                    setting.value
                ));
            }
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let found = find(&mut container::open()?, netns, &attachment.ifname)?;
        let now = attributes(&found).only(wanted);
        if now != *wanted {
            return differs(format!(
                "{} in {} has {}, and the config has {}",
                attachment.ifname,
                netns.path().display(),
                shown(&now),
                shown(wanted)
            ));
        }
        Ok(())
    })
}

fn shown(attributes: &Attributes) -> String {
    serde_json::to_string(attributes).unwrap_or_default()
}

/// What the kernel shows of a value that was written: lists with tabs, and numbers in its own form.
fn is_same(now: &str, written: &str) -> bool {
    let words = |text: &str| -> Vec<String> {
        let words = text.split_whitespace();
        let plain = |word: &str| word.parse().map_or(word.to_owned(), |n: i64| n.to_string());
        words.map(plain).collect()
    };
    words(now) == words(written)
}

fn find(inside: &mut RouteSocket, netns: &Netns, ifname: &IfName) -> Result<Link> {
    let place = netns.path().display();
    link::get(inside, Which::Name(ifname))
        .during_with(|| format!("look up {ifname} in {place}"))?
        .ok_or_else(|| {
            Error::new(
                Code::KernelRefused,
                format!("there is no {ifname} in {place}"),
            )
            .hint("tuning goes into a conflist behind the plugin that makes the interface")
        })
}

fn attributes(link: &Link) -> Attributes {
    Attributes {
        mac: link.mac,
        promisc: Some(link.promiscuous),
        mtu: Some(link.mtu),
        allmulti: Some(link.allmulti),
        queue: Some(link.queue),
    }
}

fn change(inside: &mut RouteSocket, link: &Link, wanted: &Attributes) -> Result<()> {
    let requests = link::attribute_requests(link.index, wanted);
    let (batch, attempts): (Vec<_>, Vec<_>) = requests.into_iter().unzip();
    inside.all(batch).map(drop).map_err(|failed| {
        let attempt = attempts
            .get(failed.request)
            .map_or("change", String::as_str);
        (failed.error).during(format!("{attempt} of {}", link.name))
    })
}

/// Writes the settings; `done` gets each with the value that it had before.
fn set_all<'a>(
    settings: &'a [Setting],
    ifname: &IfName,
    done: &mut Vec<(&'a Setting, String)>,
) -> Result<()> {
    for setting in settings {
        let path = setting.path(ifname);
        let before = read(setting, &path)?;
        let attempt = format!(
            "cannot set {} to {:?}: cannot write",
            setting.key, setting.value
        );
        let written = OpenOptions::new().write(true).open(&path);
        written
            .and_then(|mut file| file.write_all(setting.value.as_bytes()))
            .map_err(|err| {
                let hint = match err.kind() {
                    io::ErrorKind::InvalidInput => "the kernel does not take this value",
                    _ => "a container may change only what its network namespace has of its own",
                };
                io_error(&attempt, &path, err).hint(hint)
            })?;
        done.push((setting, before));
    }
    Ok(())
}

fn read(setting: &Setting, path: &Path) -> Result<String> {
    file::read_text(path, SHORT, Symlinks::Refuse)
        .on_path(&format!("cannot read {}:", setting.key), path)
        .map_err(|err| err.hint("the container's namespace may not have it, or the kernel"))
}

/// What DEL restores of an interface: a file in the reference's form.
struct Backup {
    folder: PathBuf,
    name: String,
}

impl Backup {
    fn of(attachment: &Attachment, folder: &Path) -> Self {
        let name = |container: &str| format!("{container}_{}.json", attachment.ifname);
        let container = &attachment.container;
        Self {
            folder: folder.to_owned(),
            name: match name(container.as_given()) {
                long if long.len() > LONGEST_NAME => name(container.as_str()),
                name => name,
            },
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    fn draft(&self) -> PathBuf {
        self.folder.join(format!(".{}", self.name))
    }

    /// None without one that can be read.
    fn read(&self) -> Option<Attributes> {
        let text = file::read(&self.path(), SHORT, Symlinks::Refuse).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Whole, or not at all: a plugin that is killed leaves the earlier one.
    fn write(&self, before: Attributes) -> Result<()> {
        let (path, draft) = (self.path(), self.draft());
        let text = serde_json::to_vec(&before).map_err(io::Error::other);
        let write = |text: Vec<u8>| {
            make_dir(&self.folder)?;
            let mut options = File::options();
            let options = options.write(true).create(true).truncate(true).mode(0o600);
            options.open(&draft)?.write_all(&text)?;
            fs::rename(&draft, &path)
        };
        text.and_then(write).map_err(|err| {
            let _ = fs::remove_file(&draft);
            io_error("cannot write what DEL restores:", &path, err)
        })
    }

    fn remove(&self) {
        // Of an ADD that was killed while it wrote.
        let _ = fs::remove_file(self.draft());
        match fs::remove_file(self.path()) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => {
                warn(format_args!(
                    "cannot remove {}: {err}",
                    self.path().display()
                ));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_the_same_in_the_kernel_s_form() {
        for (now, written, same) in [
            ("1024\t65000\n", "1024 65000", true),
            ("1\n", "1", true),
            ("1\n", "01", true),
            ("cubic\n", "cubic", true),
            ("4096\t87380\t6291456\n", "4096 87380", false),
            ("1\n", "2", false),
        ] {
            assert_eq!(is_same(now, written), same, "{now:?} {written:?}");
        }
    }
}
