//! The cluster's Nodes as the API server last listed them, and a client of that server.
//! [`super::node_requests`] keeps the list.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};

use super::node::Node;
use super::options::Options;
use pausenet_host::{Error, Result};

/// How long a connection, with TLS, may take. After a boot the first one may be made before kube-proxy has its
/// rules for the Service of the API server. It then stays without them, since the kernel has translated its first
/// packet already (to what it was), so that only another one gets through.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

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
    let files = kubeconfig_files(
        options.kubeconfig.as_deref(),
        std::env::var_os("KUBECONFIG"),
    );
    let mut config = match files.as_slice() {
        [_, ..] => from_files(&files, options.context.as_deref()).await?,
        [] => Config::incluster().map_err(|err| {
            Error::new(format!("cannot find the API server: {err}")).hint(
                "outside a pod, set --kubeconfig FILE or KUBECONFIG; in a pod, mount the service account's token",
            )
        })?,
    };
    if let Some(url) = &options.api_server {
        config.cluster_url = url.parse().map_err(|err| {
            Error::new(format!("--api-server {url:?} is not a URL: {err}"))
                .hint("for example https://192.0.2.1:6443")
        })?;
    }
    config.connect_timeout = Some(CONNECT_LIMIT);
    tracing::debug!("the API server is {}", config.cluster_url);
    Client::try_from(config).map_err(|err| {
        let msg = format!("cannot set up a client for the API server: {err}");
        Error::new(msg)
    })
}

/// The kubeconfigs to read: the one that is named, or else those of KUBECONFIG that exist, as kubectl
/// takes them.
fn kubeconfig_files(named: Option<&Path>, variable: Option<OsString>) -> Vec<PathBuf> {
    if let Some(file) = named {
        return vec![file.to_owned()];
    }
    let listed: Vec<_> = std::env::split_paths(&variable.unwrap_or_default())
        .filter(|file| !file.as_os_str().is_empty())
        .collect();
    let existing: Vec<_> = listed
        .iter()
        .filter(|file| file.exists())
        .cloned()
        .collect();
    match existing.is_empty() {
        // Reading them says what is wrong.
        true => listed,
        false => existing,
    }
}

/// Of several files, the first that has a name or the current context counts.
async fn from_files(files: &[PathBuf], context: Option<&str>) -> Result<Config> {
    let mut merged: Option<Kubeconfig> = None;
    for file in files {
        let unusable = |err| unusable(std::slice::from_ref(file), err);
        // Paths in a file are relative to its folder.
        let mut read = Kubeconfig::read_from(file).map_err(unusable)?;
        read.current_context = read.current_context.filter(|name| !name.is_empty());
        merged = Some(match merged {
            None => read,
            Some(before) => before.merge(read).map_err(unusable)?,
        });
    }
    let options = KubeConfigOptions {
        context: context.map(str::to_owned),
        ..KubeConfigOptions::default()
    };
    Config::from_custom_kubeconfig(merged.unwrap_or_default(), &options)
        .await
        .map_err(|err| unusable(files, err))
}

fn unusable(files: &[PathBuf], err: KubeconfigError) -> Error {
    let names: Vec<_> = files
        .iter()
        .map(|file| file.display().to_string())
        .collect();
    Error::new(format!(
        "cannot use the kubeconfig {}: {err}",
        names.join(", ")
    ))
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
    fn kubeconfigs_are_merged_as_kubectl_merges_them() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let file = dir.path().join(name);
            std::fs::write(&file, text).unwrap();
            file
        };
        let cluster = |name: &str, port: u16| {
            format!(
                "clusters: [{{name: {name}, cluster: {{server: 'http://127.0.0.1:{port}'}}}}]\n"
            )
        };
        let contexts = "contexts:\n\
            - {name: first, context: {cluster: one, user: me}}\n\
            - {name: second, context: {cluster: two, user: me}}\n";
        let clusters = write("clusters", &(cluster("one", 1) + "current-context: ''\n"));
        let more = write("more", &(cluster("two", 2) + "current-context: second\n"));
        let users = "users: [{name: me, user: {tokenFile: token}}]\ncurrent-context: first\n";
        let rest = write("rest", &format!("{contexts}{users}"));
        write("token", "secret");
        let missing = dir.path().join("missing");
        let listed = std::env::join_paths([&clusters, &missing, &more, &rest]).unwrap();
        let files = kubeconfig_files(None, Some(listed.clone()));
        assert_eq!(files, [clusters.clone(), more, rest]);
        let port = |context| {
            let config = pausenet_host::block_on::<_, Error>(from_files(&files, context)).unwrap();
            assert_eq!(
                config.auth_info.token_file.as_deref(),
                dir.path().join("token").to_str()
            );
            config.cluster_url.port_u16()
        };
        assert_eq!(
            port(None),
            Some(2),
            "the first current-context that is not empty"
        );
        assert_eq!(port(Some("first")), Some(1));
        // One that is named is the only one, and has to exist.
        assert_eq!(kubeconfig_files(Some(&clusters), Some(listed)), [clusters]);
        assert_eq!(kubeconfig_files(None, None), Vec::<PathBuf>::new());
        let only_missing = kubeconfig_files(None, Some(missing.clone().into()));
        let err = pausenet_host::block_on::<_, Error>(from_files(&only_missing, None)).unwrap_err();
        assert!(err.message.contains(missing.to_str().unwrap()), "{err}");
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
