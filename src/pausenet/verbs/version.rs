//! VERSION: the versions of the specification that the plugin supports.

use serde_json::json;

use crate::cni::SpecVersion;

/// The output of VERSION (specification, section 5, "VERSION Success").
pub(crate) fn run() -> String {
    json!({
        "cniVersion": SpecVersion::NEWEST.as_str(),
        "supportedVersions": SpecVersion::ALL.map(SpecVersion::as_str),
    })
    .to_string()
}
