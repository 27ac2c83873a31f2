//! Starts and stops the daemon: two threads monitor the kernel, one reconciles, and this one watches the
//! Nodes and serves probes and metrics.

use std::process::ExitCode;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use clap::Parser;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;

use super::http::{self, Health};
use super::metrics::Metrics;
use super::monitor::{self, OwnPodSubnets};
use super::node_requests::NodeRequests;
use super::node_watch::{self, Nodes};
use super::options::{LogFormat, Options};
use super::reconcile::Reconciler;
use super::uninstall::uninstall;
use super::wakeup::{PassScope, WakeUp};
use pausenet_host::{Error, Result};

/// The least time between two passes, so that a burst of events leads to few. The first event after a
/// quiet time leads to a pass at once: pods may be cut off.
const MIN_PASS_INTERVAL: Duration = Duration::from_millis(100);

/// The delay after a failed pass; it doubles with each failure, up to `--interval`.
const FIRST_RETRY: Duration = Duration::from_millis(500);

/// The daemon, from its arguments to its exit status.
pub fn main() -> ExitCode {
    let options = Options::parse();
    let outcome = start_log(&options)
        .and_then(|()| options.complete())
        .and_then(|options| {
            if options.uninstall {
                uninstall(&options)
            } else {
                run(options)
            }
        });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("pausenetd: {}", err.message);
            if !err.hint.is_empty() {
                eprintln!("hint: {}", err.hint);
            }
            ExitCode::FAILURE
        }
    }
}

fn start_log(options: &Options) -> Result<()> {
    use std::io::IsTerminal;
    let filter: Targets = options.log.parse().map_err(|err| {
        Error::new(format!("--log {:?}: {err}", options.log))
            .hint("use a level (error, warn, info, debug, trace), or a list of TARGET=LEVEL with commas between")
    })?;
    let colour = std::io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty());
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(colour);
    let registry = tracing_subscriber::registry();
    match options.log_format {
        LogFormat::Text => registry.with(lines.with_filter(filter)).init(),
        LogFormat::Json => registry.with(lines.json().with_filter(filter)).init(),
    }
    Ok(())
}

fn run(options: Options) -> Result<()> {
    pausenet_host::block_on(async {
        // What may fail because of the options comes first, before anything is changed. Binding the
        // port also detects a second daemon on this node.
        let listener = http::bind(options.listen)?;
        let client = node_watch::client(&options).await?;
        let signals = Signals::new()?;
        tracing::info!(
            "pausenetd {} on node {}; probes and metrics on {}",
            env!("CARGO_PKG_VERSION"),
            options.node_name(),
            options.listen
        );
        let wake_up = Arc::new(WakeUp::default());
        let nodes = Nodes::default();
        let (metrics, registry) = Metrics::new();
        // More than the time of a pass and the wait after it.
        let limit = options.interval() + Duration::from_secs(120);
        let health = Arc::new(Health::new(limit));
        let requests = NodeRequests {
            options: options.clone(),
            nodes: nodes.clone(),
            wake_up: wake_up.clone(),
            metrics: metrics.clone(),
            health: health.clone(),
        };
        let reconcile_thread = start_reconciler(options, &wake_up, &nodes, &metrics, &health)?;
        let outcome = tokio::select! {
            () = requests.run(client) => Err(Error::new("the watch of the Nodes ended unexpectedly",
            )),
            outcome = http::serve(listener, health, registry) => outcome,
            () = signals.any() => Ok(()),
        };
        // Let a pass in progress finish.
        wake_up.stop();
        let _ = reconcile_thread.join();
        tracing::info!("stopped; everything stays in place for running pods");
        outcome
    })
}

/// The signals that stop the daemon.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let listen = |kind| {
            signal(kind).map_err(|err| Error::new(format!("cannot wait for signals: {err}")))
        };
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    async fn any(mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn start_reconciler(
    options: Options,
    wake_up: &Arc<WakeUp>,
    nodes: &Nodes,
    metrics: &Metrics,
    health: &Arc<Health>,
) -> Result<JoinHandle<()>> {
    let own_pod_subnets = OwnPodSubnets::default();
    let interval = options.interval();
    let reconciler = Reconciler::new(options, metrics.clone(), own_pod_subnets.clone())?;
    monitor::start(wake_up, &own_pod_subnets)
        .map_err(|err| Error::new(format!("cannot monitor routes and nftables: {err}")))?;
    let (wake_up, nodes) = (wake_up.clone(), nodes.clone());
    let (metrics, health) = (metrics.clone(), health.clone());
    std::thread::Builder::new()
        .name("reconcile".into())
        .spawn(move || reconcile_loop(reconciler, &wake_up, &nodes, &metrics, &health, interval))
        .map_err(|err| Error::new(format!("cannot start a thread: {err}")))
}

fn reconcile_loop(
    mut reconciler: Reconciler,
    wake_up: &WakeUp,
    nodes: &Nodes,
    metrics: &Metrics,
    health: &Health,
    interval: Duration,
) {
    let mut scope = PassScope::Everything;
    let mut retry = FIRST_RETRY;
    // Passes of a lesser scope do not postpone it.
    let mut next_full_pass = Instant::now() + interval;
    let mut deadline = next_full_pass;
    loop {
        if scope > PassScope::Attachments {
            let start = Instant::now();
            let report = reconciler.pass(nodes.list().as_deref(), scope);
            metrics.pass_ended(start.elapsed());
            health.pass_ended(report.not_ready);
            if scope == PassScope::Everything {
                next_full_pass = Instant::now() + interval;
            }
            deadline = next_full_pass;
            if report.failed {
                deadline = deadline.min(Instant::now() + retry);
                retry = (retry * 2).min(interval);
            } else {
                retry = FIRST_RETRY;
            }
        }
        // In each pass: the request of a lesser one may have been merged into it.
        reconciler.count_attachments();
        let Some(next) = wake_up.wait(deadline, Instant::now() + MIN_PASS_INTERVAL) else {
            return;
        };
        scope = next;
    }
}
