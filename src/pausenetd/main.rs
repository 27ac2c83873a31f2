//! The node daemon. Everything is in the library; start reading at [`pausenetd`].

use std::process::ExitCode;

fn main() -> ExitCode {
    pausenetd::main()
}
