//! The binary under the names of the reference's plugins, and shell scripts as plugins.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use serde_json::Value;

use common::programs;
use common::{Call, Container, PluginOutput};

/// A folder like /opt/cni/bin, in which the built binary has all its names.
pub(crate) fn folder() -> PathBuf {
    let binary = Path::new(programs::pausenet());
    let folder = binary.parent().unwrap().join("test-plugins");
    fs::create_dir_all(&folder).unwrap();
    for name in ["bridge", "ptp", "host-local", "loopback", "portmap"]
        .into_iter()
        .chain(["firewall", "bandwidth", "tuning"])
    {
        // Another test may have been faster.
        let _ = symlink(binary, folder.join(name));
    }
    folder
}

/// A call of the binary by another name, about a container that is called like its namespace.
pub(crate) fn call_as(plugin: &str, verb: &str, config: &Value, container: &Container) -> Call {
    common::call(verb, config, container)
        .program(folder().join(plugin))
        .var("CNI_PATH", folder())
}

/// The same without a container: GC, STATUS, and calls that ignore the namespace.
pub(crate) fn call_alone(plugin: &str, verb: &str, config: &Value) -> Call {
    Call::new(verb, config)
        .program(folder().join(plugin))
        .var("CNI_PATH", folder())
        .var("CNI_NETNS", "/not/looked/at")
}

/// Writes a program into a folder.
pub(crate) fn script(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Runs a call by way of another program: `setpriv`, `strace`.
pub(crate) fn under(wrapper: &[&str], call: &Call) -> PluginOutput {
    let inner = call.command();
    let mut outer = call.clone().program(wrapper[0]).command();
    outer.args(&wrapper[1..]).arg("--").arg(inner.get_program());
    call.run_as(outer)
}

/// Runs a call that has to end within a time that is generous for linear work.
pub(crate) fn in_a_minute(call: &Call) -> PluginOutput {
    let mut limited = call.clone().program("timeout").command();
    limited.arg("60").arg(call.command().get_program());
    call.run_as(limited)
}
