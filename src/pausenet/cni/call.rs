//! One call of the plugin: a verb with its request.

use super::env::{Environment, Verb};
use super::error::Result;
use super::plugin::Plugin;
use super::request::{Network, Request};

/// A verb with its request, checked.
#[derive(Debug)]
pub(crate) enum Call {
    Add(Request),
    Del(Request),
    Check(Request),
    Gc(Network),
    Status(Network),
    Version,
}

impl Call {
    /// Validates config and environment together, by the rules of `plugin`.
    ///
    /// # Errors
    /// Codes 1, 2, 4, 6 and 7 of the specification, naming the field and its value.
    pub(crate) fn new(plugin: Plugin, env: &Environment, raw: Vec<u8>) -> Result<Self> {
        let network = |raw| Network::new(plugin, env.verb, &env.path, raw);
        match env.verb {
            Verb::Add => Request::new(plugin, env, raw).map(Self::Add),
            Verb::Del => Request::new(plugin, env, raw).map(Self::Del),
            Verb::Check => Request::new(plugin, env, raw).map(Self::Check),
            Verb::Gc => network(raw).map(Self::Gc),
            Verb::Status => network(raw).map(Self::Status),
            Verb::Version => Ok(Self::Version),
        }
    }

    /// The network that the call is about.
    pub(crate) fn network(&self) -> Option<&Network> {
        match self {
            Self::Add(request) | Self::Del(request) | Self::Check(request) => {
                Some(&request.network)
            }
            Self::Gc(network) | Self::Status(network) => Some(network),
            Self::Version => None,
        }
    }
}
