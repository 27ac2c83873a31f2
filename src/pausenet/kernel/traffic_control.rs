//! Traffic control: token buckets that limit what a link sends, and redirection through an IFB,
//! which limits what it receives.

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
use super::reply::Message;
use super::route_socket::RouteSocket;
use crate::cni::IfName;
use crate::cni::bandwidth::Limit;

/// How long a packet may wait for tokens before it is dropped. The reference's value.
const LATENCY_MS: u64 = 25;

/// TCA_TBF_PARMS: a struct tc_tbf_qopt.
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
    const ETHERNET: u8 = 1;
    let rate32 = u32::try_from(limit.rate).unwrap_or(u32::MAX);
    let waiting = limit.rate * LATENCY_MS / 1000;
    let queue = u32::try_from(waiting.saturating_add(limit.burst.into())).unwrap_or(u32::MAX);
    // struct tc_ratespec: cell_log, linklayer, overhead, cell_align, mpu, rate.
    let mut parameters = vec![0, ETHERNET, 0, 0, 0, 0, 0, 0];
    parameters.extend(rate32.to_ne_bytes());
    parameters.extend([0; 12]); // no peak rate
    parameters.extend(queue.to_ne_bytes());
    parameters.extend([0; 8]); // buffer and mtu: set by BURST
    vec![
        DefaultNla::new(PARAMETERS, parameters),
        DefaultNla::new(RATE64, limit.rate.to_ne_bytes().to_vec()),
        DefaultNla::new(BURST, limit.burst.to_ne_bytes().to_vec()),
    ]
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
            rate(&message.attributes)
        }
        _ => None,
    }))
}

fn rate(attributes: &[TcAttribute]) -> Option<u32> {
    if !attributes.contains(&TcAttribute::Kind("tbf".into())) {
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
