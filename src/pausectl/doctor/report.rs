//! What was found and what was repaired, for people and for programs (pure).

use serde_json::{Value, json};

use super::finding::{Check, Finding, Severity};
use pausenet_host::Error;

/// What became of one repair.
#[derive(Debug, Clone)]
pub struct Repaired {
    pub finding: Finding,
    pub outcome: Outcome,
}

#[derive(Debug, Clone)]
pub enum Outcome {
    Done,
    /// By the time it was looked at again, with its lock held, it was not so any more.
    NotNeeded,
    Failed(Error),
    /// It is not provably safe, so it was not tried.
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

/// How many of a kind people are told one by one.
const SHOWN: usize = 8;

/// All that a run has to say.
#[derive(Debug, Default)]
pub struct Report {
    /// Of `--fix`: what was and what was not done.
    pub repaired: Vec<Repaired>,
    /// How things are; after `--fix`, how they are now.
    pub findings: Vec<Finding>,
}

impl Report {
    fn count(&self, severity: Severity) -> usize {
        let of = |finding: &&Finding| finding.severity == severity;
        self.findings.iter().filter(of).count()
    }

    /// The error that the command ends with, if something is wrong.
    pub fn verdict(&self, fixed: bool) -> Option<Error> {
        let what = match self.count(Severity::Problem) {
            0 => return None,
            1 => "1 problem".to_owned(),
            count => format!("{count} problems"),
        };
        let (verb, left) = if fixed {
            ("is left", "are left")
        } else {
            ("was found", "were found")
        };
        let verb = if what.starts_with("1 ") { verb } else { left };
        let err = Error::new(format!("{what} {verb}"));
        let safe = self
            .findings
            .iter()
            .filter(|finding| finding.severity == Severity::Problem && finding.repair.is_some());
        Some(match safe.count() {
            0 => err,
            count if fixed => err.hint(format!("{count} of them can be tried again with --fix")),
            count => err.hint(format!("pausectl doctor --fix repairs {count} safely")),
        })
    }

    pub fn json(&self) -> Value {
        let findings: Vec<_> = self.findings.iter().map(Finding::json).collect();
        let repairs: Vec<_> = self.repaired.iter().map(Repaired::json).collect();
        json!({
            "problems": self.count(Severity::Problem),
            "notes": self.count(Severity::Note),
            "findings": findings,
            "repairs": repairs,
        })
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        let alike = |repaired: &Repaired| (repaired.finding.check, repaired.outcome.as_str());
        write_each(&mut text, &self.repaired, alike, Repaired::write);
        if !self.repaired.is_empty() {
            text.push('\n');
        }
        let mut checks: Vec<Check> = self.findings.iter().map(|found| found.check).collect();
        checks.dedup();
        for check in checks {
            let of_check = || self.findings.iter().filter(|found| found.check == check);
            let worst = of_check().map(|found| found.severity).max();
            if worst == Some(Severity::Ok) {
                head(&mut text, "ok", check, check.all_is_well());
                continue;
            }
            let told: Vec<_> = of_check()
                .filter(|found| found.severity > Severity::Ok)
                .collect();
            let alike = |found: &&Finding| (found.severity, found.means.clone());
            write_each(&mut text, &told, alike, |found, text| found.write(text));
        }
        text
    }
}

impl Repaired {
    fn write(&self, text: &mut String) {
        let found = &self.finding;
        let what = match (&self.outcome, &found.repair) {
            (Outcome::Done, Some(repair)) => repair.done(),
            (Outcome::NotNeeded, _) => "it is not so any more".to_owned(),
            (Outcome::Failed(err), _) => err.to_string(),
            _ => "only you can say whether it is right to".to_owned(),
        };
        let what = format!("{}: {what}", found.subject);
        head(text, self.outcome.as_str(), found.check, &what);
    }

    fn json(&self) -> Value {
        let why = match &self.outcome {
            Outcome::Failed(err) => Some(err.to_string()),
            _ => None,
        };
        json!({
            "check": self.finding.check.name(),
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

/// Writes the first few of each kind, and behind the last of them how many more there are.
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
    fn write(&self, text: &mut String) {
        let what = format!("{}: {}", self.subject, self.what);
        head(text, self.severity.as_str(), self.check, &what);
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

fn head(text: &mut String, word: &str, check: Check, what: &str) {
    text.push_str(&format!("{word:10}  {:8}  {what}\n", check.name()));
}

/// A line below a finding's head, under what it says.
fn line(text: &mut String, word: &str, what: &str) {
    if !what.is_empty() {
        text.push_str(&format!("{:22}{word}: {what}\n", ""));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            findings: vec![
                Finding::ok(Check::Kernel, "veth", "there"),
                Finding::ok(Check::Store, "podnet", "fine"),
                Finding::problem(Check::Store, "10.1.0.5 of podnet", "nobody has it")
                    .means("it is lost")
                    .how("rm it"),
                Finding::note(Check::Links, "vethx", "nobody inside"),
            ],
            repaired: Vec::new(),
        }
    }

    #[test]
    fn a_check_without_trouble_is_one_line_and_one_with_trouble_is_its_trouble() {
        insta::assert_snapshot!(report().text(), @r"
        ok          kernel    it can do all that pausenet needs
        problem     store     10.1.0.5 of podnet: nobody has it
                              means: it is lost
                              do: rm it
        note        links     vethx: nobody inside
        ");
    }

    #[test]
    fn of_a_thousand_alike_the_first_few_are_shown() {
        let lost = |n: usize| Finding::problem(Check::Rules, format!("c{n}"), "gone").means("so");
        let report = Report {
            findings: (0..1000).map(lost).collect(),
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
        assert_eq!(
            report.verdict(false).unwrap().message,
            "1 problem was found"
        );
        report
            .findings
            .retain(|found| found.severity < Severity::Problem);
        assert_eq!(report.verdict(false), None);
    }
}
