//! The cluster's Nodes as the API server last listed them, and a client of that server.
//! [`super::node_requests`] keeps the list.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use super::node::Node;
use super::options::Options;
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
    pub(super) fn replace(&self, list: NodeList) -> bool {
        let mut known = self.lock();
        let is_changed = known.as_deref() != Some(&list);
        *known = Some(Arc::new(list));
        is_changed
    }

    pub(super) fn update(&self, update: impl FnOnce(&mut NodeList)) -> bool {
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
    tracing::debug!("the API server is {}", config.cluster_url);
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
