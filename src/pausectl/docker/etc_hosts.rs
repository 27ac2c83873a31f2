//! A container's own name in its /etc/hosts, which its members share.
//!
//! Docker writes that line for its own networks. Here the address is known only once the plugins
//! have run, after the container's start: so the line is added to Docker's file. It is overwritten
//! and not replaced, since containers have that very inode mounted. Docker rewrites the file whenever
//! the container starts, which is when the container must be attached again as well.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::Path;

use super::lookup::find;
use super::record::Record;
use crate::command::warn;
use crate::docker_api::{ContainerRef, Docker, NetworkMode};
use pausenet::kernel::file::{self, LARGE, Symlinks};
use pausenet_host::{Error, OnPath};

/// Marks our lines.
const MARK: &str = "# pausenet";

/// Maps the container's name to its current addresses. The network works without that, so a
/// failure is only a warning.
pub(super) async fn set_addresses(docker: &Docker, record: &Record) {
    update(docker, record, &record.addresses()).await;
}

async fn update(docker: &Docker, record: &Record, addresses: &[String]) {
    if let Err(err) = try_update(docker, record, addresses).await {
        warn(&err.context(format!("{}: its /etc/hosts is out of date", record.name)));
    }
}

async fn try_update(docker: &Docker, record: &Record, addresses: &[String]) -> Result<(), Error> {
    let Some(id) = &record.container else {
        return Ok(());
    };
    let container = find(docker, &ContainerRef::from(id)).await?;
    // The file of another container, or for a Docker network, is not ours to change.
    let Some(container) = container.filter(|found| found.network == NetworkMode::None) else {
        return Ok(());
    };
    match &container.hosts {
        Some(file) => {
            rewrite(file, &host_names(&container.hostname), addresses).on_path("cannot write", file)
        }
        None => Ok(()),
    }
}

fn rewrite(file: &Path, names: &str, addresses: &[String]) -> io::Result<()> {
    let old = file::read_text(file, LARGE, Symlinks::Follow)?;
    let new = text(&old, names, addresses);
    if new == old {
        return Ok(());
    }
    let mut open = OpenOptions::new().write(true).open(file)?;
    open.write_all(new.as_bytes())?;
    open.set_len(u64::try_from(new.len()).map_err(io::Error::other)?)
}

fn text(old: &str, names: &str, addresses: &[String]) -> String {
    let others = old.lines().filter(|line| !line.ends_with(MARK));
    let mut text: String = others.map(|line| format!("{line}\n")).collect();
    for address in addresses.iter().filter(|_| !names.is_empty()) {
        text.push_str(&format!("{address}\t{names} {MARK}\n"));
    }
    text
}

/// As Docker does it: a name with a domain also gets its short form.
fn host_names(hostname: &str) -> String {
    match hostname.split_once('.') {
        Some((short, _)) if !short.is_empty() => format!("{hostname} {short}"),
        _ => hostname.to_owned(),
    }
}

/// Checks an entry of /etc/hosts, in the form of `docker run --add-host`.
pub(super) fn check_entry(text: &str) -> Result<(), String> {
    let is_name = |name: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        !name.is_empty() && name.chars().all(plain)
    };
    match text.split_once(':') {
        Some((name, address)) if is_name(name) && address.parse::<IpAddr>().is_ok() => Ok(()),
        _ => Err(format!(
            "{text:?} is not NAME:ADDRESS, such as db:10.77.0.9"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_name_is_listed_once_and_other_lines_stay() {
        let dockers = "127.0.0.1\tlocalhost\n10.1.0.9\tdb\n";
        let addresses = |all: &[&str]| all.iter().map(|ip| (*ip).to_owned()).collect::<Vec<_>>();
        let first = text(dockers, "web", &addresses(&["10.1.0.2", "fd00::2"]));
        assert_eq!(
            first,
            format!("{dockers}10.1.0.2\tweb # pausenet\nfd00::2\tweb # pausenet\n")
        );
        let second = text(&first, "web", &addresses(&["10.1.0.3"]));
        assert_eq!(second, format!("{dockers}10.1.0.3\tweb # pausenet\n"));
        assert_eq!(text(&second, "web", &[]), dockers);
    }

    #[test]
    fn the_file_is_overwritten_in_place() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hosts");
        fs::write(&file, "127.0.0.1\tlocalhost\n").unwrap();
        let mounted = fs::File::open(&file).unwrap();
        rewrite(&file, "a-long-name", &["10.1.0.2".into()]).unwrap();
        rewrite(&file, "a", &["10.1.0.2".into()]).unwrap();
        let seen = io::read_to_string(mounted).unwrap();
        assert_eq!(seen, "127.0.0.1\tlocalhost\n10.1.0.2\ta # pausenet\n");
        rewrite(&dir.path().join("none"), "a", &[]).unwrap_err();
    }

    #[test]
    fn a_name_with_a_domain_also_gets_its_short_form() {
        assert_eq!(host_names("web"), "web");
        assert_eq!(host_names("web.example.org"), "web.example.org web");
    }

    #[test]
    fn entries_are_a_name_and_an_address() {
        for good in ["db:10.1.0.9", "db.example.org:fd00::9", "db:::1"] {
            check_entry(good).unwrap();
        }
        for bad in [
            "",
            "db",
            "db:",
            ":10.1.0.9",
            "db:x",
            "a b:10.1.0.9",
            "a\n:10.1.0.9",
        ] {
            assert!(
                check_entry(bad)
                    .unwrap_err()
                    .contains("is not NAME:ADDRESS"),
                "{bad}"
            );
        }
    }
}
