//! An attachment made whole or not at all, and taken down by what is remembered of it.

use serde_json::Value;

use super::cache::{self, Entry};
use super::interrupt::Interrupt;
use super::parameters::Stop;
use super::run::{Progress, Runtime};
use crate::Result;
use pausenet::cni::ContainerId;

/// An attachment that was not made, and what came of undoing its beginnings.
#[derive(Debug)]
pub struct NotAttached {
    /// Why it was not made.
    pub stop: Stop,
    /// The first failure of a DEL; the result cache keeps the attachment then, for a later try.
    pub undone: Result<()>,
}

impl Runtime {
    /// Makes an attachment: ADD of each plugin, written to the result cache before (so that a
    /// crash leaves nothing that cannot be undone) and after. Then `accept` looks at the result;
    /// if it refuses, a plugin fails, or a signal comes, all is undone by DEL.
    ///
    /// # Errors
    /// What stood in the way, beside what came of undoing.
    pub async fn attach<T>(
        &self,
        entry: &mut Entry,
        interrupt: &mut Interrupt,
        accept: impl FnOnce(&Entry, &Value) -> Result<T>,
    ) -> std::result::Result<T, NotAttached> {
        let mut progress = Progress::default();
        let attempt = async {
            entry.write()?;
            let result = self
                .add(&entry.list, &entry.parameters, &mut progress, interrupt)
                .await?;
            entry.result = Some(result.clone());
            entry.write()?;
            let accepted = accept(entry, &result)?;
            match interrupt.pending().await {
                Some(signal) => Err(Stop::Interrupted(signal)),
                None => Ok(accepted),
            }
        };
        match attempt.await {
            Ok(accepted) => Ok(accepted),
            Err(stop) => {
                let undone = self.undo(entry, &progress).await;
                Err(NotAttached { stop, undone })
            }
        }
    }

    async fn undo(&self, entry: &Entry, progress: &Progress) -> Result<()> {
        let result = progress.result.as_ref();
        self.del(&entry.list, &entry.parameters, progress.tried, result)
            .await?;
        entry.forget()
    }

    /// DEL of each plugin of an attachment. What is remembered of it stays.
    ///
    /// # Errors
    /// A plugin that is in no folder, before anything was changed; the first failure of one.
    pub async fn detach(&self, entry: &Entry) -> Result<()> {
        self.find_all(&entry.list)?;
        let (plugins, result) = (entry.list.plugins.len(), entry.result.as_ref());
        self.del(&entry.list, &entry.parameters, plugins, result)
            .await
    }

    /// DEL of everything that is remembered of a container, by name: its namespace may be gone,
    /// or another's by now. Nothing to remove is success.
    ///
    /// # Errors
    /// The first failure; what it was about stays remembered.
    pub async fn detach_all(&self, container: &ContainerId) -> Result<()> {
        for mut entry in cache::of_container(container)? {
            entry.parameters.netns = None;
            self.detach(&entry).await?;
            entry.forget()?;
        }
        Ok(())
    }
}
