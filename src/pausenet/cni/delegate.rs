//! Delegation: runs another plugin for part of the work (specification, section 4).

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::calls::{self, Calls};
use super::child::{self, Ended};
use super::error::{Code, During, Error, Result};
use super::json::Json;
use super::names::NetworkName;
use super::result::AddResult;
use super::version::SpecVersion;
use crate::kernel::file::LARGE;

/// How long a delegate may work. An ADD that fails runs it twice, the second time to undo: that is
/// still less than runtimes allow an ADD.
const DELEGATE_LIMIT: Duration = Duration::from_secs(50);

/// A plugin that the config names, found in CNI_PATH.
#[derive(Debug, Clone)]
pub(crate) struct Delegate {
    program: PathBuf,
    /// What the delegate's environment says about this call.
    calls: Calls,
    limit: Duration,
}

impl Delegate {
    /// Whether a plugin can have this name: that of a file.
    pub(crate) fn is_name(name: &str) -> bool {
        !name.contains(['/', '\\', '\0']) && !matches!(name, "" | "." | "..")
    }

    /// Looks for a plugin in the folders of CNI_PATH, in order.
    ///
    /// # Errors
    /// Code 7 when the name is not a file name, none of the folders contains it, or it is this
    /// program: that would wait for itself.
    pub(crate) fn find(name: &str, path: &[PathBuf], network: &NetworkName) -> Result<Self> {
        if !Self::is_name(name) {
            return Err(Error::new(
                Code::InvalidConfig,
                format!("plugin type {name:?} is not a file name"),
            ));
        }
        let found = path
            .iter()
            .map(|dir| dir.join(name))
            .find(|file| is_program(file));
        let program = found.ok_or_else(|| {
            let looked: Vec<_> = path.iter().map(|dir| dir.display().to_string()).collect();
            Error::new(
                Code::InvalidConfig,
                format!("plugin {name:?} is in no folder of CNI_PATH"),
            )
            .hint(format!("looked in {}", looked.join(", ")))
        })?;
        if is_own_program(&program) {
            return Err(Error::new(
                Code::InvalidConfig,
                format!(
                    "plugin type {name:?}: {} is pausenet itself, which gives no addresses under \
                     this name",
                    program.display()
                ),
            )
            .hint("host-local and static are built in; any other type names another plugin"));
        }
        Ok(Self {
            program,
            calls: calls::with_this_one(network),
            limit: DELEGATE_LIMIT,
        })
    }

    /// Runs the plugin with `verb`, our environment and the config as received. Returns its stdout.
    ///
    /// # Errors
    /// The delegate's own error, with its name in front; code 5 when it cannot be run, 11 when it
    /// did not end in time and was killed, 6 when its answer is too long.
    pub(crate) fn call(&self, verb: &str, config: &[u8]) -> Result<Vec<u8>> {
        let name = self.program.display();
        let mut command = Command::new(&self.program);
        command
            .env("CNI_COMMAND", verb)
            .env(calls::VARIABLE, &self.calls);
        let child = child::run(&mut command, config, LARGE, self.limit).map_err(|err| {
            let code = Code::of_failure(&err, Code::Io);
            Error::new(code, format!("run delegate {name}: {err}"))
        })?;
        let cut = |code, why: String| {
            let said = match child.said.trim() {
                "" => "it wrote nothing to stderr".to_owned(),
                said => format!("on stderr it said: {said}"),
            };
            let who = format!("delegate {name} (process {})", child.pid);
            Err(Error::new(code, format!("{who} {why}, and was killed")).hint(said))
        };
        match child.ended {
            Ended::Exited(status) if status.success() => Ok(child.stdout),
            Ended::Exited(status) => {
                Err(failure(&child.stdout, &status).context(format!("delegate {name}")))
            }
            Ended::Late => cut(
                Code::TryAgainLater,
                format!("{verb} did not end within {:?}", self.limit),
            ),
            Ended::TooLong => cut(
                Code::Decode,
                format!("{verb} wrote more than {LARGE} bytes to stdout"),
            ),
        }
    }

    /// Runs the plugin with ADD and parses its result.
    ///
    /// # Errors
    /// Those of [`Delegate::call`]; code 6 when its output is not a result.
    pub(crate) fn add(&self, config: &[u8], version: SpecVersion) -> Result<AddResult> {
        let name = self.program.display();
        let stdout = self.call("ADD", config)?;
        Json::parse("result", &stdout)
            .and_then(|json| AddResult::read(&json, version))
            .during_with(|| format!("answer of delegate {name}"))
    }
}

fn is_program(file: &Path) -> bool {
    file.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Whether a file is the program of this process, under whatever name.
fn is_own_program(file: &Path) -> bool {
    let id = |path: &Path| path.metadata().map(|meta| (meta.dev(), meta.ino())).ok();
    let own = id(Path::new("/proc/self/exe"));
    own.is_some() && id(file) == own
}

/// The delegate's error object, or without one an error with its exit status.
fn failure(stdout: &[u8], status: &std::process::ExitStatus) -> Error {
    Error::from_json(stdout).unwrap_or_else(|| {
        Error::new(
            Code::Internal,
            format!("ended with {status} and no error object"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(name: &str, path: &[PathBuf]) -> Result<Delegate> {
        let network = NetworkName::parse("podnet").unwrap();
        Delegate::find(name, path, &network)
    }

    #[test]
    fn a_name_that_leads_out_of_the_folders_is_refused() {
        let path = ["/bin".into()];
        for hostile in ["../bin/sh", "/bin/sh", "..", "a\0b"] {
            assert_eq!(find(hostile, &path).unwrap_err().code, Code::InvalidConfig);
        }
        assert!(find("sh", &path).is_ok());
        assert!(find("sh", &[]).is_err());
    }

    #[test]
    fn this_program_is_no_delegate_under_any_name() {
        let folder = tempfile::tempdir().unwrap();
        let own = std::env::current_exe().unwrap();
        std::os::unix::fs::symlink(&own, folder.path().join("my-ipam")).unwrap();
        let path = [folder.path().to_owned()];
        let err = find("my-ipam", &path).unwrap_err();
        assert_eq!(err.code, Code::InvalidConfig);
        assert!(err.msg.contains("my-ipam is pausenet itself"), "{err}");
    }

    /// A plugin of one line.
    fn script(text: &str, limit: Duration) -> (tempfile::TempDir, Delegate) {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("my-ipam");
        std::fs::write(&program, format!("#!/bin/sh\n{text}\n")).unwrap();
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&program, executable).unwrap();
        let found = find("my-ipam", &[folder.path().to_owned()]).unwrap();
        (folder, Delegate { limit, ..found })
    }

    /// Calls a delegate. A script that another test's fork has open for writing cannot be started
    /// (ETXTBSY), for a moment.
    fn call(delegate: &Delegate) -> Result<Vec<u8>> {
        loop {
            match delegate.call("ADD", b"{}") {
                Err(err) if err.msg.contains("os error 26") => std::thread::yield_now(),
                outcome => return outcome,
            }
        }
    }

    #[test]
    fn a_delegate_that_never_ends_is_killed_with_its_children_and_quoted() {
        let (folder, delegate) = script(
            "sleep 1000 & echo $! >$0.child; echo asking the server >&2; wait",
            Duration::from_millis(500),
        );
        let err = call(&delegate).unwrap_err();
        assert_eq!(err.code, Code::TryAgainLater);
        for word in ["my-ipam (process ", "ADD", "500ms", "killed"] {
            assert!(err.msg.contains(word), "no {word} in {err}");
        }
        assert!(err.details.contains("asking the server"), "{err}");
        let child = std::fs::read_to_string(folder.path().join("my-ipam.child")).unwrap();
        let stat = format!("/proc/{}/stat", child.trim());
        // Whoever adopts it may not reap it.
        let is_gone = || std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "));
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        while !is_gone() {
            assert!(std::time::Instant::now() < deadline, "{child} lives");
            std::thread::yield_now();
        }
    }

    #[test]
    fn an_endless_answer_is_cut_off() {
        let (_folder, delegate) = script("exec cat /dev/zero", Duration::from_secs(60));
        let err = call(&delegate).unwrap_err();
        assert_eq!(err.code, Code::Decode);
        assert!(err.msg.contains("16777216 bytes"), "{err}");
    }

    /// A daemon that a plugin starts may keep its stdout.
    #[test]
    fn an_answer_is_complete_when_the_delegate_ends_though_a_child_lives_on() {
        let (_folder, delegate) = script(
            "echo '{}'; sleep 1000 & echo $! >$0.child",
            Duration::from_secs(60),
        );
        let answer = call(&delegate);
        let child = std::fs::read_to_string(delegate.program.with_extension("child")).unwrap();
        let child = rustix::process::Pid::from_raw(child.trim().parse().unwrap()).unwrap();
        rustix::process::kill_process(child, rustix::process::Signal::KILL).unwrap();
        assert_eq!(answer.unwrap(), b"{}\n");
    }

    #[test]
    fn a_long_config_that_the_delegate_does_not_read_is_no_reason_to_wait() {
        let (_folder, delegate) = script("echo '{}'", Duration::from_secs(60));
        let config = vec![b' '; 1024 * 1024];
        let answer = loop {
            match delegate.call("ADD", &config) {
                Err(err) if err.msg.contains("os error 26") => std::thread::yield_now(),
                outcome => break outcome,
            }
        };
        assert_eq!(answer.unwrap(), b"{}\n");
    }

    #[test]
    fn the_delegate_s_error_keeps_its_code() {
        let status = std::os::unix::process::ExitStatusExt::from_raw(256);
        let err = failure(
            br#"{"cniVersion":"1.0.0","code":11,"msg":"full","details":"d"}"#,
            &status,
        );
        assert_eq!((err.code, err.msg.as_str()), (Code::TryAgainLater, "full"));
        assert_eq!(failure(b"panic: x", &status).code, Code::Internal);
    }
}
