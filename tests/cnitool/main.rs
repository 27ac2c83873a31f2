//! pausenet called by a real runtime: cnitool, which is libcni with a command line. It reads the
//! conflist, finds plugins in CNI_PATH, keeps results under /var/lib/cni, and chains plugins.

mod chained;
mod verbs;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use common::programs;

/// A cnitool with a folder of conflists and one of plugins.
struct CniTool {
    program: PathBuf,
    dir: tempfile::TempDir,
    path: String,
}

impl CniTool {
    /// A CNI_PATH with nothing but our plugin in it.
    fn new(program: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("bin");
        fs::create_dir(&bin).unwrap();
        std::os::unix::fs::symlink(programs::pausenet(), bin.join("pausenet")).unwrap();
        fs::create_dir(dir.path().join("net.d")).unwrap();
        let path = bin.display().to_string();
        Self {
            program: program.to_owned(),
            dir,
            path,
        }
    }

    /// The same, with a folder of reference plugins behind.
    fn with_peers(program: &Path, peers: &Path) -> Self {
        let mut tool = Self::new(program);
        tool.path = format!("{}:{}", tool.path, peers.display());
        tool
    }

    /// Writes a conflist.
    fn network(&self, conflist: &Value) {
        let name = conflist["name"].as_str().unwrap();
        let file = self.dir.path().join(format!("net.d/10-{name}.conflist"));
        fs::write(file, conflist.to_string()).unwrap();
    }

    /// cnitool with these arguments, not started yet; found in PATH, as a person calls it.
    fn command(&self, args: &[&str]) -> Command {
        let folder = self.program.parent().unwrap().display();
        let mut command = Command::new("sh");
        command
            .args(["-c", "cnitool \"$@\"", "sh"])
            .args(args)
            .env_clear()
            .env("PATH", format!("{folder}:/usr/sbin:/usr/bin:/sbin:/bin"))
            .env("NETCONFPATH", self.dir.path().join("net.d"))
            .env("CNI_PATH", &self.path);
        command
    }

    #[track_caller]
    fn run(&self, args: &[&str]) -> ToolOutput {
        ToolOutput::of(self.command(args))
    }
}

/// What cnitool said. It reports a plugin's error in words, on stderr.
struct ToolOutput(Output);

impl ToolOutput {
    #[track_caller]
    fn of(mut command: Command) -> Self {
        Self(command.output().expect("start cnitool"))
    }

    /// The result of a call that has to succeed; Null when stdout is empty.
    #[track_caller]
    fn ok(&self) -> Value {
        let (out, err) = self.texts();
        assert!(self.0.status.success(), "{out}\n{err}");
        if out.trim().is_empty() {
            return Value::Null;
        }
        serde_json::from_str(&out).unwrap_or_else(|why| panic!("{why}: {out}"))
    }

    /// The words of a call that has to fail.
    #[track_caller]
    fn err(&self) -> String {
        let (out, err) = self.texts();
        assert!(!self.0.status.success(), "{out}");
        out + &err
    }

    fn texts(&self) -> (String, String) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (text(&self.0.stdout), text(&self.0.stderr))
    }
}

/// The network podnet: one plugin, ours.
fn podnet(version: &str) -> Value {
    chain(version, json!([plugin()]))
}

/// A network podnet of these plugins.
fn chain(version: &str, plugins: Value) -> Value {
    json!({"cniVersion": version, "name": "podnet", "plugins": plugins})
}

/// Our plugin's part of a conflist.
fn plugin() -> Value {
    json!({
        "type": "pausenet",
        "bridge": "cni0",
        "isDefaultGateway": true,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24"}]]}
    })
}

/// What libcni remembers of its attachments.
fn cached_results() -> usize {
    fs::read_dir("/var/lib/cni/results").map_or(0, Iterator::count)
}
