//! What an install did or would do, as text and as JSON.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::command::say_on_stderr;
use crate::doctor::planned::Forecast;
use crate::options::shown;
use pausenet_host::install::managed_folder::{ManagedFolder, PutAction, RemoveAction};

pub(super) struct Report {
    pub(super) dry_run: bool,
    /// What the doctor will find.
    pub(super) expected: Option<Forecast>,
    pub(super) lines: Vec<Line>,
    /// Kept files that --uninstall does not restore.
    pub(super) older: Vec<PathBuf>,
    /// What attachments shared in the kernel, and was removed.
    pub(super) shared: Vec<String>,
    /// What attachments share, and a network that is still configured needs.
    pub(super) kept: Vec<String>,
}

pub(super) struct Line {
    file: PathBuf,
    action: Action,
    /// Where the previous file is kept.
    kept: Option<PathBuf>,
    note: String,
}

#[derive(Debug, Clone, Copy)]
enum Action {
    Install,
    Renew,
    Replace,
    Restore,
    Remove,
    Leave,
}

impl Line {
    pub(super) fn put(place: &ManagedFolder, name: &str, put: PutAction) -> Self {
        let (action, note) = match put {
            PutAction::New => (Action::Install, ""),
            PutAction::Renew => (Action::Renew, ""),
            PutAction::Replace => (Action::Replace, "the previous file is kept"),
            PutAction::Nothing { ours: true } => (Action::Leave, "it is up to date"),
            PutAction::Nothing { ours: false } => (
                Action::Leave,
                "an identical file was there before, and --uninstall keeps it",
            ),
        };
        Self {
            file: place.path(name),
            action,
            kept: (put == PutAction::Replace).then(|| place.kept(name)),
            note: note.to_owned(),
        }
    }

    /// A file that is left for installs in other folders.
    pub(super) fn used(place: &ManagedFolder, name: &str, others: &[PathBuf]) -> Self {
        let others: Vec<_> = others.iter().map(|dir| shown(dir)).collect();
        Self {
            file: place.path(name),
            action: Action::Leave,
            kept: None,
            note: format!("the install in {} uses it too", others.join(", ")),
        }
    }

    pub(super) fn take(place: &ManagedFolder, name: &str, take: RemoveAction) -> Option<Self> {
        let (action, note, kept) = match take {
            RemoveAction::Restore => (Action::Restore, "", None),
            RemoveAction::Remove => (Action::Remove, "", None),
            RemoveAction::Nothing => return None,
            RemoveAction::Untouched => (Action::Leave, "it had not been replaced yet", None),
            RemoveAction::Leave { keeps: None } => (
                Action::Leave,
                "it is not the file that pausectl installed",
                None,
            ),
            RemoveAction::Leave { keeps } => (
                Action::Leave,
                "it is not the file that pausectl installed; the previous one is kept",
                keeps,
            ),
        };
        Some(Self {
            file: place.path(name),
            action,
            kept,
            note: note.to_owned(),
        })
    }

    fn text(&self, dry_run: bool) -> String {
        let (would, did) = match self.action {
            Action::Install => ("install", "installed"),
            Action::Renew => ("renew", "renewed"),
            Action::Replace => ("replace", "replaced"),
            Action::Restore => ("restore", "restored"),
            Action::Remove => ("remove", "removed"),
            Action::Leave => ("leave", "left"),
        };
        let mut text = match dry_run {
            true => format!("would {would} {}", shown(&self.file)),
            false => format!("{did} {}", shown(&self.file)),
        };
        if !self.note.is_empty() {
            text.push_str(": ");
            text.push_str(&self.note);
        }
        if let Some(kept) = &self.kept {
            text.push_str(" in ");
            text.push_str(&shown(kept));
        }
        text + "\n"
    }

    fn json(&self) -> Value {
        let action = match self.action {
            Action::Install => "install",
            Action::Renew => "renew",
            Action::Replace => "replace",
            Action::Restore => "restore",
            Action::Remove => "remove",
            Action::Leave => "leave",
        };
        json!({
            "file": shown(&self.file),
            "action": action,
            "kept": self.kept.as_deref().map(shown),
            "note": self.note,
        })
    }
}

impl Report {
    /// Prints what the doctor will find, if it will find anything.
    pub(super) fn foresee(&mut self, expected: Forecast) {
        let text = expected.text();
        if !text.is_empty() {
            say_on_stderr("pausectl doctor will find:\n");
            for line in text.lines() {
                say_on_stderr(&format!("  {line}\n"));
            }
        }
        self.expected = Some(expected);
    }

    pub(super) fn text(&self, dir: &Path) -> String {
        let mut text: String = self
            .lines
            .iter()
            .map(|line| line.text(self.dry_run))
            .collect();
        if self.lines.is_empty() {
            text = format!("nothing is installed in {}\n", dir.display());
        }
        for what in &self.shared {
            text.push_str(&format!("removed {what}\n"));
        }
        for what in &self.kept {
            text.push_str(&format!("kept {what}\n"));
        }
        for file in &self.older {
            text.push_str(&format!(
                "kept {}: replaced earlier, and not needed now\n",
                shown(file)
            ));
        }
        text
    }

    pub(super) fn json(&self, dir: &Path) -> Value {
        let files: Vec<_> = self.lines.iter().map(Line::json).collect();
        let older: Vec<_> = self.older.iter().map(|file| shown(file)).collect();
        let mut json = json!({
            "dir": shown(dir),
            "dryRun": self.dry_run,
            "files": files,
            "older": older,
        });
        if let Some(expected) = &self.expected {
            json["expected"] = expected.json();
        }
        for (key, what) in [("shared", &self.shared), ("keptShared", &self.kept)] {
            if !what.is_empty() {
                json[key] = json!(what);
            }
        }
        json
    }
}
