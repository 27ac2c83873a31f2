//! What a runtime asks for, one file per verb, and the way in and out that they share.

mod add;
mod check;
mod del;
mod version;

use std::ffi::OsString;
use std::io::{Read, Write};
use std::process::ExitCode;

use crate::cni::config::NetConf;
use crate::cni::env::{Environment, Verb};
use crate::cni::request::Request;
use crate::cni::{Code, Error, Result, SpecVersion};
use crate::ipam::HostLocal;

/// More than any config: what is longer is a mistake, not a network.
const MAX_CONFIG: u64 = 16 * 1024 * 1024;

const HELP: &str = concat!(
    "pausenet ",
    env!("CARGO_PKG_VERSION"),
    ", a CNI plugin (specification 0.1.0 to 1.1.0)

Container runtimes call it, with CNI_* variables and a network config on stdin:

  CNI_COMMAND=ADD CNI_CONTAINERID=web CNI_NETNS=/run/netns/web CNI_IFNAME=eth0 \\
  CNI_PATH=/opt/cni/bin pausenet < podnet.conf

Verbs: ADD, DEL, CHECK, VERSION. The result, or an error with its code, is JSON
on stdout; the exit status is 0 or 1. People use pausectl."
);

/// The whole plugin: reads the request, serves it, writes the answer.
///
/// Nothing but the answer goes to stdout. The exit status is 1 with an error object.
pub fn main() -> ExitCode {
    std::panic::set_hook(Box::new(report_panic));
    let lookup = |name: &str| std::env::var_os(name);
    let mut stdin = Vec::new();
    let outcome = serve(&lookup, std::io::stdin(), &mut stdin);
    let (text, status) = match outcome {
        Ok(answer) => (answer, ExitCode::SUCCESS),
        Err(err) => (describe(err, &lookup, &stdin), ExitCode::FAILURE),
    };
    let line = if text.is_empty() { text } else { text + "\n" };
    match std::io::stdout().write_all(line.as_bytes()) {
        Ok(()) => status,
        Err(err) => {
            eprintln!("pausenet: cannot write the answer: {err}");
            ExitCode::FAILURE
        }
    }
}

/// Serves one request; what was read from `input` stays in `stdin`, for the error to name.
fn serve(
    lookup: &impl Fn(&str) -> Option<OsString>,
    input: impl Read,
    stdin: &mut Vec<u8>,
) -> Result<String> {
    let environment = Environment::parse(lookup);
    if let Ok(None) = environment {
        return Ok(HELP.to_owned());
    }
    // VERSION says nothing about a network; a runtime may leave stdin open.
    if !matches!(&environment, Ok(Some(env)) if env.verb == Verb::Version) {
        input
            .take(MAX_CONFIG)
            .read_to_end(stdin)
            .map_err(|err| Error::new(Code::Io, format!("cannot read stdin: {err}")))?;
    }
    let Some(env) = environment? else {
        return Ok(HELP.to_owned());
    };
    let request = |stdin: &[u8]| Request::new(&env, NetConf::parse(stdin)?);
    match env.verb {
        Verb::Add => add::run(&request(stdin)?),
        Verb::Del => del::run(&request(stdin)?).map(|()| String::new()),
        Verb::Check => check::run(&request(stdin)?).map(|()| String::new()),
        Verb::Version => Ok(version::run()),
        Verb::Gc | Verb::Status => Err(Error::new(
            Code::InvalidEnvironment,
            format!("CNI_COMMAND {} is not served yet", env.verb.as_str()),
        )),
    }
}

/// The error object, with what it is about in front: verb, network, container, interface, as
/// far as they are known. Some of them may be the very thing that is wrong.
fn describe(err: Error, lookup: &impl Fn(&str) -> Option<OsString>, stdin: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Known {
        name: Option<String>,
        #[serde(rename = "cniVersion")]
        version: Option<String>,
    }
    let known: Option<Known> = serde_json::from_slice(stdin).ok();
    let (name, version) = known.map_or((None, None), |known| (known.name, known.version));
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

/// The request's IPAM, if it has one.
fn ipam_of(request: &Request) -> Result<Option<HostLocal>> {
    match &request.ipam {
        None => Ok(None),
        Some(ipam) if ipam.r#type == "host-local" => HostLocal::new(request, ipam).map(Some),
        Some(ipam) => Err(Error::new(
            Code::UnsupportedField,
            format!("ipam.type {:?} is not supported", ipam.r#type),
        )
        .hint("the built-in IPAM is \"host-local\"")),
    }
}
