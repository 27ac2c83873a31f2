//! Link arguments: `pause` has its own `_start` and no libc (see main.rs).

/// `-static -no-pie` repeats .cargo/config.toml, because a build from outside this checkout
/// (`cargo install`) does not read that file, and `pause` cannot relocate itself.
const LINK_ARGS: [&str; 4] = ["-nostartfiles", "-nostdlib", "-static", "-no-pie"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for arg in LINK_ARGS {
        println!("cargo::rustc-link-arg-bin=pause={arg}");
    }
}
