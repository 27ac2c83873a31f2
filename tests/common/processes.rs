//! Commands started through a wrapper that changes what they inherit.

use std::fs;
use std::process::{Child, Command, Stdio};

use crate::wait::wait_until;

/// A command with default handling of SIGHUP, SIGINT and SIGTERM. The caller of the tests may ignore
/// some of them, as a shell's background job does, and children inherit that.
pub fn with_default_signals(inner: &Command) -> Command {
    through("env", &["--default-signal=HUP,INT,TERM"], inner)
}

/// A command started by `program`, which replaces itself with it (exec).
pub fn through(program: &str, args: &[&str], inner: &Command) -> Command {
    let mut command = Command::new(program);
    let vars = inner
        .get_envs()
        .filter_map(|(key, value)| Some((key, value?)));
    command
        .args(args)
        .arg(inner.get_program())
        .args(inner.get_args())
        .envs(vars)
        .stdin(Stdio::null());
    command
}

/// A process in a network namespace of its own, connected to nothing. A listing of the whole machine
/// contains such processes of other tests by chance; with this one it always contains one.
pub struct UnsharedProcess(Child);

impl UnsharedProcess {
    pub fn start() -> Self {
        let mut unshare = Command::new("unshare");
        let child = unshare.args(["--net", "sleep", "600"]).spawn().unwrap();
        let comm = format!("/proc/{}/comm", child.id());
        wait_until("it has become a sleep", || {
            fs::read_to_string(&comm).is_ok_and(|name| name == "sleep\n")
        });
        Self(child)
    }
}

impl Drop for UnsharedProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
