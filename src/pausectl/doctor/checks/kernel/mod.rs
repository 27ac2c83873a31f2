//! What this kernel supports.

mod features;
mod trials;

use features::{Feature, NeededBy};
use trials::{Support, TrialsError};

use crate::doctor::check::Check;
use crate::doctor::finding::{Finding, OUTSIDE};
use crate::doctor::snapshot::Snapshot;
use pausenet_host::Error;
use pausenet_host::runtime::conflist::NetworkList;

pub(super) const CHECK: Check = Check {
    name: "kernel",
    about: "what the kernel supports, tried out in a temporary namespace",
    all_is_well: "it supports all that pausenet needs",
    run,
};

fn run(snapshot: &Snapshot) -> Vec<Finding> {
    // The thread enters a namespace of its own, which ends with it.
    let results = std::thread::scope(|scope| scope.spawn(trials::run).join());
    let results = results.unwrap_or_else(|_| {
        Err(TrialsError::NotPermitted(Error::new(
            "the thread that tried it out panicked",
        )))
    });
    match results {
        Ok(results) => results
            .into_iter()
            .map(|(feature, support)| {
                let users = users(feature, snapshot.lists());
                judge(feature, support, &users)
            })
            .collect(),
        Err(TrialsError::NoNamespaces(err)) => {
            vec![
                Finding::problem("network namespaces", err.message)
                    .means("no pod can start")
                    .how(err.hint),
            ]
        }
        Err(TrialsError::NotPermitted(err)) => {
            vec![Finding::not_checked("what the kernel can do", err)]
        }
    }
}

/// The networks whose configuration needs a feature.
fn users<'a>(feature: Feature, lists: impl Iterator<Item = &'a NetworkList>) -> Vec<String> {
    let NeededBy::Keys(keys, capability) = feature.needed_by else {
        return Vec::new();
    };
    let uses = |list: &&NetworkList| {
        list.plugins.iter().any(|plugin| {
            let set = |key: &str| {
                let value = plugin.config.get(key);
                value.is_some_and(|value| !value.is_null() && value != false)
            };
            keys.iter().any(|key| set(key))
                || capability.is_some_and(|name| plugin.has_capability(name))
        })
    };
    let users = lists.filter(uses);
    users.map(|list| list.name.to_string()).collect()
}

fn judge(feature: Feature, support: Support, users: &[String]) -> Finding {
    let Feature {
        name,
        option,
        needed_by,
    } = feature;
    let why = match support {
        Support::Yes => return Finding::ok(name, "supported"),
        Support::Unknown(why) => {
            let what = format!("not checked: the kernel does not let us try: {why}");
            return Finding::note(name, what).how(OUTSIDE);
        }
        Support::No(why) => {
            format!("this kernel does not support it ({why}): it needs {option}")
        }
    };
    match needed_by {
        NeededBy::Pods => Finding::problem(name, why).means("no pod can be connected"),
        NeededBy::Other(user) => Finding::note(name, why).means(format!("needed only for {user}")),
        NeededBy::Keys(keys, capability) => {
            let capability = capability.map(|name| format!("capability {name}"));
            let keys = keys.iter().map(|key| (*key).to_owned()).chain(capability);
            let keys = keys.collect::<Vec<_>>().join(", ");
            if users.is_empty() {
                Finding::note(name, why).means(format!(
                    "a network with {keys} would not work; no network here has it"
                ))
            } else {
                Finding::problem(name, why).means(format!(
                    "with {keys}, ADD fails in network {}",
                    users.join(", ")
                ))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::features::{FRAMES, SHAPING, VETH, VLAN};
    use super::*;
    use crate::doctor::finding::Severity;

    fn unsupported() -> Support {
        Support::No("it says: no".into())
    }

    #[test]
    fn a_missing_feature_is_a_problem_only_if_a_network_needs_it() {
        assert_eq!(judge(VETH, unsupported(), &[]).severity, Severity::Problem);
        assert_eq!(judge(VLAN, unsupported(), &[]).severity, Severity::Note);
        let used = judge(VLAN, unsupported(), &["lab".into()]);
        assert_eq!(used.severity, Severity::Problem);
        assert!(
            used.what.contains("CONFIG_BRIDGE_VLAN_FILTERING"),
            "{used:?}"
        );
        assert!(
            used.means.contains("vlanTrunk") && used.means.contains("lab"),
            "{used:?}"
        );
    }

    #[test]
    fn a_feature_that_cannot_be_tried_is_not_missing() {
        let found = judge(VETH, Support::Unknown("EPERM".into()), &[]);
        assert_eq!(found.severity, Severity::Note);
        assert!(found.what.contains("not checked"), "{found:?}");
    }

    #[test]
    fn a_key_that_is_false_or_null_needs_nothing() {
        let list = |keys: &str| {
            let text = format!(r#"{{"name": "x", "type": "pausenet", {keys}}}"#);
            NetworkList::parse(text.as_bytes()).unwrap()
        };
        let lists = [
            list(r#""macspoofchk": false"#),
            list(r#""macspoofchk": null"#),
        ];
        assert!(users(FRAMES, lists.iter()).is_empty());
        let lists = [list(r#""macspoofchk": true"#)];
        assert_eq!(users(FRAMES, lists.iter()), ["x"]);
        let lists = [list(r#""capabilities": {"bandwidth": true}"#)];
        assert_eq!(users(SHAPING, lists.iter()), ["x"]);
    }
}
