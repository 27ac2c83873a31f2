//! Traffic control: token buckets that limit what a link sends, and redirection through an IFB,
//! which limits what it receives.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL, Nla, NlasIterator};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAction, TcActionAttribute, TcActionMirror, TcActionMirrorOption, TcActionOption,
    TcActionType, TcAttribute, TcFilterU32, TcFilterU32Option, TcHandle, TcMessage, TcMirror,
    TcMirrorActionType, TcOption, TcU32Key, TcU32Selector, TcU32SelectorFlags,
};
use rtnetlink::LinkIfb;

use super::error::KernelError;
use super::link::{self, Link, Which};
use super::nft::expr::address_bytes;
use super::reply::Message;
use super::route_socket::RouteSocket;
use crate::cni::bandwidth::Limit;
use crate::cni::{Family, IfName};

/// How long a packet may wait for tokens before it is dropped. The reference's value.
const LATENCY_MS: u64 = 25;

/// TCA_TBF_PARMS, a struct tc_tbf_qopt, and TCA_HTB_PARMS, a struct tc_htb_opt.
const PARAMETERS: u16 = 1;

const NEW: u16 = NLM_F_CREATE | NLM_F_EXCL;

/// Limits what a link sends.
pub fn limit(socket: &mut RouteSocket, index: u32, limit: Limit) -> Result<(), KernelError> {
    let mut message = message(index);
    message.header.parent = TcHandle::ROOT;
    message.header.handle = TcHandle { major: 1, minor: 0 };
    message.attributes = vec![
        TcAttribute::Kind("tbf".into()),
        TcAttribute::Options(bucket(limit).into_iter().map(TcOption::Other).collect()),
    ];
    socket.request(RouteNetlinkMessage::NewQueueDiscipline(message), NEW)?;
    Ok(())
}

/// A token bucket's options (struct tc_tbf_qopt and later attributes, in linux/pkt_sched.h).
fn bucket(limit: Limit) -> Vec<DefaultNla> {
    const RATE64: u16 = 4;
    const BURST: u16 = 6;
    let mut parameters = rate_specification(limit).to_vec();
    parameters.extend([0; 12]); // no peak rate
    parameters.extend(queue(limit).to_ne_bytes());
    parameters.extend([0; 8]); // buffer and mtu: set by BURST
    vec![
        DefaultNla::new(PARAMETERS, parameters),
        DefaultNla::new(RATE64, limit.rate.to_ne_bytes().to_vec()),
        DefaultNla::new(BURST, limit.burst.to_ne_bytes().to_vec()),
    ]
}

/// struct tc_ratespec: cell_log, linklayer, overhead, cell_align, mpu, rate.
fn rate_specification(limit: Limit) -> [u8; 12] {
    const ETHERNET: u8 = 1;
    let mut specification = [0; 12];
    specification[1] = ETHERNET;
    let rate32 = u32::try_from(limit.rate).unwrap_or(u32::MAX);
    specification[8..].copy_from_slice(&rate32.to_ne_bytes());
    specification
}

/// How many bytes may wait for tokens.
fn queue(limit: Limit) -> u32 {
    let waiting = limit.rate * LATENCY_MS / 1000;
    u32::try_from(waiting.saturating_add(limit.burst.into())).unwrap_or(u32::MAX)
}

/// The end of a packet whose address says whether it is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Source,
    Destination,
}

/// Limits a part of what a link sends: packets whose address at this end is in one of the subnets, or with
/// `others` all that are in none.
///
/// The rest takes HTB's direct queue, which has no limit and needs no class.
pub(crate) fn limit_some(
    socket: &mut RouteSocket,
    index: u32,
    limit: Limit,
    end: End,
    subnets: &[IpNetwork],
    others: bool,
) -> Result<(), KernelError> {
    const QDISC: TcHandle = TcHandle { major: 1, minor: 0 };
    const CLASS: TcHandle = TcHandle { major: 1, minor: 1 };
    let (unfound, found) = if others {
        (CLASS, QDISC)
    } else {
        (QDISC, CLASS)
    };

    let mut qdisc = message(index);
    qdisc.header.parent = TcHandle::ROOT;
    qdisc.header.handle = QDISC;
    qdisc.attributes = vec![TcAttribute::Kind(HTB.into()), options(htb(unfound.minor))];
    socket.request(RouteNetlinkMessage::NewQueueDiscipline(qdisc), NEW)?;

    let mut class = message(index);
    class.header.parent = QDISC;
    class.header.handle = CLASS;
    class.attributes = vec![TcAttribute::Kind(HTB.into()), options(htb_class(limit))];
    socket.request(RouteNetlinkMessage::NewTrafficClass(class), NEW)?;

    let mut waiting = message(index);
    waiting.header.parent = CLASS;
    waiting.header.handle = TcHandle { major: 2, minor: 0 };
    // struct tc_fifo_qopt: the limit in bytes.
    let fifo = DefaultNla::new(OPTIONS, queue(limit).to_ne_bytes().to_vec());
    waiting.attributes = vec![TcAttribute::Kind("bfifo".into()), TcAttribute::Other(fifo)];
    socket.request(RouteNetlinkMessage::NewQueueDiscipline(waiting), NEW)?;

    for subnet in subnets {
        let mut filter = message(index);
        filter.header.parent = QDISC;
        // One preference for each protocol.
        let (preference, protocol) = match Family::from(*subnet) {
            Family::Ipv4 => (1, 0x0800_u16),
            Family::Ipv6 => (2, 0x86dd_u16),
        };
        filter.header.info = preference << 16 | u32::from(protocol.to_be());
        let selected = vec![
            TcFilterU32Option::ClassId(found),
            TcFilterU32Option::Selector(address_selector(*subnet, end)),
        ];
        filter.attributes = vec![
            TcAttribute::Kind(TcFilterU32::KIND.into()),
            TcAttribute::Options(selected.into_iter().map(TcOption::U32).collect()),
        ];
        socket.request(RouteNetlinkMessage::NewTrafficFilter(filter), NEW)?;
    }
    Ok(())
}

const HTB: &str = "htb";

/// TCA_OPTIONS.
const OPTIONS: u16 = 2;

fn options(of: Vec<DefaultNla>) -> TcAttribute {
    TcAttribute::Options(of.into_iter().map(TcOption::Other).collect())
}

/// HTB's own options. `class` is that of packets that no filter finds; 0 is the direct queue.
fn htb(class: u16) -> Vec<DefaultNla> {
    const INIT: u16 = 2;
    const DIRECT_QUEUE: u16 = 5;
    // struct tc_htb_glob: version, rate2quantum, defcls, debug, direct_pkts.
    let init = [3, 10, u32::from(class), 0, 0]
        .map(u32::to_ne_bytes)
        .concat();
    vec![
        DefaultNla::new(INIT, init),
        // An IFB's default is 32 packets, which a fast sender overruns.
        DefaultNla::new(DIRECT_QUEUE, 1000_u32.to_ne_bytes().to_vec()),
    ]
}

/// The class's options (struct tc_htb_opt).
fn htb_class(limit: Limit) -> Vec<DefaultNla> {
    const RATE64: u16 = 6;
    const CEIL64: u16 = 7;
    /// A tick of the kernel's packet schedulers (PSCHED_SHIFT).
    const TICK_NS: u64 = 64;
    let burst_ns = u64::from(limit.burst).saturating_mul(1_000_000_000) / limit.rate.max(1);
    let burst = u32::try_from(burst_ns / TICK_NS).unwrap_or(u32::MAX);
    let specification = rate_specification(limit);
    let mut parameters = [specification, specification].concat();
    parameters.extend([burst, burst, 0, 0, 0].map(u32::to_ne_bytes).concat());
    let rate = limit.rate.to_ne_bytes().to_vec();
    vec![
        DefaultNla::new(PARAMETERS, parameters),
        DefaultNla::new(RATE64, rate.clone()),
        DefaultNla::new(CEIL64, rate),
    ]
}

/// Selects packets by the subnet of an address.
fn address_selector(subnet: IpNetwork, end: End) -> TcU32Selector {
    let first = match (Family::from(subnet), end) {
        (Family::Ipv4, End::Source) => 12,
        (Family::Ipv4, End::Destination) => 16,
        (Family::Ipv6, End::Source) => 8,
        (Family::Ipv6, End::Destination) => 24,
    };
    let words = |address: IpAddr| -> Vec<u32> {
        let bytes = address_bytes(address);
        let words = bytes.chunks_exact(4);
        words
            .map(|word| u32::from_be_bytes([word[0], word[1], word[2], word[3]]))
            .collect()
    };
    let values = words(subnet.network())
        .into_iter()
        .zip(words(subnet.mask()));
    let keys = values.zip((first..).step_by(4)).map(|((val, mask), off)| {
        let mut key = TcU32Key::default();
        (key.val, key.mask, key.off) = (val, mask, off);
        key
    });
    let mut selector = TcU32Selector::default();
    selector.flags = TcU32SelectorFlags::Terminal;
    selector.keys = keys.collect();
    selector.nkeys = selector.keys.len() as u8;
    selector
}

/// Removes limits and redirection from a link. What is not there need not be removed.
pub(crate) fn clear(socket: &mut RouteSocket, index: u32) {
    for parent in [TcHandle::ROOT, TcHandle::INGRESS] {
        let mut qdisc = message(index);
        qdisc.header.parent = parent;
        let _ = socket.request(RouteNetlinkMessage::DelQueueDiscipline(qdisc), 0);
    }
}

/// Creates an IFB and switches it on.
///
/// # Errors
/// The kernel's error; EEXIST when the name is taken.
pub fn create_ifb(
    socket: &mut RouteSocket,
    name: &IfName,
    mtu: u32,
    group: u32,
) -> Result<Link, KernelError> {
    let message = LinkIfb::new(name.as_str())
        .mtu(mtu)
        .link_group(group)
        .up()
        .build();
    socket.request(RouteNetlinkMessage::NewLink(message), NEW)?;
    link::get(socket, Which::Name(name))?
        .ok_or_else(|| std::io::Error::from(rustix::io::Errno::NODEV).into())
}

/// Redirects everything that one link receives to another.
pub fn redirect(socket: &mut RouteSocket, from: u32, to: u32) -> Result<(), KernelError> {
    const INGRESS: TcHandle = TcHandle {
        major: 0xffff,
        minor: 0,
    };
    let mut qdisc = message(from);
    qdisc.header.parent = TcHandle::INGRESS;
    qdisc.header.handle = INGRESS;
    qdisc.attributes = vec![TcAttribute::Kind("ingress".into())];
    socket.request(RouteNetlinkMessage::NewQueueDiscipline(qdisc), NEW)?;

    let mut filter = message(from);
    filter.header.parent = INGRESS;
    // Preference 1, every protocol (ETH_P_ALL, big-endian).
    filter.header.info = 1 << 16 | u32::from(0x0003_u16.to_be());
    filter.attributes = vec![
        TcAttribute::Kind(TcFilterU32::KIND.into()),
        TcAttribute::Options(redirect_all_to(to).into_iter().map(TcOption::U32).collect()),
    ];
    socket.request(RouteNetlinkMessage::NewTrafficFilter(filter), NEW)?;
    Ok(())
}

/// A filter that redirects every packet to another link.
fn redirect_all_to(index: u32) -> Vec<TcFilterU32Option> {
    let mut selector = TcU32Selector::default();
    selector.flags = TcU32SelectorFlags::Terminal;
    selector.nkeys = 1;
    selector.keys = vec![TcU32Key::default()];
    let mut mirror = TcMirror::default();
    mirror.generic.action = TcActionType::Stolen;
    mirror.eaction = TcMirrorActionType::EgressRedir;
    mirror.ifindex = index;
    let mut action = TcAction::default();
    action.attributes = vec![
        TcActionAttribute::Kind(TcActionMirror::KIND.into()),
        TcActionAttribute::Options(vec![TcActionOption::Mirror(TcActionMirrorOption::Parms(
            mirror,
        ))]),
    ];
    vec![
        TcFilterU32Option::Selector(selector),
        TcFilterU32Option::Action(vec![action]),
    ]
}

/// The rate of a link's token bucket in bytes per second; None without a token bucket.
pub(crate) fn limit_of(socket: &mut RouteSocket, index: u32) -> Result<Option<u32>, KernelError> {
    let reply = socket.dump(RouteNetlinkMessage::GetQueueDiscipline(message(index)))?;
    Ok(reply.into_iter().find_map(|message| match message {
        Message::Other(RouteNetlinkMessage::NewQueueDiscipline(message))
            if message.header.index == index as i32 =>
        {
            rate("tbf", &message.attributes)
        }
        _ => None,
    }))
}

/// The same of a limit of [`limit_some`].
pub(crate) fn limit_of_some(
    socket: &mut RouteSocket,
    index: u32,
) -> Result<Option<u32>, KernelError> {
    let reply = socket.dump(RouteNetlinkMessage::GetTrafficClass(message(index)))?;
    Ok(reply.into_iter().find_map(|message| match message {
        Message::Other(RouteNetlinkMessage::NewTrafficClass(message))
            if message.header.index == index as i32 =>
        {
            rate(HTB, &message.attributes)
        }
        _ => None,
    }))
}

/// The rate in the options of a qdisc or class of this kind, which begin with a struct tc_ratespec.
fn rate(kind: &str, attributes: &[TcAttribute]) -> Option<u32> {
    if !attributes.contains(&TcAttribute::Kind(kind.into())) {
        return None;
    }
    // The crate leaves the options of kinds it does not know unparsed.
    let options = attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Options(options) => options.first(),
        _ => None,
    })?;
    let TcOption::Other(options) = options else {
        return None;
    };
    let mut bytes = vec![0; options.value_len()];
    options.emit_value(&mut bytes);
    let parameters = NlasIterator::new(&bytes[..])
        .filter_map(Result::ok)
        .find(|option| option.kind() == PARAMETERS)?;
    let rate = parameters.value().get(8..12)?;
    Some(u32::from_ne_bytes(rate.try_into().ok()?))
}

fn message(index: u32) -> TcMessage {
    let mut message = TcMessage::default();
    message.header.index = index as i32;
    message
}
