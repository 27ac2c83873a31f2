//! Replaces the plugin by a shell script, which does something and then runs the plugin.

use std::fs;
use std::os::unix::fs::PermissionsExt;

const PLUGIN: &str = "/opt/cni/bin/pausenet";
/// The path of the plugin meanwhile.
pub(crate) const REAL: &str = "/opt/real/pausenet";

/// Replaces the plugin by a script, in the calling thread's mount namespace.
pub(crate) fn put(script: &str) {
    fs::create_dir_all("/opt/real").unwrap();
    fs::rename(PLUGIN, REAL).unwrap();
    replace(script);
}

/// Replaces the script by another one.
pub(crate) fn replace(script: &str) {
    fs::write("/opt/cni/bin/.new", format!("#!/bin/sh\n{script}")).unwrap();
    fs::set_permissions("/opt/cni/bin/.new", fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename("/opt/cni/bin/.new", PLUGIN).unwrap();
}

/// Restores the plugin. A running script continues.
pub(crate) fn remove() {
    fs::copy(REAL, "/opt/cni/bin/.new").unwrap();
    fs::rename("/opt/cni/bin/.new", PLUGIN).unwrap();
}
