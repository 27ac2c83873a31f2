//! `pausectl docker watch`: a small service that keeps containers and their networks together.
//!
//! It looks at everything anew whenever something happens, and from time to time; what it does
//! follows from what there is ([`decision`]) and not from what it was told, so it may miss any
//! event, and be killed at any moment.

mod decision;
mod event_log;
mod members;
mod pass;

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::listen;
use crate::docker_api::{ApiError, Docker, ErrorKind, Events};
use crate::options::{CONF_DIR, DockerOptions, PluginOptions};
use crate::{Output, Result, Stop};
use event_log::Voice;
use pass::{Round, Rules};
use pausenet_host::block_on;
use pausenet_host::runtime::Interrupt;

const EXAMPLES: &str = "\
Examples:
  pausectl docker watch
  pausectl docker watch --restart-members --output json
  pausectl docker watch --once

Containers that are looked after: those made by pausectl docker up, attached or rescued,
and those with a label:

  pausenet.network=NET      attach it to this network when it starts (with --net=none)
  pausenet.ip=ADDRESS       ask for this address
  pausenet.publish=PORTS    ports as for pausectl docker publish, with commas between

A network stays with those who live in it, whoever dies. A restarted anchor gets its
address and ports again when nobody else has them. When nobody is left, the network is
taken down. What only a person can decide is said once, with the command that does it.";

/// How long to wait for the daemon to come back, at first and at most.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Events come in swarms: what follows one so closely is looked at together with it.
const SWARM: Duration = Duration::from_millis(50);

/// When somebody else was at work on a container, or it was just ending.
const SOON: Duration = Duration::from_millis(200);

/// Attach labelled containers as they start, and look after anchors and their members
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Watch {
    /// When an anchor was restarted, let its network follow it and restart its members into it,
    /// the oldest first, unless somebody would lose it for good; without this, the network stays
    /// where they are
    #[arg(long)]
    restart_members: bool,

    /// Look once, do what there is to do, and end
    #[arg(long)]
    once: bool,

    /// Look again after so long, even if nothing seems to have happened
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86400))]
    interval: u64,

    /// The folder with the configurations of the networks that labels name
    #[arg(long, value_name = "DIR", env = "PAUSENET_CONF_DIR", default_value = CONF_DIR)]
    conf_dir: PathBuf,

    #[command(flatten)]
    plugins: PluginOptions,

    #[command(flatten)]
    docker: DockerOptions,
}

/// Watches until a signal comes.
///
/// # Errors
/// Wrong usage, and when nobody can be told what was done. The daemon's absence is waited out.
pub fn watch(options: &Watch, output: Output) -> Result<()> {
    let socket = options.docker.socket()?;
    let rules = Rules {
        runtime: options.plugins.runtime(),
        conf_dir: options.conf_dir.clone(),
        restart_members: options.restart_members,
    };
    let outcome = block_on(async {
        let mut interrupt = listen()?;
        let mut voice = Voice::new(output);
        if options.once {
            let docker = Docker::connect(&socket).await?;
            Round::new(&docker, &rules)
                .run(&mut voice, &mut interrupt)
                .await?;
            return Ok(());
        }
        let mut patience = PATIENCE.0;
        let mut complaint = String::new();
        loop {
            let ended = follow(options, &rules, &mut voice, &mut interrupt, || {
                patience = PATIENCE.0;
                complaint.clear();
            });
            // Reached only when the daemon is not there, or does not answer.
            let failure = match ended.await {
                Ok(failure) => failure,
                Err(stop) => return Err(stop),
            };
            if failure.error.message != complaint {
                voice.done(
                    "waiting",
                    "",
                    &format!("waiting for Docker: {failure}"),
                    json!({}),
                )?;
                complaint = failure.error.message;
            }
            tokio::select! {
                () = tokio::time::sleep(patience) => {}
                signal = interrupt.next() => return Err(Stop::Interrupted(signal)),
            }
            patience = (patience * 2).min(PATIENCE.1);
        }
    });
    match outcome {
        // Asked to leave, it does; the networks stay as they are.
        Err(Stop::Interrupted(_)) => Ok(()),
        outcome => outcome,
    }
}

/// Follows one life of the daemon, to its end.
async fn follow(
    options: &Watch,
    rules: &Rules,
    voice: &mut Voice,
    interrupt: &mut Interrupt,
    mut connected: impl FnMut(),
) -> Result<ApiError> {
    let socket = options.docker.socket()?;
    let docker = match Docker::connect(&socket).await {
        Ok(docker) => docker,
        Err(failure) => return Ok(failure),
    };
    connected();
    voice.done(
        "watching",
        "",
        &format!("watching Docker at {socket}"),
        json!({}),
    )?;
    // From before the first look, so that nothing falls between the two.
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let mut events = docker.events(since.as_secs().saturating_sub(1));
    loop {
        let next = match Round::new(&docker, rules).run(voice, interrupt).await {
            Ok(pass::Next::AfterAnEvent) => Duration::from_secs(options.interval),
            Ok(pass::Next::Soon) => SOON,
            Err(pass::Broken::Docker(failure)) if failure.kind == ErrorKind::Other => {
                voice.done("failure", "", &failure.to_string(), json!({}))?;
                Duration::from_secs(options.interval)
            }
            Err(pass::Broken::Docker(failure)) => return Ok(failure),
            Err(pass::Broken::Stop(stop)) => return Err(stop),
        };
        tokio::select! {
            signal = interrupt.next() => return Err(Stop::Interrupted(signal)),
            () = tokio::time::sleep(next) => {}
            event = events.next() => match event {
                Some(Ok(_)) => swarm(&mut events).await,
                Some(Err(failure)) => return Ok(failure),
                None => return Ok(ApiError::stream_closed(&socket)),
            },
        }
    }
}

/// Takes what follows closely. How the stream ends, the next look at it tells.
async fn swarm(events: &mut Events) {
    let all = async { while let Some(Ok(_)) = events.next().await {} };
    let _ = tokio::time::timeout(SWARM, all).await;
}
