//! Refuses host ports that are taken, before anything is done: a published port takes precedence
//! over a program that listens on it, and publishing port 22 by mistake would lock the user out.

use super::{PublishedPort, listeners};
use pausenet::apply::{MappedPort, OtherMapping, mapped_ports, nft_elements, other_mappings};
use pausenet::cni::{ContainerId, Family};
use pausenet::kernel::RouteSocket;
use pausenet_host::anchor::PodName;
use pausenet_host::anchor::registration::ANCHOR_PREFIX;
use pausenet_host::{During, Error};

/// A port that Docker publishes itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DockerPort {
    pub(crate) container: String,
    pub(crate) port: u16,
    pub(crate) protocol: String,
}

/// Tells which ports are free, as they are when it is first asked. One that cannot be looked up is
/// free: it is refused later, with the reason.
pub(crate) fn is_free_now() -> impl FnMut(&PublishedPort) -> bool {
    let mut taken: Option<TakenPorts> = None;
    move |port| {
        let taken = taken.get_or_insert_with(|| TakenPorts::read().unwrap_or_default());
        taken.is_free(port)
    }
}

/// The ports of the host that are taken.
#[derive(Default)]
pub(crate) struct TakenPorts {
    mapped: Vec<MappedPort>,
    others: Vec<OtherMapping>,
    by_docker: Vec<DockerPort>,
    /// Names of containers, by the ID that the plugins know them by.
    names: Vec<(ContainerId, String)>,
}

impl TakenPorts {
    /// Reads nftables.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn read() -> Result<Self, Error> {
        let mut nft = nft_elements::open()?;
        Ok(Self {
            mapped: mapped_ports(&mut nft).during("list the mapped ports in nftables")?,
            others: other_mappings(&mut nft).during("list other programs' ports in nftables")?,
            ..Self::default()
        })
    }

    /// Adds what Docker knows.
    pub(crate) fn with_docker(
        self,
        by_docker: Vec<DockerPort>,
        names: Vec<(ContainerId, String)>,
    ) -> Self {
        Self {
            by_docker,
            names,
            ..self
        }
    }

    /// Refuses what is taken by anything else than the container itself.
    ///
    /// # Errors
    /// Names the port and who has it.
    pub(crate) fn refuse(
        &self,
        ports: &[PublishedPort],
        own: Option<&ContainerId>,
    ) -> Result<(), Error> {
        let mut holders = ports.iter().filter_map(|port| self.holder(port, own));
        holders.next().map_or(Ok(()), Err)
    }

    /// Whether nothing has the port.
    pub(crate) fn is_free(&self, port: &PublishedPort) -> bool {
        self.holder(port, None).is_none()
    }

    fn holder(&self, port: &PublishedPort, own: Option<&ContainerId>) -> Option<Error> {
        self.mapped_to(port, own)
            .or_else(|| self.listener(port))
            .or_else(|| self.other(port))
    }

    /// Another container of ours. A mapping at one address of the host and one at all of them may
    /// stand beside one another.
    fn mapped_to(&self, port: &PublishedPort, own: Option<&ContainerId>) -> Option<Error> {
        let is_same = |mapped: &&MappedPort| {
            let is_own = mapped
                .owner
                .as_ref()
                .is_some_and(|owner| Some(&owner.container) == own);
            let host_ip = port.host_ip.filter(|ip| !ip.is_unspecified());
            let family = port.host_ip.map(Family::from);
            let same_family = family.is_none_or(|family| family == Family::from(mapped.to.ip()));
            !is_own
                && (mapped.host_port, mapped.protocol) == (port.host_port, port.protocol)
                && mapped.host_ip == host_ip
                && same_family
        };
        let mut candidates = self.mapped.iter().filter(is_same).peekable();
        candidates.peek()?;
        let mut socket = RouteSocket::open().ok();
        let found = candidates.find(|mapped| {
            let socket = socket.as_mut();
            !socket.is_some_and(|socket| mapped.is_stale(socket))
        })?;
        let (side, to) = (port.host_side(), found.to.port());
        let Some(owner) = &found.owner else {
            let what = format!("host port {side} is mapped by an element that is not ours");
            return Some(Error::new(what).hint("choose another port"));
        };
        let name = self.name_of(&owner.container);
        let recorded = name.strip_prefix("container ").filter(|name| {
            let mut records = self.names.iter();
            records.any(|(_, known)| known == name)
        });
        let hint = match recorded {
            Some(name) => format!("or: pausectl docker unpublish {name} {side}"),
            None => format!("see: pausectl explain {}", owner.container),
        };
        let what = format!("host port {side} is mapped to {owner} already: port {to} of {name}");
        Some(Error::new(what).hint("choose another port").hint(hint))
    }

    /// A program of the host.
    fn listener(&self, port: &PublishedPort) -> Option<Error> {
        if !listeners::is_bound(port) {
            return None;
        }
        let side = port.host_side();
        let who = match listeners::find(port) {
            Some(found) if found.name == "docker-proxy" => match self.docker_container(port) {
                Some(container) => {
                    return Some(published_by_docker(
                        &side,
                        &format!("container {container}"),
                    ));
                }
                None => format!("process {} (docker-proxy)", found.pid),
            },
            Some(found) => format!("process {} ({})", found.pid, found.name.escape_debug()),
            None => "a program on this host".into(),
        };
        let hint = "publishing the port would cut it off; choose another port";
        Some(Error::new(format!("{who} already listens on port {side}")).hint(hint))
    }

    /// A mapping of Docker's or kube-proxy's, without a program that listens.
    fn other(&self, port: &PublishedPort) -> Option<Error> {
        let number = match port.protocol.to_string().as_str() {
            "tcp" => 6,
            "udp" => 17,
            _ => 132,
        };
        let found = self.others.iter().find(|other| {
            other.port == port.host_port
                && other.protocol.is_none_or(|protocol| protocol == number)
                && port
                    .host_ip
                    .is_none_or(|ip| Family::from(ip) == other.family)
        })?;
        let side = port.host_side();
        if found.whose.contains("Docker") {
            // Its rule may be for another address of the host, which is not known here.
            let container = self.docker_container(port);
            let container = container.map(|name| format!("container {name}"));
            return (port.host_ip.is_none())
                .then(|| published_by_docker(&side, &container.unwrap_or("a container".into())));
        }
        let what = format!("host port {side} is {} already", found.whose);
        Some(Error::new(what).hint("choose another port"))
    }

    fn docker_container(&self, port: &PublishedPort) -> Option<&str> {
        let mut all = self.by_docker.iter();
        let protocol = port.protocol.to_string();
        let found = all.find(|one| (one.port, &one.protocol) == (port.host_port, &protocol))?;
        Some(&found.container)
    }

    fn name_of(&self, id: &ContainerId) -> String {
        if let Some((_, name)) = self.names.iter().find(|(known, _)| known == id) {
            return format!("container {name}");
        }
        match PodName::of_container(id) {
            Some(pod) => format!("pod {pod}"),
            None => {
                let name = id.as_str().strip_prefix(ANCHOR_PREFIX);
                format!("container {}", name.unwrap_or(id.as_str()))
            }
        }
    }
}

fn published_by_docker(side: &str, container: &str) -> Error {
    Error::new(format!(
        "Docker already publishes host port {side}, of {container}"
    ))
    .hint("choose another port")
}
