//! The pages of an index (pure). Each is sealed with a checksum and holds one of two tables.
//!
//! ```text
//!        0 ..  536   a page of holders: 21 slots of 25 bytes: hash (8), address (17); and at 525
//!                    a 1 once a holder did not fit in and was put into the next page
//!                    a page of neighbours: address of the first (17), a bit for each of 4,096
//!      536 ..  544   checksum over the page, its number, and the index that it belongs to
//! ```

use std::hash::Hasher;
use std::net::IpAddr;
use std::ops::Range;

use crate::cni::Family;
use crate::ipam::range::{address, number};

/// Bytes in a page.
pub(super) const SIZE: usize = 544;

/// Bytes of it that are not the checksum.
pub(super) const BODY: usize = 536;

/// How many neighbours share a page.
pub(super) const NEIGHBOURS: u128 = 4096;

/// Holders that a page has room for.
pub(super) const SLOTS: usize = 21;

const HASH: usize = 8;
const PLACE: usize = 17;
const SLOT: usize = HASH + PLACE;
const OVERFLOWED: usize = SLOTS * SLOT;

/// An address as 17 bytes: 4 or 6, then its number. All zeros means no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place([u8; PLACE]);

impl Place {
    fn new(family: Family, number: u128) -> Self {
        let mut bytes = [0; PLACE];
        bytes[0] = match family {
            Family::Ipv4 => 4,
            Family::Ipv6 => 6,
        };
        bytes[1..].copy_from_slice(&number.to_be_bytes());
        Self(bytes)
    }

    /// The address; None for all zeros.
    pub(super) fn ip(self) -> Option<IpAddr> {
        let number = u128::from_be_bytes(self.0[1..].try_into().ok()?);
        match self.0[0] {
            4 => Some(address(number, Family::Ipv4)),
            6 => Some(address(number, Family::Ipv6)),
            _ => None,
        }
    }

    /// The first of an address's neighbours, which identifies their page.
    pub(super) fn of_neighbours(ip: IpAddr) -> Self {
        Self::new(ip.into(), number(ip) / NEIGHBOURS * NEIGHBOURS)
    }

    /// The hash by which its page is found.
    pub(super) fn hash(&self) -> u64 {
        hash(0, &self.0)
    }
}

impl From<IpAddr> for Place {
    fn from(ip: IpAddr) -> Self {
        Self::new(ip.into(), number(ip))
    }
}

/// The standard library's hash, with its fixed key. If another version of the library computes it
/// differently, the checksums of older indexes fail and they are rebuilt.
pub(super) fn hash(seed: u64, bytes: &[u8]) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write_u64(seed);
    hasher.write(bytes);
    hasher.finish()
}

/// One page.
#[derive(Clone)]
pub(super) struct Page([u8; SIZE]);

impl Page {
    /// An empty page.
    pub(super) fn blank() -> Self {
        Self([0; SIZE])
    }

    /// Verifies a page's checksum; None when it does not match.
    pub(super) fn unsealed(bytes: [u8; SIZE], seed: u64) -> Option<Self> {
        let sum = hash(seed, &bytes[..BODY]).to_le_bytes();
        (bytes[BODY..] == sum).then_some(Self(bytes))
    }

    /// The page's bytes, checksum included.
    pub(super) fn sealed(&mut self, seed: u64) -> &[u8; SIZE] {
        let sum = hash(seed, &self.0[..BODY]).to_le_bytes();
        self.0[BODY..].copy_from_slice(&sum);
        &self.0
    }

    /// All but the checksum.
    #[expect(clippy::expect_used, reason = "the body is shorter than the page")]
    pub(super) fn body(&mut self) -> &mut [u8; BODY] {
        self.0.first_chunk_mut().expect("the body is the shorter")
    }
}

/// A page of holders.
impl Page {
    /// The addresses of a holder, by hash.
    pub(super) fn addresses(&self, hash: u64) -> impl Iterator<Item = IpAddr> {
        self.slots()
            .filter(move |(found, _)| *found == hash)
            .filter_map(|(_, place)| place.ip())
    }

    /// Puts a holder's address into a free slot. False when all are in use.
    pub(super) fn put(&mut self, hash: u64, ip: IpAddr) -> bool {
        self.replace(|(_, place)| place.ip().is_none(), (hash, ip.into()))
    }

    /// Removes a holder's address. False when it is not there.
    pub(super) fn take(&mut self, hash: u64, ip: IpAddr) -> bool {
        let empty = Place([0; PLACE]);
        self.replace(|slot| slot == (hash, ip.into()), (0, empty))
    }

    /// Whether a search for a holder has to continue in the next page.
    pub(super) fn has_overflowed(&self) -> bool {
        self.0[OVERFLOWED] != 0
    }

    /// Marks the page as full: a holder had to go to a later page.
    pub(super) fn set_overflowed(&mut self) {
        self.0[OVERFLOWED] = 1;
    }

    #[expect(clippy::expect_used, reason = "a slot is 8 and 17 bytes")]
    fn slots(&self) -> impl Iterator<Item = (u64, Place)> {
        let slots = self.0[..OVERFLOWED].chunks_exact(SLOT);
        slots.map(|slot| {
            let (hash, place) = slot.split_at(HASH);
            let hash = u64::from_le_bytes(hash.try_into().expect("8 bytes"));
            (hash, Place(place.try_into().expect("17 bytes")))
        })
    }

    fn replace(&mut self, old: impl Fn((u64, Place)) -> bool, new: (u64, Place)) -> bool {
        let Some(at) = self.slots().position(old) else {
            return false;
        };
        let slot = &mut self.0[at * SLOT..][..SLOT];
        slot[..HASH].copy_from_slice(&new.0.to_le_bytes());
        slot[HASH..].copy_from_slice(&new.1.0);
        true
    }
}

/// A page of neighbours.
impl Page {
    /// The neighbours that the page belongs to; None while it is unassigned.
    #[expect(clippy::expect_used, reason = "a page is longer than what it is about")]
    pub(super) fn neighbours(&self) -> Option<Place> {
        let place = Place(*self.0.first_chunk().expect("a page is longer"));
        (place.0[0] != 0).then_some(place)
    }

    /// Assigns a blank page to these neighbours.
    pub(super) fn assign(&mut self, neighbours: Place) {
        self.0[..PLACE].copy_from_slice(&neighbours.0);
    }

    /// Whether an address is taken.
    pub(super) fn is_taken(&self, ip: IpAddr) -> bool {
        let at = bit(ip);
        self.bits()[at / 8] & (1 << (at % 8)) != 0
    }

    /// Marks an address as taken or free.
    pub(super) fn set_taken(&mut self, ip: IpAddr, taken: bool) {
        let at = bit(ip);
        let byte = &mut self.0[PLACE + at / 8];
        *byte = *byte & !(1 << (at % 8)) | u8::from(taken) << (at % 8);
    }

    /// The first free address of the page at or after this one.
    pub(super) fn next_free(&self, ip: IpAddr) -> Option<IpAddr> {
        let from = bit(ip);
        let mut free = self.words().enumerate().skip(from / 64).map(|(at, word)| {
            let asked = if at == from / 64 {
                u64::MAX << (from % 64)
            } else {
                u64::MAX
            };
            (at * 64, !word & asked)
        });
        let (at, free) = free.find(|(_, free)| *free != 0)?;
        let found = at + free.trailing_zeros() as usize;
        Some(address(number(ip) + (found - from) as u128, ip.into()))
    }

    /// How many of these of the page's addresses are taken.
    pub(super) fn count(&self, bits: Range<usize>) -> u128 {
        let within = |at: &usize| self.bits()[at / 8] & (1 << (at % 8)) != 0;
        if bits == (0..NEIGHBOURS as usize) {
            return self.words().map(|word| u128::from(word.count_ones())).sum();
        }
        bits.filter(within).count() as u128
    }

    fn bits(&self) -> &[u8] {
        &self.0[PLACE..][..NEIGHBOURS as usize / 8]
    }

    #[expect(clippy::expect_used, reason = "chunks of 8 bytes")]
    fn words(&self) -> impl Iterator<Item = u64> {
        let words = self.bits().chunks_exact(8);
        words.map(|word| u64::from_le_bytes(word.try_into().expect("8 bytes")))
    }
}

fn bit(ip: IpAddr) -> usize {
    (number(ip) % NEIGHBOURS) as usize
}
