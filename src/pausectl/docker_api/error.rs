//! What went wrong between us and the daemon, in the words of the person who has to mend it.

use std::error::Error as _;
use std::fmt;
use std::io::{self, ErrorKind};

use bollard::errors::Error as Cause;

use super::names::Socket;
use pausenet::cni::{Code, Error};

pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// What a caller may do something about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// There is no Docker: nobody listens on the socket.
    Absent,
    /// There is one, and we may not speak to it.
    Denied,
    /// It does not know the container or the image.
    NoSuch,
    /// A name is taken, or the container is in a state that does not allow it.
    Conflict,
    /// The connection ended, or no answer came: perhaps it is being restarted.
    Lost,
    Other,
}

/// A request that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub kind: Kind,
    pub error: Error,
}

impl Failure {
    /// Nobody could be reached.
    pub(super) fn connect(socket: &Socket, err: &io::Error) -> Self {
        match err.kind() {
            ErrorKind::NotFound => Self {
                kind: Kind::Absent,
                error: Error::new(
                    Code::Io,
                    format!("there is no Docker: no socket at {socket}"),
                )
                .hint("start it (systemctl start docker), or name its socket with --docker or DOCKER_HOST"),
            },
            ErrorKind::ConnectionRefused => Self {
                kind: Kind::Absent,
                error: Error::new(
                    Code::Io,
                    format!("there is no Docker: {socket} is there, but nobody listens on it"),
                )
                .hint("its daemon has ended: start it (systemctl start docker)"),
            },
            ErrorKind::PermissionDenied => Self {
                kind: Kind::Denied,
                error: Error::new(
                    Code::Io,
                    format!("Docker at {socket} may not be spoken to: {err}"),
                )
                .hint("it is for root, and for members of the group docker"),
            },
            _ => Self::new(Kind::Other, format!("connect to Docker at {socket}: {err}")),
        }
    }

    /// A request, and what came back.
    pub(super) fn of(socket: &Socket, what: &str, cause: Cause) -> Self {
        match cause {
            Cause::DockerResponseServerError {
                status_code,
                message,
            } => {
                let kind = match status_code {
                    404 => Kind::NoSuch,
                    409 => Kind::Conflict,
                    401 | 403 => Kind::Denied,
                    _ => Kind::Other,
                };
                Self::new(
                    kind,
                    format!(
                        "{what}: Docker says: {}",
                        message.trim().trim_end_matches('.')
                    ),
                )
            }
            Cause::RequestTimeoutError => Self::new(
                Kind::Lost,
                format!("{what}: Docker at {socket} does not answer"),
            ),
            cause => {
                // A socket that is gone since we connected shows at the bottom of the chain.
                let kind = bottom(&cause).map_or(Kind::Other, |_| Kind::Lost);
                Self::new(
                    kind,
                    format!("{what}: Docker at {socket}: {}", chain(&cause)),
                )
            }
        }
    }

    /// A conversation that was to go on.
    pub fn ended(socket: &Socket) -> Self {
        Self::new(
            Kind::Lost,
            format!("Docker at {socket} has ended the conversation"),
        )
    }

    /// An answer that cannot be meant.
    pub(super) fn other(socket: &Socket, what: &str, why: &str) -> Self {
        Self::new(Kind::Other, format!("{what}: Docker at {socket}: {why}"))
    }

    fn new(kind: Kind, msg: String) -> Self {
        let code = match kind {
            Kind::NoSuch => Code::InvalidConfig,
            Kind::Conflict => Code::InterfaceExists,
            Kind::Lost => Code::TryAgainLater,
            Kind::Absent | Kind::Denied | Kind::Other => Code::Io,
        };
        let hint = match kind {
            Kind::Lost => "its daemon may be being restarted: try again",
            Kind::NoSuch => "which there are: docker ps -a",
            _ => "",
        };
        Self {
            kind,
            error: Error::new(code, msg).hint(hint),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for Failure {}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

/// The input or output error, or the broken-off answer, that was behind it all.
fn bottom(cause: &Cause) -> Option<()> {
    if matches!(
        cause,
        Cause::HyperLegacyError { .. } | Cause::HyperResponseError { .. }
    ) {
        return Some(());
    }
    let mut next: Option<&dyn std::error::Error> = Some(cause);
    while let Some(err) = next {
        if err.is::<io::Error>() {
            return Some(());
        }
        next = err.source();
    }
    None
}

/// An error with all that is behind it, each said once.
fn chain(cause: &Cause) -> String {
    let mut said = vec![cause.to_string()];
    let mut next = cause.source();
    while let Some(err) = next {
        let text = err.to_string();
        if !said.last().is_some_and(|last| last.ends_with(&text)) {
            said.push(text);
        }
        next = err.source();
    }
    said.join(": ")
}
