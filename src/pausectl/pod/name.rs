//! The pod that a command names.

use crate::command::{Result, Stop};
use pausenet_host::Error;
use pausenet_host::anchor::{PodName, named_netns};

pub(super) fn parse_name(text: &str) -> Result<PodName> {
    PodName::parse(text).map_err(|why| Stop::Usage(Error::new(why)))
}

/// The error for an unknown pod; the hint lists the pods.
pub(super) fn unknown_pod(pod: &PodName) -> Error {
    let names: Vec<_> = named_netns::list()
        .unwrap_or_default()
        .iter()
        .map(PodName::to_string)
        .collect();
    let hint = match names.as_slice() {
        [] => "there are no pods; create one with: pausectl pod create".to_owned(),
        names => format!("pods: {}", names.join(", ")),
    };
    Error::new(format!("there is no pod {pod}")).hint(hint)
}
