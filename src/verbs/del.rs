//! DEL: undoes an ADD. Needs neither the namespace nor prevResult, and succeeds when there is
//! nothing left to undo.

use crate::apply::{Host, remove};
use crate::cni::Result;
use crate::cni::request::Request;
use crate::plan::host_end_name;

/// Serves DEL: the links first, and the address last, so that it is free only when nothing of
/// it is left.
///
/// # Errors
/// Codes 5 and 101, when something is left that could not be removed.
pub fn run(request: &Request) -> Result<()> {
    let ipam = super::ipam_of(request)?;
    let mut host = Host::open(&host_end_name(&request.attachment))?;
    remove(&mut host.socket, &request.attachment)?;
    if let Some(ipam) = ipam {
        ipam.release()?;
    }
    host.forget();
    Ok(())
}
