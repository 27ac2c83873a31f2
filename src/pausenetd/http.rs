//! `/healthz`, `/readyz` and `/metrics` over HTTP.
//!
//! The daemon is alive while it completes passes, even failed ones: an unreachable API server is no
//! reason to restart it. It is ready when pods can be attached on this node.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use super::metrics;
use pausenet_host::{Error, Result};

/// The state of the passes, for probes.
#[derive(Debug)]
pub(crate) struct Health {
    state: Mutex<State>,
    /// The greatest age of the last pass that counts as alive.
    limit: Duration,
}

#[derive(Debug)]
struct State {
    last_pass: Instant,
    not_ready: Option<String>,
    /// When the API server last sent something.
    last_news: Option<Instant>,
}

impl Health {
    /// Alive and not ready.
    pub(crate) fn new(limit: Duration) -> Self {
        Self {
            state: Mutex::new(State {
                last_pass: Instant::now(),
                not_ready: Some("the first pass has not ended yet".into()),
                last_news: None,
            }),
            limit,
        }
    }

    /// Records the end of a pass, and why the node is not ready, if it is not.
    pub(crate) fn pass_ended(&self, not_ready: Option<String>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.last_pass = Instant::now();
        state.not_ready = not_ready;
    }

    /// Records that the API server has sent something.
    pub(crate) fn has_news(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.last_news = Some(Instant::now());
    }

    /// How old the last news from the API server are. They make nobody ready or not: pods can be attached
    /// without it.
    fn news(&self) -> String {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match state.last_news {
            Some(at) => format!(
                "last news from the API server: {} s ago",
                at.elapsed().as_secs()
            ),
            None => "last news from the API server: none yet".to_owned(),
        }
    }

    fn alive(&self) -> Result<(), String> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let age = state.last_pass.elapsed();
        if age <= self.limit {
            return Ok(());
        }
        Err(format!("no pass has ended for {} s", age.as_secs()))
    }

    fn ready(&self) -> Result<(), String> {
        self.alive()?;
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.not_ready.clone().map_or(Ok(()), Err)
    }
}

/// Binds the port.
///
/// # Errors
/// The address is not available: another pausenetd may have it.
pub(crate) fn bind(address: SocketAddr) -> Result<std::net::TcpListener> {
    std::net::TcpListener::bind(address).map_err(|err| {
        Error::new(format!("cannot listen on {address}: {err}"))
            .hint("does another pausenetd run here? --listen sets another address and port")
    })
}

/// Serves requests; returns only on failure.
///
/// # Errors
/// The listener does not work with the async runtime.
pub(crate) async fn serve(
    listener: std::net::TcpListener,
    health: Arc<Health>,
    registry: Registry,
) -> Result<()> {
    /// A client that sends no headers for this long is disconnected.
    const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
    let registry = Arc::new(registry);
    let listener = listener
        .set_nonblocking(true)
        .and_then(|()| TcpListener::from_std(listener))
        .map_err(|err| Error::new(format!("cannot listen for probes: {err}")))?;
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(err) => {
                // Often transient: out of file descriptors, for example.
                tracing::warn!("cannot accept a connection: {err}");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let (health, registry) = (health.clone(), registry.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let response = respond(request.method(), request.uri().path(), &health, &registry);
            std::future::ready(Ok::<_, Infallible>(response))
        });
        tokio::spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            // An error means that the client is gone; nothing to do.
            let _ = connection.await;
        });
    }
}

fn respond(
    method: &Method,
    path: &str,
    health: &Health,
    registry: &Registry,
) -> Response<Full<Bytes>> {
    const TEXT: &str = "text/plain; charset=utf-8";
    const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let probe = |outcome: Result<(), String>| match outcome {
        Ok(()) => (StatusCode::OK, TEXT, "ok\n".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, TEXT, why + "\n"),
    };
    let (status, kind, body) = match (method, path) {
        (&Method::GET | &Method::HEAD, "/healthz") => probe(health.alive()),
        (&Method::GET | &Method::HEAD, "/readyz") => {
            let (status, kind, body) = probe(health.ready());
            (status, kind, format!("{body}{}\n", health.news()))
        }
        (&Method::GET | &Method::HEAD, "/metrics") => match metrics::text(registry) {
            Ok(text) => (StatusCode::OK, METRICS, text),
            Err(err) => (StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{err}\n")),
        },
        (&Method::GET | &Method::HEAD, _) => {
            let paths = "the paths are /healthz, /readyz and /metrics\n";
            (StatusCode::NOT_FOUND, TEXT, paths.to_owned())
        }
        _ => (
            StatusCode::METHOD_NOT_ALLOWED,
            TEXT,
            "only GET and HEAD are supported\n".to_owned(),
        ),
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let kind = hyper::header::HeaderValue::from_static(kind);
    response
        .headers_mut()
        .insert(hyper::header::CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(health: &Health, path: &str) -> u16 {
        let (_, registry) = metrics::Metrics::new();
        respond(&Method::GET, path, health, &registry)
            .status()
            .as_u16()
    }

    #[test]
    fn a_daemon_that_is_not_ready_is_healthy() {
        let health = Health::new(Duration::from_secs(60));
        assert_eq!(status(&health, "/healthz"), 200);
        assert_eq!(status(&health, "/readyz"), 503);
        health.pass_ended(None);
        assert_eq!(status(&health, "/readyz"), 200);
        health.pass_ended(Some("no podCIDR".into()));
        assert_eq!(status(&health, "/readyz"), 503);
    }

    #[test]
    fn a_daemon_that_completes_no_pass_is_not_healthy() {
        let health = Health::new(Duration::ZERO);
        health.pass_ended(None);
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(status(&health, "/healthz"), 503);
        assert_eq!(status(&health, "/readyz"), 503);
    }

    #[test]
    fn other_paths_and_methods_are_refused() {
        let health = Health::new(Duration::from_secs(60));
        assert_eq!(status(&health, "/metrics"), 200);
        assert_eq!(status(&health, "/"), 404);
        let (_, registry) = metrics::Metrics::new();
        let post = respond(&Method::POST, "/healthz", &health, &registry);
        assert_eq!(post.status().as_u16(), 405);
    }
}
