//! The `CNI_*` variables, read once and validated (specification, section 2, "Parameters").

use std::ffi::OsString;
use std::path::PathBuf;

use super::args::Args;
use super::error::{Code, Error, Result, warn};
use super::names::{ContainerId, IfName};

/// The verbs (specification, section 2, "CNI operations").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

impl Verb {
    /// The verb as `CNI_COMMAND` spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [
            Self::Add,
            Self::Del,
            Self::Check,
            Self::Gc,
            Self::Status,
            Self::Version,
        ]
        .into_iter()
        .find(|verb| verb.as_str() == text)
    }

    /// True for ADD, DEL and CHECK, which concern one attachment; the others concern a whole
    /// network, or none.
    fn is_about_an_attachment(self) -> bool {
        matches!(self, Self::Add | Self::Del | Self::Check)
    }
}

/// The environment of one request. [`Environment::parse`] has ensured that the fields that the verb
/// requires are set.
#[derive(Debug, Clone)]
pub(crate) struct Environment {
    pub(crate) verb: Verb,
    /// `CNI_CONTAINERID` and `CNI_IFNAME`, for the verbs about an attachment.
    pub(crate) attachment: Option<(ContainerId, IfName)>,
    /// `CNI_NETNS`; may be missing for DEL.
    pub(crate) netns: Option<PathBuf>,
    /// `CNI_NETNS_OVERRIDE`: the container's namespace may be the plugin's own.
    pub(crate) netns_override: bool,
    /// Empty for verbs that are not about an attachment, and for DEL if they are malformed.
    pub(crate) args: Args,
    /// DEL cannot know what they asked for.
    pub(crate) lacks_args: bool,
    /// `CNI_PATH`, split into folders.
    pub(crate) path: Vec<PathBuf>,
}

impl Environment {
    /// Reads the variables through `lookup`. None when `CNI_COMMAND` is not set: then a person is
    /// calling, not a runtime.
    ///
    /// # Errors
    /// Code 4, naming every variable that is missing, or the one that is malformed.
    pub(crate) fn parse(lookup: impl Fn(&str) -> Option<OsString>) -> Result<Option<Self>> {
        let get = |name: &str| lookup(name).filter(|value| !value.is_empty());
        let text = |name: &str| match get(name).map(OsString::into_string) {
            None => Ok(None),
            Some(Ok(text)) => Ok(Some(text)),
            Some(Err(_)) => Err(Error::new(
                Code::InvalidEnvironment,
                format!("{name} is not valid UTF-8"),
            )),
        };

        let Some(command) = text("CNI_COMMAND")? else {
            return Ok(None);
        };
        let Some(verb) = Verb::parse(&command) else {
            return Err(Error::new(
                Code::InvalidEnvironment,
                format!("CNI_COMMAND {command:?} is unknown"),
            )
            .hint("known: ADD, DEL, CHECK, GC, STATUS, VERSION"));
        };

        let missing: Vec<_> = required(verb)
            .iter()
            .filter(|name| get(name).is_none())
            .copied()
            .collect();
        if !missing.is_empty() {
            return Err(Error::new(
                Code::InvalidEnvironment,
                format!("{command} needs {}, not set", missing.join(", ")),
            )
            .hint("the runtime sets these variables; by hand, put them in front of the command"));
        }

        let attachment = if verb.is_about_an_attachment() {
            let container = ContainerId::parse(&text("CNI_CONTAINERID")?.unwrap_or_default())?;
            let ifname = text("CNI_IFNAME")?.unwrap_or_default();
            let ifname = match verb {
                Verb::Del => IfName::parse_any(&ifname),
                _ => IfName::parse(&ifname),
            };
            let ifname = ifname.map_err(|why| {
                Error::new(Code::InvalidEnvironment, format!("CNI_IFNAME: {why}"))
            })?;
            Some((container, ifname))
        } else {
            None
        };
        let args = match attachment {
            Some(_) => text("CNI_ARGS").and_then(|text| Args::parse(&text.unwrap_or_default())),
            None => Ok(Args::default()),
        };
        let (args, lacks_args) = match args {
            // The ADD that it undoes has succeeded, with another plugin or other arguments.
            Err(err) if verb == Verb::Del => {
                warn(format_args!("{err}; going on without them"));
                (Args::default(), true)
            }
            args => (args?, false),
        };

        Ok(Some(Self {
            verb,
            attachment,
            netns: get("CNI_NETNS").map(PathBuf::from),
            netns_override: get("CNI_NETNS_OVERRIDE")
                .is_some_and(|value| value == "1" || value.eq_ignore_ascii_case("true")),
            args,
            lacks_args,
            path: get("CNI_PATH")
                .map(|path| std::env::split_paths(&path).collect())
                .unwrap_or_default(),
        }))
    }
}

/// The variables that a verb requires.
fn required(verb: Verb) -> &'static [&'static str] {
    match verb {
        Verb::Add | Verb::Check => &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"],
        // The folders are for a delegate, if there is one.
        Verb::Del => &["CNI_CONTAINERID", "CNI_IFNAME"],
        Verb::Gc | Verb::Status => &["CNI_PATH"],
        Verb::Version => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(vars: &[(&str, &str)]) -> Result<Option<Environment>> {
        Environment::parse(|name| {
            vars.iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| OsString::from(value))
        })
    }

    const ADD: [(&str, &str); 5] = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", "/run/netns/x"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", "/opt/cni/bin:/usr/lib/cni"),
    ];

    #[test]
    fn a_whole_environment_is_accepted() {
        let env = parse(&ADD).unwrap().unwrap();
        assert_eq!(env.verb, Verb::Add);
        assert_eq!(env.path.len(), 2);
        assert!(!env.netns_override);
    }

    #[test]
    fn no_command_means_a_person_is_calling() {
        assert!(parse(&[]).unwrap().is_none());
        assert!(parse(&[("CNI_COMMAND", "")]).unwrap().is_none());
    }

    #[test]
    fn every_missing_variable_is_named_at_once() {
        let err = parse(&[("CNI_COMMAND", "ADD"), ("CNI_IFNAME", "")]).unwrap_err();
        assert_eq!(err.code, Code::InvalidEnvironment);
        for name in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"] {
            assert!(err.msg.contains(name), "{name} in {}", err.msg);
        }
    }

    #[test]
    fn each_variable_of_add_is_required_by_itself() {
        for (required, _) in &ADD[1..] {
            let vars: Vec<_> = ADD
                .into_iter()
                .filter(|(name, _)| name != required)
                .collect();
            let err = parse(&vars).unwrap_err();
            assert!(err.msg.contains(required), "{}", err.msg);
        }
    }

    #[test]
    fn del_needs_neither_netns_nor_path() {
        let vars = [("CNI_COMMAND", "DEL"), ADD[1], ADD[3]];
        let env = parse(&vars).unwrap().unwrap();
        assert!(env.netns.is_none() && env.path.is_empty());
    }

    #[test]
    fn verbs_about_a_network_do_not_read_arguments() {
        for verb in ["GC", "STATUS", "VERSION"] {
            let vars = [("CNI_COMMAND", verb), ADD[4], ("CNI_ARGS", ";")];
            assert_eq!(parse(&vars).unwrap().unwrap().args, Args::default());
        }
    }

    #[test]
    fn unknown_verbs_are_code_4() {
        for verb in ["add", "UPDATE", "ADD "] {
            let err = parse(&[("CNI_COMMAND", verb)]).unwrap_err();
            assert_eq!(err.code, Code::InvalidEnvironment);
        }
    }
}
