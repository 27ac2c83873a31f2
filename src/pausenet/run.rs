//! One request, from stdin and the environment to stdout: the way in and out that all plugins and
//! verbs share.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::cni::call::Call;
use crate::cni::env::{Environment, Verb};
use crate::cni::json::Json;
use crate::cni::{Code, Error, Plugin, Result, SpecVersion};
use crate::kernel::file::{LARGE, too_long};
use crate::verbs;

/// How long the runtime may take to write the config: it has it at hand.
const STDIN_LIMIT: Duration = Duration::from_secs(20);

/// Most configs are much shorter. (What is reserved and not written costs nothing.)
const READ_AT_ONCE: usize = 16 * 1024;

/// The version of the reference's plugins that ours take the place of.
const REFERENCE_VERSION: &str = "1.10.0";

const HELP: &str = concat!(
    "pausenet ",
    env!("CARGO_PKG_VERSION"),
    ", a CNI plugin (specification 0.1.0 to 1.1.0)

Container runtimes call it, with CNI_* variables and a network config on stdin:

  CNI_COMMAND=ADD CNI_CONTAINERID=web CNI_NETNS=/run/netns/web CNI_IFNAME=eth0 \\
  CNI_PATH=/opt/cni/bin pausenet < podnet.conf

Verbs: ADD, DEL, CHECK, GC, STATUS, VERSION. The result, or an error with its
code, is JSON on stdout; the exit status is 0 or 1. Linked or copied as bridge,
ptp, host-local, loopback, portmap, firewall, bandwidth or tuning, it is that
plugin. People use pausectl."
);

/// The whole plugin: reads the request, serves it, writes the answer.
///
/// Nothing but the answer goes to stdout. The exit status is 1 with an error object.
pub fn run() -> ExitCode {
    std::panic::set_hook(Box::new(report_panic));
    let plugin = Plugin::called(&std::env::args_os().next().unwrap_or_default());
    let lookup = |name: &str| std::env::var_os(name);
    let mut stdin = Vec::new();
    let outcome = serve(plugin, &lookup, &mut stdin, read_stdin);
    let (added, text, status) = match outcome {
        Ok(answer) => (is_add(&lookup), answer, ExitCode::SUCCESS),
        Err(err) => (false, describe(err, &lookup, &stdin), ExitCode::FAILURE),
    };
    let line = if text.is_empty() { text } else { text + "\n" };
    let Err(err) = std::io::stdout().write_all(line.as_bytes()) else {
        return status;
    };
    let code = Code::of_failure(&err, Code::Io);
    let mut lost = Error::new(code, format!("cannot write the answer: {err}"));
    if added {
        lost = lost.hint(undo_add(plugin, &lookup, &stdin));
    }
    eprintln!("pausenet: {lost}");
    let _ = writeln!(std::io::stdout(), "{}", describe(lost, &lookup, &stdin));
    ExitCode::FAILURE
}

fn is_add(lookup: &impl Fn(&str) -> Option<OsString>) -> bool {
    lookup("CNI_COMMAND").is_some_and(|verb| verb == Verb::Add.as_str())
}

/// An ADD whose result did not reach the runtime has failed, as far as the runtime knows. Returns
/// what happened to the attachment, for the error's hint.
fn undo_add(plugin: Plugin, lookup: &impl Fn(&str) -> Option<OsString>, stdin: &[u8]) -> String {
    let as_del = |name: &str| match name {
        "CNI_COMMAND" => Some(Verb::Del.as_str().into()),
        other => lookup(other),
    };
    match serve(plugin, &as_del, &mut stdin.to_vec(), |_| Ok(())) {
        Ok(_) => "the attachment was removed again".to_owned(),
        Err(err) => format!("and the attachment could not be removed again: {err}"),
    }
}

/// Serves one request. What `read` read stays in `stdin`, for the error to name.
fn serve(
    plugin: Plugin,
    lookup: &impl Fn(&str) -> Option<OsString>,
    stdin: &mut Vec<u8>,
    read: impl FnOnce(&mut Vec<u8>) -> io::Result<()>,
) -> Result<String> {
    // What the reference's plugin does not read cannot be wrong.
    let lookup = |name: &str| match name {
        "CNI_ARGS"
            if !plugin.is_wiring() && !matches!(plugin, Plugin::HostLocal | Plugin::Tuning) =>
        {
            None
        }
        _ => lookup(name),
    };
    let environment = Environment::parse(lookup);
    if let Ok(None) = environment {
        return Ok(introduce(plugin));
    }
    // VERSION says nothing about a network; a runtime may leave stdin open.
    if !matches!(&environment, Ok(Some(env)) if env.verb == Verb::Version) {
        read(stdin).map_err(|err| {
            let code = match err.kind() {
                io::ErrorKind::InvalidData => Code::Decode,
                _ => Code::of_failure(&err, Code::Io),
            };
            Error::new(code, format!("cannot read the config on stdin: {err}"))
        })?;
    }
    let Some(env) = environment? else {
        return Ok(introduce(plugin));
    };
    let call = Call::new(plugin, &env, stdin.clone())?;
    verbs::serve(plugin, &call)
}

/// The answer to a call without CNI_COMMAND. Under a name of the reference's, that one's comes first, on stderr:
/// programs read the version from it (nerdctl, of `firewall`).
fn introduce(plugin: Plugin) -> String {
    if plugin != Plugin::Pausenet {
        let versions = SpecVersion::ALL.map(SpecVersion::as_str).join(", ");
        eprintln!(
            "CNI {} plugin v{REFERENCE_VERSION}\nCNI protocol versions supported: {versions}",
            plugin.name()
        );
    }
    HELP.to_owned()
}

/// Reads the config to its end. It may be a pipe that nobody writes to or closes: waiting for it
/// costs a system call for each read, of which there are two.
fn read_stdin(config: &mut Vec<u8>) -> io::Result<()> {
    let stdin = io::stdin();
    let deadline = Instant::now() + STDIN_LIMIT;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = left.try_into().map_err(io::Error::other)?;
        let mut polled = [PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN)];
        match poll(&mut polled, Some(&left)) {
            Ok(0) => {
                let what = format!("it did not end within {STDIN_LIMIT:?}");
                return Err(io::Error::new(io::ErrorKind::TimedOut, what));
            }
            Err(Errno::INTR) => continue,
            ready => ready?,
        };
        config.reserve(READ_AT_ONCE);
        match rustix::io::read(&stdin, spare_capacity(config)) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            // A runtime's pipe may be set not to wait.
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(err) => return Err(err.into()),
        }
        if config.len() as u64 > LARGE {
            return Err(too_long(LARGE));
        }
    }
}

/// The error object, with what it is about in front: verb, network, container, interface, as
/// far as they are known. Some of them may be the very thing that is wrong.
fn describe(err: Error, lookup: &impl Fn(&str) -> Option<OsString>, stdin: &[u8]) -> String {
    let config = Json::config(stdin).ok();
    let known = |key| config.as_ref()?.read_part::<Option<String>>(&[key]).ok()?;
    let (name, version) = (known("name"), known("cniVersion"));
    let version = SpecVersion::parse(version.as_deref()).unwrap_or(SpecVersion::NEWEST);
    let variable = |key| lookup(key).map(|value| value.to_string_lossy().into_owned());
    let shown = |value: Option<String>| match value.filter(|value| !value.is_empty()) {
        None => "unknown".to_owned(),
        Some(value) => value
            .chars()
            .take(64)
            .flat_map(char::escape_debug)
            .collect(),
    };
    let err = err.context(format!(
        "{} (network {}, container {}, interface {})",
        shown(variable("CNI_COMMAND")),
        shown(name),
        shown(variable("CNI_CONTAINERID")),
        shown(variable("CNI_IFNAME")),
    ));
    err.to_json(version.as_str())
}

/// A bug must look like any other error to the runtime. Whatever was half done has no alias,
/// so the next ADD or DEL clears it.
fn report_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let err = Error::new(Code::Internal, format!("pausenet has a bug: {panic}"));
    let _ = std::io::stdout().write_all(err.to_json(SpecVersion::NEWEST.as_str()).as_bytes());
    eprintln!("{err}");
    std::process::exit(1);
}
