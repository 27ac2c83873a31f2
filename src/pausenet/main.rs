//! The CNI plugin. All it does is in the library; start reading at [`pausenet::verbs`].

use std::process::ExitCode;

fn main() -> ExitCode {
    pausenet::verbs::main()
}
