//! Runs the plugins of a network, in order.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::conflist::{NetworkList, Plugin};
use super::interrupt::Interrupt;
use super::parameters::{Parameters, Stop};
use super::plugin;
use crate::Error;
use pausenet::cni::SpecVersion;
use pausenet::cni::env::Verb;

/// The folders of the plugins, and the time limit for each call.
#[derive(Debug, Clone)]
pub struct Runtime {
    pub path: Vec<PathBuf>,
    pub limit: Duration,
}

/// How far an ADD got, so that it can be undone.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The number of plugins that were started.
    pub(super) tried: usize,
    /// The result of the last one that succeeded.
    pub(super) result: Option<Value>,
}

impl Runtime {
    /// Checks that each plugin of a list can be found.
    ///
    /// # Errors
    /// A plugin is in none of the folders; the message names both.
    pub fn find_all(&self, list: &NetworkList) -> Result<(), Error> {
        list.plugins
            .iter()
            .try_for_each(|plugin| plugin::find(&plugin.r#type, &self.path).map(drop))
    }

    /// Finds the program of a plugin.
    ///
    /// # Errors
    /// The plugin is in none of the folders; the message names both.
    pub fn program(&self, plugin: &Plugin) -> Result<PathBuf, Error> {
        plugin::find(&plugin.r#type, &self.path)
    }

    /// Adds an attachment: runs each plugin with the result of the previous one. `progress` records
    /// how far it got, on failure too; the caller undoes that with [`Runtime::del`].
    ///
    /// # Errors
    /// The first failure of a plugin, or a signal, on which the running plugin is killed.
    pub(super) async fn add(
        &self,
        list: &NetworkList,
        parameters: &Parameters,
        progress: &mut Progress,
        interrupt: &mut Interrupt,
    ) -> Result<Value, Stop> {
        for at in 0..list.plugins.len() {
            progress.tried = at + 1;
            let answer = self.call(
                Verb::Add,
                list,
                at,
                parameters,
                progress.result.as_ref(),
                Some(interrupt),
            );
            let answer = answer.await?;
            let result = serde_json::from_slice(&answer).map_err(|err| {
                let what = describe(Verb::Add, list, at);
                let msg = format!("{what}: its answer is no JSON: {err}");
                Error::new(msg)
            })?;
            progress.result = Some(result);
        }
        progress
            .result
            .clone()
            .ok_or_else(|| Error::new("a network without plugins has no result").into())
    }

    /// Deletes an attachment: runs the first `tried` plugins in reverse order. `result` is the
    /// final result of the ADD, if known. After a plugin's failure, the others still run.
    ///
    /// # Errors
    /// The first failure.
    pub(super) async fn del(
        &self,
        list: &NetworkList,
        parameters: &Parameters,
        tried: usize,
        result: Option<&Value>,
    ) -> Result<(), Error> {
        // Earlier versions pass no result to DEL.
        let result = result.filter(|_| list.version >= SpecVersion::V0_4_0);
        let mut outcome = Ok(());
        for at in (0..tried).rev() {
            let call = self.call(Verb::Del, list, at, parameters, result, None);
            match call.await {
                Ok(_) | Err(Stop::Interrupted(_)) => {}
                Err(Stop::Failed(err)) => outcome = outcome.and(Err(err)),
            }
        }
        outcome
    }

    async fn call(
        &self,
        verb: Verb,
        list: &NetworkList,
        at: usize,
        parameters: &Parameters,
        previous: Option<&Value>,
        interrupt: Option<&mut Interrupt>,
    ) -> Result<Vec<u8>, Stop> {
        let plugin = &list.plugins[at];
        let program = plugin::find(&plugin.r#type, &self.path)?;
        let config = execution_config(list, plugin, &parameters.capabilities, previous);
        let call = plugin::Call {
            program: &program,
            verb,
            parameters,
            path: &self.path,
            config: config.to_string(),
            limit: self.limit,
        };
        call.run(interrupt).await.map_err(|stop| match stop {
            Stop::Failed(err) => Stop::Failed(err.context(describe(verb, list, at))),
            interrupted => interrupted,
        })
    }
}

/// `network podnet: ADD of plugin 2 of 3 (tuning)`.
fn describe(verb: Verb, list: &NetworkList, at: usize) -> String {
    format!(
        "network {}: {} of plugin {} of {} ({})",
        list.name,
        verb.as_str(),
        at + 1,
        list.plugins.len(),
        list.plugins[at].r#type,
    )
}

/// The configuration that a plugin gets on stdin (specification, section 3, "Deriving execution
/// configuration from plugin configuration").
pub fn execution_config(
    list: &NetworkList,
    plugin: &Plugin,
    capabilities: &Map<String, Value>,
    previous: Option<&Value>,
) -> Value {
    let mut config = plugin.config.clone();
    config.remove("capabilities");
    config.insert("cniVersion".into(), json!(list.version.as_str()));
    config.insert("name".into(), json!(list.name.as_str()));
    let declared: Map<_, _> = capabilities
        .iter()
        .filter(|(name, _)| plugin.has_capability(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    if !declared.is_empty() {
        config.insert("runtimeConfig".into(), Value::Object(declared));
    }
    if let Some(previous) = previous {
        config.insert("prevResult".into(), previous.clone());
    }
    Value::Object(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list() -> NetworkList {
        let text = json!({
            "cniVersion": "1.0.0",
            "name": "net",
            "plugins": [
                {"type": "a", "name": "other", "capabilities": {"ips": true, "mac": false}, "x": 1},
                {"type": "b"}
            ]
        });
        NetworkList::parse(text.to_string().as_bytes()).unwrap()
    }

    fn capabilities() -> Map<String, Value> {
        let json = json!({"ips": ["10.0.0.9"], "mac": "02:00:00:00:00:01", "bandwidth": {}});
        json.as_object().unwrap().clone()
    }

    #[test]
    fn a_plugin_gets_name_version_and_the_capabilities_that_it_declares() {
        let list = list();
        assert_eq!(
            execution_config(&list, &list.plugins[0], &capabilities(), None),
            json!({
                "cniVersion": "1.0.0",
                "name": "net",
                "type": "a",
                "x": 1,
                "runtimeConfig": {"ips": ["10.0.0.9"]}
            })
        );
    }

    #[test]
    fn a_plugin_without_capabilities_gets_none_and_the_result_before_it() {
        let list = list();
        let previous = json!({"ips": []});
        assert_eq!(
            execution_config(&list, &list.plugins[1], &capabilities(), Some(&previous)),
            json!({"cniVersion": "1.0.0", "name": "net", "type": "b", "prevResult": {"ips": []}})
        );
    }
}
