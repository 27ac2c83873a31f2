//! Reads network configurations: lists of plugins, and single plugins, which are treated as lists
//! of one (specification, section 1).

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::plugin_folder::with_plugins_of_folder;
use crate::{During, Error, OnPath, Result};
use pausenet::cni::json::{Json, nullable};
use pausenet::cni::spelling::{NearMiss, near_misses, near_misses_of_list};
use pausenet::cni::{NetworkName, Plugin as OwnPlugin, SpecVersion};
use pausenet::kernel::file::{self, LARGE, Symlinks};

/// A network configuration: its plugins, in order.
#[derive(Debug, Clone)]
pub struct NetworkList {
    pub name: NetworkName,
    pub version: SpecVersion,
    pub plugins: Vec<Plugin>,
    /// The file has the form of a list, even if of one plugin.
    pub is_list: bool,
    /// The text of the file.
    pub text: Vec<u8>,
}

/// One plugin of a list.
#[derive(Debug, Clone)]
pub struct Plugin {
    /// The name of its program.
    pub r#type: String,
    /// The plugin's whole JSON object.
    pub config: Map<String, Value>,
    capabilities: BTreeMap<String, bool>,
}

/// The format of the file. A list has `plugins`, a single plugin has a `type`. As in libcni, the
/// keys of a list count only as they are spelled here, those of a plugin in any letter case.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    cni_version: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    cni_versions: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    name: String,
    plugins: Option<Vec<Value>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PluginKeys {
    r#type: String,
    capabilities: BTreeMap<String, bool>,
}

impl NetworkList {
    /// Parses a list or a single plugin's configuration.
    ///
    /// # Errors
    /// The text is not a valid configuration; the message says why.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let not_json = |err: serde_json::Error| Error::new(format!("network config: {err}"));
        let whole: Value = serde_json::from_slice(text).map_err(not_json)?;
        let json = Json::of("network config", &whole)?;
        let is_list = whole.get("plugins").is_some_and(|list| !list.is_null());
        let document = if is_list {
            Document::deserialize(&whole).map_err(not_json)?
        } else {
            json.read()?
        };
        let plugins = match document.plugins {
            Some(plugins) if is_list => plugins,
            None if !json.part(&["type"])?.is_absent() => vec![whole],
            other => {
                let err =
                    invalid("it has neither \"plugins\" (a list) nor \"type\" (a single plugin)");
                return Err(match other {
                    None => err,
                    Some(_) => err.hint("runtimes read \"plugins\" only in small letters"),
                });
            }
        };
        if plugins.is_empty() {
            return Err(invalid("\"plugins\" is empty"));
        }
        let plugins = plugins.into_iter().enumerate();
        Ok(Self {
            name: NetworkName::parse(&document.name)?,
            version: newest(document.cni_version.as_deref(), &document.cni_versions)?,
            plugins: plugins
                .map(|(at, value)| Plugin::new(at, value))
                .collect::<Result<_>>()?,
            is_list,
            text: text.to_owned(),
        })
    }

    /// Reads a file, and the plugins in the folder beside it that belong to it.
    ///
    /// # Errors
    /// Those of [`NetworkList::parse`], naming the file.
    pub fn read(file: &Path) -> Result<Self> {
        let text = file::read(file, LARGE, Symlinks::Follow).on_path("cannot read", file)?;
        Self::with_text(text, file)
    }

    /// What [`NetworkList::read`] would return of a file with this text.
    ///
    /// # Errors
    /// The same.
    pub fn with_text(text: Vec<u8>, file: &Path) -> Result<Self> {
        let text = with_plugins_of_folder(text, file)?;
        Self::parse(&text).during_with(|| file.display())
    }

    /// Finds a network by name in a folder, or takes the first file there.
    ///
    /// # Errors
    /// There is no such network; the hint lists the networks in the folder.
    pub fn find(dir: &Path, name: Option<&str>) -> Result<Self> {
        let files = files(dir)?;
        let Some(name) = name else {
            let first = files.first().ok_or_else(|| nothing_in(dir))?;
            return Self::read(first);
        };
        let (mut known, mut broken) = (Vec::new(), Vec::new());
        for file in &files {
            match Self::read(file) {
                Ok(list) if list.name.is_called(name) => return Ok(list),
                Ok(list) => known.push(list.name.to_string()),
                Err(err) => broken.push(err.message),
            }
        }
        if known.is_empty() && broken.is_empty() {
            return Err(nothing_in(dir));
        }
        let mut hint = format!("networks there: {}", known.join(", "));
        if !broken.is_empty() {
            hint.push_str(&format!("; not readable: {}", broken.join("; ")));
        }
        let msg = format!("no network {name:?} in {}", dir.display());
        Err(Error::new(msg).hint(hint))
    }
}

impl NetworkList {
    /// The index of the plugin that makes the pod's interface. Others may come before it:
    /// `loopback`, as Nomad writes its lists. Without one of a name of ours, it is the first, which
    /// may be ours under another name.
    pub fn wiring(&self) -> usize {
        let wires =
            |plugin: &Plugin| OwnPlugin::named(&plugin.r#type).is_some_and(OwnPlugin::is_wiring);
        self.plugins.iter().position(wires).unwrap_or(0)
    }

    /// Keys of the list itself that are nearly ones that runtimes read.
    pub fn near_misses(&self) -> Vec<NearMiss> {
        match serde_json::from_slice(&self.text) {
            Ok(whole) if self.is_list => near_misses_of_list(&whole),
            _ => Vec::new(),
        }
    }
}

impl Plugin {
    fn new(at: usize, value: Value) -> Result<Self> {
        let wrong = |why: String| invalid(format!("plugin {}: {why}", at + 1));
        let keys: PluginKeys = Json::of("its config", &value)
            .and_then(|json| json.read())
            .map_err(|err| wrong(err.msg))?;
        let Value::Object(config) = value else {
            return Err(wrong("it is no object".into()));
        };
        match keys.r#type.as_str() {
            "" => return Err(wrong("it has no \"type\"".into())),
            name if name.contains('/') || name == "." || name == ".." => {
                return Err(wrong(format!("type {name:?} is no file name")));
            }
            _ => {}
        }
        Ok(Self {
            r#type: keys.r#type,
            config,
            capabilities: keys.capabilities,
        })
    }

    /// Keys of its configuration that are nearly ones that `plugin` of ours reads.
    pub fn near_misses(&self, plugin: pausenet::cni::Plugin) -> Vec<NearMiss> {
        near_misses(plugin, &Value::Object(self.config.clone()))
    }

    /// Whether the plugin's configuration declares the capability.
    pub fn has_capability(&self, name: &str) -> bool {
        self.capabilities.get(name) == Some(&true)
    }
}

/// The newest of a list's versions that we support.
fn newest(version: Option<&str>, versions: &[String]) -> Result<SpecVersion> {
    let known = versions
        .iter()
        .map(String::as_str)
        .chain(version)
        .filter_map(|text| SpecVersion::parse(Some(text)).ok())
        .max();
    match known {
        Some(known) => Ok(known),
        None => Ok(SpecVersion::parse(version)?),
    }
}

/// The configuration files in a folder, in lexical order: those with libcni's extensions.
///
/// # Errors
/// The folder cannot be read; the message names it.
pub fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let cannot = |err: std::io::Error| match err.kind() {
        std::io::ErrorKind::NotFound => nothing_in(dir),
        _ => Error::io("cannot list", dir, err),
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(cannot)? {
        let path = entry.map_err(cannot)?.path();
        let ending = path.extension().and_then(OsStr::to_str);
        if matches!(ending, Some("conflist" | "conf" | "json")) && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn nothing_in(dir: &Path) -> Error {
    Error::new(format!("no network configuration in {}", dir.display()))
        .hint("--conf FILE names one; or copy one of pausenet's conf/ into that folder")
}

fn invalid(what: impl Into<String>) -> Error {
    Error::new(format!("network config: {}", what.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refusal(text: &str) -> Error {
        NetworkList::parse(text.as_bytes()).unwrap_err()
    }

    #[test]
    fn a_single_plugin_is_a_list_of_one() {
        let list = NetworkList::parse(br#"{"name": "x", "type": "pausenet", "mtu": 9}"#).unwrap();
        assert_eq!(list.plugins.len(), 1);
        assert_eq!(list.plugins[0].config["mtu"], 9);
        assert_eq!(list.version, SpecVersion::V0_1_0);
    }

    #[test]
    fn of_several_versions_the_newest_that_we_speak_counts() {
        let text = br#"{"cniVersion": "0.4.0", "cniVersions": ["1.1.0", "9.0.0", "0.3.1"],
            "name": "x", "type": "y"}"#;
        assert_eq!(
            NetworkList::parse(text).unwrap().version,
            SpecVersion::V1_1_0
        );
        let unknown = refusal(r#"{"cniVersion": "9.0.0", "name": "x", "type": "y"}"#);
        assert!(unknown.message.contains("9.0.0"), "{unknown}");
    }

    #[test]
    fn an_invalid_conflist_is_an_error_that_names_the_place() {
        for (text, word) in [
            ("[]", "network config"),
            (r#"{"name": "x"}"#, "plugins"),
            (r#"{"name": "x", "plugins": []}"#, "empty"),
            (r#"{"name": "x", "plugins": [3]}"#, "plugin 1"),
            (
                r#"{"name": "x", "plugins": [{"type": "a"}, {}]}"#,
                "plugin 2",
            ),
            (r#"{"name": "x", "type": "../sh"}"#, "../sh"),
            (r#"{"name": "../x", "type": "y"}"#, "../x"),
        ] {
            let msg = refusal(text).message;
            assert!(msg.contains(word), "{msg}");
        }
    }

    #[test]
    fn the_first_file_counts_or_the_one_with_the_name() {
        let dir = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| fs::write(dir.path().join(file), text).unwrap();
        write("20-b.conf", r#"{"name": "b", "type": "y"}"#);
        write(
            "10-a.conflist",
            r#"{"name": "a", "plugins": [{"type": "y"}]}"#,
        );
        write("00-README.txt", "no config");
        let found = |name| NetworkList::find(dir.path(), name).map(|list| list.name.to_string());
        assert_eq!(found(None).unwrap(), "a");
        assert_eq!(found(Some("b")).unwrap(), "b");
        write("30-c.json", "{");
        assert_eq!(found(Some("b")).unwrap(), "b");
        let err = found(Some("c")).unwrap_err();
        assert!(err.hint.contains("a, b") && err.hint.contains("30-c.json"));
    }

    #[test]
    fn an_empty_folder_and_a_missing_one_say_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        for dir in [dir.path(), &dir.path().join("missing")] {
            let err = NetworkList::find(dir, None).unwrap_err();
            assert!(err.hint.contains("--conf"), "{err}");
        }
    }

    #[test]
    fn the_plugin_that_wires_is_found_anywhere_in_the_list() {
        let wiring = |types: &[&str]| {
            let plugins: Vec<_> = types
                .iter()
                .map(|name| format!(r#"{{"type": "{name}"}}"#))
                .collect();
            let text = format!(r#"{{"name": "x", "plugins": [{}]}}"#, plugins.join(","));
            NetworkList::parse(text.as_bytes()).unwrap().wiring()
        };
        assert_eq!(wiring(&["pausenet", "portmap"]), 0);
        assert_eq!(wiring(&["loopback", "bridge", "firewall", "portmap"]), 1);
        assert_eq!(wiring(&["loopback", "tuning", "ptp"]), 2);
        assert_eq!(wiring(&["ours-under-another-name", "portmap"]), 0);
    }

    proptest! {
        #[test]
        fn parsing_any_bytes_never_panics(bytes: Vec<u8>) {
            let _ = NetworkList::parse(&bytes);
        }
    }
}
