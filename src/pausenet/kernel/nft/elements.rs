//! Parses elements in the kernel's replies. The crate that parses everything else formats the whole
//! message for each element, for an error that never occurs, and takes a second for a thousand
//! elements.

use netlink_packet_core::{
    DecodeError, NetlinkDeserializable, NetlinkHeader, NetlinkSerializable, NlaBuffer, NlasIterator,
};
use netlink_packet_netfilter::NetfilterMessage;

use super::reply::read_comment;
use super::ruleset::Element;

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

/// A request about elements, or the reply.
#[derive(Debug, Clone)]
pub(super) enum ElementMessage {
    Request(NetfilterMessage),
    Reply(Vec<Element>),
}

impl ElementMessage {
    /// The elements in it.
    pub(super) fn elements(self) -> Vec<Element> {
        match self {
            Self::Request(_) => Vec::new(),
            Self::Reply(elements) => elements,
        }
    }
}

impl NetlinkSerializable for ElementMessage {
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

impl NetlinkDeserializable for ElementMessage {
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

fn read_list(list: &[u8], elements: &mut Vec<Element>) -> Result<(), DecodeError> {
    for entry in NlasIterator::new(list) {
        let entry = entry?;
        if entry.kind() == NFTA_LIST_ELEM {
            elements.push(read_element(entry.value())?);
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn whatever_bytes_come_nothing_panics(payload: Vec<u8>) {
            let mut header = NetlinkHeader::default();
            header.message_type = 0x0a00 | NFT_MSG_NEWSETELEM;
            let _ = ElementMessage::deserialize(&header, &payload);
        }
    }
}
