//! What a check has to say: findings, and how grave they are (pure).

use std::fmt::Display;

use clap::ValueEnum;
use serde_json::{Value, json};

use super::repair::Repair;
use pausenet_host::Error;

/// What can be looked at, one file each. They are run in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Check {
    Kernel,
    Sysctls,
    Firewall,
    Plugins,
    Networks,
    Store,
    Rules,
    Links,
    Legacy,
}

impl Check {
    pub const ALL: [Self; 9] = [
        Self::Kernel,
        Self::Sysctls,
        Self::Firewall,
        Self::Plugins,
        Self::Networks,
        Self::Store,
        Self::Rules,
        Self::Links,
        Self::Legacy,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Sysctls => "sysctls",
            Self::Firewall => "firewall",
            Self::Plugins => "plugins",
            Self::Networks => "networks",
            Self::Store => "store",
            Self::Rules => "rules",
            Self::Links => "links",
            Self::Legacy => "legacy",
        }
    }

    /// What it looks at, for the list of checks.
    pub fn about(self) -> &'static str {
        match self {
            Self::Kernel => "what the kernel can do, tried out in a namespace that is thrown away",
            Self::Sysctls => "forwarding, filters and limits under /proc/sys",
            Self::Firewall => {
                "chains of others that drop what pods forward: Docker, ufw, firewalld"
            }
            Self::Plugins => "the plugins that runtimes would call, and the runtimes' sockets",
            Self::Networks => {
                "network configurations: syntax, plugins, names, subnets that overlap or clash"
            }
            Self::Store => "held addresses against interfaces: lost, missing, held twice; locks",
            Self::Rules => "nftables against attachments: masquerade, ports, the guard of MACs",
            Self::Links => "host ends: half made, without a bridge, without anybody inside",
            Self::Legacy => "chains that plugins before us left in iptables-legacy",
        }
    }

    /// What is said when it has nothing to say.
    pub fn all_is_well(self) -> &'static str {
        match self {
            Self::Kernel => "it can do all that pausenet needs",
            Self::Sysctls => "forwarding, filters and limits are as the attachments need them",
            Self::Firewall => "no chain on the host drops what pods forward",
            Self::Plugins => "those that are there can be run, and ours are of this version",
            Self::Networks => "the configurations are right, and no two subnets clash",
            Self::Store => "every held address has an interface, and every interface its address",
            Self::Rules => "nftables holds what the attachments need, and nothing else of ours",
            Self::Links => "every host end is whole, and somebody is behind it",
            Self::Legacy => "nothing was left by plugins before us",
        }
    }
}

impl Display for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// How grave a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Ok,
    /// Worth knowing; nothing is wrong, or it cannot be told.
    Note,
    Problem,
}

impl Severity {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Problem => "problem",
        }
    }
}

/// Where everything can be seen.
pub const OUTSIDE: &str = "run it as root of the machine, outside of containers";

/// One thing that a check found.
#[derive(Debug, Clone)]
pub struct Finding {
    pub check: Check,
    pub severity: Severity,
    /// What it is about: an address, a link, a file.
    pub subject: String,
    /// What is so, in plain words.
    pub what: String,
    /// What comes of it; may be empty.
    pub means: String,
    /// What to do about it, a command where there is one; may be empty.
    pub how: String,
    /// Present if the repair is provably safe: `--fix` does it.
    pub repair: Option<Repair>,
}

impl Finding {
    pub fn problem(check: Check, subject: impl Display, what: impl Into<String>) -> Self {
        Self::new(check, Severity::Problem, subject, what)
    }

    pub fn note(check: Check, subject: impl Display, what: impl Into<String>) -> Self {
        Self::new(check, Severity::Note, subject, what)
    }

    pub fn ok(check: Check, subject: impl Display, what: impl Into<String>) -> Self {
        Self::new(check, Severity::Ok, subject, what)
    }

    pub fn new(
        check: Check,
        severity: Severity,
        subject: impl Display,
        what: impl Into<String>,
    ) -> Self {
        Self {
            check,
            severity,
            subject: subject.to_string(),
            what: what.into(),
            means: String::new(),
            how: String::new(),
            repair: None,
        }
    }

    /// Something that could not be looked at. That is no problem by itself: nothing is known.
    pub fn unseen(check: Check, subject: impl Display, err: impl Into<Error>) -> Self {
        let err = err.into();
        let how = match err.hint {
            // The plugin's advice is for the plugin.
            details if details.contains("CAP_") => OUTSIDE.to_owned(),
            details => details,
        };
        Self::note(check, subject, format!("not looked at: {}", err.message))
            .means("whether it is as it should be is not known")
            .how(how)
    }

    #[must_use]
    pub fn means(mut self, means: impl Into<String>) -> Self {
        self.means = means.into();
        self
    }

    #[must_use]
    pub fn how(mut self, how: impl Into<String>) -> Self {
        self.how = how.into();
        self
    }

    #[must_use]
    pub fn repair(mut self, repair: Repair) -> Self {
        self.repair = Some(repair);
        self
    }

    pub fn json(&self) -> Value {
        json!({
            "check": self.check.name(),
            "severity": self.severity.as_str(),
            "subject": self.subject,
            "what": self.what,
            "means": self.means,
            "how": self.how,
            "safe": self.repair.is_some(),
        })
    }
}
