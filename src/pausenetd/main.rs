//! The node daemon. All it does is in the library; start reading at [`pausenet::daemon`].

use std::process::ExitCode;

fn main() -> ExitCode {
    pausenet::daemon::main()
}
