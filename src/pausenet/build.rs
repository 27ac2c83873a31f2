//! Link arguments of the released plugin: no tables for unwinding, a tenth of its bytes.
//!
//! A panic aborts (`[profile.release]`), so nothing ever unwinds, but what rustc and the C library
//! compile has the tables all the same. The line that says where a panic was does not need them.
//! Builds for tests keep them: there a backtrace has names.

use std::env;
use std::path::Path;

const SCRIPT: &str = "no-unwind-tables.ld";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={SCRIPT}");
    if env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(SCRIPT);
        println!("cargo::rustc-link-arg-bins=-Wl,--no-eh-frame-hdr");
        println!(
            "cargo::rustc-link-arg-bins=-Wl,--script={}",
            script.display()
        );
    }
}
