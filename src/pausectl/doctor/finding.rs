//! Findings: what the checks found, and how serious it is.

use std::fmt::Display;

use serde_json::{Value, json};

use super::repair::Repair;
use pausenet_host::Error;

/// How serious a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Severity {
    Ok,
    /// Worth knowing: nothing is wrong, or nothing can be said from here.
    Note,
    Problem,
}

impl Severity {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Problem => "problem",
        }
    }
}

/// Where everything can be seen.
pub(super) const OUTSIDE: &str = "run it as root of the machine, outside of containers";

/// One thing that a check found.
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) severity: Severity,
    /// What it is about: an address, a link, a file.
    pub(super) subject: String,
    /// What was found, as one clause.
    pub(super) what: String,
    /// The consequence; may be empty.
    pub(super) means: String,
    /// What to do about it, a command if there is one; may be empty.
    pub(super) how: String,
    /// Present only if it is provably safe: `--fix` carries it out.
    pub(super) repair: Option<Box<dyn Repair>>,
}

impl Finding {
    pub(super) fn problem(subject: impl Display, what: impl Into<String>) -> Self {
        Self::new(Severity::Problem, subject, what)
    }

    pub(super) fn note(subject: impl Display, what: impl Into<String>) -> Self {
        Self::new(Severity::Note, subject, what)
    }

    pub(super) fn ok(subject: impl Display, what: impl Into<String>) -> Self {
        Self::new(Severity::Ok, subject, what)
    }

    pub(super) fn new(severity: Severity, subject: impl Display, what: impl Into<String>) -> Self {
        Self {
            severity,
            subject: subject.to_string(),
            what: what.into(),
            means: String::new(),
            how: String::new(),
            repair: None,
        }
    }

    /// Something that could not be read. That is not a problem by itself.
    pub(super) fn not_checked(subject: impl Display, err: impl Into<Error>) -> Self {
        let err = err.into();
        let how = match err.hint {
            // The plugin's advice is for the plugin.
            details if details.contains("CAP_") => OUTSIDE.to_owned(),
            details => details,
        };
        Self::note(subject, format!("not checked: {}", err.message))
            .means("it may or may not be as it should")
            .how(how)
    }

    #[must_use]
    pub(super) fn means(mut self, means: impl Into<String>) -> Self {
        self.means = means.into();
        self
    }

    #[must_use]
    pub(super) fn how(mut self, how: impl Into<String>) -> Self {
        self.how = how.into();
        self
    }

    #[must_use]
    pub(super) fn repair(mut self, repair: impl Repair + 'static) -> Self {
        self.repair = Some(Box::new(repair));
        self
    }

    pub(super) fn json(&self, check: &str) -> Value {
        json!({
            "check": check,
            "severity": self.severity.as_str(),
            "subject": self.subject,
            "what": self.what,
            "means": self.means,
            "how": self.how,
            "safe": self.repair.is_some(),
        })
    }
}
