//! One pass over all that the daemon sees to. Parts that do not depend on each other go on when one
//! fails; the network's configuration comes last, and for the first time only when what pods need is
//! in place. Once all that pods need has been, the node counts as ready, and goes on so: what fails
//! later, or an API server that is away, takes nothing from what is there.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::SystemTime;

use ipnetwork::IpNetwork;

use super::conflist::{self, Outcome};
use super::desired::{self, Desired, Problem, ProblemKind, desired};
use super::metrics::Metrics;
use super::monitor::OwnPods;
use super::node::Node;
use super::node_watch::NodeList;
use super::options::{Options, Settings};
use super::pod_elements::Ports;
use super::wakeup::Scope;
use super::{gc, masquerade, plugins, routes};
use pausenet::apply::{Host, rules};
use pausenet::cni::{Code, During, Error, Result};
use pausenet::kernel::link::Which;
use pausenet::kernel::nft::Nft;
use pausenet::kernel::owned_route::{OwnedRoute, Target, Way};
use pausenet::kernel::{RouteSocket, address, link};
use pausenet_host::install::place::Put;

/// Makes this node's network so, again and again.
pub struct Reconciler {
    options: Options,
    settings: Settings,
    socket: RouteSocket,
    nft: Nft,
    metrics: Metrics,
    own_pods: OwnPods,
    /// What the masquerade looked like when it was made.
    made: Option<masquerade::Made>,
    ports: Ports,
    plugins_are_there: bool,
    plugins_seen: plugins::Seen,
    /// Everything that pods need has been in place at once.
    is_settled: bool,
    /// The subnets whose pods were counted last.
    counted: Vec<IpNetwork>,
    told: BTreeSet<String>,
}

/// How a pass ended.
#[derive(Debug, Default)]
pub struct Report {
    /// Some part failed, and is to be tried again soon.
    pub failed: bool,
    /// Why this node is not ready for pods; None when it is.
    pub not_ready: Option<String>,
    /// What pods need and have not.
    lacks: Vec<String>,
    complaints: BTreeSet<String>,
}

impl Reconciler {
    /// Opens what it needs of the kernel, in the calling thread's network namespace.
    ///
    /// # Errors
    /// Code 101.
    pub fn new(options: Options, metrics: Metrics, own_pods: OwnPods) -> Result<Self> {
        let ports = Ports::new(&options);
        Ok(Self {
            settings: options.settings(),
            options,
            socket: Host::open_socket()?,
            nft: rules::open()?,
            metrics,
            own_pods,
            made: None,
            ports,
            plugins_are_there: false,
            plugins_seen: plugins::Seen::default(),
            is_settled: false,
            counted: Vec::new(),
            told: BTreeSet::new(),
        })
    }

    /// Looks at everything in the scope, and makes the differences good.
    pub fn pass(&mut self, nodes: Option<&NodeList>, scope: Scope) -> Report {
        let mut report = Report::default();
        if scope == Scope::Everything || !self.plugins_are_there {
            let outcome = self.plugins();
            self.need(&mut report, "plugins", outcome);
        }
        match nodes.map(|nodes| self.find_own(nodes)) {
            Some(Ok((own, others))) => self.network(&own, &others, scope, &mut report),
            // Whatever is there stays: running pods go on with it.
            Some(Err((part, err))) => self.need(&mut report, part, Err(err)),
            None => report
                .lacks
                .push("the API server has not told of any Node yet".to_owned()),
        }
        let outcome = self.ports();
        self.note(&mut report, "ports", outcome);
        report.not_ready = self.why_not_ready(&report);
        self.tell(&report);
        report
    }

    fn why_not_ready(&mut self, report: &Report) -> Option<String> {
        self.is_settled |= report.lacks.is_empty();
        let (dir, name) = (&self.options.conf_dir, &self.options.conf_name);
        let conflist_is_there = conflist::is_there(dir, name);
        if self.is_settled && self.plugins_are_there && conflist_is_there {
            return None;
        }
        let mut lacks = report.lacks.clone();
        if !conflist_is_there {
            lacks.push(format!("{} is not there", dir.join(name).display()));
        }
        Some(lacks.join("\n"))
    }

    /// This node and the others. An error is of the part that metrics name with it.
    fn find_own(&self, nodes: &NodeList) -> Result<(Node, Vec<Node>), (&'static str, Error)> {
        let name = self.options.node_name();
        let unknown = |msg: String, hint: &str| Error::new(Code::TryAgainLater, msg).hint(hint);
        let Some(own) = nodes.get(name) else {
            let msg = format!(
                "this node, {name}, is not among the {} Nodes of the cluster; nothing is changed",
                nodes.len()
            );
            let hint = "--node-name tells which it is (in a manifest: spec.nodeName)";
            return Err(("node", unknown(msg, hint)));
        };
        if own.pod_cidrs.is_empty() && own.unreadable.is_empty() {
            let msg = format!("Node {name} has no podCIDR; nothing is changed");
            let hint = "the controller manager gives it one: --allocate-node-cidrs, --cluster-cidr";
            return Err(("pod_cidr", unknown(msg, hint)));
        }
        let others = nodes.values().filter(|node| node.name != *name);
        Ok((own.clone(), others.cloned().collect()))
    }

    fn network(&mut self, own: &Node, others: &[Node], scope: Scope, report: &mut Report) {
        if let Ok(mut pods) = self.own_pods.write()
            && *pods != own.pod_cidrs
        {
            pods.clone_from(&own.pod_cidrs);
        }
        let ways = match routes::ways(&mut self.socket, &desired::gateways(others)) {
            Ok(ways) => ways,
            Err(err) => return self.need(report, "routes", Err(err)),
        };
        let links = ways.values().filter_map(|way| match way {
            Way::OnLink(link) => Some(*link),
            _ => None,
        });
        let mut link_to_others: Vec<u32> = links.collect();
        link_to_others.sort_unstable();
        let wanted = desired(own, others, &self.settings, &ways);
        let mut problems = wanted.problems.clone();

        let of_node = |route: &OwnedRoute| {
            let has = |node: &&Node| node.pod_cidrs.contains(&route.dst);
            let node = others.iter().find(has);
            node.map_or_else(String::new, |node| node.name.clone())
        };
        // Routes first: nftables makes whoever changes it wait.
        match self.routes(&wanted, of_node, &mut problems) {
            // Of another Node's making: no reason for this one not to be ready.
            Ok(Some(refused)) => self.note(report, "routes", Err(refused)),
            outcome => self.need(report, "routes", outcome.map(drop)),
        }

        let masquerade = self.masquerade(&wanted);
        let masquerade_is_there = masquerade.is_ok();
        self.need(report, "masquerade", masquerade);

        if self.plugins_are_there && masquerade_is_there {
            let outcome = self.conflist(&wanted, own, link_to_others.first().copied());
            self.need(report, "conflist", outcome);
        }
        if let Err(err) = conflist::check_first(&self.options.conf_dir, &self.options.conf_name) {
            report.complaints.insert(err.to_string());
        }
        let is_time = scope == Scope::Everything || self.counted != wanted.pods;
        if is_time && !wanted.pods.is_empty() {
            let outcome = self.collect(&wanted);
            self.note(report, "gc", outcome);
        }
        for problem in &problems {
            let text = format!("Node {}: {}", problem.node, problem.text);
            report.complaints.insert(text);
        }
        self.metrics.nodes.set(others.len() as i64 + 1);
        self.metrics.problems(&problems);
    }

    fn plugins(&mut self) -> Result<()> {
        self.plugins_are_there = false;
        let done = plugins::ensure(&self.options, &mut self.plugins_seen)?;
        self.plugins_are_there = true;
        self.metrics.changed("plugins", done.len());
        for one in done {
            let kept = match one.put {
                Put::Replace => "; what was there is kept",
                _ => "",
            };
            tracing::info!("put {} in place{kept}", one.file.display());
        }
        Ok(())
    }

    fn masquerade(&mut self, wanted: &Desired) -> Result<()> {
        if !self.settings.masquerade {
            if masquerade::remove(&mut self.nft)? {
                tracing::info!("removed the masquerade: it is not wanted");
                self.metrics.changed("masquerade", 1);
            }
            return Ok(());
        }
        match masquerade::ensure(&mut self.nft, &wanted.masquerade, &mut self.made)? {
            masquerade::Outcome::AsItWas => return Ok(()),
            masquerade::Outcome::Made => tracing::info!("made the masquerade"),
            masquerade::Outcome::Repaired => {
                tracing::warn!("made the masquerade anew: somebody had changed it");
            }
        }
        self.metrics.changed("masquerade", 1);
        Ok(())
    }

    /// The kernel's refusal of a route to another Node's pods is a result, that of one to this node's
    /// own an error.
    fn routes(
        &mut self,
        wanted: &Desired,
        of_node: impl Fn(&OwnedRoute) -> String,
        problems: &mut Vec<Problem>,
    ) -> Result<Option<Error>> {
        let outcome = routes::ensure(&mut self.socket, &wanted.routes)?;
        let (put, removed) = (outcome.put, outcome.removed);
        if put + removed > 0 {
            tracing::info!("routes to pods: {put} put in place, {removed} removed");
        }
        self.metrics.changed("routes", put + removed);
        let shadowed = routes::shadowed(&mut self.socket, &wanted.routes, &of_node)?;
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
        let refusal = |(route, why): &(OwnedRoute, String)| {
            Error::new(
                Code::KernelRefused,
                format!("the kernel refused a route ({route}): {why}"),
            )
        };
        let mut refused = outcome.refused.iter();
        let first = refused.clone().next().map(refusal);
        let own = refused
            .find(|(route, _)| route.target == Target::Unreachable)
            .map(refusal);
        for (route, why) in outcome.refused {
            problems.push(Problem {
                node: of_node(&route),
                kind: ProblemKind::Refused,
                text: format!("no route to its pods ({route}): the kernel says: {why}"),
            });
        }
        self.metrics.routes.set(outcome.present as i64);
        own.map_or(Ok(first), Err)
    }

    fn conflist(&mut self, wanted: &Desired, own: &Node, link: Option<u32>) -> Result<()> {
        if wanted.pods.is_empty() {
            let msg = format!("Node {} has no podCIDR that fits pods", own.name);
            return Err(Error::new(Code::InvalidConfig, msg));
        }
        let (dir, name) = (&self.options.conf_dir, &self.options.conf_name);
        let mtu = match self.settings.mtu {
            Some(mtu) => Some(mtu),
            None => uplink_mtu(&mut self.socket, &own.addresses, link)?,
        };
        if mtu.is_none() && conflist::is_there(dir, name) {
            return Err(Error::new(
                Code::TryAgainLater,
                format!(
                    "no link has an address of Node {}, so the MTU of pods cannot be told; \
                     {name} stays as it is",
                    own.name
                ),
            )
            .hint("--mtu sets it"));
        }
        let text = conflist::render(&self.settings, &wanted.pods, mtu);
        if conflist::ensure(dir, name, &text)? == Outcome::Written {
            let pods: Vec<_> = wanted.pods.iter().map(|net| net.to_string()).collect();
            let mtu = mtu.map_or_else(|| "the kernel's".to_owned(), |mtu| mtu.to_string());
            let file = dir.join(name);
            tracing::info!(
                "wrote {}: pods in {}, MTU {mtu}",
                file.display(),
                pods.join(", ")
            );
            self.metrics.changed("conflist", 1);
        }
        Ok(())
    }

    fn collect(&mut self, wanted: &Desired) -> Result<()> {
        let config = conflist::render(&self.settings, &wanted.pods, None);
        let store = &self.settings.store_dir;
        let kernel = (&mut self.socket, &mut self.nft);
        let census = gc::collect(kernel, &config, &wanted.pods, store, SystemTime::now())?;
        self.counted.clone_from(&wanted.pods);
        if census.reclaimed + census.freed > 0 {
            tracing::info!(
                "reclaimed what no pod owns: of {} attachments, and {} addresses",
                census.reclaimed,
                census.freed
            );
        }
        self.metrics.census(&census);
        Ok(())
    }

    fn ports(&mut self) -> Result<()> {
        let count = self.ports.ensure(&mut self.socket, &mut self.nft)?;
        if count > 0 {
            tracing::warn!(
                "put back into nftables what {count} pods had there, mapped ports for example: \
                 somebody had removed it"
            );
        }
        self.metrics.changed("ports", count);
        Ok(())
    }

    /// The outcome of a part that no pod can be wired without.
    fn need(&self, report: &mut Report, part: &'static str, outcome: Result<()>) {
        if let Err(err) = &outcome {
            report.lacks.push(format!("{part}: {err}"));
        }
        self.note(report, part, outcome);
    }

    fn note(&self, report: &mut Report, part: &'static str, outcome: Result<()>) {
        if let Err(err) = outcome {
            self.metrics.failed(part);
            report.failed = true;
            report.complaints.insert(err.to_string());
        }
    }

    /// Says what is new, and what is over; not the same again at each pass.
    fn tell(&mut self, report: &Report) {
        for new in report.complaints.difference(&self.told) {
            tracing::warn!("{new}");
        }
        for over in self.told.difference(&report.complaints) {
            tracing::info!("solved: {over}");
        }
        self.told.clone_from(&report.complaints);
    }
}

/// The MTU of the link that has the node's address, or else of the one to other nodes: the least,
/// where there are two.
fn uplink_mtu(
    socket: &mut RouteSocket,
    addresses: &[IpAddr],
    otherwise: Option<u32>,
) -> Result<Option<u32>> {
    let attempt = "look for the link with the node's address";
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
