//! Shared by the tests of pausenetd.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{programs, run};

/// A binary without debug information, which is ten times as large as the rest. Made once per build
/// and kept for later runs.
pub fn stripped(binary: &str) -> PathBuf {
    let made = |file: &Path| fs::metadata(file).and_then(|meta| meta.modified()).ok();
    let dir = programs::scratch().join("stripped");
    let file = dir.join(Path::new(binary).file_name().unwrap());
    if made(&file) < made(Path::new(binary)) {
        fs::create_dir_all(&dir).unwrap();
        let own = dir.join(format!("{:?}", std::thread::current().id()));
        run("strip", ["-o", own.to_str().unwrap(), binary]);
        fs::rename(own, &file).unwrap();
    }
    file
}

/// Requests of the daemons' account in the API server's audit log.
pub fn requests(audit_log: &str) -> Vec<Value> {
    let events = audit_log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let account = "system:serviceaccount:kube-system:pausenet";
    let own = events.filter(|event| event["user"]["username"] == account);
    own.collect()
}

/// Whether a request was allowed by RBAC.
pub fn is_allowed(event: &Value) -> bool {
    event["annotations"]["authorization.k8s.io/decision"] == "allow"
}

/// The daemons' account requested only nodes, and each request was allowed.
#[track_caller]
pub fn assert_nothing_was_forbidden(audit_log: &str) {
    let requests = requests(audit_log);
    assert!(!requests.is_empty(), "the audit log has no request");
    for event in requests {
        let verb = event["verb"].as_str().unwrap();
        assert!(["get", "list", "watch"].contains(&verb), "{event}");
        assert_eq!(event["objectRef"]["resource"], "nodes", "{event}");
        assert_ne!(event["responseStatus"]["code"], 403, "{event}");
        assert!(is_allowed(&event), "{event}");
    }
}
