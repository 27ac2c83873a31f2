//! `pod create`: what it creates, how it calls plugins, and what it refuses.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::host::{PodHost, is_alive};
use common::programs;
use common::{allocated, podnet, with};

#[test]
fn a_pod_is_a_wired_namespace_with_a_pause_process() {
    let host = PodHost::new();
    let made = host.create("web");
    let pause = made["pause"].as_u64().unwrap() as u32;
    assert!(is_alive(pause));
    assert_eq!(made["netns"], "/run/pausenet/netns/web");
    assert_eq!(made["result"]["ips"][0]["address"], "10.1.0.2/24");
    let up = host.ok(&["pod", "exec", "web", "--", "ip", "-o", "link", "show", "up"]);
    assert!(up.contains(" lo:") && up.contains(" eth0@"), "{up}");
    // The holder distinguishes our addresses from a runtime's.
    let holder = fs::read_to_string("/var/lib/cni/networks/podnet/10.1.0.2").unwrap();
    assert_eq!(holder, "pausectl-web\r\neth0");
    assert_eq!(host.ok(&["pod", "rm", "web"]), "web: removed\n");
    assert!(!is_alive(pause));
    host.assert_nothing_is_left();
}

#[test]
fn members_share_address_mac_counters_and_loopback() {
    let host = PodHost::new();
    host.create("web");
    host.create("db");
    let (a, b) = (host.member("web"), host.member("web"));
    let (from_a, from_b) = (a.view(), b.view());
    assert_eq!(from_a.addresses("eth0"), ["10.1.0.2/24"]);
    assert_eq!(from_a.addresses("eth0"), from_b.addresses("eth0"));
    assert_eq!(
        from_a.link("eth0").unwrap().mac,
        from_b.link("eth0").unwrap().mac
    );

    let before = a.counters();
    let listener = host
        .member("db")
        .view()
        .enter(|| TcpListener::bind("10.1.0.3:0").unwrap());
    let address = listener.local_addr().unwrap();
    from_a.enter(|| TcpStream::connect(address).unwrap());
    assert_ne!(a.counters(), before);
    assert_eq!(a.counters(), b.counters());

    let listener = from_a.enter(|| TcpListener::bind("127.0.0.1:0").unwrap());
    let address = listener.local_addr().unwrap();
    let mut stream = from_b.enter(|| TcpStream::connect(address).unwrap());
    listener.accept().unwrap().0.write_all(b"hello").unwrap();
    let mut heard = String::new();
    stream.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "hello");
}

#[test]
fn a_member_s_death_does_not_affect_the_others() {
    let host = PodHost::new();
    host.create("web");
    host.create("db");
    let (a, b) = (host.member("web"), host.member("web"));
    let listener = host
        .member("db")
        .view()
        .enter(|| TcpListener::bind("10.1.0.3:0").unwrap());
    let address = listener.local_addr().unwrap();
    let mut stream = b.view().enter(|| TcpStream::connect(address).unwrap());
    let mut other_end = listener.accept().unwrap().0;
    let before = b.view().link("eth0");
    a.kill();
    assert_eq!(b.view().link("eth0"), before);
    assert_eq!(b.view().addresses("eth0"), ["10.1.0.2/24"]);
    stream.write_all(b"still here").unwrap();
    drop(stream);
    let mut heard = String::new();
    other_end.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "still here");
}

#[test]
fn the_pause_process_inherits_nothing_from_pausectl() {
    let host = PodHost::new();
    // A shell that hands a file and a variable on to whatever it starts.
    let pausectl = programs::pausectl();
    let script = format!("exec 7</dev/null; cd /usr; exec {pausectl} pod create web -o json");
    let output = Command::new("sh")
        .args(["-c", &script])
        .envs(
            host.command(&[])
                .get_envs()
                .filter_map(|(k, v)| Some((k, v?))),
        )
        .env("SECRET", "x")
        .output()
        .unwrap();
    let made: Value = serde_json::from_slice(&output.stdout).unwrap();
    let proc = format!("/proc/{}", made["pause"]);
    let files = fs::read_dir(format!("{proc}/fd")).unwrap();
    let mut files: Vec<_> = files
        .map(|entry| {
            let entry = entry.unwrap();
            let target = fs::read_link(entry.path()).unwrap();
            (
                entry.file_name().into_string().unwrap(),
                target.display().to_string(),
            )
        })
        .collect();
    files.sort();
    let null = |number: &str| (number.to_owned(), "/dev/null".to_owned());
    assert_eq!(files, [null("0"), null("1"), null("2")]);
    assert_eq!(
        fs::read_link(format!("{proc}/cwd")).unwrap().to_str(),
        Some("/")
    );
    assert_eq!(fs::read(format!("{proc}/environ")).unwrap(), b"");
    assert_eq!(
        fs::read_to_string(format!("{proc}/comm")).unwrap(),
        "pause\n"
    );
    assert_eq!(
        fs::read(format!("{proc}/cmdline")).unwrap(),
        b"pause: pod web\0"
    );
    let stat = fs::read_to_string(format!("{proc}/stat")).unwrap();
    let fields: Vec<_> = stat.split_whitespace().collect();
    let pid = made["pause"].to_string();
    assert_eq!(
        [fields[4], fields[5]],
        [&pid, &pid],
        "process group and session"
    );
}

#[test]
fn an_existing_pod_is_refused_and_not_touched() {
    let host = PodHost::new();
    let made = host.create("web");
    let before = host.pods();
    let said = host.fails(1, &["pod", "create", "web"]);
    assert!(said.contains("pod web already exists"), "{said}");
    assert_eq!(host.pods(), before);
    assert_eq!(before[0]["pause"], made["pause"]);
}

#[test]
fn hostile_names_are_a_usage_error() {
    let host = PodHost::new();
    let long = "x".repeat(120);
    for name in [
        "", ".", "..", "../web", "a/b", "a b", ".web", "a\nb", "ä", &long,
    ] {
        for verb in ["create", "rm"] {
            let said = host.fails(2, &["pod", verb, name]);
            assert!(said.contains("pod name"), "{said}");
        }
        host.fails(2, &["pod", "exec", name, "--", "true"]);
    }
    host.fails(2, &["pod", "create", "--", "-web"]);
    host.assert_nothing_is_left();
}

#[test]
fn of_concurrent_creates_of_one_name_one_wins() {
    let host = PodHost::new();
    let children: Vec<_> = (0..6)
        .map(|_| {
            let mut command = host.command(&["pod", "create", "web"]);
            command.stdout(Stdio::null()).stderr(Stdio::piped());
            command.spawn().unwrap()
        })
        .collect();
    let outcomes: Vec<_> = children
        .into_iter()
        .map(|child| child.wait_with_output().unwrap())
        .collect();
    let winners = outcomes.iter().filter(|outcome| outcome.status.success());
    assert_eq!(winners.count(), 1);
    for loser in outcomes.iter().filter(|outcome| !outcome.status.success()) {
        let said = String::from_utf8_lossy(&loser.stderr);
        assert!(said.contains("already exists"), "{said}");
    }
    assert_eq!(host.pods().len(), 1);
    assert_eq!(allocated("podnet").len(), 1);
    host.ok(&["pod", "rm", "web"]);
    host.assert_nothing_is_left();
}

#[test]
fn concurrent_creates_of_different_names_do_not_interfere() {
    let host = PodHost::new();
    let names: Vec<_> = (0..8).map(|number| format!("pod-{number}")).collect();
    let children: Vec<_> = names
        .iter()
        .map(|name| {
            let mut command = host.command(&["pod", "create", name]);
            command.stdout(Stdio::null()).spawn().unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let pods = host.pods();
    let addresses: std::collections::BTreeSet<_> = pods
        .iter()
        .map(|pod| pod["interfaces"][0]["addresses"][0].to_string())
        .collect();
    assert_eq!((pods.len(), addresses.len()), (8, 8));
    let mut rm = vec!["pod", "rm"];
    rm.extend(names.iter().map(String::as_str));
    host.ok(&rm);
    host.assert_nothing_is_left();
}

#[test]
fn each_plugin_receives_the_previous_result_and_del_the_last() {
    let host = PodHost::new();
    let last = json!({"cniVersion": "1.0.0", "ips": [{"address": "10.9.9.9/24"}]});
    let on_add = format!("[ $CNI_COMMAND != ADD ] || echo '{last}'");
    host.plugin("second", &on_add);
    host.plugin("third", &on_add);
    let file = host.chain(&["second", "third"]);
    let said = host.ok(&["pod", "create", "web", "--conf", file.to_str().unwrap()]);
    assert!(
        said.starts_with("web: 10.9.9.9/24 on eth0 (network chain)"),
        "{said}"
    );

    let config = host.config_of("second", "ADD");
    assert_eq!(
        (&config["name"], &config["cniVersion"]),
        (&json!("chain"), &json!("1.0.0"))
    );
    assert_eq!(config["prevResult"]["ips"][0]["address"], "10.1.0.2/24");
    assert_eq!(host.config_of("third", "ADD")["prevResult"], last);

    host.ok(&["pod", "rm", "web"]);
    assert_eq!(host.config_of("second", "DEL")["prevResult"], last);
    let calls = host.logged("calls").unwrap();
    assert_eq!(calls, "second ADD\nthird ADD\nthird DEL\nsecond DEL\n");
    host.assert_nothing_is_left();
}

#[test]
fn requests_go_to_plugins_that_declare_the_capability_or_else_to_cni_args() {
    let host = PodHost::new();
    let capable = with(
        podnet(),
        json!({"capabilities": {"ips": true, "mac": true}}),
    );
    host.network(&with(capable, json!({"name": "capable"})));
    for (network, pod, ip, mac) in [
        ("podnet", "a", "10.1.0.77", "02:00:00:00:00:0a"),
        ("capable", "b", "10.1.0.78", "02:00:00:00:00:0b"),
    ] {
        let args = [
            "pod",
            "create",
            pod,
            "--network",
            network,
            "--ip",
            ip,
            "--mac",
            mac,
        ];
        host.ok(&args);
        let member = host.member(pod);
        assert_eq!(member.view().addresses("eth0"), [format!("{ip}/24")]);
        assert_eq!(
            member.view().link("eth0").unwrap().mac.unwrap().to_string(),
            mac
        );
    }
}

#[test]
fn a_request_that_no_plugin_supports_is_refused_and_undone() {
    let host = PodHost::new();
    let result = json!({"cniVersion": "1.0.0", "ips": [{"address": "10.9.9.9/24"}]});
    host.plugin(
        "deaf",
        &format!("[ $CNI_COMMAND != ADD ] || echo '{result}'"),
    );
    host.network(&json!({"cniVersion": "1.0.0", "name": "deaf", "type": "deaf"}));
    let args = [
        "pod",
        "create",
        "web",
        "--network",
        "deaf",
        "--ip",
        "10.9.9.8",
    ];
    let said = host.fails(1, &args);
    assert!(said.contains("did not provide address 10.9.9.8"), "{said}");
    host.assert_nothing_is_left();
    for wrong in [
        ["--ip", "10.9.9"],
        ["--mac", "x"],
        ["--ifname", "a/b"],
        ["--timeout", "0"],
    ] {
        host.fails(2, &["pod", "create", "web", wrong[0], wrong[1]]);
    }
}

#[test]
fn missing_prerequisites_are_reported_before_anything_is_created() {
    let host = PodHost::new();
    let said = host.fails(1, &["pod", "create", "web", "--network", "nowhere"]);
    assert!(
        said.contains("\"nowhere\"") && said.contains("podnet"),
        "{said}"
    );
    let said = host.fails(1, &["pod", "create", "web", "--conf", "/missing.conflist"]);
    assert!(said.contains("/missing.conflist"), "{said}");
    let said = host.fails(1, &["pod", "create", "web", "--pause", "/missing/pause"]);
    assert!(said.contains("/missing/pause"), "{said}");
    host.network(&json!({"name": "x", "type": "not-there"}));
    let said = host.fails(1, &["pod", "create", "web", "--network", "x"]);
    assert!(
        said.contains("\"not-there\"") && said.contains("plugins"),
        "{said}"
    );
    host.assert_nothing_is_left();
}

#[test]
fn the_example_conflists_work() {
    let dir = Path::new(common::programs::CHECKOUT).join("conf");
    let mut tried = 0;
    for entry in fs::read_dir(&dir).unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_none_or(|ending| ending != "conflist") {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        if text.contains("tuning") && !Path::new("/usr/lib/cni/tuning").exists() {
            eprintln!(
                "{}: not tried: containernetworking-plugins is not installed",
                file.display()
            );
            continue;
        }
        tried += 1;
        std::thread::spawn(move || {
            let host = PodHost::new();
            let mut command = host.command(&["pod", "create", "web", "--conf"]);
            let beside = Path::new(programs::pausectl())
                .parent()
                .unwrap()
                .to_str()
                .unwrap();
            command
                .arg(&file)
                .env("CNI_PATH", format!("{beside}:/usr/lib/cni"));
            let output = command.output().unwrap();
            assert!(output.status.success(), "{}: {output:?}", file.display());
            let pod = &host.pods()[0];
            assert!(pod["interfaces"][0]["network"].is_string(), "{pod}");
            let mut command = host.command(&["pod", "rm", "web"]);
            command.env("CNI_PATH", format!("{beside}:/usr/lib/cni"));
            assert!(command.output().unwrap().status.success());
            assert!(host.pods().is_empty());
        })
        .join()
        .unwrap();
    }
    assert!(tried >= 2);
}

/// As libcni 1.3 reads a list.
#[test]
fn plugins_in_the_folder_of_the_network_run_after_those_of_its_list() {
    let host = PodHost::new();
    let result = json!({"cniVersion": "1.0.0", "ips": [{"address": "10.9.9.9/24"}]});
    for name in ["second", "third"] {
        host.plugin(name, &format!("[ $CNI_COMMAND != ADD ] || echo '{result}'"));
    }
    let list = host.chain(&["second"]);
    let folder = list.parent().unwrap().join("chain");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("10-third.conf"), r#"{"type": "third"}"#).unwrap();

    host.ok(&["pod", "create", "web", "--network", "chain"]);
    assert_eq!(host.logged("calls").unwrap(), "second ADD\nthird ADD\n");
    assert_eq!(host.config_of("third", "ADD")["name"], "chain");

    // It is remembered with them.
    fs::remove_dir_all(&folder).unwrap();
    host.ok(&["pod", "rm", "web"]);
    let calls = host.logged("calls").unwrap();
    assert!(calls.ends_with("third DEL\nsecond DEL\n"), "{calls}");
    host.assert_nothing_is_left();
}
