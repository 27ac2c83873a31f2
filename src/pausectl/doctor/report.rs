//! The report: findings and repairs, as text and as JSON.

use serde_json::{Value, json};

use super::check::Check;
use super::finding::{Finding, Severity};
use pausenet_host::Error;

/// The findings of one check.
#[derive(Debug)]
pub(super) struct CheckResult {
    pub(super) check: &'static Check,
    pub(super) findings: Vec<Finding>,
}

/// A finding that `--fix` went through, and the outcome.
#[derive(Debug)]
pub(super) struct Repaired {
    pub(super) check: &'static Check,
    pub(super) finding: Finding,
    pub(super) outcome: Outcome,
}

#[derive(Debug)]
pub(super) enum Outcome {
    Done,
    /// With the lock held, there was nothing left to repair.
    NotNeeded,
    Failed(Error),
    /// It has no provably safe repair, so none was tried.
    NotSafe,
}

impl Outcome {
    fn as_str(&self) -> &'static str {
        match self {
            Self::Done => "repaired",
            Self::NotNeeded => "not needed",
            Self::Failed(_) => "failed",
            Self::NotSafe => "not safe",
        }
    }
}

/// How many findings of a kind the text shows before it only counts them.
const SHOWN: usize = 8;

#[derive(Debug, Default)]
pub(super) struct Report {
    /// What `--fix` did and did not do.
    pub(super) repaired: Vec<Repaired>,
    /// Those of the last run of the checks, that is after `--fix`.
    pub(super) results: Vec<CheckResult>,
}

impl Report {
    fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.results.iter().flat_map(|result| &result.findings)
    }

    fn count(&self, severity: Severity) -> usize {
        let of = |finding: &&Finding| finding.severity == severity;
        self.findings().filter(of).count()
    }

    /// The error that the command ends with, if something is wrong.
    pub(super) fn verdict(&self, fixed: bool) -> Option<Error> {
        let what = match self.count(Severity::Problem) {
            0 => return None,
            1 => "1 problem".to_owned(),
            count => format!("{count} problems"),
        };
        let verb = if fixed { "left" } else { "found" };
        let err = Error::new(format!("{what} {verb}"));
        let safe = self
            .findings()
            .filter(|finding| finding.severity == Severity::Problem && finding.repair.is_some());
        Some(match safe.count() {
            0 => err,
            count if fixed => err.hint(format!(
                "pausectl doctor --fix can try {count} of them again"
            )),
            count => err.hint(format!(
                "pausectl doctor --fix repairs {count} of them safely"
            )),
        })
    }

    pub(super) fn json(&self) -> Value {
        let of_check = |result: &CheckResult| {
            let findings = result.findings.iter();
            findings
                .map(|finding| finding.json(result.check.name))
                .collect::<Vec<_>>()
        };
        let findings: Vec<_> = self.results.iter().flat_map(of_check).collect();
        let repairs: Vec<_> = self.repaired.iter().map(Repaired::json).collect();
        json!({
            "problems": self.count(Severity::Problem),
            "notes": self.count(Severity::Note),
            "findings": findings,
            "repairs": repairs,
        })
    }

    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        let alike = |repaired: &Repaired| (repaired.check.name, repaired.outcome.as_str());
        write_each(&mut text, &self.repaired, alike, Repaired::write);
        if !self.repaired.is_empty() {
            text.push('\n');
        }
        for CheckResult { check, findings } in &self.results {
            let worst = findings.iter().map(|found| found.severity).max();
            if worst.is_none_or(|worst| worst == Severity::Ok) {
                head(&mut text, "ok", check, check.all_is_well);
                continue;
            }
            let shown: Vec<_> = findings
                .iter()
                .filter(|found| found.severity > Severity::Ok)
                .collect();
            let alike = |found: &&Finding| (found.severity, found.means.clone());
            write_each(&mut text, &shown, alike, |found, text| {
                found.write(check, text);
            });
        }
        text
    }
}

impl Repaired {
    fn write(&self, text: &mut String) {
        let found = &self.finding;
        let what = match (&self.outcome, &found.repair) {
            (Outcome::Done, Some(repair)) => repair.done(),
            (Outcome::NotNeeded, _) => "nothing is left to repair".to_owned(),
            (Outcome::Failed(err), _) => err.to_string(),
            _ => "no repair is provably safe".to_owned(),
        };
        let what = format!("{}: {what}", found.subject);
        head(text, self.outcome.as_str(), self.check, &what);
    }

    fn json(&self) -> Value {
        let why = match &self.outcome {
            Outcome::Failed(err) => Some(err.to_string()),
            _ => None,
        };
        json!({
            "check": self.check.name,
            "subject": self.finding.subject,
            "outcome": self.outcome.as_str(),
            "done": match self.outcome {
                Outcome::Done => self.finding.repair.as_ref().map(|repair| repair.done()),
                _ => None,
            },
            "why": why,
        })
    }
}

/// Writes the first few of each kind, and after the last how many more there are of each.
fn write_each<T, K: PartialEq>(
    text: &mut String,
    all: &[T],
    kind: impl Fn(&T) -> K,
    write: impl Fn(&T, &mut String),
) {
    let mut kinds: Vec<(K, usize)> = Vec::new();
    for one in all {
        let kind = kind(one);
        let at = kinds.iter().position(|(known, _)| *known == kind);
        let at = at.unwrap_or_else(|| {
            kinds.push((kind, 0));
            kinds.len() - 1
        });
        kinds[at].1 += 1;
        if kinds[at].1 <= SHOWN {
            write(one, text);
        }
    }
    for (_, count) in kinds {
        if count > SHOWN {
            let more = format!(
                "and {} more of the same kind; --output json has all",
                count - SHOWN
            );
            text.push_str(&format!("{:22}{more}\n", ""));
        }
    }
}

impl Finding {
    fn write(&self, check: &Check, text: &mut String) {
        let what = format!("{}: {}", self.subject, self.what);
        head(text, self.severity.as_str(), check, &what);
        line(text, "means", &self.means);
        line(text, "do", &self.advice());
    }

    fn advice(&self) -> String {
        const FIX: &str = "pausectl doctor --fix, which is safe";
        match (&self.repair, self.how.as_str()) {
            (Some(_), "") => FIX.to_owned(),
            (Some(_), how) => format!("{FIX}; or: {how}"),
            (None, how) => how.to_owned(),
        }
    }
}

fn head(text: &mut String, outcome: &str, check: &Check, what: &str) {
    text.push_str(&format!("{outcome:10}  {:8}  {what}\n", check.name));
}

/// A line below a finding's head.
fn line(text: &mut String, label: &str, what: &str) {
    if !what.is_empty() {
        text.push_str(&format!("{:22}{label}: {what}\n", ""));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORE: Check = check("store");
    const LINKS: Check = check("links");

    const fn check(name: &'static str) -> Check {
        Check {
            name,
            about: "",
            all_is_well: "all is well",
            run: |_| Vec::new(),
        }
    }

    fn report() -> Report {
        let result = |check, findings| CheckResult { check, findings };
        Report {
            results: vec![
                result(
                    &const { check("kernel") },
                    vec![Finding::ok("veth", "supported")],
                ),
                result(
                    &STORE,
                    vec![
                        Finding::ok("podnet", "fine"),
                        Finding::problem("10.1.0.5 of podnet", "no interface has it")
                            .means("it is lost")
                            .how("rm it"),
                    ],
                ),
                result(&LINKS, vec![Finding::note("vethx", "no process inside")]),
            ],
            repaired: Vec::new(),
        }
    }

    #[test]
    fn a_check_is_one_line_if_all_is_well_and_its_findings_otherwise() {
        insta::assert_snapshot!(report().text(), @r"
        ok          kernel    all is well
        problem     store     10.1.0.5 of podnet: no interface has it
                              means: it is lost
                              do: rm it
        note        links     vethx: no process inside
        ");
    }

    #[test]
    fn the_first_few_of_a_thousand_alike_are_shown() {
        let lost = |n: usize| Finding::problem(format!("c{n}"), "gone").means("so");
        let report = Report {
            results: vec![CheckResult {
                check: &STORE,
                findings: (0..1000).map(lost).collect(),
            }],
            ..Report::default()
        };
        let text = report.text();
        assert!(
            text.contains("c7: gone") && !text.contains("c8: gone"),
            "{text}"
        );
        assert!(
            text.ends_with("and 992 more of the same kind; --output json has all\n"),
            "{text}"
        );
        assert_eq!(report.json()["findings"].as_array().unwrap().len(), 1000);
    }

    #[test]
    fn only_problems_make_the_command_fail() {
        let mut report = report();
        assert_eq!(report.verdict(false).unwrap().message, "1 problem found");
        report.results.remove(1);
        assert_eq!(report.verdict(false), None);
    }
}
