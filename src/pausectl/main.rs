//! `pausectl`, the tool for people. Everything is in the library; start reading at [`pausectl`].

use std::process::ExitCode;

fn main() -> ExitCode {
    pausectl::main()
}
