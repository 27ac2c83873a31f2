//! Files that hold network namespaces: bind mounts, as made by `ip netns add`, Docker and CNI
//! runtimes. A held namespace outlives all processes in it.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::{OnPath, Result};
use pausenet::kernel::netns::NetnsId;

/// The mounts that the calling thread sees.
const MOUNTS: &str = "/proc/thread-self/mountinfo";

/// The files that hold each network namespace, in this mount namespace.
pub(super) fn list() -> Result<HashMap<NetnsId, Vec<PathBuf>>> {
    let text = fs::read(MOUNTS).on_path("cannot read", Path::new(MOUNTS))?;
    let mut held: HashMap<NetnsId, Vec<PathBuf>> = HashMap::new();
    for line in text.split(|byte| *byte == b'\n') {
        let Some((number, path)) = mount(line) else {
            continue;
        };
        // Another mount may cover this one.
        if let Some(netns) = NetnsId::of_file(&path).filter(|netns| netns.number() == number) {
            held.entry(netns).or_default().push(path);
        }
    }
    for paths in held.values_mut() {
        paths.sort();
        paths.dedup();
    }
    Ok(held)
}

/// The inode number of the network namespace in a line of mountinfo, and where it is mounted:
/// fields 4 and 5 (proc_pid_mountinfo(5)).
fn mount(line: &[u8]) -> Option<(u64, PathBuf)> {
    let mut fields = line.split(|byte| *byte == b' ');
    let root = std::str::from_utf8(fields.nth(3)?).ok()?;
    let number = root.strip_prefix("net:[")?.strip_suffix(']')?;
    let path = unescape(fields.next()?);
    Some((
        number.parse().ok()?,
        PathBuf::from(OsString::from_vec(path)),
    ))
}

/// Undoes the kernel's escapes: space, tab, line feed and backslash are `\` and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let code = after
            .get(..3)
            .filter(|_| first == b'\\')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match code {
            Some(code) => {
                bytes.push(code);
                rest = &after[3..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn mounts_of_network_namespaces_are_found_among_others() {
        let line =
            b"612 31 0:4 net:[4026532622] /run/netns/a\\040b\\134c rw shared:4 - nsfs nsfs rw";
        assert_eq!(mount(line), Some((4026532622, "/run/netns/a b\\c".into())));
        for other in [
            &b"28 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw"[..],
            b"613 31 0:4 mnt:[4026532623] /run/x rw - nsfs nsfs rw",
            b"613 31 0:4 net:[x] /run/x rw - nsfs nsfs rw",
            b"",
        ] {
            assert_eq!(mount(other), None);
        }
    }

    proptest! {
        #[test]
        fn any_path_reads_back(path: Vec<u8>) {
            let escaped: Vec<u8> = path.iter().flat_map(|byte| match byte {
                b' ' | b'\t' | b'\n' | b'\\' => format!("\\{byte:03o}").into_bytes(),
                byte => vec![*byte],
            }).collect();
            prop_assert_eq!(unescape(&escaped), path);
        }
    }
}
