//! `pausectl pod exec`: a command in a pod's network.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::name::{parse_name, unknown_pod};
use crate::command::{Result, need_root, print_error};
use pausenet_host::Error;
use pausenet_host::anchor::named_netns::{self, NamedNetns};

const EXAMPLES: &str = "\
Examples:
  pausectl pod exec web -- ip address
  pausectl pod exec web -- nginx -g 'daemon off;'

The command joins the pod's network namespace and nothing else: files, processes and
users are those of the host. It replaces pausectl, so it gets signals itself, and its
exit status is the one you see (a shell shows 128 plus the number for a signal).
126: the command cannot be executed; 127: there is no such command.";

/// Run a command in a pod's network namespace
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, override_usage = "pausectl pod exec NAME -- COMMAND...")]
pub(crate) struct Exec {
    /// The pod's name
    name: String,

    /// The command and its arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    command: Vec<OsString>,
}

/// Replaces pausectl by the command. Returns, with the exit status, only if that fails.
pub(crate) fn exec(options: &Exec) -> Result<ExitCode> {
    let pod = parse_name(&options.name)?;
    need_root()?;
    let NamedNetns::Namespace(netns) = named_netns::look_up(&pod)? else {
        return Err(unknown_pod(&pod).into());
    };
    move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).map_err(|err| {
        Error::new(format!(
            "join the network namespace of pod {pod}: the kernel says: {err}"
        ))
        .hint("it needs CAP_SYS_ADMIN")
    })?;
    let [program, arguments @ ..] = options.command.as_slice() else {
        unreachable!("clap requires a command");
    };
    let err = Command::new(program).args(arguments).exec();
    print_error(&Error::new(format!(
        "cannot run {program:?} in pod {pod}: {err}"
    )));
    Ok(ExitCode::from(match err.kind() {
        ErrorKind::NotFound => 127,
        _ => 126,
    }))
}
