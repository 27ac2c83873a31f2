//! Ctrl-C while a plugin is at one of its messages to the kernel. strace stops it there, so that it has done
//! what comes before and nothing of what comes after.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::steps::{Step, counted};
use common::docker::Docker;
use common::processes::with_default_signals;
use common::wait::wait_until;
use common::{programs, run};

/// The option of strace that chooses where the plugin stops; empty for nowhere.
const STOP: &str = "STOP_PLUGIN";

/// What strace says of a process that a signal has stopped.
const STOPPED: &str = "--- stopped by SIGSTOP ---";

/// A stand-in for the plugin, whose ADD runs in strace.
pub(super) struct TracedPlugin<'a> {
    docker: &'a Docker,
    folder: PathBuf,
    log: PathBuf,
}

impl<'a> TracedPlugin<'a> {
    pub(super) fn install(docker: &'a Docker) -> Self {
        let folder = docker.home().join("traced");
        fs::create_dir(&folder).unwrap();
        let log = folder.join("log");
        let plugin = programs::pausenet();
        let script = format!(
            "#!/bin/sh\n[ $CNI_COMMAND = ADD ] || exec {plugin}\n\
             exec strace --decode-fds=all --output={} -e trace=sendto,sendmsg ${STOP} -- {plugin}\n",
            log.display()
        );
        let source = folder.join("script");
        fs::write(&source, script).unwrap();
        let target = folder.join("pausenet");
        let paths = [source.to_str().unwrap(), target.to_str().unwrap()];
        run("install", ["-m", "755", paths[0], paths[1]]);
        Self {
            docker,
            folder,
            log,
        }
    }

    fn command(&self, args: &[&str], stop: &str) -> Command {
        let mut command = self.docker.pausectl(args);
        command.env("CNI_PATH", &self.folder).env(STOP, stop);
        command
    }

    /// The messages of the ADD of a run to the end.
    pub(super) fn messages(&self, args: &[&str]) -> Vec<Step> {
        let output = self.command(args, "").output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let log = fs::read_to_string(&self.log).unwrap();
        let messages = counted(&log).filter(|(line, _)| line.contains("NETLINK:"));
        messages.map(|(_, step)| step).collect()
    }

    /// Runs it again, with Ctrl-C at a message.
    pub(super) fn interrupt(&self, args: &[&str], step: &Step) {
        let _ = fs::remove_file(&self.log);
        let stop = format!("--inject={}:signal=STOP:when={}", step.call, step.nth);
        let mut command = with_default_signals(&self.command(args, &stop));
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut child = child.unwrap();
        wait_until("the plugin stops", || {
            fs::read_to_string(&self.log).is_ok_and(|log| log.contains(STOPPED))
        });
        kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130), "{step:?}");
    }
}
