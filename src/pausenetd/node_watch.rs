//! The cluster's Nodes, as the API server tells of them. The list is what was told last: while the
//! server is away it stays as it is.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1 as api;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher as watch_for;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Config};

use super::metrics::Metrics;
use super::node::Node;
use super::options::Options;
use super::wakeup::{Bell, Scope};
use pausenet::cni::{Code, Error, Result};

/// Nodes by name.
pub type NodeList = BTreeMap<String, Node>;

/// What is known of the cluster; nothing until it has been listed once.
#[derive(Debug, Clone, Default)]
pub struct Nodes(Arc<Mutex<Option<Arc<NodeList>>>>);

impl Nodes {
    /// The list as it is now.
    pub fn list(&self) -> Option<Arc<NodeList>> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<NodeList>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what was told. True when that changes anything.
    fn take_in(&self, list: NodeList) -> bool {
        let mut known = self.lock();
        let is_new = known.as_deref() != Some(&list);
        *known = Some(Arc::new(list));
        is_new
    }

    fn change(&self, change: impl FnOnce(&mut NodeList)) -> bool {
        let Some(known) = self.list() else {
            // Before the first list there is nothing to change.
            return false;
        };
        let mut list = NodeList::clone(&known);
        change(&mut list);
        self.take_in(list)
    }
}

/// A client of the API server.
///
/// # Errors
/// Code 7, when it is not told where that is and how to speak to it.
pub async fn client(options: &Options) -> Result<Client> {
    let mut config = match &options.kubeconfig {
        Some(file) => from_file(file).await?,
        None => Config::incluster().map_err(|err| {
            Error::new(
                Code::InvalidConfig,
                format!("cannot tell where the API server is: {err}"),
            )
            .hint("outside of a pod, --kubeconfig FILE tells; in a pod, the service account's token has to be mounted")
        })?,
    };
    if let Some(url) = &options.api_server {
        config.cluster_url = url.parse().map_err(|err| {
            Error::new(
                Code::InvalidConfig,
                format!("--api-server {url:?} is no URL: {err}"),
            )
            .hint("for example https://192.0.2.1:6443")
        })?;
    }
    tracing::info!("the API server is {}", config.cluster_url);
    Client::try_from(config).map_err(|err| {
        let msg = format!("cannot make a client of the API server: {err}");
        Error::new(Code::InvalidConfig, msg)
    })
}

async fn from_file(file: &Path) -> Result<Config> {
    let unusable = |err: kube::config::KubeconfigError| {
        let msg = format!("cannot use the kubeconfig {}: {err}", file.display());
        Error::new(Code::InvalidConfig, msg)
    };
    let kubeconfig = Kubeconfig::read_from(file).map_err(unusable)?;
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(unusable)
}

/// Watches the Nodes, for ever.
pub async fn watch(client: Client, nodes: Nodes, bell: Arc<Bell>, metrics: Metrics) {
    // A watch that has gone quiet without a word ends then, and another one begins.
    const QUIET: Duration = Duration::from_secs(120);
    let config = watcher::Config::default().timeout(QUIET.as_secs() as u32);
    let mut events = std::pin::pin!(watch_for(Api::<api::Node>::all(client), config));
    let mut listed = NodeList::new();
    let mut failures = 0;
    while let Some(event) = events.next().await {
        let is_new = match event {
            Err(err) => {
                metrics.watch_errors.inc();
                if failures == 0 {
                    tracing::warn!("cannot watch the Nodes: {}", explain(&err));
                }
                tokio::time::sleep(wait(failures)).await;
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
                nodes.take_in(std::mem::take(&mut listed))
            }
            Ok(Event::Apply(node)) => {
                failures = 0;
                let node = Node::read(&node);
                nodes.change(|list| {
                    list.insert(node.name.clone(), node);
                })
            }
            Ok(Event::Delete(node)) => {
                let name = node.metadata.name.unwrap_or_default();
                nodes.change(|list| {
                    list.remove(&name);
                })
            }
        };
        if is_new {
            bell.ring(Scope::Network);
        }
    }
}

/// How long to wait after so many failures in a row: twice as long each time, up to ten seconds; and
/// not the same on all nodes, or an API server that comes back would meet them all at once.
fn wait(failures: u32) -> Duration {
    const FIRST: Duration = Duration::from_millis(200);
    const LONGEST: Duration = Duration::from_secs(10);
    let full = LONGEST.min(FIRST * 2u32.pow(failures.min(10)));
    let mut random = [0];
    // Without any, all wait the full time.
    let _ = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty());
    full - full / 2 * u32::from(random[0]) / 255
}

/// The error with the causes behind it, and what to do where that is known.
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
        Some(401) => {
            text.push_str("; the token or certificate is not one that the API server takes")
        }
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
    fn the_wait_grows_and_ends_growing() {
        for (failures, least, most) in [(0, 100, 200), (3, 800, 1600), (100, 5000, 10000)] {
            let wait = wait(failures).as_millis();
            assert!((least..=most).contains(&wait), "{wait}");
        }
    }

    #[test]
    fn only_what_concerns_the_network_is_news() {
        let nodes = Nodes::default();
        assert!(nodes.list().is_none());
        assert!(!nodes.change(|list| list.clear()));
        let list = NodeList::from([("a".into(), node("a", "10.1.0.0/24"))]);
        assert!(nodes.take_in(list.clone()));
        assert!(!nodes.take_in(list));
        let same = node("a", "10.1.0.0/24");
        assert!(!nodes.change(|list| drop(list.insert("a".into(), same))));
        let other = node("a", "10.1.9.0/24");
        assert!(nodes.change(|list| drop(list.insert("a".into(), other))));
        assert!(nodes.change(|list| drop(list.remove("a"))));
        assert_eq!(nodes.list().unwrap().len(), 0);
    }
}
