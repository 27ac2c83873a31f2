//! A shell script in the plugin's place, which sees to something and then starts the plugin.

use std::fs;
use std::os::unix::fs::PermissionsExt;

const PLUGIN: &str = "/opt/cni/bin/pausenet";
/// Where the plugin is meanwhile.
pub const REAL: &str = "/opt/real/pausenet";

/// Puts a script in the plugin's place, in the calling thread's mounts.
pub fn put(script: &str) {
    fs::create_dir_all("/opt/real").unwrap();
    fs::rename(PLUGIN, REAL).unwrap();
    replace(script);
}

/// Puts another script in the place of one that is there.
pub fn replace(script: &str) {
    fs::write("/opt/cni/bin/.new", format!("#!/bin/sh\n{script}")).unwrap();
    fs::set_permissions("/opt/cni/bin/.new", fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename("/opt/cni/bin/.new", PLUGIN).unwrap();
}

/// Puts the plugin back. A script that runs goes on.
pub fn remove() {
    fs::copy(REAL, "/opt/cni/bin/.new").unwrap();
    fs::rename("/opt/cni/bin/.new", PLUGIN).unwrap();
}
