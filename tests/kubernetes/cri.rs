//! The runtime's side of Kubernetes, CRI v1, as far as sandboxes and containers go: what a kubelet
//! asks containerd for. The messages have the fields that are used here; the others are
//! passed over, as protobuf has it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use prost::Message;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Endpoint;
use tonic_prost::ProstCodec;

/// A client that makes a connection for each call, so that it outlives the daemon.
pub(crate) struct Cri {
    socket: PathBuf,
}

impl Cri {
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Whether the network is ready, and why not. A daemon that doesn't answer is a reason too.
    pub(crate) fn network(&self) -> Result<(), String> {
        let status: StatusResponse = self.call("Status", StatusRequest {})?;
        let conditions = status.status.unwrap_or_default().conditions;
        let mut conditions = conditions.into_iter();
        let network = conditions.find(|condition| condition.kind == "NetworkReady");
        let network = network.expect("a condition of the network");
        network.status.then_some(()).ok_or(network.message)
    }

    /// Makes a pod's sandbox, wired and all.
    pub(crate) fn run_sandbox(&self, config: &SandboxConfig) -> Result<String, String> {
        self.run_sandbox_within(config, KUBELETS)
    }

    /// The same, with a limit for how long it may take.
    pub(crate) fn run_sandbox_within(
        &self,
        config: &SandboxConfig,
        limit: Duration,
    ) -> Result<String, String> {
        let request = RunRequest {
            config: Some(config.clone()),
        };
        let made: SandboxId = self.call_within("RunPodSandbox", request, limit)?;
        Ok(made.id)
    }

    pub(crate) fn stop_sandbox(&self, id: &str) -> Result<(), String> {
        let _: Nothing = self.call("StopPodSandbox", SandboxId { id: id.into() })?;
        Ok(())
    }

    pub(crate) fn remove_sandbox(&self, id: &str) -> Result<(), String> {
        let _: Nothing = self.call("RemovePodSandbox", SandboxId { id: id.into() })?;
        Ok(())
    }

    /// A sandbox's state.
    pub(crate) fn sandbox(&self, id: &str) -> Sandbox {
        let request = SandboxId { id: id.into() };
        let answer: SandboxStatus = self.call("PodSandboxStatus", request).unwrap();
        answer.status.unwrap()
    }

    /// Makes a container in a sandbox, and starts it.
    pub(crate) fn run_container(
        &self,
        sandbox: &str,
        config: &SandboxConfig,
        image: &str,
    ) -> String {
        let metadata = ContainerMetadata {
            name: image.replace('/', "-"),
        };
        let image = ImageSpec {
            image: image.into(),
        };
        let request = CreateRequest {
            sandbox: sandbox.into(),
            config: Some(ContainerConfig {
                metadata: Some(metadata),
                image: Some(image),
            }),
            sandbox_config: Some(config.clone()),
        };
        let made: ContainerId = self.call("CreateContainer", request).unwrap();
        let _: Nothing = self.call("StartContainer", made.clone()).unwrap();
        made.id
    }

    /// Whether a container runs.
    pub(crate) fn is_running(&self, container: &str) -> bool {
        let request = ContainerId {
            id: container.into(),
        };
        let answer: ContainerStatus = self.call("ContainerStatus", request).unwrap();
        answer.status.unwrap().state == RUNNING
    }

    fn call<A, B>(&self, method: &str, request: A) -> Result<B, String>
    where
        A: Message + 'static,
        B: Message + Default + 'static,
    {
        self.call_within(method, request, KUBELETS)
    }

    fn call_within<A, B>(&self, method: &str, request: A, limit: Duration) -> Result<B, String>
    where
        A: Message + 'static,
        B: Message + Default + 'static,
    {
        let path = format!("/runtime.v1.RuntimeService/{method}");
        let path = PathAndQuery::try_from(path).unwrap();
        let uri = format!("unix://{}", self.socket.display());
        let call = async {
            let endpoint = Endpoint::from_shared(uri).map_err(|err| err.to_string())?;
            let channel = endpoint.connect().await.map_err(|err| err.to_string())?;
            let mut client = tonic::client::Grpc::new(channel);
            client.ready().await.map_err(|err| err.to_string())?;
            let codec = ProstCodec::<A, B>::default();
            let mut request = tonic::Request::new(request);
            request.set_timeout(limit); // the other side is told
            let answer = client.unary(request, path, codec).await;
            answer.map_err(|status| in_full(&status))
        };
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().unwrap();
        Ok(runtime.block_on(call)?.into_inner())
    }
}

/// What a status says, and what is behind it: "transport error" alone names no reason.
fn in_full(status: &tonic::Status) -> String {
    let mut told = status.message().to_owned();
    let mut behind = std::error::Error::source(status);
    while let Some(err) = behind {
        told += &format!(": {err}");
        behind = err.source();
    }
    told
}

/// How long a kubelet waits for an answer, when it is told nothing else.
const KUBELETS: Duration = Duration::from_secs(120);

/// CONTAINER_RUNNING.
const RUNNING: i32 = 1;

#[derive(Clone, PartialEq, Message)]
struct Nothing {}

#[derive(Clone, PartialEq, Message)]
struct StatusRequest {}

#[derive(Clone, PartialEq, Message)]
struct StatusResponse {
    #[prost(message, tag = "1")]
    status: Option<RuntimeStatus>,
}

#[derive(Clone, PartialEq, Message)]
struct RuntimeStatus {
    #[prost(message, repeated, tag = "1")]
    conditions: Vec<Condition>,
}

#[derive(Clone, PartialEq, Message)]
struct Condition {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(bool, tag = "2")]
    status: bool,
    #[prost(string, tag = "4")]
    message: String,
}

/// A pod, as kubelet tells it.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SandboxConfig {
    #[prost(message, tag = "1")]
    pub(crate) metadata: Option<SandboxMetadata>,
    #[prost(map = "string, string", tag = "6")]
    pub(crate) labels: HashMap<String, String>,
    #[prost(message, tag = "8")]
    pub(crate) linux: Option<LinuxSandbox>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SandboxMetadata {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "2")]
    pub(crate) uid: String,
    #[prost(string, tag = "3")]
    pub(crate) namespace: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct LinuxSandbox {
    #[prost(string, tag = "1")]
    pub(crate) cgroup_parent: String,
}

#[derive(Clone, PartialEq, Message)]
struct RunRequest {
    #[prost(message, tag = "1")]
    config: Option<SandboxConfig>,
}

#[derive(Clone, PartialEq, Message)]
struct SandboxId {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct SandboxStatus {
    #[prost(message, tag = "1")]
    status: Option<Sandbox>,
}

/// What the runtime says of a sandbox.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Sandbox {
    /// 0 when it is ready, else 1.
    #[prost(int32, tag = "3")]
    pub(crate) state: i32,
    #[prost(message, tag = "5")]
    pub(crate) network: Option<SandboxNetwork>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SandboxNetwork {
    #[prost(string, tag = "1")]
    pub(crate) ip: String,
}

#[derive(Clone, PartialEq, Message)]
struct CreateRequest {
    #[prost(string, tag = "1")]
    sandbox: String,
    #[prost(message, tag = "2")]
    config: Option<ContainerConfig>,
    #[prost(message, tag = "3")]
    sandbox_config: Option<SandboxConfig>,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerConfig {
    #[prost(message, tag = "1")]
    metadata: Option<ContainerMetadata>,
    #[prost(message, tag = "2")]
    image: Option<ImageSpec>,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerMetadata {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct ImageSpec {
    #[prost(string, tag = "1")]
    image: String,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerId {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerStatus {
    #[prost(message, tag = "1")]
    status: Option<Container>,
}

#[derive(Clone, PartialEq, Message)]
struct Container {
    #[prost(int32, tag = "3")]
    state: i32,
}
