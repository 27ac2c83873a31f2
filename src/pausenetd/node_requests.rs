//! The requests that keep the list of Nodes: a list, then watches of what has changed since.
//!
//! Whatever the API server does, or what stands between, the daemon asks again within a stated time, and
//! not too often: every request and every watch has a time limit, and after every one that ended early
//! there is a wait, which grows. Meanwhile the last list stays in use.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::api::core::v1 as api;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::{Api, Client};

use super::http::Health;
use super::metrics::Metrics;
use super::node::Node;
use super::node_watch::{self, NodeList, Nodes};
use super::options::Options;
use super::wakeup::{PassScope, WakeUp};

/// How long the server may take to begin an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// How long a page of the list may take.
const PAGE_LIMIT: Duration = Duration::from_secs(30);

/// Nodes in a page.
const PAGE: u32 = 500;

/// A watch that ends sooner has failed, whatever it says.
const SHORT: Duration = Duration::from_secs(5);

/// The longest wait that a server may ask for by Retry-After.
const LONGEST_WISH: Duration = Duration::from_secs(60);

/// Why requests stopped, and how to go on.
struct Ending {
    /// For the log; None: as it should be.
    failure: Option<String>,
    /// The list has to be read anew.
    is_stale: bool,
    /// How long the server asked to wait.
    wish: Duration,
}

impl Ending {
    fn failed(failure: String) -> Self {
        Self {
            failure: Some(failure),
            is_stale: true,
            wish: Duration::ZERO,
        }
    }

    /// Of a refusal by the server, as its answer or as an event.
    fn refused(attempt: &str, status: &kube::core::Status) -> Self {
        let mut failure = format!("{attempt}: {status} (status {})", status.code);
        match status.code {
            401 => failure.push_str("; the API server does not accept the token or certificate"),
            403 => failure.push_str("; its user needs get, list and watch of nodes (RBAC)"),
            _ => {}
        }
        let wish = status
            .details
            .as_ref()
            .map_or(0, |details| details.retry_after_seconds);
        // It has more requests than it can serve.
        let least = u64::from(status.code == 429);
        Self {
            wish: Duration::from_secs(u64::from(wish).max(least)).min(LONGEST_WISH),
            ..Self::failed(failure)
        }
    }

    fn error(attempt: &str, error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::refused(attempt, status),
            other => Self::failed(format!("{attempt}: {}", with_causes(other))),
        }
    }
}

/// Keeps the list of Nodes; does not return.
pub(crate) struct NodeRequests {
    pub(crate) options: Options,
    pub(crate) nodes: Nodes,
    pub(crate) wake_up: Arc<WakeUp>,
    pub(crate) metrics: Metrics,
    pub(crate) health: Arc<Health>,
}

impl NodeRequests {
    pub(crate) async fn run(self, mut client: Client) {
        let mut failures = 0;
        let mut is_reported = false;
        // From where the next watch goes on.
        let mut version: Option<String> = None;
        loop {
            let start = Instant::now();
            let nodes = Api::<api::Node>::all(client.clone());
            let ending = match version.clone() {
                None => match self.list(&nodes).await {
                    Ok(listed) => {
                        if std::mem::take(&mut is_reported) {
                            tracing::info!("watching the Nodes again");
                        }
                        // Failures still count: the watch may go on failing.
                        version = Some(listed);
                        continue;
                    }
                    Err(ending) => ending,
                },
                Some(from) => {
                    let mut last = from.clone();
                    let mut ending = self.watch(&nodes, from, &mut last).await;
                    let is_short = start.elapsed() < SHORT;
                    if ending.failure.is_none() && is_short {
                        ending.failure = Some("a watch of the Nodes ended at once".to_owned());
                    } else if ending.failure.is_none() {
                        failures = 0;
                    }
                    version = (!ending.is_stale).then_some(last);
                    ending
                }
            };
            if let Some(failure) = &ending.failure {
                self.metrics.watch_errors.inc();
                if !std::mem::replace(&mut is_reported, true) {
                    tracing::warn!("cannot watch the Nodes: {failure}");
                } else {
                    tracing::debug!("cannot watch the Nodes: {failure}");
                }
                // Credentials and certificates are files that others replace, and a name may lead to
                // another address by now.
                if failures > 0 {
                    match node_watch::client(&self.options).await {
                        Ok(new) => client = new,
                        Err(err) => tracing::debug!("{}", err.message),
                    }
                }
            }
            let delay = match ending.failure {
                None => Duration::ZERO,
                Some(_) => retry_delay(failures),
            };
            tokio::time::sleep(delay.max(ending.wish)).await;
            failures += u32::from(ending.failure.is_some());
        }
    }

    /// Reads the whole list. Returns the version that a watch goes on from.
    async fn list(&self, nodes: &Api<api::Node>) -> Result<String, Ending> {
        let attempt = "list them";
        let mut listed = NodeList::new();
        let mut parameters = ListParams::default().limit(PAGE);
        loop {
            let page = limited(PAGE_LIMIT, attempt, nodes.list(&parameters)).await?;
            listed.extend(page.items.iter().map(|node| {
                let node = Node::read(node);
                (node.name.clone(), node)
            }));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => parameters.continue_token = Some(token),
                None => {
                    let version = page.metadata.resource_version.unwrap_or_default();
                    if version.is_empty() {
                        let what = format!("{attempt}: the list has no resourceVersion");
                        return Err(Ending::failed(what));
                    }
                    self.has_news();
                    self.changed(self.nodes.replace(listed));
                    return Ok(version);
                }
            }
        }
    }

    /// Follows changes until the watch ends. `last` becomes the last version seen.
    async fn watch(&self, nodes: &Api<api::Node>, from: String, last: &mut String) -> Ending {
        let attempt = "watch them";
        let time = self.options.watch_time();
        // One that the server should have ended is dead.
        let idle_limit = time + time / 4 + Duration::from_secs(1);
        let parameters = WatchParams::default().timeout(time.as_secs() as u32);
        let stream = limited(ANSWER_LIMIT, attempt, nodes.watch(&parameters, &from)).await;
        let mut stream = match stream {
            Ok(stream) => std::pin::pin!(stream),
            Err(ending) => return ending,
        };
        loop {
            let event = match tokio::time::timeout(idle_limit, stream.next()).await {
                Ok(Some(Ok(event))) => event,
                Ok(Some(Err(err))) => return Ending::error(attempt, &err),
                Ok(None) => {
                    return Ending {
                        failure: None,
                        is_stale: false,
                        wish: Duration::ZERO,
                    };
                }
                Err(_) => {
                    let limit = idle_limit.as_secs();
                    return Ending::failed(format!("{attempt}: nothing came for {limit} s"));
                }
            };
            self.has_news();
            let version = match event {
                WatchEvent::Error(status) => return Ending::refused(attempt, &status),
                WatchEvent::Bookmark(bookmark) => bookmark.metadata.resource_version,
                WatchEvent::Added(node) | WatchEvent::Modified(node) => {
                    let read = Node::read(&node);
                    self.changed(self.nodes.update(|list| {
                        list.insert(read.name.clone(), read);
                    }));
                    node.metadata.resource_version.unwrap_or_default()
                }
                WatchEvent::Deleted(node) => {
                    let name = node.metadata.name.unwrap_or_default();
                    self.changed(self.nodes.update(|list| {
                        list.remove(&name);
                    }));
                    node.metadata.resource_version.unwrap_or_default()
                }
            };
            if version.is_empty() {
                return Ending::failed(format!("{attempt}: an event has no resourceVersion"));
            }
            *last = version;
        }
    }

    fn has_news(&self) {
        self.health.has_news();
        self.metrics.has_news();
    }

    fn changed(&self, is_changed: bool) {
        if is_changed {
            self.wake_up.request(PassScope::Network);
        }
    }
}

/// The answer to a request, within a time limit.
async fn limited<T>(
    limit: Duration,
    attempt: &str,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, Ending> {
    match tokio::time::timeout(limit, request).await {
        Ok(answer) => answer.map_err(|err| Ending::error(attempt, &err)),
        Err(_) => Err(Ending::failed(format!(
            "{attempt}: no answer for {} s",
            limit.as_secs()
        ))),
    }
}

/// How long to wait after this many failures in a row: twice as long each time, up to ten seconds.
/// Random within the upper half, so that the nodes do not all hit a returning API server at once.
fn retry_delay(failures: u32) -> Duration {
    const FIRST: Duration = Duration::from_millis(200);
    const LONGEST: Duration = Duration::from_secs(10);
    let full = LONGEST.min(FIRST * 2u32.pow(failures.min(10)));
    let mut random = [0];
    // Without random bytes, the delay is the full one.
    let _ = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty());
    full - full / 2 * u32::from(random[0]) / 255
}

/// The error with its causes.
fn with_causes(err: &kube::Error) -> String {
    let mut text = err.to_string();
    let mut cause = std::error::Error::source(err);
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text.push_str(&format!(": {more}"));
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_retry_delay_grows_up_to_its_limit() {
        for (failures, least, most) in [(0, 100, 200), (3, 800, 1600), (100, 5000, 10000)] {
            let delay = retry_delay(failures).as_millis();
            assert!((least..=most).contains(&delay), "{delay}");
        }
    }

    #[test]
    fn a_server_s_wish_to_wait_is_respected_up_to_a_minute() {
        for (json, seconds) in [
            (r#"{"code": 429, "details": {"retryAfterSeconds": 7}}"#, 7),
            (
                r#"{"code": 429, "details": {"retryAfterSeconds": 7000}}"#,
                60,
            ),
            (r#"{"code": 429}"#, 1),
            (r#"{"code": 500}"#, 0),
        ] {
            let status: kube::core::Status = serde_json::from_str(json).unwrap();
            let ending = Ending::refused("list them", &status);
            assert_eq!(ending.wish, Duration::from_secs(seconds), "{json}");
        }
    }
}
