//! What is mounted in a container: the same volumes, also those that nobody has named.

use std::collections::HashMap;

use bollard::models::{HostConfig, Mount, MountPoint, MountType};

use super::arguments::Options;

/// `points` is what is mounted; the rest is how that was asked for.
pub fn say(host: &HostConfig, points: Vec<MountPoint>, options: &mut Options) {
    let mut said: Vec<String> = Vec::new();
    for bind in host.binds.iter().flatten() {
        said.extend(bind.split(':').nth(1).map(plain));
        options.value("volume", bind);
    }
    for mount in host.mounts.iter().flatten() {
        let target = mount.target.as_deref().unwrap_or_default();
        said.push(plain(target));
        match fields(mount, &points) {
            Some(fields) => options.value("mount", record(&fields)),
            None => {
                let kind = mount.typ.map(|kind| kind.to_string()).unwrap_or_default();
                options.cannot_say(format!("what is mounted on {target} ({kind})"));
            }
        }
    }
    let mut scratch: Vec<_> = host.tmpfs.iter().flatten().collect();
    scratch.sort();
    for (path, how) in scratch {
        said.push(plain(path));
        let colon = if how.is_empty() { "" } else { ":" };
        options.value("tmpfs", format!("{path}{colon}{how}"));
    }
    // What the image asked for, or another container has lent.
    for point in points {
        let path = point.destination.clone().unwrap_or_default();
        if said.contains(&plain(&path)) {
            continue;
        }
        let from = match point.typ.as_deref() {
            Some("volume") => point.name,
            Some("bind") => point.source,
            _ => None,
        };
        let Some(from) = from else {
            options.cannot_say(format!("what is mounted on {path}"));
            continue;
        };
        let mut how = Vec::new();
        if point.rw == Some(false) {
            how.push("ro".to_owned());
        }
        let usual = |propagation: &String| propagation.is_empty() || propagation == "rprivate";
        how.extend(point.propagation.filter(|propagation| !usual(propagation)));
        let colon = if how.is_empty() { "" } else { ":" };
        options.value("volume", format!("{from}:{path}{colon}{}", how.join(",")));
    }
}

/// `--mount` as it takes it; None for a kind that it may not know.
fn fields(mount: &Mount, points: &[MountPoint]) -> Option<Vec<String>> {
    let kind = mount.typ?;
    if !matches!(kind, MountType::BIND | MountType::VOLUME | MountType::TMPFS) {
        return None;
    }
    let mut fields = vec![format!("type={kind}")];
    let mut say = |name: &str, value: &str| fields.push(format!("{name}={value}"));
    let target = mount.target.as_deref()?;
    let given = mount.source.as_ref().filter(|source| !source.is_empty());
    // One that nobody has named has a name all the same.
    let own = || {
        let at =
            |point: &&MountPoint| point.destination.as_deref().map(plain) == Some(plain(target));
        points.iter().find(at)?.name.as_ref()
    };
    if let Some(source) = given.or_else(own) {
        say("source", source);
    }
    say("target", target);
    if mount.read_only == Some(true) {
        say("readonly", "true");
    }
    if let Some(bind) = &mount.bind_options {
        let propagation = bind.propagation.map(|how| how.to_string());
        if let Some(propagation) = propagation.filter(|how| !how.is_empty()) {
            say("bind-propagation", &propagation);
        }
        if bind.non_recursive == Some(true) {
            say("bind-nonrecursive", "true");
        }
    }
    if let Some(volume) = &mount.volume_options {
        for (name, value) in sorted(volume.labels.as_ref()) {
            say("volume-label", &format!("{name}={value}"));
        }
        if let Some(subpath) = volume.subpath.as_ref().filter(|path| !path.is_empty()) {
            say("volume-subpath", subpath);
        }
        let driver = volume.driver_config.as_ref();
        let name = driver.and_then(|driver| driver.name.as_ref());
        if let Some(name) = name.filter(|name| !name.is_empty()) {
            say("volume-driver", name);
        }
        for (name, value) in sorted(driver.and_then(|driver| driver.options.as_ref())) {
            say("volume-opt", &format!("{name}={value}"));
        }
        if volume.no_copy == Some(true) {
            say("volume-nocopy", "true");
        }
    }
    if let Some(tmpfs) = &mount.tmpfs_options {
        if let Some(size) = tmpfs.size_bytes.filter(|size| *size != 0) {
            say("tmpfs-size", &size.to_string());
        }
        if let Some(mode) = tmpfs.mode.filter(|mode| *mode != 0) {
            say("tmpfs-mode", &format!("{mode:o}"));
        }
    }
    Some(fields)
}

fn sorted(pairs: Option<&HashMap<String, String>>) -> Vec<(&String, &String)> {
    let mut pairs: Vec<_> = pairs.into_iter().flatten().collect();
    pairs.sort();
    pairs
}

/// One line of CSV, which `--mount` is.
fn record(fields: &[String]) -> String {
    let field = |field: &String| {
        if field.contains([',', '"', '\n', '\r']) {
            format!("\"{}\"", field.replace('"', "\"\""))
        } else {
            field.clone()
        }
    };
    fields.iter().map(field).collect::<Vec<_>>().join(",")
}

/// A path without a slash at its end.
fn plain(path: &str) -> String {
    path.trim_end_matches('/').to_owned()
}
