//! Calls of the built plugin, as a runtime makes them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::programs;
use crate::world::{Container, World};

/// One call of the plugin, as a runtime makes it.
#[derive(Debug, Clone)]
pub struct Call {
    program: PathBuf,
    vars: BTreeMap<&'static str, OsString>,
    stdin: Vec<u8>,
}

impl Call {
    /// A call of the built plugin with a config: container `c1`, interface `eth0`.
    pub fn new(verb: &str, config: &Value) -> Self {
        let call = Self {
            program: programs::pausenet().into(),
            vars: BTreeMap::new(),
            stdin: config.to_string().into_bytes(),
        };
        call.var("CNI_COMMAND", verb)
            .var("CNI_CONTAINERID", "c1")
            .var("CNI_IFNAME", "eth0")
            .var("CNI_PATH", "/nonexistent")
    }

    /// Another program than the built plugin.
    pub fn program(mut self, program: impl Into<PathBuf>) -> Self {
        self.program = program.into();
        self
    }

    /// Sets or replaces a variable.
    pub fn var(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.vars.insert(name, value.into());
        self
    }

    /// Leaves a variable out.
    pub fn without(mut self, name: &str) -> Self {
        self.vars.remove(name);
        self
    }

    /// The container by its namespace.
    pub fn netns(self, container: &Container) -> Self {
        self.var("CNI_NETNS", container.path.as_os_str())
    }

    /// CNI_CONTAINERID.
    pub fn id(self, id: &str) -> Self {
        self.var("CNI_CONTAINERID", id)
    }

    /// CNI_IFNAME.
    pub fn ifname(self, name: &str) -> Self {
        self.var("CNI_IFNAME", name)
    }

    /// Other bytes on stdin than the config.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// The call as a command that has not been started, its stdin still to be written.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .envs(&self.vars)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs it until it exits.
    pub fn run(&self) -> PluginOutput {
        self.run_as(self.command())
    }

    /// Runs `command`, a wrapper around this call, with its stdin.
    pub fn run_as(&self, mut command: Command) -> PluginOutput {
        let mut child = command.spawn().expect("start the plugin");
        // A plugin may answer without having read everything.
        let _ = child.stdin.take().unwrap().write_all(&self.stdin);
        PluginOutput(child.wait_with_output().expect("wait for the plugin"))
    }
}

/// Exit status and output of a call.
#[derive(Debug)]
pub struct PluginOutput(pub Output);

impl PluginOutput {
    /// The result of a call that has to succeed; Null when stdout is empty.
    #[track_caller]
    pub fn ok(&self) -> Value {
        assert!(self.0.status.success(), "{}", self.shown());
        if self.0.stdout.is_empty() {
            return Value::Null;
        }
        serde_json::from_slice(&self.0.stdout).unwrap_or_else(|_| panic!("{}", self.shown()))
    }

    /// The error object of a call that has to fail: exit status 1, and JSON alone on stdout.
    #[track_caller]
    pub fn err(&self) -> Value {
        assert_eq!(self.0.status.code(), Some(1), "{}", self.shown());
        let error: Value =
            serde_json::from_slice(&self.0.stdout).unwrap_or_else(|_| panic!("{}", self.shown()));
        for key in ["cniVersion", "code", "msg"] {
            assert!(error.get(key).is_some(), "no {key:?}: {error}");
        }
        error
    }

    /// The same, with this error code.
    #[track_caller]
    pub fn err_code(&self, code: u32) -> Value {
        let error = self.err();
        assert_eq!(error["code"], code, "{error}");
        error
    }

    fn shown(&self) -> String {
        format!(
            "{}\nstdout: {}\nstderr: {}",
            self.0.status,
            String::from_utf8_lossy(&self.0.stdout),
            String::from_utf8_lossy(&self.0.stderr)
        )
    }
}

/// Makes a container, attaches it with its name as ID, and returns it with the result of ADD.
#[track_caller]
pub fn added(world: &World, config: &Value, name: &str) -> (Container, Value) {
    let container = world.container(name);
    let result = call("ADD", config, &container).run().ok();
    (container, result)
}

/// A call for a container, with its name as ID.
pub fn call(verb: &str, config: &Value, container: &Container) -> Call {
    Call::new(verb, config)
        .netns(container)
        .id(container.name())
}
