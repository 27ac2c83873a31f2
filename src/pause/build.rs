//! Link arguments for the anchor alone: `pause` has its own `_start` and no libc (see
//! main.rs). The other binaries are linked as Cargo does by default.

/// `-static -no-pie` repeats what .cargo/config.toml asks for, because a build from outside this
/// checkout (`cargo install`) doesn't read that file, and `pause` can't relocate itself.
const PAUSE: [&str; 4] = ["-nostartfiles", "-nostdlib", "-static", "-no-pie"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for arg in PAUSE {
        println!("cargo::rustc-link-arg-bin=pause={arg}");
    }
}
