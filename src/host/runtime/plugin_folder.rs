//! The plugins of a list that are in files of their own: libcni 1.3 and newer append those in
//! `NAME/*.conf`, beside the list's file, to the ones in its `plugins`, unless the list says
//! `loadOnlyInlinedPlugins`.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::{Error, OnPath, Result};
use pausenet::cni::NetworkName;
use pausenet::kernel::file::{self, LARGE, Symlinks};

const ONLY_INLINED: &str = "loadOnlyInlinedPlugins";

/// The text of a list with all its plugins inlined, so that nothing else has to be read for it later.
/// A text without such files is returned as it is, and so is one that is no valid list.
///
/// # Errors
/// One of the files cannot be read, or is no plugin's configuration; the message names it.
pub(super) fn with_plugins_of_folder(text: Vec<u8>, file: &Path) -> Result<Vec<u8>> {
    let Ok(Value::Object(mut list)) = serde_json::from_slice::<Value>(&text) else {
        return Ok(text);
    };
    let is_single = list.contains_key("type") && !list.contains_key("plugins");
    let name = list.get("name").and_then(Value::as_str).unwrap_or_default();
    if is_single || NetworkName::parse(name).is_err() || only_inlined(&list) {
        return Ok(text);
    }
    let folder = file.parent().unwrap_or(file).join(name);
    let files = conf_files(&folder)?;
    let read: Vec<_> = files
        .iter()
        .map(|file| plugin(file))
        .collect::<Result<_>>()?;
    if read.is_empty() {
        return Ok(text);
    }
    match list
        .entry("plugins")
        .or_insert_with(|| Value::Array(Vec::new()))
    {
        Value::Array(plugins) => plugins.extend(read),
        _ => return Ok(text),
    }
    list.insert(ONLY_INLINED.to_owned(), Value::Bool(true));
    Ok(Value::Object(list).to_string().into_bytes())
}

fn only_inlined(list: &Map<String, Value>) -> bool {
    match list.get(ONLY_INLINED) {
        Some(Value::Bool(only)) => *only,
        Some(Value::String(text)) => text.eq_ignore_ascii_case("true"),
        _ => false,
    }
}

/// In the order of their names.
fn conf_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        // A file of the network's name is another's.
        Err(err) if err.kind() == std::io::ErrorKind::NotADirectory => return Ok(Vec::new()),
        entries => entries.on_path("cannot list", folder)?,
    };
    let paths = entries.flatten().map(|entry| entry.path());
    let is_conf = |path: &PathBuf| path.extension() == Some(OsStr::new("conf")) && path.is_file();
    let mut files: Vec<_> = paths.filter(is_conf).collect();
    files.sort();
    Ok(files)
}

fn plugin(path: &Path) -> Result<Value> {
    let text = file::read(path, LARGE, Symlinks::Follow).on_path("cannot read", path)?;
    let wrong = |why: String| {
        Error::new(format!("{}: {why}", path.display())).hint(
            "libcni reads each .conf in the folder with a network's name, beside its list, as one \
             more plugin of the list",
        )
    };
    let plugin: Value = serde_json::from_slice(&text).map_err(|err| wrong(err.to_string()))?;
    match plugin.get("type").and_then(Value::as_str) {
        Some(name) if !name.is_empty() => Ok(plugin),
        _ => Err(wrong("it has no \"type\"".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::super::conflist::NetworkList;
    use super::*;

    fn types(dir: &Path, list: &str) -> Result<Vec<String>> {
        let file = dir.join("10-net.conflist");
        fs::write(&file, list).unwrap();
        let list = NetworkList::read(&file)?;
        // What is remembered has all of them too.
        let again = NetworkList::parse(&list.text).unwrap();
        let types = |list: NetworkList| -> Vec<String> {
            list.plugins
                .into_iter()
                .map(|plugin| plugin.r#type)
                .collect()
        };
        let found = types(list);
        assert_eq!(types(again), found);
        Ok(found)
    }

    #[test]
    fn files_in_the_folder_of_the_network_are_more_plugins_of_its_list() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("net");
        let list = r#"{"cniVersion": "1.1.0", "name": "net", "plugins": [{"type": "a"}]}"#;
        assert_eq!(types(dir.path(), list).unwrap(), ["a"], "no folder");
        fs::create_dir(&folder).unwrap();
        for (name, text) in [
            ("20-c.conf", r#"{"type": "c", "key": 1}"#),
            ("10-b.conf", r#"{"type": "b"}"#),
            ("30-d.conflist", r#"{"type": "d"}"#),
            ("40-e.json", r#"{"type": "e"}"#),
        ] {
            fs::write(folder.join(name), text).unwrap();
        }
        assert_eq!(types(dir.path(), list).unwrap(), ["a", "b", "c"]);
        let only = r#"{"name": "net", "loadOnlyInlinedPlugins": true, "plugins": [{"type": "a"}]}"#;
        assert_eq!(types(dir.path(), only).unwrap(), ["a"]);
        let none = r#"{"cniVersion": "1.1.0", "name": "net"}"#;
        assert_eq!(
            types(dir.path(), none).unwrap(),
            ["b", "c"],
            "no inlined ones"
        );
        let single = r#"{"cniVersion": "1.1.0", "name": "net", "type": "x"}"#;
        assert_eq!(types(dir.path(), single).unwrap(), ["x"]);
        let other = r#"{"cniVersion": "1.1.0", "name": "net2", "plugins": [{"type": "a"}]}"#;
        assert_eq!(types(dir.path(), other).unwrap(), ["a"]);

        fs::write(folder.join("50-f.conf"), r#"{"key": 1}"#).unwrap();
        let err = types(dir.path(), list).unwrap_err();
        assert!(err.message.contains("50-f.conf"), "{err}");
    }
}
