//! The floor: what the kernel alone takes for an attachment.
//!
//! It makes and removes the same objects as the plugin (a veth pair, addresses, routes, an alias,
//! an element in nftables, an address file), in the fewest messages that do it. It ends when the
//! container can be reached, as every plugin does: a port that the kernel has yet to let forward
//! is work that somebody has to wait for. Nothing is read, checked, looked up, locked or undone,
//! and there is no protocol: each number and name that it needs is an argument. So nothing that
//! wires containers can be faster than this by much, and what the plugin takes beyond it is the
//! plugin's own.
//!
//! `floor add KEY=VALUE...` and `floor del KEY=VALUE...`, with the keys of [`Wanted`].

mod message;

use std::collections::HashMap;
use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd};

use message::{Batch, Kind};
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The container end's index: the first that a namespace gives after its loopback.
const INSIDE: u32 = 2;

/// The arguments, each `KEY=VALUE`.
struct Wanted(HashMap<String, String>);

impl Wanted {
    fn new(args: impl Iterator<Item = String>) -> Self {
        let pair = |arg: String| {
            let (key, value) = arg.split_once('=')?;
            Some((key.to_owned(), value.to_owned()))
        };
        Self(args.filter_map(pair).collect())
    }

    fn maybe(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    fn text(&self, key: &str) -> Result<&str, String> {
        self.maybe(key).ok_or_else(|| format!("{key}= is missing"))
    }

    fn number(&self, key: &str) -> Result<u32, Box<dyn Error>> {
        Ok(self.text(key)?.parse()?)
    }

    fn ip(&self, key: &str) -> Result<[u8; 4], Box<dyn Error>> {
        Ok(self.text(key)?.parse::<Ipv4Addr>()?.octets())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let verb = args.next().unwrap_or_default();
    let wanted = Wanted::new(args);
    match verb.as_str() {
        "add" => add(&wanted),
        "del" => del(&wanted),
        other => Err(format!("add or del, not {other:?}").into()),
    }
}

fn add(wanted: &Wanted) -> Result<(), Box<dyn Error>> {
    let address = wanted.ip("address")?;
    let gateway = wanted.ip("gateway")?;
    let index = wanted.number("index")?;
    let netns = File::open(wanted.text("netns")?)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(wanted.text("file")?)?;
    file.write_all(wanted.text("alias")?.as_bytes())?;

    let mut pair = Batch::new(NETLINK_ROUTE)?;
    let message = pair.start(Kind::NewVeth);
    message.link(index, true);
    message.text(message::IFNAME, wanted.text("veth")?);
    message.number(message::GROUP, 1);
    if wanted.maybe("bridge").is_some() {
        message.number(message::MASTER, wanted.number("bridge")?);
    }
    message.veth_peer(INSIDE, "eth0", netns.as_fd().as_raw_fd());
    pair.send()?;

    // The host's socket, before the thread leaves for the container's namespace.
    let mut host = Batch::new(NETLINK_ROUTE)?;
    if let Some(set) = wanted.maybe("set") {
        let mut batch = Batch::new(NETLINK_NETFILTER)?;
        batch.element(Kind::NewElement, set, address);
        batch.send()?;
    }

    move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
    let mut inside = Batch::new(NETLINK_ROUTE)?;
    let bridged = wanted.maybe("bridge").is_some();
    inside
        .start(Kind::NewAddress)
        .address(INSIDE, address, if bridged { 16 } else { 32 });
    inside.start(Kind::SetLink).link(INSIDE, true);
    if !bridged {
        inside
            .start(Kind::NewRoute)
            .route((gateway, 32), INSIDE, None, message::LINK);
    }
    inside
        .start(Kind::NewRoute)
        .route(([0; 4], 0), INSIDE, Some(gateway), message::UNIVERSE);
    inside.send()?;

    if !bridged {
        host.start(Kind::NewAddress).address(index, gateway, 32);
        host.start(Kind::NewRoute)
            .route((address, 32), index, None, message::HOST);
    }
    // To be asked for a link's state makes the kernel settle it first: from here on it forwards.
    let message = host.start(Kind::GetLink);
    message.link(index, false);
    message.number(message::EXT_MASK, message::SKIP_STATS);
    let message = host.start(Kind::SetLink);
    message.link(index, false);
    message.text(message::ALIAS, wanted.text("alias")?);
    host.send()?;
    Ok(())
}

fn del(wanted: &Wanted) -> Result<(), Box<dyn Error>> {
    let mut links = Batch::new(NETLINK_ROUTE)?;
    links
        .start(Kind::DelLink)
        .link(wanted.number("index")?, false);
    links.send()?;
    if let Some(set) = wanted.maybe("set") {
        let mut batch = Batch::new(NETLINK_NETFILTER)?;
        batch.element(Kind::DelElement, set, wanted.ip("address")?);
        batch.send()?;
    }
    fs::remove_file(wanted.text("file")?)?;
    Ok(())
}
