//! Why a request to the Docker daemon failed, as a kind to act upon and a message to print.

use std::error::Error as _;
use std::fmt;
use std::io;

use bollard::errors::Error as Cause;

use super::names::Socket;
use pausenet_host::Error;

pub type Result<T, E = ApiError> = std::result::Result<T, E>;

/// What a caller can act upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// No daemon listens on the socket.
    NotRunning,
    /// The daemon is there, but the socket's permissions or the daemon keep us out.
    PermissionDenied,
    /// The daemon has no such container or image.
    NotFound,
    /// The name is taken, or the container's state does not allow the request.
    Conflict,
    /// The connection broke, or no reply came: the daemon may be restarting.
    ConnectionLost,
    Other,
}

/// A request that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    pub kind: ErrorKind,
    pub error: Error,
}

impl ApiError {
    /// The socket could not be connected to.
    pub(super) fn connect(socket: &Socket, err: &io::Error) -> Self {
        match err.kind() {
            io::ErrorKind::NotFound => Self {
                kind: ErrorKind::NotRunning,
                error: Error::new(format!("Docker is not running: there is no socket at {socket}"),
                )
                .hint("start it (systemctl start docker), or name its socket with --docker or DOCKER_HOST"),
            },
            io::ErrorKind::ConnectionRefused => Self {
                kind: ErrorKind::NotRunning,
                error: Error::new(format!("Docker is not running: nothing listens on {socket}"),
                )
                .hint("start it: systemctl start docker"),
            },
            io::ErrorKind::PermissionDenied => Self {
                kind: ErrorKind::PermissionDenied,
                error: Error::new(format!("cannot connect to Docker at {socket}: {err}"),
                )
                .hint("only root and members of the group docker may use it"),
            },
            _ => Self::new(
                ErrorKind::Other,
                format!("cannot connect to Docker at {socket}: {err}"),
            ),
        }
    }

    /// A request that the daemon refused, or that it did not reply to. `request` says what was
    /// attempted: "start container web".
    pub(super) fn request(socket: &Socket, request: &str, cause: Cause) -> Self {
        match cause {
            Cause::DockerResponseServerError {
                status_code,
                message,
            } => {
                let kind = match status_code {
                    404 => ErrorKind::NotFound,
                    409 => ErrorKind::Conflict,
                    401 | 403 => ErrorKind::PermissionDenied,
                    _ => ErrorKind::Other,
                };
                let message = message.trim().trim_end_matches('.');
                Self::new(kind, format!("{request}: Docker says: {message}"))
            }
            Cause::RequestTimeoutError => Self::new(
                ErrorKind::ConnectionLost,
                format!("{request}: Docker at {socket} does not answer"),
            ),
            cause => {
                let kind = match is_broken_connection(&cause) {
                    true => ErrorKind::ConnectionLost,
                    false => ErrorKind::Other,
                };
                let chain = chain(&cause);
                Self::new(kind, format!("{request}: Docker at {socket}: {chain}"))
            }
        }
    }

    /// The daemon closed a stream that has no end of its own.
    pub(crate) fn stream_closed(socket: &Socket) -> Self {
        Self::new(
            ErrorKind::ConnectionLost,
            format!("Docker at {socket} closed the connection"),
        )
    }

    /// A reply that makes no sense.
    pub(super) fn bad_reply(socket: &Socket, request: &str, why: &str) -> Self {
        Self::new(
            ErrorKind::Other,
            format!("{request}: Docker at {socket}: {why}"),
        )
    }

    fn new(kind: ErrorKind, msg: String) -> Self {
        let hint = match kind {
            ErrorKind::ConnectionLost => "Docker may be restarting: try again",
            ErrorKind::NotFound => "see what there is: docker ps -a",
            _ => "",
        };
        Self {
            kind,
            error: Error::new(msg).hint(hint),
        }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for ApiError {}

impl From<ApiError> for Error {
    fn from(failure: ApiError) -> Self {
        failure.error
    }
}

/// True when an I/O error, or a reply cut short, is at the root. A socket that vanished after we
/// connected shows there too.
fn is_broken_connection(cause: &Cause) -> bool {
    if matches!(
        cause,
        Cause::HyperLegacyError { .. } | Cause::HyperResponseError { .. }
    ) {
        return true;
    }
    let mut next: Option<&dyn std::error::Error> = Some(cause);
    while let Some(err) = next {
        if err.is::<io::Error>() {
            return true;
        }
        next = err.source();
    }
    false
}

/// An error and all its sources, without repetitions.
fn chain(cause: &Cause) -> String {
    let mut texts = vec![cause.to_string()];
    let mut next = cause.source();
    while let Some(err) = next {
        let text = err.to_string();
        if !texts.last().is_some_and(|last| last.ends_with(&text)) {
            texts.push(text);
        }
        next = err.source();
    }
    texts.join(": ")
}
