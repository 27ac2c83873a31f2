//! Delegation: runs another plugin for part of the work (specification, section 4).

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::error::{Code, During, Error, Result};
use super::result::AddResult;
use super::version::SpecVersion;

/// A plugin that the config names, found in CNI_PATH.
#[derive(Debug, Clone)]
pub(crate) struct Delegate {
    program: PathBuf,
}

impl Delegate {
    /// Looks for a plugin in the folders of CNI_PATH, in order.
    ///
    /// # Errors
    /// Code 7 when the name is not a file name or none of the folders contains it.
    pub(crate) fn find(name: &str, path: &[PathBuf]) -> Result<Self> {
        if name.contains(['/', '\\', '\0']) || matches!(name, "." | "..") {
            return Err(Error::new(
                Code::InvalidConfig,
                format!("plugin type {name:?} is not a file name"),
            ));
        }
        let found = path
            .iter()
            .map(|dir| dir.join(name))
            .find(|file| is_program(file));
        found.map(|program| Self { program }).ok_or_else(|| {
            let looked: Vec<_> = path.iter().map(|dir| dir.display().to_string()).collect();
            Error::new(
                Code::InvalidConfig,
                format!("plugin {name:?} is in no folder of CNI_PATH"),
            )
            .hint(format!("looked in {}", looked.join(", ")))
        })
    }

    /// Runs the plugin with `verb`, our environment and the config as received. Returns its stdout.
    ///
    /// # Errors
    /// The delegate's own error, with its name in front; code 5 when it cannot be run.
    pub(crate) fn call(&self, verb: &str, config: &[u8]) -> Result<Vec<u8>> {
        let name = self.program.display();
        let failed = |what: &str, err: std::io::Error| {
            Error::new(Code::Io, format!("{what} delegate {name}: {err}"))
        };
        let mut child = Command::new(&self.program)
            .env("CNI_COMMAND", verb)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|err| failed("start", err))?;
        if let Some(mut stdin) = child.stdin.take() {
            // A plugin may close stdin and write its result without reading all of the config.
            let _ = stdin.write_all(config);
        }
        let output = child
            .wait_with_output()
            .map_err(|err| failed("wait for", err))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(failure(&output.stdout, &output.status).context(format!("delegate {name}")))
    }

    /// Runs the plugin with ADD and parses its result.
    ///
    /// # Errors
    /// Those of [`Delegate::call`]; code 6 when its output is not a result.
    pub(crate) fn add(&self, config: &[u8], version: SpecVersion) -> Result<AddResult> {
        let name = self.program.display();
        let stdout = self.call("ADD", config)?;
        serde_json::from_slice(&stdout)
            .map_err(|err| Error::new(Code::Decode, err.to_string()))
            .and_then(|json| AddResult::from_json(&json, version))
            .during_with(|| format!("answer of delegate {name}"))
    }
}

fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
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

    #[test]
    fn a_name_that_leads_out_of_the_folders_is_refused() {
        let path = ["/bin".into()];
        for hostile in ["../bin/sh", "/bin/sh", "..", "a\0b"] {
            assert_eq!(
                Delegate::find(hostile, &path).unwrap_err().code,
                Code::InvalidConfig
            );
        }
        assert!(Delegate::find("sh", &path).is_ok());
        assert!(Delegate::find("sh", &[]).is_err());
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
