//! Commands that are started by way of another, which changes what they inherit.

use std::process::{Command, Stdio};

/// A command that hears what ends programs. Who runs the tests may ignore some of it, as a
/// shell's background job does, and what it starts would too.
pub fn hears_signals(inner: &Command) -> Command {
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
