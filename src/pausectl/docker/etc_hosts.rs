//! A container's own name, in the /etc/hosts that it shares with all who join it.
//!
//! Docker writes that line for networks of its own. For one of ours nobody knows the address
//! before the plugins have run, and then the container is there: so the line is added to Docker's
//! file. It is written in place, since containers have that very file mounted. Docker makes it
//! anew whenever the container starts, which is when it has to be attached anew as well.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::Path;

use super::find;
use super::record::Record;
use crate::docker_api::{ContainerRef, Docker, NetworkMode};
use crate::warn;
use pausenet_host::{Error, OnPath};

/// By what our lines are known.
const MARK: &str = "# pausenet";

/// Lets the container's name mean the addresses that it has now. Without that its network works
/// all the same: what stands in the way is a warning.
pub async fn name_addresses(docker: &Docker, record: &Record) {
    write(docker, record, &record.addresses).await;
}

/// Takes the name back: there is no address.
pub async fn forget(docker: &Docker, record: &Record) {
    write(docker, record, &[]).await;
}

async fn write(docker: &Docker, record: &Record, addresses: &[String]) {
    if let Err(err) = try_write(docker, record, addresses).await {
        warn(&err.context(format!(
            "{}: /etc/hosts is not as it should be",
            record.name
        )));
    }
}

async fn try_write(docker: &Docker, record: &Record, addresses: &[String]) -> Result<(), Error> {
    let Some(id) = &record.container else {
        return Ok(());
    };
    let container = find(docker, &ContainerRef::from(id)).await?;
    // That of another container, or of a network of Docker's, is not ours to change.
    let Some(container) = container.filter(|found| found.network == NetworkMode::None) else {
        return Ok(());
    };
    match &container.hosts {
        Some(file) => {
            rewrite(file, &names(&container.hostname), addresses).on_path("cannot write", file)
        }
        None => Ok(()),
    }
}

fn rewrite(file: &Path, names: &str, addresses: &[String]) -> io::Result<()> {
    let old = fs::read_to_string(file)?;
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

/// As Docker does: of a name with a domain the short form too.
fn names(hostname: &str) -> String {
    match hostname.split_once('.') {
        Some((short, _)) if !short.is_empty() => format!("{hostname} {short}"),
        _ => hostname.to_owned(),
    }
}

/// Checks a line for /etc/hosts as `docker run --add-host` takes it.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub fn check(text: &str) -> Result<(), String> {
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

    #[test]
    fn the_own_name_is_there_once_and_all_else_stays() {
        let docker_s = "127.0.0.1\tlocalhost\n10.1.0.9\tdb\n";
        let addresses = |all: &[&str]| all.iter().map(|ip| (*ip).to_owned()).collect::<Vec<_>>();
        let first = text(docker_s, "web", &addresses(&["10.1.0.2", "fd00::2"]));
        assert_eq!(
            first,
            format!("{docker_s}10.1.0.2\tweb # pausenet\nfd00::2\tweb # pausenet\n")
        );
        let second = text(&first, "web", &addresses(&["10.1.0.3"]));
        assert_eq!(second, format!("{docker_s}10.1.0.3\tweb # pausenet\n"));
        assert_eq!(text(&second, "web", &[]), docker_s);
    }

    #[test]
    fn a_file_is_rewritten_in_place() {
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
    fn a_domain_has_a_short_form() {
        assert_eq!(names("web"), "web");
        assert_eq!(names("web.example.org"), "web.example.org web");
    }

    #[test]
    fn hosts_are_a_name_and_an_address() {
        for good in ["db:10.1.0.9", "db.example.org:fd00::9", "db:::1"] {
            check(good).unwrap();
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
                check(bad).unwrap_err().contains("is not NAME:ADDRESS"),
                "{bad}"
            );
        }
    }
}
