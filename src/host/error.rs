//! The error type of the tools and the daemon: what failed on this host, and how to fix it.

use std::fmt::Display;
use std::path::Path;

use pausenet::cni;

/// A failure of a tool or of the daemon: a sentence, a hint, and the CNI error if a plugin (or the
/// plugin's own code) failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}{}{hint}", if hint.is_empty() { "" } else { "; " })]
pub struct Error {
    /// What was attempted, on what, and the outcome.
    pub message: String,
    /// What the user can do about it; may be empty.
    pub hint: String,
    #[source]
    source: Option<cni::Error>,
}

/// The result of most functions that act on the host.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error without a hint.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: String::new(),
            source: None,
        }
    }

    /// `cannot read /some/file: Permission denied`.
    pub fn io(action: &str, path: &Path, err: impl Display) -> Self {
        Self::new(format!("{action} {}: {err}", path.display()))
    }

    /// Appends what the user can do about it to the hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        let hint = hint.into();
        if self.hint.is_empty() {
            self.hint = hint;
        } else if !hint.is_empty() {
            self.hint = format!("{}; {hint}", self.hint);
        }
        self
    }

    /// Prefixes the message with what was being done; the hint stays the same.
    #[must_use]
    pub fn context(mut self, what: impl Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }
}

/// Adds to an error what was attempted, like [`cni::During`]:
/// `link::list(socket).during("list the host's links")?`.
pub trait During<T> {
    fn during(self, attempt: impl Display) -> Result<T>;

    /// The same, with a text that is built only on failure.
    fn during_with<A: Display>(self, attempt: impl FnOnce() -> A) -> Result<T>;
}

impl<T, E: cni::error::Attempted> During<T> for Result<T, E> {
    fn during(self, attempt: impl Display) -> Result<T> {
        self.map_err(|failure| failure.during(attempt).into())
    }

    fn during_with<A: Display>(self, attempt: impl FnOnce() -> A) -> Result<T> {
        self.map_err(|failure| failure.during(attempt()).into())
    }
}

impl<T> During<T> for Result<T> {
    fn during(self, attempt: impl Display) -> Self {
        self.map_err(|err| err.context(attempt))
    }

    fn during_with<A: Display>(self, attempt: impl FnOnce() -> A) -> Self {
        self.map_err(|err| err.context(attempt()))
    }
}

/// Adds to an I/O error what was attempted on which file:
/// `fs::read_dir(dir).on_path("cannot list", dir)?`.
pub trait OnPath<T> {
    fn on_path(self, action: &str, path: &Path) -> Result<T>;
}

impl<T, E: Into<std::io::Error>> OnPath<T> for Result<T, E> {
    fn on_path(self, action: &str, path: &Path) -> Result<T> {
        self.map_err(|err| Error::io(action, path, err.into()))
    }
}

impl From<cni::Error> for Error {
    fn from(err: cni::Error) -> Self {
        Self {
            message: err.msg.clone(),
            hint: err.details.clone(),
            source: Some(err),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;

    #[test]
    fn a_plugins_error_keeps_its_hint_and_stays_the_source() {
        let plugin = cni::Error::new(cni::Code::Io, "disk full").hint("make room");
        let err = Error::from(plugin.clone()).context("reserve 10.0.0.2");
        assert_eq!(err.to_string(), "reserve 10.0.0.2: disk full; make room");
        let source = err.source().and_then(|source| source.downcast_ref());
        assert_eq!(source, Some(&plugin));
    }

    #[test]
    fn a_later_hint_follows_an_earlier_one() {
        let err = Error::new("x")
            .hint("")
            .hint("first")
            .hint("")
            .hint("second");
        assert_eq!(err.hint, "first; second");
    }
}
