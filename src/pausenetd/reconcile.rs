//! One pass over all parts. Independent parts go on when one fails. The conflist comes last, and the
//! first time only after everything that pods need is in place. From then on the node stays ready:
//! neither a later failure nor an unreachable API server removes anything.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::SystemTime;

use ipnetwork::IpNetwork;

use super::conflist::{self, Outcome};
use super::desired::{self, DesiredState, Problem, ProblemKind};
use super::metrics::Metrics;
use super::monitor::OwnPodSubnets;
use super::node::Node;
use super::node_watch::NodeList;
use super::options::{Options, Settings};
use super::pod_elements::PodElements;
use super::wakeup::PassScope;
use super::{gc, masquerade, plugins, routes};
use pausenet::apply::{Host, nft_elements};
use pausenet::kernel::link::Which;
use pausenet::kernel::nft::Nft;
use pausenet::kernel::owned_route::{NextHop, OwnedRoute, Target};
use pausenet::kernel::{RouteSocket, address, link};
use pausenet_host::install::managed_folder::PutAction;
use pausenet_host::{During, Error, Result};

/// Applies the desired state to this node, pass by pass.
pub struct Reconciler {
    options: Options,
    settings: Settings,
    socket: RouteSocket,
    nft: Nft,
    metrics: Metrics,
    own_pod_subnets: OwnPodSubnets,
    last_masquerade: Option<masquerade::LastApplied>,
    pod_elements: PodElements,
    plugins_installed: bool,
    plugins_fingerprint: plugins::Fingerprint,
    /// Everything that pods need has been in place at the end of some pass.
    was_ready: bool,
    /// The pod subnets that garbage collection last ran for.
    gc_subnets: Vec<IpNetwork>,
    /// The complaints of the last pass.
    logged: BTreeSet<String>,
}

/// The outcome of a pass.
#[derive(Debug, Default)]
pub struct PassReport {
    /// Some part failed and should be tried again soon.
    pub(crate) failed: bool,
    /// Why this node is not ready for pods; None when it is.
    pub not_ready: Option<String>,
    /// What pods need and what is missing.
    missing: Vec<String>,
    complaints: BTreeSet<String>,
}

impl Reconciler {
    /// Opens netlink sockets in the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel grants no socket.
    pub fn new(options: Options, metrics: Metrics, own_pod_subnets: OwnPodSubnets) -> Result<Self> {
        let pod_elements = PodElements::new(&options);
        Ok(Self {
            settings: options.settings(),
            options,
            socket: Host::open_socket()?,
            nft: nft_elements::open()?,
            metrics,
            own_pod_subnets,
            last_masquerade: None,
            pod_elements,
            plugins_installed: false,
            plugins_fingerprint: plugins::Fingerprint::default(),
            was_ready: false,
            gc_subnets: Vec::new(),
            logged: BTreeSet::new(),
        })
    }

    /// Counts the attachments for the metrics. What fails here fails in the next pass too, and is
    /// reported there.
    pub(crate) fn count_attachments(&mut self) {
        if let Ok(count) = gc::count_attachments(&mut self.socket, &self.settings.network) {
            self.metrics.count_attachments(count);
        }
    }

    /// Makes one pass over the parts within the scope. `nodes` is None before the first list.
    pub fn pass(&mut self, nodes: Option<&NodeList>, scope: PassScope) -> PassReport {
        let mut report = PassReport::default();
        if scope == PassScope::Everything || !self.plugins_installed {
            let outcome = self.install_plugins();
            self.record_required(&mut report, "plugins", outcome);
        }
        match nodes.map(|nodes| self.split_nodes(nodes)) {
            Some(Ok((own, others))) => self.apply_network(&own, &others, scope, &mut report),
            // Everything stays as it is for running pods.
            Some(Err((part, err))) => self.record_required(&mut report, part, Err(err)),
            None => report
                .missing
                .push("no list of Nodes from the API server yet".to_owned()),
        }
        let outcome = self.restore_pod_elements();
        self.record(&mut report, "ports", outcome);
        report.not_ready = self.why_not_ready(&report);
        self.log_changes(&report);
        report
    }

    fn why_not_ready(&mut self, report: &PassReport) -> Option<String> {
        self.was_ready |= report.missing.is_empty();
        let (dir, name) = (&self.options.conf_dir, &self.options.conf_name);
        let conflist_exists = conflist::exists(dir, name);
        if self.was_ready && self.plugins_installed && conflist_exists {
            return None;
        }
        let mut missing = report.missing.clone();
        if !conflist_exists {
            missing.push(format!("{} does not exist", dir.join(name).display()));
        }
        Some(missing.join("\n"))
    }

    /// Splits the list into this node and the others. An error comes with the part it counts for.
    fn split_nodes(&self, nodes: &NodeList) -> Result<(Node, Vec<Node>), (&'static str, Error)> {
        let name = self.options.node_name();
        let unknown = |msg: String, hint: &str| Error::new(msg).hint(hint);
        let Some(own) = nodes.get(name) else {
            let msg = format!(
                "this node, {name}, is not among the {} Nodes of the cluster; nothing was changed",
                nodes.len()
            );
            let hint = "set --node-name to the name of its Node (in a manifest: spec.nodeName)";
            return Err(("node", unknown(msg, hint)));
        };
        if own.pod_cidrs.is_empty() && own.unreadable.is_empty() {
            let msg = format!("Node {name} has no podCIDR; nothing was changed");
            let hint =
                "the controller manager assigns one with --allocate-node-cidrs and --cluster-cidr";
            return Err(("pod_cidr", unknown(msg, hint)));
        }
        let others = nodes.values().filter(|node| node.name != *name);
        Ok((own.clone(), others.cloned().collect()))
    }

    fn apply_network(
        &mut self,
        own: &Node,
        others: &[Node],
        scope: PassScope,
        report: &mut PassReport,
    ) {
        if let Ok(mut pods) = self.own_pod_subnets.write()
            && *pods != own.pod_cidrs
        {
            pods.clone_from(&own.pod_cidrs);
        }
        let next_hops = match routes::next_hops(&mut self.socket, &desired::gateways(others)) {
            Ok(next_hops) => next_hops,
            Err(err) => return self.record_required(report, "routes", Err(err)),
        };
        let links = next_hops.values().filter_map(|next_hop| match next_hop {
            NextHop::OnLink(link) => Some(*link),
            _ => None,
        });
        let mut link_to_others: Vec<u32> = links.collect();
        link_to_others.sort_unstable();
        let desired = desired::compute(own, others, &self.settings, &next_hops);
        let mut problems = desired.problems.clone();

        let of_node = |route: &OwnedRoute| {
            let has = |node: &&Node| node.pod_cidrs.contains(&route.dst);
            let node = others.iter().find(has);
            node.map_or_else(String::new, |node| node.name.clone())
        };
        // Routes come first: nftables makes its writers wait.
        match self.apply_routes(&desired, of_node, &mut problems) {
            // The problem is another Node's, so this node is ready nevertheless.
            Ok(Some(refused)) => self.record(report, "routes", Err(refused)),
            outcome => self.record_required(report, "routes", outcome.map(drop)),
        }

        let masquerade = self.apply_masquerade(&desired);
        let masquerade_is_set = masquerade.is_ok();
        self.record_required(report, "masquerade", masquerade);

        if self.plugins_installed && masquerade_is_set {
            let outcome = self.write_conflist(&desired, own, link_to_others.first().copied());
            self.record_required(report, "conflist", outcome);
        }
        if let Err(err) =
            conflist::check_comes_first(&self.options.conf_dir, &self.options.conf_name)
        {
            report.complaints.insert(err.to_string());
        }
        let gc_is_due = scope == PassScope::Everything || self.gc_subnets != desired.pods;
        if gc_is_due && !desired.pods.is_empty() {
            let outcome = self.collect_garbage(&desired);
            self.record(report, "gc", outcome);
        }
        for problem in &problems {
            let text = format!("Node {}: {}", problem.node, problem.text);
            report.complaints.insert(text);
        }
        self.metrics.nodes.set(others.len() as i64 + 1);
        self.metrics.problems(&problems);
    }

    fn install_plugins(&mut self) -> Result<()> {
        self.plugins_installed = false;
        let installed = plugins::ensure(&self.options, &mut self.plugins_fingerprint)?;
        self.plugins_installed = true;
        self.metrics.part_changed("plugins", installed.len());
        for one in installed {
            let kept = match one.put {
                PutAction::Replace => "; the file from before is kept",
                _ => "",
            };
            tracing::info!("installed {}{kept}", one.file.display());
        }
        Ok(())
    }

    fn apply_masquerade(&mut self, desired: &DesiredState) -> Result<()> {
        if !self.settings.masquerade {
            if masquerade::remove(&mut self.nft)? {
                tracing::info!("removed the masquerade table: --masquerade is false");
                self.metrics.part_changed("masquerade", 1);
            }
            return Ok(());
        }
        match masquerade::ensure(
            &mut self.nft,
            &desired.masquerade,
            &mut self.last_masquerade,
        )? {
            masquerade::Outcome::Unchanged => return Ok(()),
            masquerade::Outcome::Created => tracing::info!("set the masquerade table"),
            masquerade::Outcome::Repaired => {
                tracing::warn!("restored the masquerade table: another program had changed it");
            }
        }
        self.metrics.part_changed("masquerade", 1);
        Ok(())
    }

    /// Sets the routes. A refused route to another Node's pods is returned as a value, one of this
    /// node's own as an error.
    fn apply_routes(
        &mut self,
        desired: &DesiredState,
        of_node: impl Fn(&OwnedRoute) -> String,
        problems: &mut Vec<Problem>,
    ) -> Result<Option<Error>> {
        let outcome = routes::ensure(&mut self.socket, &desired.routes)?;
        let (put, removed) = (outcome.put, outcome.removed);
        if put + removed > 0 {
            tracing::info!("routes to pods: {put} set, {removed} removed");
        }
        self.metrics.part_changed("routes", put + removed);
        let shadowed = routes::shadowed(&mut self.socket, &desired.routes, &of_node)?;
        let refused: Vec<_> = outcome
            .refused
            .iter()
            .map(|(route, _)| of_node(route))
            .collect();
        problems.extend(
            shadowed
                .into_iter()
                .filter(|it| !refused.contains(&it.node)),
        );
        let route_error = |(route, why): &(OwnedRoute, String)| {
            Error::new(format!("the kernel refused a route ({route}): {why}"))
        };
        let mut refused = outcome.refused.iter();
        let first = refused.clone().next().map(route_error);
        let own = refused
            .find(|(route, _)| route.target == Target::Unreachable)
            .map(route_error);
        for (route, why) in outcome.refused {
            problems.push(Problem {
                node: of_node(&route),
                kind: ProblemKind::Refused,
                text: format!("no route to its pods ({route}): the kernel refused it: {why}"),
            });
        }
        self.metrics.routes.set(outcome.present as i64);
        own.map_or(Ok(first), Err)
    }

    fn write_conflist(
        &mut self,
        desired: &DesiredState,
        own: &Node,
        link: Option<u32>,
    ) -> Result<()> {
        if desired.pods.is_empty() {
            let msg = format!("Node {} has no podCIDR with an address for a pod", own.name);
            return Err(Error::new(msg));
        }
        let (dir, name) = (&self.options.conf_dir, &self.options.conf_name);
        let mtu = match self.settings.mtu {
            Some(mtu) => Some(mtu),
            None => uplink_mtu(&mut self.socket, &own.addresses, link)?,
        };
        if mtu.is_none() && conflist::exists(dir, name) {
            return Err(Error::new(format!(
                "no link has an address of Node {}, so the MTU of pods is unknown; {name} \
                     stays as it is",
                own.name
            ))
            .hint("--mtu sets it"));
        }
        let text = conflist::render(&self.settings, &desired.pods, mtu);
        if conflist::ensure(dir, name, &text)? == Outcome::Written {
            let pods: Vec<_> = desired.pods.iter().map(|net| net.to_string()).collect();
            let mtu = mtu.map_or_else(|| "the kernel's".to_owned(), |mtu| mtu.to_string());
            let file = dir.join(name);
            tracing::info!(
                "wrote {}: pods in {}, MTU {mtu}",
                file.display(),
                pods.join(", ")
            );
            self.metrics.part_changed("conflist", 1);
        }
        Ok(())
    }

    fn collect_garbage(&mut self, desired: &DesiredState) -> Result<()> {
        let config = conflist::render(&self.settings, &desired.pods, None);
        let store = &self.settings.store_dir;
        let kernel = (&mut self.socket, &mut self.nft);
        let report = gc::collect(kernel, &config, &desired.pods, store, SystemTime::now())?;
        self.gc_subnets.clone_from(&desired.pods);
        if report.reclaimed + report.freed > 0 {
            tracing::info!(
                "reclaimed what no pod owned: {} attachments and {} addresses",
                report.reclaimed,
                report.freed
            );
        }
        self.metrics.gc_report(&report);
        Ok(())
    }

    fn restore_pod_elements(&mut self) -> Result<()> {
        let count = self.pod_elements.restore(&mut self.socket, &mut self.nft)?;
        if count > 0 {
            tracing::warn!(
                "restored nftables elements of {count} pods, published ports for example: another \
                 program had removed them"
            );
        }
        self.metrics.part_changed("ports", count);
        Ok(())
    }

    /// Records the outcome of a part that pods cannot do without.
    fn record_required(&self, report: &mut PassReport, part: &'static str, outcome: Result<()>) {
        if let Err(err) = &outcome {
            report.missing.push(format!("{part}: {err}"));
        }
        self.record(report, part, outcome);
    }

    /// Records the outcome of a part.
    fn record(&self, report: &mut PassReport, part: &'static str, outcome: Result<()>) {
        if let Err(err) = outcome {
            self.metrics.part_failed(part);
            report.failed = true;
            report.complaints.insert(err.to_string());
        }
    }

    /// Logs each complaint once when it appears, and once when it is solved.
    fn log_changes(&mut self, report: &PassReport) {
        for new in report.complaints.difference(&self.logged) {
            tracing::warn!("{new}");
        }
        for over in self.logged.difference(&report.complaints) {
            tracing::info!("solved: {over}");
        }
        self.logged.clone_from(&report.complaints);
    }
}

/// The least MTU of the links that hold the node's addresses, or else the MTU of the link `otherwise`
/// (to other nodes). None if there is no such link.
fn uplink_mtu(
    socket: &mut RouteSocket,
    addresses: &[IpAddr],
    otherwise: Option<u32>,
) -> Result<Option<u32>> {
    let attempt = "look up the link with the node's address";
    let mut holders = Vec::new();
    for ip in addresses {
        holders.extend(address::holder(socket, *ip).during(attempt)?);
    }
    if holders.is_empty() {
        holders.extend(otherwise);
    }
    let mut least = None;
    for index in holders {
        let found = link::get(socket, Which::Index(index)).during(attempt)?;
        let mtu = found.map(|link| link.mtu);
        least = match (least, mtu) {
            (Some(a), Some(b)) => Some(std::cmp::min(a, b)),
            (a, b) => a.or(b),
        };
    }
    Ok(least)
}
