//! Parses elements in the kernel's replies. The crate that parses everything else formats the whole
//! message for each element, for an error that never occurs, and takes a second for a thousand
//! elements.

use netlink_packet_core::{
    DecodeError, NetlinkDeserializable, NetlinkHeader, NetlinkSerializable, NlaBuffer, NlasIterator,
};
use netlink_packet_netfilter::NetfilterMessage;

use super::conditions::{be_number, text};
use super::reply::read_comment;
use super::ruleset::{Element, Member, RuleVerdict};

/// struct nfgenmsg, with which every netfilter message begins.
const HEADER: usize = 4;

/// Numbers of linux/netfilter/nf_tables.h.
const NFT_MSG_NEWSETELEM: u16 = 12;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_DATA: u16 = 2;
const NFTA_SET_ELEM_TIMEOUT: u16 = 4;
const NFTA_SET_ELEM_USERDATA: u16 = 6;
const NFTA_DATA_VALUE: u16 = 1;

/// A request about elements of a set, or the reply: what is [`Listed`] in it.
#[derive(Debug, Clone)]
pub(super) enum ElementMessage<T> {
    Request(NetfilterMessage),
    Reply(Vec<T>),
}

/// What is read of each element: of ours, or of any program's.
pub(super) trait Listed: Sized {
    /// From the attributes of an element.
    fn read(attributes: &[u8]) -> Result<Self, DecodeError>;
}

impl Listed for Element {
    fn read(attributes: &[u8]) -> Result<Self, DecodeError> {
        read_element(attributes)
    }
}

impl Listed for Member {
    fn read(attributes: &[u8]) -> Result<Self, DecodeError> {
        read_member(attributes)
    }
}

impl<T> ElementMessage<T> {
    /// The elements in it.
    pub(super) fn elements(self) -> Vec<T> {
        match self {
            Self::Request(_) => Vec::new(),
            Self::Reply(elements) => elements,
        }
    }
}

impl<T> NetlinkSerializable for ElementMessage<T> {
    fn message_type(&self) -> u16 {
        match self {
            Self::Request(message) => NetlinkSerializable::message_type(message),
            Self::Reply(_) => 0,
        }
    }

    fn buffer_len(&self) -> usize {
        match self {
            Self::Request(message) => NetlinkSerializable::buffer_len(message),
            Self::Reply(_) => 0,
        }
    }

    fn serialize(&self, buffer: &mut [u8]) {
        if let Self::Request(message) = self {
            message.serialize(buffer);
        }
    }
}

impl<T: Listed> NetlinkDeserializable for ElementMessage<T> {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        let mut elements = Vec::new();
        // The upper byte of the type is the subsystem.
        if header.message_type & 0xff == NFT_MSG_NEWSETELEM {
            let attributes = payload.get(HEADER..).unwrap_or_default();
            for list in NlasIterator::new(attributes) {
                let list = list?;
                if list.kind() == NFTA_SET_ELEM_LIST_ELEMENTS {
                    read_list(list.value(), &mut elements)?;
                }
            }
        }
        Ok(Self::Reply(elements))
    }
}

fn read_list<T: Listed>(list: &[u8], elements: &mut Vec<T>) -> Result<(), DecodeError> {
    for entry in NlasIterator::new(list) {
        let entry = entry?;
        if entry.kind() == NFTA_LIST_ELEM {
            elements.push(T::read(entry.value())?);
        }
    }
    Ok(())
}

fn read_element(attributes: &[u8]) -> Result<Element, DecodeError> {
    let mut element = Element {
        key: Vec::new(),
        data: Vec::new(),
        owner: String::new(),
        expires: false,
    };
    for attribute in NlasIterator::new(attributes) {
        let attribute: NlaBuffer<&[u8]> = attribute?;
        match attribute.kind() {
            NFTA_SET_ELEM_KEY => element.key = read_value(attribute.value())?,
            NFTA_SET_ELEM_DATA => element.data = read_value(attribute.value())?,
            NFTA_SET_ELEM_TIMEOUT => element.expires = true,
            NFTA_SET_ELEM_USERDATA => element.owner = read_comment(attribute.value()),
            _ => {}
        }
    }
    Ok(element)
}

/// Our maps hold values, not verdicts.
fn read_value(data: &[u8]) -> Result<Vec<u8>, DecodeError> {
    for value in NlasIterator::new(data) {
        let value = value?;
        if value.kind() == NFTA_DATA_VALUE {
            return Ok(value.value().to_vec());
        }
    }
    Ok(Vec::new())
}

fn read_member(attributes: &[u8]) -> Result<Member, DecodeError> {
    const NFTA_SET_ELEM_FLAGS: u16 = 3;
    const NFTA_SET_ELEM_KEY_END: u16 = 10;
    const INTERVAL_END: u32 = 1;
    const CATCH_ALL: u32 = 2;
    let mut member = Member::default();
    for attribute in NlasIterator::new(attributes) {
        let attribute: NlaBuffer<&[u8]> = attribute?;
        match attribute.kind() {
            NFTA_SET_ELEM_KEY => member.key = read_value(attribute.value())?,
            NFTA_SET_ELEM_KEY_END => member.has_end = true,
            NFTA_SET_ELEM_DATA => member.verdict = read_verdict(attribute.value())?,
            NFTA_SET_ELEM_FLAGS => {
                let flags = be_number(attribute.value()).unwrap_or_default();
                member.is_end = flags & INTERVAL_END != 0;
                member.is_catch_all = flags & CATCH_ALL != 0;
            }
            _ => {}
        }
    }
    Ok(member)
}

/// The verdict in an element's data; None where packets go on.
fn read_verdict(data: &[u8]) -> Result<Option<RuleVerdict>, DecodeError> {
    const NFTA_DATA_VERDICT: u16 = 2;
    const NFTA_VERDICT_CODE: u16 = 1;
    const NFTA_VERDICT_CHAIN: u16 = 2;
    let (mut code, mut chain) = (None, None);
    for value in NlasIterator::new(data) {
        let value = value?;
        if value.kind() != NFTA_DATA_VERDICT {
            continue;
        }
        for attribute in NlasIterator::new(value.value()) {
            let attribute: NlaBuffer<&[u8]> = attribute?;
            match attribute.kind() {
                NFTA_VERDICT_CODE => code = be_number(attribute.value()).map(u32::cast_signed),
                NFTA_VERDICT_CHAIN => chain = Some(text(attribute.value())),
                _ => {}
            }
        }
    }
    // Numbers of enum nft_verdicts, and NF_DROP and NF_ACCEPT.
    Ok(match (code, chain) {
        (Some(-1), _) => None,
        (Some(-3), Some(chain)) => Some(RuleVerdict::Jump(chain)),
        (Some(-4), Some(chain)) => Some(RuleVerdict::Goto(chain)),
        (Some(-5), _) => Some(RuleVerdict::Return),
        (Some(0), _) => Some(RuleVerdict::Drop),
        (Some(1), _) => Some(RuleVerdict::Accept),
        _ => Some(RuleVerdict::Unknown),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn whatever_bytes_come_nothing_panics(payload: Vec<u8>) {
            let mut header = NetlinkHeader::default();
            header.message_type = 0x0a00 | NFT_MSG_NEWSETELEM;
            let _ = ElementMessage::<Element>::deserialize(&header, &payload);
            let _ = ElementMessage::<Member>::deserialize(&header, &payload);
        }
    }
}
