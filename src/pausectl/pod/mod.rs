//! `pausectl pod`: pods without a container runtime.

mod create;
mod exec;
mod ls;
mod rm;

pub use create::{Create, create};
pub use exec::{Exec, exec};
pub use ls::{List, ls};
pub use rm::{Remove, rm};

use crate::{Result, Stop};
use pausenet_host::Error;
use pausenet_host::anchor::{PodName, pin};

fn parse_name(text: &str) -> Result<PodName> {
    PodName::parse(text).map_err(|why| Stop::Usage(Error::new(why)))
}

/// There is no such pod; which there are.
fn unknown(pod: &PodName) -> Error {
    let names: Vec<_> = pin::list()
        .unwrap_or_default()
        .iter()
        .map(PodName::to_string)
        .collect();
    let hint = match names.as_slice() {
        [] => "there are no pods; make one with: pausectl pod create".to_owned(),
        names => format!("pods: {}", names.join(", ")),
    };
    Error::new(format!("there is no pod {pod}")).hint(hint)
}
