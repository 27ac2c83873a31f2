//! Records as files.

use super::*;
use crate::published_ports::PublishedPort;

fn network(name: &str, ifname: &str) -> NetworkRecord {
    let config = format!(r#"{{"cniVersion": "1.0.0", "name": "{name}", "type": "pausenet"}}"#);
    let settings = AttachmentSettings {
        ips: vec!["10.1.0.7".into()],
        mac: None,
        ports: vec![
            PublishedPort::parse_all(["127.0.0.1:8080:80/udp"], |_| true)
                .unwrap()
                .remove(0),
        ],
    };
    NetworkRecord {
        addresses: vec!["10.1.0.7".into()],
        ..NetworkRecord::new(
            IfName::parse(ifname).unwrap(),
            NetworkList::parse(config.as_bytes()).unwrap(),
            settings,
        )
    }
}

fn record() -> Record {
    Record {
        identity: anchor_identity(&ContainerName::parse("web").unwrap()).unwrap(),
        kind: Kind::Anchor,
        container: Some(DockerId::parse(&"0a".repeat(32)).unwrap()),
        name: "web".into(),
        unfinished: false,
        networks: vec![network("podnet", "eth0")],
        template: Some(Template {
            image: "pausenet/pause".into(),
            restart: RestartPolicy::OnFailure(3),
            hostname: Some("front".into()),
            dns: Dns {
                servers: vec!["10.1.0.1".into()],
                ..Dns::default()
            },
            labels: [("a".to_owned(), "b".to_owned())].into(),
        }),
    }
}

#[test]
fn a_record_round_trips() {
    let mut record = record();
    for names in [&["podnet"][..], &["podnet", "other"]] {
        if names.len() > 1 {
            record.set_network(network("other", "eth1"));
        }
        let text = record.to_json().unwrap();
        let read = Record::from_json(&text).unwrap();
        assert_eq!(read.to_json().unwrap(), text);
        let attachments = |record: &Record| -> Vec<_> {
            let networks = record.networks.iter();
            networks.map(|network| record.attachment(network)).collect()
        };
        assert_eq!(attachments(&read), attachments(&record));
        let found = read
            .networks
            .iter()
            .map(|network| network.list.name.to_string());
        assert_eq!(found.collect::<Vec<_>>(), names);
        assert_eq!(read.networks[0].settings, record.networks[0].settings);
    }
}

/// As earlier versions wrote it, and read it.
#[test]
fn the_first_network_s_keys_are_the_file_s_own() {
    let mut record = record();
    record.set_network(network("other", "eth1"));
    let json: serde_json::Value = serde_json::from_slice(&record.to_json().unwrap()).unwrap();
    assert_eq!(json["ifname"], "eth0");
    assert_eq!(json["wanted"], true);
    assert_eq!(json["wishes"]["ips"][0], "10.1.0.7");
    assert_eq!(json["more_networks"][0]["ifname"], "eth1");
}

#[test]
fn networks_are_in_the_order_of_their_interfaces_and_one_replaces_another() {
    let mut record = record();
    for (name, ifname) in [("c", "eth10"), ("b", "eth2"), ("a", "eth0")] {
        record.set_network(network(name, ifname));
    }
    assert_eq!(
        record.shown_addresses(),
        "10.1.0.7 on eth0, 10.1.0.7 on eth2, 10.1.0.7 on eth10"
    );
    record
        .networks
        .iter_mut()
        .for_each(|network| network.wanted = false);
    assert!(record.addresses().is_empty());
    record.networks.clear();
    assert!(record.to_json().is_none());
}

#[test]
fn an_invalid_record_is_ignored() {
    let text = String::from_utf8(record().to_json().unwrap()).unwrap();
    for (good, bad) in [
        ("\"docker-web\"", "\"../../etc\""),
        ("\"eth0\"", "\"a/b\""),
        ("\"on-failure:3\"", "\"sometimes\""),
        ("\"anchor\"", "\"ship\""),
        ("8080", "80800"),
        ("podnet", ""),
    ] {
        assert!(text.contains(good), "{good}");
        let broken = text.replace(good, bad);
        assert!(Record::from_json(broken.as_bytes()).is_none(), "{bad}");
    }
    for cut in 0..text.len() {
        assert!(Record::from_json(&text.as_bytes()[..cut]).is_none());
    }
}

#[test]
fn a_new_anchor_keeps_the_labels_of_the_old_one() {
    let labels = record().labels();
    let has = |name: &str, value: &str| labels.contains(&(name.into(), value.into()));
    assert!(has("a", "b"));
    assert!(has(IDENTITY_LABEL, "docker-web"));
    assert!(has(NETWORK_LABEL, "podnet"));
}
