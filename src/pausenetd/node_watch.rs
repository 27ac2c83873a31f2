//! Watches the cluster's Nodes on the API server. While the server is unreachable, the last list
//! stays in use.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1 as api;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher as watch_events;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Config};

use super::metrics::Metrics;
use super::node::Node;
use super::options::Options;
use super::wakeup::{PassScope, WakeUp};
use pausenet_host::{Error, Result};

/// Nodes by name.
pub type NodeList = BTreeMap<String, Node>;

/// The last list of Nodes; None before the first one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Nodes(Arc<Mutex<Option<Arc<NodeList>>>>);

impl Nodes {
    /// The current list.
    pub(crate) fn list(&self) -> Option<Arc<NodeList>> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<NodeList>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores a new list. True if it differs from the last one.
    fn replace(&self, list: NodeList) -> bool {
        let mut known = self.lock();
        let is_changed = known.as_deref() != Some(&list);
        *known = Some(Arc::new(list));
        is_changed
    }

    fn update(&self, update: impl FnOnce(&mut NodeList)) -> bool {
        let Some(known) = self.list() else {
            // Before the first list there is nothing to update.
            return false;
        };
        let mut list = NodeList::clone(&known);
        update(&mut list);
        self.replace(list)
    }
}

/// A client of the API server.
///
/// # Errors
/// No usable address or credentials: the hint names the flag that sets them.
pub(crate) async fn client(options: &Options) -> Result<Client> {
    let mut config = match &options.kubeconfig {
        Some(file) => from_file(file).await?,
        None => Config::incluster().map_err(|err| {
            Error::new(format!("cannot find the API server: {err}")).hint(
                "outside a pod, set --kubeconfig FILE; in a pod, mount the service account's token",
            )
        })?,
    };
    if let Some(url) = &options.api_server {
        config.cluster_url = url.parse().map_err(|err| {
            Error::new(format!("--api-server {url:?} is not a URL: {err}"))
                .hint("for example https://192.0.2.1:6443")
        })?;
    }
    tracing::info!("the API server is {}", config.cluster_url);
    Client::try_from(config).map_err(|err| {
        let msg = format!("cannot set up a client for the API server: {err}");
        Error::new(msg)
    })
}

async fn from_file(file: &Path) -> Result<Config> {
    let unusable = |err: kube::config::KubeconfigError| {
        let msg = format!("cannot use the kubeconfig {}: {err}", file.display());
        Error::new(msg)
    };
    let kubeconfig = Kubeconfig::read_from(file).map_err(unusable)?;
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(unusable)
}

/// Watches the Nodes; does not return in practice.
pub(crate) async fn watch(client: Client, nodes: Nodes, wake_up: Arc<WakeUp>, metrics: Metrics) {
    // A connection may die silently, so each watch is limited in time; then another one starts.
    const WATCH_TIMEOUT: Duration = Duration::from_secs(120);
    let config = watcher::Config::default().timeout(WATCH_TIMEOUT.as_secs() as u32);
    let mut events = std::pin::pin!(watch_events(Api::<api::Node>::all(client), config));
    let mut listed = NodeList::new();
    let mut failures = 0;
    while let Some(event) = events.next().await {
        let is_changed = match event {
            Err(err) => {
                metrics.watch_errors.inc();
                if failures == 0 {
                    tracing::warn!("cannot watch the Nodes: {}", explain(&err));
                }
                tokio::time::sleep(retry_delay(failures)).await;
                failures += 1;
                continue;
            }
            Ok(Event::Init) => {
                listed.clear();
                false
            }
            Ok(Event::InitApply(node)) => {
                let node = Node::read(&node);
                listed.insert(node.name.clone(), node);
                false
            }
            Ok(Event::InitDone) => {
                if failures > 0 {
                    tracing::info!("watching the Nodes again: {}", listed.len());
                }
                failures = 0;
                nodes.replace(std::mem::take(&mut listed))
            }
            Ok(Event::Apply(node)) => {
                failures = 0;
                let node = Node::read(&node);
                nodes.update(|list| {
                    list.insert(node.name.clone(), node);
                })
            }
            Ok(Event::Delete(node)) => {
                let name = node.metadata.name.unwrap_or_default();
                nodes.update(|list| {
                    list.remove(&name);
                })
            }
        };
        if is_changed {
            wake_up.request(PassScope::Network);
        }
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

/// The error with its causes, and what to do about it where that is known.
fn explain(err: &watcher::Error) -> String {
    let mut text = err.to_string();
    let mut cause = std::error::Error::source(err);
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text.push_str(&format!(": {more}"));
        }
        cause = inner.source();
    }
    let status = match err {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status)) => Some(status.code),
        watcher::Error::WatchError(status) => Some(status.code),
        _ => None,
    };
    match status {
        Some(401) => text.push_str("; the API server does not accept the token or certificate"),
        Some(403) => text.push_str("; its user needs get, list and watch of nodes (RBAC)"),
        _ => {}
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, cidr: &str) -> Node {
        Node {
            name: name.into(),
            addresses: Vec::new(),
            pod_cidrs: vec![cidr.parse().unwrap()],
            unreadable: Vec::new(),
        }
    }

    #[test]
    fn the_retry_delay_grows_up_to_its_limit() {
        for (failures, least, most) in [(0, 100, 200), (3, 800, 1600), (100, 5000, 10000)] {
            let delay = retry_delay(failures).as_millis();
            assert!((least..=most).contains(&delay), "{delay}");
        }
    }

    #[test]
    fn only_changes_that_matter_to_the_network_count_as_changes() {
        let nodes = Nodes::default();
        assert!(nodes.list().is_none());
        assert!(!nodes.update(|list| list.clear()));
        let list = NodeList::from([("a".into(), node("a", "10.1.0.0/24"))]);
        assert!(nodes.replace(list.clone()));
        assert!(!nodes.replace(list));
        let same = node("a", "10.1.0.0/24");
        assert!(!nodes.update(|list| drop(list.insert("a".into(), same))));
        let other = node("a", "10.1.9.0/24");
        assert!(nodes.update(|list| drop(list.insert("a".into(), other))));
        assert!(nodes.update(|list| drop(list.remove("a"))));
        assert_eq!(nodes.list().unwrap().len(), 0);
    }
}
