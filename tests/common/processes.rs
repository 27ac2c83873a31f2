//! Commands that are started by way of another, which changes what they inherit.

use std::fs;
use std::process::{Child, Command, Stdio};

use crate::wait::wait_until;

/// A command that hears what ends programs. Who runs the tests may ignore some of it, as a
/// shell's background job does, and what it starts would too.
pub fn with_default_signals(inner: &Command) -> Command {
    through("env", &["--default-signal=HUP,INT,TERM"], inner)
}

/// A command started by another that becomes it.
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

/// A process in a network namespace of its own without a link to anywhere. What shows the whole
/// machine shows those of other tests by chance; with this one it shows always one.
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
