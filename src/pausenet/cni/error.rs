//! The error that a runtime gets: a code, what went wrong, and what to do.

use std::fmt::Display;
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::json::Json;

/// Error codes: 1 to 99 are the specification's, those from 100 are our own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The config's `cniVersion` is unknown, or too old for the verb.
    IncompatibleVersion = 1,
    /// A field's value asks for something that is not supported on this host.
    UnsupportedField = 2,
    /// A `CNI_*` variable is missing or malformed.
    InvalidEnvironment = 4,
    /// Reading stdin, or reading or writing the address store, failed.
    Io = 5,
    /// The input is not JSON of the expected form.
    Decode = 6,
    /// The config is well-formed JSON, but invalid.
    InvalidConfig = 7,
    /// `CNI_NETNS` is not a network namespace, or is the plugin's own.
    InvalidNetns = 8,
    /// A temporary failure: the same call may succeed later.
    TryAgainLater = 11,
    /// STATUS: the next ADD cannot work.
    NotAvailable = 50,
    /// STATUS: the next ADD cannot work, and existing attachments have limited connectivity.
    LimitedConnectivity = 51,
    /// Ours: the attachment exists already, or its interface name is taken in the container.
    InterfaceExists = 100,
    /// Ours: the kernel refused a request.
    KernelRefused = 101,
    /// Ours: CHECK found a difference between prevResult and the kernel or the store.
    AttachmentDiffers = 102,
    /// Ours: a host port is already mapped to another container.
    PortTaken = 103,
    /// A fault of the plugin itself.
    Internal = 999,
}

/// True for an error that the same call may not meet again: a shortage of the host or the process,
/// something busy, or a wait that reached its limit.
pub fn is_temporary(err: &std::io::Error) -> bool {
    use rustix::io::Errno;
    const TEMPORARY: [Errno; 8] = [
        Errno::NOMEM,
        Errno::MFILE,
        Errno::NFILE,
        Errno::AGAIN,
        Errno::BUSY,
        Errno::NOBUFS,
        Errno::INTR,
        Errno::TIMEDOUT,
    ];
    err.kind() == std::io::ErrorKind::TimedOut
        || Errno::from_io_error(err).is_some_and(|errno| TEMPORARY.contains(&errno))
}

impl Code {
    /// The code for a failed system call: 11 if a retry may succeed.
    pub fn of_failure(err: &std::io::Error, otherwise: Self) -> Self {
        if is_temporary(err) {
            Self::TryAgainLater
        } else {
            otherwise
        }
    }

    /// The code with this number; [`Code::Internal`] for an unknown number.
    fn from_number(number: u32) -> Self {
        const ALL: [Code; 15] = [
            Code::IncompatibleVersion,
            Code::UnsupportedField,
            Code::InvalidEnvironment,
            Code::Io,
            Code::Decode,
            Code::InvalidConfig,
            Code::InvalidNetns,
            Code::TryAgainLater,
            Code::NotAvailable,
            Code::LimitedConnectivity,
            Code::InterfaceExists,
            Code::KernelRefused,
            Code::AttachmentDiffers,
            Code::PortTaken,
            Code::Internal,
        ];
        let known = ALL.into_iter().find(|code| *code as u32 == number);
        known.unwrap_or(Self::Internal)
    }
}

/// The result type of the plugin's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed request, described for the administrator who has to fix it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{msg}{}{details}", if details.is_empty() { "" } else { "; " })]
pub struct Error {
    /// The code that a runtime branches on.
    pub code: Code,
    /// What was attempted, on what, and the reason for the failure.
    pub msg: String,
    /// A hint what to do; may be empty.
    pub details: String,
}

impl Error {
    /// An error without a hint.
    #[cold]
    #[inline(never)]
    pub fn new(code: Code, msg: impl Into<String>) -> Self {
        Self {
            code,
            msg: msg.into(),
            details: String::new(),
        }
    }

    /// Appends a hint to any earlier ones.
    #[must_use]
    #[cold]
    #[inline(never)]
    pub fn hint(mut self, details: impl Into<String>) -> Self {
        let details = details.into();
        if self.details.is_empty() {
            self.details = details;
        } else if !details.is_empty() {
            self.details = format!("{}; {details}", self.details);
        }
        self
    }

    /// Prefixes the message with its subject; the hint is unchanged.
    #[must_use]
    #[cold]
    #[inline(never)]
    pub(crate) fn context(mut self, what: impl Display) -> Self {
        self.msg = format!("{what}: {}", self.msg);
        self
    }

    /// Parses another plugin's stdout as an error object; None when it is not one.
    pub fn from_json(stdout: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Wire {
            code: u32,
            msg: String,
            #[serde(default)]
            details: String,
        }
        let wire: Wire = Json::parse("error", stdout).ok()?.read().ok()?;
        Some(Self::new(Code::from_number(wire.code), wire.msg).hint(wire.details))
    }

    /// The error as the specification's JSON object (section 5, "Error").
    #[expect(clippy::expect_used, reason = "strings and a number always serialise")]
    pub(crate) fn to_json(&self, cni_version: &str) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Wire<'a> {
            cni_version: &'a str,
            code: u32,
            msg: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            details: &'a str,
        }
        serde_json::to_string_pretty(&Wire {
            cni_version,
            code: self.code as u32,
            msg: &self.msg,
            details: &self.details,
        })
        .expect("strings and a number always serialise")
    }
}

/// A failure that becomes an [`Error`] once the attempted operation is added.
pub trait Attempted {
    fn during(self, attempt: impl Display) -> Error;
}

impl Attempted for Error {
    fn during(self, attempt: impl Display) -> Error {
        self.context(attempt)
    }
}

/// Adds the attempted operation to a failure: `link::list(socket).during("list the host's
/// links")?`.
pub trait During<T> {
    fn during(self, attempt: impl Display) -> Result<T>;

    /// The same for a text that is built only on failure.
    fn during_with<A: Display>(self, attempt: impl FnOnce() -> A) -> Result<T>;
}

impl<T, E: Attempted> During<T> for Result<T, E> {
    fn during(self, attempt: impl Display) -> Result<T> {
        self.map_err(|failure| failure.during(attempt))
    }

    fn during_with<A: Display>(self, attempt: impl FnOnce() -> A) -> Result<T> {
        self.map_err(|failure| failure.during(attempt()))
    }
}

/// The same for file operations: `fs::read_dir(dir).on_path("cannot list", dir)?` names the path in
/// a code 5 error, or code 11 if a retry may succeed.
pub trait OnPath<T> {
    fn on_path(self, action: &str, path: &Path) -> Result<T>;
}

impl<T, E: Into<std::io::Error>> OnPath<T> for Result<T, E> {
    fn on_path(self, action: &str, path: &Path) -> Result<T> {
        self.map_err(|err| io(action, path, err))
    }
}

/// Shorthand: an error that names the path of an I/O error. Code 5, or 11 if a retry may succeed.
#[cold]
#[inline(never)]
pub(crate) fn io(action: &str, path: &Path, err: impl Into<std::io::Error>) -> Error {
    let err = err.into();
    // What ELOOP is called says nothing of a link that is not followed.
    let is_link = rustix::io::Errno::from_io_error(&err) == Some(rustix::io::Errno::LOOP);
    Error::new(
        Code::of_failure(&err, Code::Io),
        format!("{action} {}: {err}", path.display()),
    )
    .hint(match is_link {
        true => "it is a symbolic link, which is not followed here, or which leads to itself",
        false => "",
    })
}

/// Shorthand: a code 7 error for a config that is well-formed but invalid.
#[cold]
#[inline(never)]
pub(crate) fn invalid(what: impl Into<String>) -> Error {
    Error::new(Code::InvalidConfig, what)
}

/// Says on stderr what does not make the call fail.
pub(crate) fn warn(what: impl Display) {
    // A runtime may have closed it.
    let _ = writeln!(std::io::stderr(), "pausenet: warning: {what}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_the_four_fields_of_the_specification() {
        let err = Error::new(Code::InvalidNetns, "a \"quoted\" path").hint("look there");
        let json: serde_json::Value = serde_json::from_str(&err.to_json("1.0.0")).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "cniVersion": "1.0.0",
                "code": 8,
                "msg": "a \"quoted\" path",
                "details": "look there"
            })
        );
    }

    #[test]
    fn context_goes_in_front_and_leaves_the_hint() {
        let full = Error::new(Code::Io, "disk full").hint("make room");
        let failed: Result<()> = Err(full);
        let err = failed
            .during("reserve 10.0.0.2")
            .during_with(|| format!("ADD {}", 7))
            .unwrap_err();
        assert_eq!(err.msg, "ADD 7: reserve 10.0.0.2: disk full");
        assert_eq!(err.details, "make room");
    }

    #[test]
    fn a_later_hint_is_appended_to_an_earlier_one() {
        let err = Error::new(Code::Io, "disk full").hint("make room");
        assert_eq!(err.clone().hint("").details, "make room");
        assert_eq!(
            err.hint("then ADD again").details,
            "make room; then ADD again"
        );
    }

    #[test]
    fn what_a_retry_may_mend_is_code_11() {
        use rustix::io::Errno;
        for errno in [
            Errno::NOMEM,
            Errno::MFILE,
            Errno::NFILE,
            Errno::AGAIN,
            Errno::BUSY,
            Errno::NOBUFS,
            Errno::INTR,
        ] {
            let failed: Result<(), _> = Err(errno);
            let err = failed.on_path("cannot open", Path::new("/a")).unwrap_err();
            assert_eq!(err.code, Code::TryAgainLater, "{errno}");
        }
        let late = std::io::Error::new(std::io::ErrorKind::TimedOut, "late");
        assert_eq!(
            Code::of_failure(&late, Code::KernelRefused),
            Code::TryAgainLater
        );
        for errno in [Errno::NOSPC, Errno::ROFS, Errno::PERM, Errno::EXIST] {
            assert_eq!(
                Code::of_failure(&errno.into(), Code::Io),
                Code::Io,
                "{errno}"
            );
        }
    }

    #[test]
    fn a_file_s_error_names_the_path() {
        let missing: Result<(), _> = Err(rustix::io::Errno::NOENT);
        let err = missing.on_path("cannot list", Path::new("/a")).unwrap_err();
        assert_eq!(err.code, Code::Io);
        assert_eq!(
            err.msg,
            "cannot list /a: No such file or directory (os error 2)"
        );
    }
}
