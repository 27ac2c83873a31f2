//! Makes an attachment completely or not at all, and deletes one by its entry in the result cache.

use serde_json::Value;

use super::cache::{self, Entry};
use super::interrupt::Interrupt;
use super::parameters::Stop;
use super::run::{Progress, Runtime};
use crate::Result;
use pausenet::cni::ContainerId;

/// An attachment that was not made, and the outcome of its removal.
#[derive(Debug)]
pub struct NotAttached {
    /// Why it was not made.
    pub stop: Stop,
    /// The first failure of a DEL; the result cache keeps the attachment then, for another attempt.
    pub undone: Result<()>,
}

impl Runtime {
    /// Makes an attachment: ADD of each plugin. The result cache is written before (so that the
    /// attachment can be deleted after a crash) and again after. Then `accept` checks the result.
    /// If it refuses, a plugin fails, or a signal arrives, everything is undone by DEL.
    ///
    /// # Errors
    /// Why the attachment was not made, with the outcome of the DEL.
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

    /// DEL of each plugin of an attachment. Its entry in the result cache stays.
    ///
    /// # Errors
    /// A plugin is in none of the folders (nothing was changed then), or the first failure of one.
    pub async fn detach(&self, entry: &Entry) -> Result<()> {
        self.find_all(&entry.list)?;
        let (plugins, result) = (entry.list.plugins.len(), entry.result.as_ref());
        self.del(&entry.list, &entry.parameters, plugins, result)
            .await
    }

    /// DEL of all attachments of a container in the result cache, without a namespace: that may be
    /// gone, or its path may lead to another one by now. Succeeds if there are none.
    ///
    /// # Errors
    /// The first failure; the result cache keeps that attachment.
    pub async fn detach_all(&self, container: &ContainerId) -> Result<()> {
        for mut entry in cache::of_container(container)? {
            entry.parameters.netns = None;
            self.detach(&entry).await?;
            entry.forget()?;
        }
        Ok(())
    }
}
