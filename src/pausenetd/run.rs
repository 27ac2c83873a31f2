//! All of the daemon together: two threads that listen to the kernel, one that makes passes, and
//! this one, which watches the Nodes and answers probes.

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
use super::monitor::{self, OwnPods};
use super::node_watch::{self, Nodes};
use super::options::{LogFormat, Options};
use super::reconcile::Reconciler;
use super::uninstall::uninstall;
use super::wakeup::{Bell, Scope};
use pausenet::cni::error::invalid;
use pausenet::cni::{Code, Error, Result};

/// The least time between two passes: in a storm of news many are one reason. The first is answered at
/// once, for pods may be cut off.
const REST: Duration = Duration::from_millis(100);

/// The first wait after a failed pass; it doubles with each, up to the slow timer.
const RETRY: Duration = Duration::from_millis(500);

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
            eprintln!("pausenetd: {}", err.msg);
            if !err.details.is_empty() {
                eprintln!("hint: {}", err.details);
            }
            ExitCode::FAILURE
        }
    }
}

fn start_log(options: &Options) -> Result<()> {
    use std::io::IsTerminal;
    let filter: Targets = options.log.parse().map_err(|err| {
        invalid(format!("--log {:?}: {err}", options.log))
            .hint("a level (error, warn, info, debug, trace), or target=level with commas between")
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
        // First what can be wrong with the options: nothing has been changed then. The port is also
        // how a second daemon on this node finds out that it is one.
        let listener = http::open(options.listen)?;
        let client = node_watch::client(&options).await?;
        let signals = Signals::new()?;
        tracing::info!(
            "pausenetd {} on node {}; probes and metrics on {}",
            env!("CARGO_PKG_VERSION"),
            options.node_name(),
            options.listen
        );
        let bell = Arc::new(Bell::default());
        let nodes = Nodes::default();
        let (metrics, registry) = Metrics::new();
        // Longer than a pass and the wait after it can take.
        let limit = options.interval() + Duration::from_secs(120);
        let health = Arc::new(Health::new(limit));
        let passes = start_passes(options, &bell, &nodes, &metrics, &health)?;
        let outcome = tokio::select! {
            () = node_watch::watch(client, nodes, bell.clone(), metrics) => Err(Error::new(
                Code::Internal,
                "the watch of the Nodes has ended by itself",
            )),
            outcome = http::serve(listener, health, registry) => outcome,
            () = signals.any() => Ok(()),
        };
        // What is half done is done to its end.
        bell.stop();
        let _ = passes.join();
        tracing::info!("stopped; everything stays in place for running pods");
        outcome
    })
}

/// What asks for the end.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let listen = |kind| {
            signal(kind).map_err(|err| {
                Error::new(Code::Internal, format!("cannot wait for signals: {err}"))
            })
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

fn start_passes(
    options: Options,
    bell: &Arc<Bell>,
    nodes: &Nodes,
    metrics: &Metrics,
    health: &Arc<Health>,
) -> Result<JoinHandle<()>> {
    let own_pods = OwnPods::default();
    let interval = options.interval();
    let reconciler = Reconciler::new(options, metrics.clone(), own_pods.clone())?;
    monitor::listen(bell, &own_pods).map_err(|err| {
        Error::new(
            Code::KernelRefused,
            format!("cannot listen to what the kernel tells of routes and nftables: {err}"),
        )
    })?;
    let (bell, nodes) = (bell.clone(), nodes.clone());
    let (metrics, health) = (metrics.clone(), health.clone());
    std::thread::Builder::new()
        .name("passes".into())
        .spawn(move || make_passes(reconciler, &bell, &nodes, &metrics, &health, interval))
        .map_err(|err| Error::new(Code::Internal, format!("cannot start a thread: {err}")))
}

fn make_passes(
    mut reconciler: Reconciler,
    bell: &Bell,
    nodes: &Nodes,
    metrics: &Metrics,
    health: &Health,
    interval: Duration,
) {
    let mut scope = Scope::Everything;
    let mut retry = RETRY;
    // The slow timer, which passes for other reasons do not set back.
    let mut everything = Instant::now() + interval;
    loop {
        let start = Instant::now();
        let report = reconciler.pass(nodes.list().as_deref(), scope);
        metrics.passed(start.elapsed());
        health.passed(report.not_ready);
        if scope == Scope::Everything {
            everything = Instant::now() + interval;
        }
        let mut deadline = everything;
        if report.failed {
            deadline = deadline.min(Instant::now() + retry);
            retry = (retry * 2).min(interval);
        } else {
            retry = RETRY;
        }
        let Some(next) = bell.wait(deadline, Instant::now() + REST) else {
            return;
        };
        scope = next;
    }
}
