//! `pausectl docker watch`: a service that keeps containers attached to their networks.
//!
//! It is level-triggered: an event, or a timer, starts a pass over all containers, and what a pass
//! does follows only from the state that it observes ([`decision`]). So the service can miss any
//! event, and be killed at any moment.

mod decision;
mod event_log;
mod members;
mod pass;
mod target;

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;

use crate::command::{Output, Result, Stop, listen_for_signals};
use crate::docker_api::{ApiError, Docker, ErrorKind, Events};
use crate::options::{CONF_DIR, DockerOptions, PluginOptions};
use event_log::EventLog;
use pass::{NextPass, Pass, WatchConfig};
use pausenet_host::block_on;
use pausenet_host::runtime::Interrupt;
use target::PassError;

const EXAMPLES: &str = "\
Examples:
  pausectl docker watch
  pausectl docker watch --restart-members --output json
  pausectl docker watch --once

It looks after containers that pausectl docker up, attach or rescue gave a network, and
those with a label:

  pausenet.network=NET      attach it to this network when it starts (with --net=none)
  pausenet.ip=ADDRESS       request this address
  pausenet.publish=PORTS    ports as for pausectl docker publish, separated by commas

A network stays with the containers in it, whichever of them dies. A restarted anchor
gets its address and ports again if they are free. When a network has no containers
left, it is taken down. What needs your decision is reported once, with the command.";

/// How long to wait before connecting again: at first, and at most.
const RECONNECT_DELAY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Events come in bursts: those that follow one within this time lead to one pass.
const BURST: Duration = Duration::from_millis(50);

/// When another process had a container's lock, or it was about to exit.
const RECHECK_DELAY: Duration = Duration::from_millis(200);

/// Attach labelled containers when they start, and maintain anchors and their members
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Watch {
    /// When an anchor is restarted, move its network to it and restart its members into it, oldest
    /// first, unless a container would lose the network for good. Without this option, the network
    /// stays with the members
    #[arg(long)]
    restart_members: bool,

    /// Do one pass and exit
    #[arg(long)]
    once: bool,

    /// The longest time between two passes, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86400))]
    interval: u64,

    /// The folder of network configurations, for labels
    #[arg(long, value_name = "DIR", env = "PAUSENET_CONF_DIR", default_value = CONF_DIR)]
    conf_dir: PathBuf,

    #[command(flatten)]
    plugins: PluginOptions,

    #[command(flatten)]
    docker: DockerOptions,
}

/// Watches until a signal comes, across restarts of the daemon.
///
/// # Errors
/// Wrong usage, and a broken stdout.
pub(super) fn watch(options: &Watch, output: Output) -> Result<()> {
    let socket = options.docker.socket()?;
    let config = WatchConfig {
        runtime: options.plugins.runtime(),
        conf_dir: options.conf_dir.clone(),
        restart_members: options.restart_members,
    };
    let outcome = block_on(async {
        let mut interrupt = listen_for_signals()?;
        let mut log = EventLog::new(output);
        if options.once {
            let docker = Docker::connect(&socket).await?;
            Pass::new(&docker, &config)
                .run(&mut log, &mut interrupt)
                .await?;
            return Ok(());
        }
        let mut delay = RECONNECT_DELAY.0;
        let mut last_error = String::new();
        loop {
            let connection = watch_daemon(options, &config, &mut log, &mut interrupt, || {
                delay = RECONNECT_DELAY.0;
                last_error.clear();
            });
            // The daemon is not there, or does not reply.
            let failure = match connection.await {
                Ok(failure) => failure,
                Err(stop) => return Err(stop),
            };
            if failure.error.message != last_error {
                log.event(
                    "waiting",
                    "",
                    &format!("waiting for Docker: {failure}"),
                    json!({}),
                )?;
                last_error = failure.error.message;
            }
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                signal = interrupt.next() => return Err(Stop::Interrupted(signal)),
            }
            delay = (delay * 2).min(RECONNECT_DELAY.1);
        }
    });
    match outcome {
        // A signal is a request to exit; the networks stay as they are.
        Err(Stop::Interrupted(_)) => Ok(()),
        outcome => outcome,
    }
}

/// Watches until the connection to the daemon ends; returns why it did.
async fn watch_daemon(
    options: &Watch,
    config: &WatchConfig,
    log: &mut EventLog,
    interrupt: &mut Interrupt,
    mut connected: impl FnMut(),
) -> Result<ApiError> {
    let socket = options.docker.socket()?;
    let docker = match Docker::connect(&socket).await {
        Ok(docker) => docker,
        Err(failure) => return Ok(failure),
    };
    connected();
    log.event(
        "watching",
        "",
        &format!("watching Docker at {socket}"),
        json!({}),
    )?;
    // Since before the first pass, so that no event is missed in between.
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let mut events = docker.events(since.as_secs().saturating_sub(1));
    loop {
        let next = match Pass::new(&docker, config).run(log, interrupt).await {
            Ok(NextPass::OnEvent) => Duration::from_secs(options.interval),
            Ok(NextPass::Soon) => RECHECK_DELAY,
            Err(PassError::Docker(failure)) if failure.kind == ErrorKind::Other => {
                log.event("failure", "", &failure.to_string(), json!({}))?;
                Duration::from_secs(options.interval)
            }
            Err(PassError::Docker(failure)) => return Ok(failure),
            Err(PassError::Stop(stop)) => return Err(stop),
        };
        tokio::select! {
            signal = interrupt.next() => return Err(Stop::Interrupted(signal)),
            () = tokio::time::sleep(next) => {}
            event = events.next() => match event {
                Some(Ok(_)) => drain_burst(&mut events).await,
                Some(Err(failure)) => return Ok(failure),
                None => return Ok(ApiError::stream_closed(&socket)),
            },
        }
    }
}

/// Reads the rest of a burst. The next read reports the end of the stream, if it came.
async fn drain_burst(events: &mut Events) {
    let all = async { while let Some(Ok(_)) = events.next().await {} };
    let _ = tokio::time::timeout(BURST, all).await;
}
