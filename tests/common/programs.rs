//! The built programs that the tests run.
//!
//! Cargo builds the binaries of a package before that package's own integration tests, but these
//! tests are a package of their own. So the first test of a process that needs a program has all
//! of them built, which takes no time when nothing has changed. `scripts/test.sh` builds them
//! itself, before it enters namespaces, and names their folder in `PAUSENET_PROGRAMS`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The root of the checkout.
pub const CHECKOUT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// The plugin.
pub fn pausenet() -> &'static str {
    static PATH: OnceLock<String> = OnceLock::new();
    PATH.get_or_init(|| program("pausenet"))
}

/// The command-line tool.
pub fn pausectl() -> &'static str {
    static PATH: OnceLock<String> = OnceLock::new();
    PATH.get_or_init(|| program("pausectl"))
}

/// The node daemon.
pub fn pausenetd() -> &'static str {
    static PATH: OnceLock<String> = OnceLock::new();
    PATH.get_or_init(|| program("pausenetd"))
}

/// The anchor.
pub fn pause() -> &'static str {
    static PATH: OnceLock<String> = OnceLock::new();
    PATH.get_or_init(|| program("pause"))
}

/// The folder of all of them.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| match std::env::var_os("PAUSENET_PROGRAMS") {
        Some(folder) => folder.into(),
        None => build(),
    })
}

/// A folder beside them for what tests make once and keep.
pub(crate) fn scratch() -> PathBuf {
    // target/TRIPLE/PROFILE
    let target = folder().parent().unwrap().parent().unwrap();
    target.join("tmp")
}

fn program(name: &str) -> String {
    let path = folder().join(name);
    assert!(path.exists(), "{} was not built", path.display());
    path.into_os_string().into_string().unwrap()
}

/// Builds them with the profile that this test was built with.
fn build() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    // target/TRIPLE/PROFILE/deps/TEST
    let folder = test.parent().unwrap().parent().unwrap();
    let profile = match folder.file_name().unwrap().to_str().unwrap() {
        "debug" => "dev",
        other => other,
    };
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["build", "--workspace", "--bins", "--locked", "--quiet"])
        .args(["--profile", profile])
        .current_dir(CHECKOUT);
    // The variables that `cargo test` sets for tests would make some build scripts run again.
    for (key, _) in std::env::vars_os() {
        let name = key.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(&key);
        }
    }
    let status = cargo.status().expect("cargo");
    assert!(status.success(), "the programs could not be built");
    folder.to_owned()
}
