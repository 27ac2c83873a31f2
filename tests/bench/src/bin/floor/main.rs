//! The floor: the kernel's own cost of an attachment.
//!
//! It creates and removes the same objects as the plugin (a veth pair, addresses, routes, an alias, an
//! nftables element, an address file), in the fewest possible messages. It ends when the container can
//! be reached, as every plugin does: waiting until the kernel lets a port forward is part of the cost.
//! It does not read, check, look up, lock or undo anything, and it has no protocol: each number and name
//! is an argument. So nothing that attaches containers can be much faster, and the plugin's time beyond
//! it is the plugin's own.
//!
//! `floor add KEY=VALUE...` and `floor del KEY=VALUE...`, with the keys of [`Args`].

mod message;

use std::collections::HashMap;
use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};

use message::{Batch, Kind};
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The index of the container end: the first one in a namespace after its loopback.
const CONTAINER_END: u32 = 2;

/// The arguments, each `KEY=VALUE`.
struct Args(HashMap<String, String>);

impl Args {
    fn new(args: impl Iterator<Item = String>) -> Self {
        let pair = |arg: String| {
            let (key, value) = arg.split_once('=')?;
            Some((key.to_owned(), value.to_owned()))
        };
        Self(args.filter_map(pair).collect())
    }

    fn optional(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    fn text(&self, key: &str) -> Result<&str, String> {
        self.optional(key)
            .ok_or_else(|| format!("{key}= is missing"))
    }

    fn number(&self, key: &str) -> Result<u32, Box<dyn Error>> {
        Ok(self.text(key)?.parse()?)
    }

    fn ip(&self, key: &str) -> Result<[u8; 4], Box<dyn Error>> {
        Ok(self.text(key)?.parse::<Ipv4Addr>()?.octets())
    }

    fn ip6(&self, key: &str) -> Result<Option<[u8; 16]>, Box<dyn Error>> {
        let parse = |text: &str| text.parse::<Ipv6Addr>();
        Ok(self
            .optional(key)
            .map(parse)
            .transpose()?
            .map(|ip| ip.octets()))
    }

    /// Makes an address file.
    fn reserve(&self, key: &str) -> Result<(), Box<dyn Error>> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(self.text(key)?)?;
        file.write_all(self.text("alias")?.as_bytes())?;
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let verb = args.next().unwrap_or_default();
    let args = Args::new(args);
    match verb.as_str() {
        "add" => add(&args),
        "del" => del(&args),
        other => Err(format!("add or del, not {other:?}").into()),
    }
}

fn add(args: &Args) -> Result<(), Box<dyn Error>> {
    let address = args.ip("address")?;
    let gateway = args.ip("gateway")?;
    let index = args.number("index")?;
    let netns = File::open(args.text("netns")?)?;
    let (address6, gateway6) = (args.ip6("address6")?, args.ip6("gateway6")?);
    args.reserve("file")?;
    if address6.is_some() {
        args.reserve("file6")?;
    }

    let mut pair = Batch::new(NETLINK_ROUTE)?;
    let message = pair.start(Kind::NewVeth);
    message.link(index, true);
    message.text(message::IFNAME, args.text("veth")?);
    message.number(message::GROUP, 1);
    if args.optional("bridge").is_some() {
        message.number(message::MASTER, args.number("bridge")?);
    }
    message.veth_peer(CONTAINER_END, "eth0", netns.as_fd().as_raw_fd());
    pair.send()?;

    // The host's socket, opened before the thread enters the container's namespace.
    let mut host = Batch::new(NETLINK_ROUTE)?;
    if let Some(set) = args.optional("set") {
        let mut batch = Batch::new(NETLINK_NETFILTER)?;
        batch.element(Kind::NewElement, set, address);
        batch.send()?;
    }

    move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
    let mut inside = Batch::new(NETLINK_ROUTE)?;
    let bridged = args.optional("bridge").is_some();
    inside
        .start(Kind::NewAddress)
        .address(CONTAINER_END, &address, if bridged { 16 } else { 32 });
    if let Some(address) = address6 {
        inside
            .start(Kind::NewAddress)
            .address(CONTAINER_END, &address, 64);
    }
    inside.start(Kind::SetLink).link(CONTAINER_END, true);
    if !bridged {
        inside
            .start(Kind::NewRoute)
            .route((&gateway, 32), CONTAINER_END, None, message::LINK);
    }
    inside.start(Kind::NewRoute).route(
        (&[0; 4], 0),
        CONTAINER_END,
        Some(&gateway),
        message::UNIVERSE,
    );
    if let Some(gateway) = gateway6 {
        inside.start(Kind::NewRoute).route(
            (&[0; 16], 0),
            CONTAINER_END,
            Some(&gateway),
            message::UNIVERSE,
        );
    }
    inside.send()?;

    if !bridged {
        host.start(Kind::NewAddress).address(index, &gateway, 32);
        host.start(Kind::NewRoute)
            .route((&address, 32), index, None, message::HOST);
    }
    // Before the kernel answers a GETLINK, it settles the link's state: from here on the port forwards.
    let message = host.start(Kind::GetLink);
    message.link(index, false);
    message.number(message::EXT_MASK, message::SKIP_STATS);
    let message = host.start(Kind::SetLink);
    message.link(index, false);
    message.text(message::ALIAS, args.text("alias")?);
    host.send()?;
    Ok(())
}

fn del(args: &Args) -> Result<(), Box<dyn Error>> {
    let mut links = Batch::new(NETLINK_ROUTE)?;
    links
        .start(Kind::DelLink)
        .link(args.number("index")?, false);
    links.send()?;
    if let Some(set) = args.optional("set") {
        let mut batch = Batch::new(NETLINK_NETFILTER)?;
        batch.element(Kind::DelElement, set, args.ip("address")?);
        batch.send()?;
    }
    fs::remove_file(args.text("file")?)?;
    if let Some(file) = args.optional("file6") {
        fs::remove_file(file)?;
    }
    Ok(())
}
