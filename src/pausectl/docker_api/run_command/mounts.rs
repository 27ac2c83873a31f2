//! Mount options that give the new container the same volumes, anonymous ones included.

use std::collections::HashMap;

use bollard::models::{HostConfig, Mount, MountPoint, MountType};

use super::arguments::Options;

/// `points` is what is mounted; `host` has how it was requested.
pub(super) fn add(host: &HostConfig, points: Vec<MountPoint>, options: &mut Options) {
    let mut targets: Vec<String> = Vec::new();
    for bind in host.binds.iter().flatten() {
        targets.extend(bind.split(':').nth(1).map(without_trailing_slash));
        options.value("volume", bind);
    }
    for mount in host.mounts.iter().flatten() {
        let target = mount.target.as_deref().unwrap_or_default();
        targets.push(without_trailing_slash(target));
        match fields(mount, &points) {
            Some(fields) => options.value("mount", csv(&fields)),
            None => {
                let kind = mount.typ.map(|kind| kind.to_string()).unwrap_or_default();
                options.not_reproducible(format!("what is mounted on {target} ({kind})"));
            }
        }
    }
    let mut tmpfs: Vec<_> = host.tmpfs.iter().flatten().collect();
    tmpfs.sort();
    for (path, how) in tmpfs {
        targets.push(without_trailing_slash(path));
        let colon = if how.is_empty() { "" } else { ":" };
        options.value("tmpfs", format!("{path}{colon}{how}"));
    }
    // Volumes of the image (VOLUME), or of another container (--volumes-from).
    for point in points {
        let path = point.destination.clone().unwrap_or_default();
        if targets.contains(&without_trailing_slash(&path)) {
            continue;
        }
        let from = match point.typ.as_deref() {
            Some("volume") => point.name,
            Some("bind") => point.source,
            _ => None,
        };
        let Some(from) = from else {
            options.not_reproducible(format!("what is mounted on {path}"));
            continue;
        };
        let mut how = Vec::new();
        if point.rw == Some(false) {
            how.push("ro".to_owned());
        }
        let is_default = |propagation: &String| propagation.is_empty() || propagation == "rprivate";
        how.extend(
            point
                .propagation
                .filter(|propagation| !is_default(propagation)),
        );
        let colon = if how.is_empty() { "" } else { ":" };
        options.value("volume", format!("{from}:{path}{colon}{}", how.join(",")));
    }
}

/// The fields of `--mount`; None for a type that `docker run` may not support.
fn fields(mount: &Mount, points: &[MountPoint]) -> Option<Vec<String>> {
    let kind = mount.typ?;
    if !matches!(kind, MountType::BIND | MountType::VOLUME | MountType::TMPFS) {
        return None;
    }
    let mut fields = vec![format!("type={kind}")];
    let mut add = |name: &str, value: &str| fields.push(format!("{name}={value}"));
    let target = mount.target.as_deref()?;
    let given = mount.source.as_ref().filter(|source| !source.is_empty());
    // An anonymous volume has a generated name.
    let generated = || {
        let at = |point: &&MountPoint| {
            point.destination.as_deref().map(without_trailing_slash)
                == Some(without_trailing_slash(target))
        };
        points.iter().find(at)?.name.as_ref()
    };
    if let Some(source) = given.or_else(generated) {
        add("source", source);
    }
    add("target", target);
    if mount.read_only == Some(true) {
        add("readonly", "true");
    }
    if let Some(bind) = &mount.bind_options {
        let propagation = bind.propagation.map(|how| how.to_string());
        if let Some(propagation) = propagation.filter(|how| !how.is_empty()) {
            add("bind-propagation", &propagation);
        }
        if bind.non_recursive == Some(true) {
            add("bind-nonrecursive", "true");
        }
    }
    if let Some(volume) = &mount.volume_options {
        for (name, value) in sorted(volume.labels.as_ref()) {
            add("volume-label", &format!("{name}={value}"));
        }
        if let Some(subpath) = volume.subpath.as_ref().filter(|path| !path.is_empty()) {
            add("volume-subpath", subpath);
        }
        let driver = volume.driver_config.as_ref();
        let name = driver.and_then(|driver| driver.name.as_ref());
        if let Some(name) = name.filter(|name| !name.is_empty()) {
            add("volume-driver", name);
        }
        for (name, value) in sorted(driver.and_then(|driver| driver.options.as_ref())) {
            add("volume-opt", &format!("{name}={value}"));
        }
        if volume.no_copy == Some(true) {
            add("volume-nocopy", "true");
        }
    }
    if let Some(tmpfs) = &mount.tmpfs_options {
        if let Some(size) = tmpfs.size_bytes.filter(|size| *size != 0) {
            add("tmpfs-size", &size.to_string());
        }
        if let Some(mode) = tmpfs.mode.filter(|mode| *mode != 0) {
            add("tmpfs-mode", &format!("{mode:o}"));
        }
    }
    Some(fields)
}

fn sorted(pairs: Option<&HashMap<String, String>>) -> Vec<(&String, &String)> {
    let mut pairs: Vec<_> = pairs.into_iter().flatten().collect();
    pairs.sort();
    pairs
}

/// The fields as one line of CSV, which `--mount` takes.
fn csv(fields: &[String]) -> String {
    let field = |field: &String| {
        if field.contains([',', '"', '\n', '\r']) {
            format!("\"{}\"", field.replace('"', "\"\""))
        } else {
            field.clone()
        }
    };
    fields.iter().map(field).collect::<Vec<_>>().join(",")
}

fn without_trailing_slash(path: &str) -> String {
    path.trim_end_matches('/').to_owned()
}
