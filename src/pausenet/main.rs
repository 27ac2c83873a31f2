//! The CNI plugin. All it does is in the library; start reading at [`pausenet`] itself, lib.rs.

use std::process::ExitCode;

/// musl's own asks the kernel for memory, and gives it back, some fifty times in an ADD.
#[cfg(target_env = "musl")]
#[global_allocator]
static HEAP: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    pausenet::run()
}
