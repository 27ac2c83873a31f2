//! The parameters of an attachment, and the reasons why an operation on it stops.

use std::path::PathBuf;

use serde_json::{Map, Value};

use crate::Error;
use pausenet::cni::request::Attachment;

/// Why an operation stopped.
#[derive(Debug)]
pub enum Stop {
    Failed(Error),
    /// The user or the system sent this signal.
    Interrupted(i32),
}

impl From<Error> for Stop {
    fn from(err: Error) -> Self {
        Self::Failed(err)
    }
}

/// The parameters of an attachment (specification, section 3, "Attachment Parameters").
#[derive(Debug, Clone)]
pub struct Parameters {
    pub attachment: Attachment,
    /// None only for DEL, when the namespace is gone.
    pub netns: Option<PathBuf>,
    /// `CNI_ARGS`.
    pub args: Vec<[String; 2]>,
    /// Capability arguments; each plugin gets those that it declares.
    pub capabilities: Map<String, Value>,
}
