//! The state of host and containers as `ip` and /proc/sys show it, less what changes by itself.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use common::{Container, store_files};

/// How long the kernel may take to come to rest: carriers and IPv6 addresses follow a call.
const LIMIT: Duration = Duration::from_secs(4);

/// What `ip` shows of a link beside its configuration: numbers that are the kernel's to choose, timers,
/// what follows from the MAC, and what follows a carrier up to a second later.
const PASSING: [&str; 17] = [
    "operstate",
    "bridge_id",
    "root_id",
    "hello_timer",
    "tcn_timer",
    "topology_change_timer",
    "gc_timer",
    "hold_timer",
    "message_age_timer",
    "forward_delay_timer",
    "id",
    "no",
    "designated_bridge",
    "designated_port",
    "link_index",
    "link_netnsid",
    "ifindex",
];

/// Flags of links and routes that do so too.
const LATE: [&str; 2] = ["NO-CARRIER", "linkdown"];

/// The host, every container and the address stores, once two reads in a row are the same.
pub(super) fn settled(containers: &BTreeMap<String, Container>) -> Value {
    let start = Instant::now();
    let mut last = read(containers);
    loop {
        std::thread::sleep(Duration::from_millis(15));
        let now = read(containers);
        let settling = now.to_string().contains("\"tentative\"");
        if (now == last && !settling) || start.elapsed() > LIMIT {
            return now;
        }
        last = now;
    }
}

/// No more than names need.
pub(super) fn links_only(containers: &BTreeMap<String, Container>) -> Value {
    let links = |name| {
        let mut shown = ip(name, b"addr\n").into_iter();
        json!({"links": links(shown.next().unwrap_or_default())})
    };
    let pods: Map<_, _> = containers
        .keys()
        .map(|name| (name.clone(), links(Some(name))))
        .collect();
    json!({"host": links(None), "pod": pods})
}

fn read(containers: &BTreeMap<String, Container>) -> Value {
    let mut pods = Map::new();
    for (name, container) in containers {
        let settings = container.enter(sysctls);
        pods.insert(name.clone(), namespace(Some(name), settings));
    }
    json!({"host": namespace(None, sysctls()), "pod": pods, "store": store()})
}

fn namespace(name: Option<&str>, sysctls: Value) -> Value {
    let mut shown = ip(name, b"addr\nroute show table all\n").into_iter();
    json!({
        "links": links(shown.next().unwrap_or_default()),
        "routes": routes(shown.next().unwrap_or_default()),
        "sysctls": sysctls,
    })
}

/// The answers of `ip` to some commands.
fn ip(name: Option<&str>, commands: &[u8]) -> Vec<Vec<Value>> {
    let mut child = Command::new("ip")
        .args(["-j", "-d"])
        .args(name.map(|name| ["-n", name]).iter().flatten())
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(commands).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "ip: {:?}", name);
    serde_json::Deserializer::from_slice(&output.stdout)
        .into_iter()
        .collect::<Result<_, _>>()
        .unwrap_or_else(|why| panic!("{why}: {}", String::from_utf8_lossy(&output.stdout)))
}

/// Links by their names, with their addresses by theirs.
fn links(shown: Vec<Value>) -> Value {
    let mut links = Map::new();
    for mut link in shown {
        let peer = link["link_index"].clone();
        let index = link["ifindex"].clone();
        let mut addresses = Map::new();
        for mut address in take_array(&mut link, "addr_info") {
            let local = address["local"].as_str().unwrap_or_default().to_owned();
            if local.starts_with("fe80:") {
                continue;
            }
            let key = format!("{local}/{}", address["prefixlen"]);
            for known in ["local", "prefixlen"] {
                address.as_object_mut().unwrap().remove(known);
            }
            addresses.insert(key, address);
        }
        drop_passing(&mut link);
        link["flags"] = sorted(&link["flags"]);
        link["addr"] = Value::Object(addresses);
        // For the names; they are taken out of the log again.
        link["#"] = json!([index, peer]);
        let ifname = link["ifname"].as_str().unwrap().to_owned();
        links.insert(ifname, link);
    }
    Value::Object(links)
}

fn take_array(of: &mut Value, key: &str) -> Vec<Value> {
    match of.as_object_mut().unwrap().remove(key) {
        Some(Value::Array(array)) => array,
        _ => Vec::new(),
    }
}

fn drop_passing(json: &mut Value) {
    if let Value::Object(object) = json {
        object.retain(|key, _| !PASSING.contains(&key.as_str()));
        object.values_mut().for_each(drop_passing);
    }
}

fn sorted(flags: &Value) -> Value {
    let mut flags: Vec<&str> = flags
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .filter(|flag| !LATE.contains(flag))
        .collect();
    flags.sort_unstable();
    json!(flags.join(" "))
}

/// Routes of all tables by table, kind, destination, link and metric.
fn routes(shown: Vec<Value>) -> Value {
    let mut routes = Map::new();
    for mut route in shown {
        let text = |key: &str| match &route[key] {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            other => other.to_string(),
        };
        let dst = text("dst");
        if dst.starts_with("fe80:") || dst.starts_with("ff00:") {
            continue;
        }
        let key = [
            text("table"),
            text("type"),
            dst,
            text("dev"),
            text("metric"),
        ]
        .join(" ");
        let object = route.as_object_mut().unwrap();
        for known in ["table", "type", "dst", "dev", "metric"] {
            object.remove(known);
        }
        route["flags"] = sorted(&route["flags"]);
        routes.insert(key, route);
    }
    Value::Object(routes)
}

/// Every setting of every link in the calling thread's namespace, and forwarding.
fn sysctls() -> Value {
    let mut all = Map::new();
    for family in ["ipv4", "ipv6"] {
        let conf = format!("/proc/sys/net/{family}/conf");
        for link in fs::read_dir(conf).into_iter().flatten().flatten() {
            let mut settings = Map::new();
            for setting in fs::read_dir(link.path()).into_iter().flatten().flatten() {
                if let Ok(value) = fs::read_to_string(setting.path()) {
                    let name = setting.file_name().to_string_lossy().into_owned();
                    settings.insert(name, json!(value.trim()));
                }
            }
            let link = link.file_name().to_string_lossy().into_owned();
            all.entry(link).or_insert_with(|| json!({}))[family] = Value::Object(settings);
        }
    }
    Value::Object(all)
}

/// Every file below the folder of CNI's state, with mode and content. What libcni keeps itself is
/// not there: the calls are ours.
pub(super) fn store() -> Value {
    let root = Path::new("/var/lib/cni");
    let mut files = Map::new();
    for (path, content) in store_files(root) {
        let mode = root.join(&path).metadata().unwrap().permissions().mode() & 0o777;
        let content = String::from_utf8_lossy(&content).into_owned();
        files.insert(
            path.display().to_string(),
            json!(format!("{mode:o} {content:?}")),
        );
    }
    Value::Object(files)
}
