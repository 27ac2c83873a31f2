//! Port mappings of SCTP. The kernel needs no SCTP of its own for them, only connection tracking
//! that knows it: so the two ends here are raw sockets, and the association is its first packet.

use std::net::UdpSocket;
use std::path::Path;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType, ipproto, socket};
use serde_json::json;

use common::traffic::{Namespace, inside};
use common::{World, added, lab, outside_host, podnet, with};

/// Packets of SCTP, with their IP header on the way in.
fn raw(namespace: Namespace) -> UdpSocket {
    let open = || socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::SCTP));
    // The standard library's type for sockets that know no connection.
    let socket = UdpSocket::from(inside(namespace, open).unwrap());
    socket
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    socket
}

/// An INIT (RFC 9260, section 3.3.2).
fn init(from: u16, to: u16) -> Vec<u8> {
    let mut packet = Vec::new();
    packet.extend(from.to_be_bytes());
    packet.extend(to.to_be_bytes());
    packet.extend([0; 8]); // verification tag, checksum
    packet.extend([1, 0, 0, 20]); // INIT, its length
    packet.extend([0, 0, 0, 7]); // initiate tag
    packet.extend([0, 0, 0x80, 0]); // window
    packet.extend([0, 1, 0, 1]); // streams
    packet.extend([0, 0, 0, 9]); // first TSN
    let checksum = crc32c(&packet);
    packet[8..12].copy_from_slice(&checksum.to_le_bytes());
    packet
}

fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    !crc
}

#[test]
fn a_mapped_sctp_port_reaches_the_container() {
    let world = World::new();
    let outside = outside_host(&world, 2);
    let entry = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "sctp"}]);
    let config = with(podnet(), json!({"runtimeConfig": {"portMappings": entry}}));
    let (x, _) = added(&world, &config, "x");
    if !Path::new("/proc/sys/net/netfilter/nf_conntrack_sctp_timeout_closed").exists() {
        return lab::skip_for_the_kernel("CONFIG_NF_CT_PROTO_SCTP");
    }
    let (client, server) = (raw(Some(&outside)), raw(Some(&x)));

    client.send_to(&init(5000, 8080), "192.0.2.1:0").unwrap();

    let mut packet = [0; 128];
    let (length, from) = server.recv_from(&mut packet).expect("the INIT");
    assert_eq!(from.ip().to_string(), "192.0.2.2");
    // Past the IP header: with the container's port, and a checksum that is right for it.
    assert_eq!(packet[20..length], init(5000, 80));
}
