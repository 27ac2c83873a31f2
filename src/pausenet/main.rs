//! The CNI plugin. All it does is in the library; start reading at [`pausenet`] itself, lib.rs.

use std::process::ExitCode;

fn main() -> ExitCode {
    pausenet::run()
}
