//! Address ranges, and the order in which host-local tries their addresses (pure).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use crate::cni::Family;
use crate::cni::config;

/// The addresses of one subnet that may be allocated, both ends included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    pub subnet: IpNetwork,
    pub start: IpAddr,
    pub end: IpAddr,
    /// Never allocated.
    pub gateway: IpAddr,
}

impl Range {
    /// Fills in what the config leaves out: from network + 1 to broadcast − 1 (IPv6: to the
    /// last), gateway at network + 1.
    ///
    /// # Errors
    /// The key in the range, and its fault.
    pub fn new(conf: &config::Range) -> Result<Self, String> {
        let subnet = conf.subnet;
        let bits = Family::from(subnet).bits();
        if subnet.prefix() > bits - 2 {
            return Err(format!("subnet: {subnet} is too small to allocate from"));
        }
        let network = subnet.network();
        if subnet.ip() != network {
            return Err(format!(
                "subnet: {subnet} has host bits set: the network is {network}/{}",
                subnet.prefix()
            ));
        }
        let family = Family::from(subnet);
        let first = number(network) + 1;
        let last = match subnet.broadcast() {
            last @ IpAddr::V4(_) => number(last) - 1,
            last @ IpAddr::V6(_) => number(last),
        };
        let range = Self {
            subnet,
            start: conf
                .range_start
                .unwrap_or_else(|| address(first, family))
                .to_canonical(),
            end: conf
                .range_end
                .unwrap_or_else(|| address(last, family))
                .to_canonical(),
            gateway: conf
                .gateway
                .unwrap_or_else(|| address(first, family))
                .to_canonical(),
        };
        for (what, ip) in [("rangeStart", range.start), ("rangeEnd", range.end)] {
            if !subnet.contains(ip) {
                return Err(format!("{what}: {ip} is not in subnet {subnet}"));
            }
        }
        if number(range.end) < number(range.start) {
            let (start, end) = (range.start, range.end);
            return Err(match conf.range_end {
                Some(_) => format!("rangeEnd: {end} comes before rangeStart {start}"),
                None => format!("rangeStart: {start} comes after the last address, {end}"),
            });
        }
        if Family::from(range.gateway) != family {
            return Err(format!(
                "gateway: {} is of another family than subnet {subnet}",
                range.gateway
            ));
        }
        Ok(range)
    }

    /// True when the address lies between `start` and `end`; the gateway may be one of them.
    pub fn contains(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.start.is_ipv4()
            && (number(self.start)..=number(self.end)).contains(&number(ip))
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.start) || other.contains(self.start)
    }

    fn size(&self) -> u128 {
        let all = (number(self.end) - number(self.start)).saturating_add(1);
        all - u128::from(self.contains(self.gateway))
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.start, self.end)
    }
}

/// Ranges of one family. An attachment gets one address from each set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeSet {
    ranges: Vec<Range>,
    /// The same in the order of their addresses, by their places in `ranges`.
    sorted: Vec<usize>,
}

/// What is wrong with a range set, and with which of its ranges.
#[derive(Debug)]
pub struct SetFault {
    pub(super) range: Option<usize>,
    pub(super) what: String,
}

impl std::fmt::Display for SetFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.what)
    }
}

impl RangeSet {
    /// # Errors
    /// The first fault in the set.
    pub fn new(conf: &[config::Range]) -> Result<Self, SetFault> {
        let fault = |range: Option<usize>, what: String| SetFault { range, what };
        let checked = |(at, range)| Range::new(range).map_err(|what| fault(Some(at), what));
        let ranges: Vec<_> = (conf.iter().enumerate().map(checked)).collect::<Result<_, _>>()?;
        let Some(first) = ranges.first() else {
            return Err(fault(None, "the range set is empty".into()));
        };
        let family = Family::from(first.start);
        let mut families = ranges.iter().map(|range| Family::from(range.start));
        if let Some(other) = families.position(|other| other != family) {
            let what = format!(
                "subnet: {} is of another family than {} before it: each family has a set of its own",
                ranges[other].subnet, first.subnet
            );
            return Err(fault(Some(other), what));
        }
        let mut sorted: Vec<_> = (0..ranges.len()).collect();
        sorted.sort_by_key(|at| ranges[*at].start);
        // If any two overlap, then so do two neighbours.
        for pair in sorted.windows(2) {
            let (one, other) = (pair[0].min(pair[1]), pair[0].max(pair[1]));
            if ranges[one].overlaps(&ranges[other]) {
                let what = format!(
                    "subnet: range {} overlaps with {} before it",
                    ranges[other], ranges[one]
                );
                return Err(fault(Some(other), what));
            }
        }
        Ok(Self { ranges, sorted })
    }

    /// The ranges, in the config's order.
    pub(super) fn ranges(&self) -> &[Range] {
        &self.ranges
    }

    /// The family of all its addresses.
    pub(super) fn family(&self) -> Family {
        self.ranges[0].start.into()
    }

    /// The range that contains an address.
    pub(super) fn range_of(&self, ip: IpAddr) -> Option<&Range> {
        self.place_of(ip).map(|at| &self.ranges[at])
    }

    fn place_of(&self, ip: IpAddr) -> Option<usize> {
        let starts_before = |at: &usize| self.ranges[*at].start <= ip;
        let after = self.sorted.partition_point(starts_before);
        let at = *self.sorted.get(after.checked_sub(1)?)?;
        self.ranges[at].contains(ip).then_some(at)
    }

    /// How many addresses the set can allocate, gateways left out.
    pub fn size(&self) -> u128 {
        self.ranges
            .iter()
            .fold(0, |sum, range| sum.saturating_add(range.size()))
    }

    /// Whether an IPv6 address that comes after `last`, the one given before it, is given for the first
    /// time: it is if the range is so large that nobody comes around to its start, and if no address was
    /// ever requested by itself.
    pub fn is_new(&self, ip: IpAddr, last: Option<IpAddr>) -> bool {
        const VAST: u128 = 1 << 32;
        let is_in_order = |range: &Range| {
            range.size() >= VAST && last.is_none_or(|last| range.contains(last) && last < ip)
        };
        self.range_of(ip).is_some_and(is_in_order)
    }

    /// How many of these addresses the set can allocate.
    pub fn count(&self, addresses: &[IpAddr]) -> u128 {
        let ours = |ip: &&IpAddr| {
            self.range_of(**ip)
                .is_some_and(|range| range.gateway != **ip)
        };
        addresses.iter().filter(ours).count() as u128
    }

    /// How many addresses of the set are in use. `count` returns the number in use from one address
    /// to another, both included.
    ///
    /// # Errors
    /// That of `count`.
    pub(super) fn count_by<E>(
        &self,
        mut count: impl FnMut(IpAddr, IpAddr) -> Result<u128, E>,
    ) -> Result<u128, E> {
        let mut sum = 0;
        for range in &self.ranges {
            sum += count(range.start, range.end)?;
            if range.contains(range.gateway) {
                sum -= count(range.gateway, range.gateway)?;
            }
        }
        Ok(sum)
    }

    /// Every address once, gateways left out, in round-robin order: from the one after `last` to
    /// the end of its range, through the ranges that follow, and around to `last`.
    pub fn candidates(&self, last: Option<IpAddr>) -> impl Iterator<Item = (IpAddr, &Range)> {
        self.pieces(last).into_iter().flat_map(|(range, from, to)| {
            (from..=to)
                .map(|n| address(n, range.start.into()))
                .filter(|ip| *ip != range.gateway)
                .map(move |ip| (ip, range))
        })
    }

    /// The first free address in the order of [`RangeSet::candidates`]. `next_free` returns the
    /// first free address from one to another, both included.
    ///
    /// # Errors
    /// That of `next_free`.
    pub(super) fn first_free<E>(
        &self,
        last: Option<IpAddr>,
        mut next_free: impl FnMut(IpAddr, IpAddr) -> Result<Option<IpAddr>, E>,
    ) -> Result<Option<(IpAddr, &Range)>, E> {
        for (range, mut from, to) in self.pieces(last) {
            let family = Family::from(range.start);
            while from <= to {
                match next_free(address(from, family), address(to, family))? {
                    None => break,
                    Some(ip) if ip != range.gateway => return Ok(Some((ip, range))),
                    Some(gateway) => match number(gateway).checked_add(1) {
                        Some(next) => from = next,
                        None => break,
                    },
                }
            }
        }
        Ok(None)
    }

    /// The parts of the ranges in the order to try them, with inclusive bounds.
    fn pieces(&self, last: Option<IpAddr>) -> Vec<(&Range, u128, u128)> {
        let resume = last.and_then(|last| {
            let at = self.place_of(last)?;
            Some((at, number(last)))
        });
        let mut pieces = Vec::with_capacity(self.ranges.len() + 1);
        let first = resume.map_or(0, |(at, _)| at);
        for range in self
            .ranges
            .iter()
            .cycle()
            .skip(first)
            .take(self.ranges.len())
        {
            pieces.push((range, number(range.start), number(range.end)));
        }
        if let Some((_, last)) = resume {
            let (range, start, end) = pieces[0];
            if last < end {
                pieces[0].1 = last + 1;
            } else {
                pieces.remove(0);
            }
            pieces.push((range, start, last));
        }
        pieces
    }
}

/// As many ranges as a line has room for.
impl std::fmt::Display for RangeSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write_some(f, &self.ranges, ",")
    }
}

fn write_some<T: std::fmt::Display>(
    f: &mut std::fmt::Formatter<'_>,
    all: &[T],
    between: &str,
) -> std::fmt::Result {
    const SHOWN: usize = 4;
    for (at, one) in all.iter().take(SHOWN).enumerate() {
        write!(f, "{}{one}", if at > 0 { between } else { "" })?;
    }
    if all.len() > SHOWN {
        write!(f, "{between}and {} more", all.len() - SHOWN)?;
    }
    Ok(())
}

/// All range sets of a network, which have no address in common.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct RangeSets {
    sets: Vec<RangeSet>,
    /// The first address of each range, sorted, with its set's index.
    starts: Vec<(IpAddr, usize)>,
}

impl RangeSets {
    /// # Errors
    /// The indexes of two sets that overlap.
    pub(super) fn new(sets: Vec<RangeSet>) -> Result<Self, (usize, usize)> {
        let mut ranges = Vec::new();
        for (index, set) in sets.iter().enumerate() {
            ranges.extend(set.ranges.iter().map(|range| (range, index)));
        }
        ranges.sort_by_key(|(range, _)| range.start);
        for pair in ranges.windows(2) {
            let ((a, of_a), (b, of_b)) = (pair[0], pair[1]);
            if a.overlaps(b) {
                return Err((of_a.min(of_b), of_a.max(of_b)));
            }
        }
        let starts = ranges.into_iter().map(|(range, set)| (range.start, set));
        let starts = starts.collect();
        Ok(Self { sets, starts })
    }

    pub(super) fn iter(&self) -> std::slice::Iter<'_, RangeSet> {
        self.sets.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.sets.len()
    }

    /// The index of the set that contains an address.
    pub(super) fn position_of(&self, ip: IpAddr) -> Option<usize> {
        let after = self.starts.partition_point(|(start, _)| *start <= ip);
        let (_, set) = *self.starts.get(after.checked_sub(1)?)?;
        self.sets[set].range_of(ip).map(|_| set)
    }

    /// The range that contains an address.
    pub(super) fn range_of(&self, ip: IpAddr) -> Option<&Range> {
        self.sets[self.position_of(ip)?].range_of(ip)
    }
}

/// As many sets as a line has room for.
impl std::fmt::Display for RangeSets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write_some(f, &self.sets, "; ")
    }
}

/// An address as a number. Both families start at 0.
pub(super) fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => ip.into(),
    }
}

/// The inverse of [`number`].
pub(super) fn address(number: u128, family: Family) -> IpAddr {
    match family {
        // A range lies within its subnet, so an IPv4 number fits in 32 bits.
        Family::Ipv4 => Ipv4Addr::from(number as u32).into(),
        Family::Ipv6 => Ipv6Addr::from(number).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(json: &str) -> Result<Range, String> {
        Range::new(&serde_json::from_str(json).unwrap())
    }

    fn set(json: &str) -> Result<RangeSet, SetFault> {
        let conf: Vec<config::Range> = serde_json::from_str(json).unwrap();
        RangeSet::new(&conf)
    }

    fn order(set: &RangeSet, last: Option<&str>) -> Vec<String> {
        set.candidates(last.map(|ip| ip.parse().unwrap()))
            .map(|(ip, _)| ip.to_string())
            .collect()
    }

    #[test]
    fn defaults_leave_out_network_broadcast_and_gateway() {
        let v4 = range(r#"{"subnet": "10.1.0.0/29"}"#).unwrap();
        assert_eq!(v4.to_string(), "10.1.0.1-10.1.0.6");
        assert_eq!(v4.gateway.to_string(), "10.1.0.1");
        assert_eq!(v4.size(), 5);
        let v6 = range(r#"{"subnet": "fd00::/120"}"#).unwrap();
        assert_eq!(v6.to_string(), "fd00::1-fd00::ff");
    }

    #[test]
    fn ranges_that_cannot_be_allocated_from_are_refused() {
        for bad in [
            r#"{"subnet": "10.1.0.0/31"}"#,
            r#"{"subnet": "fd00::/127"}"#,
            r#"{"subnet": "10.1.0.5/24"}"#,
            r#"{"subnet": "10.1.0.0/24", "rangeStart": "10.2.0.1"}"#,
            r#"{"subnet": "10.1.0.0/24", "rangeEnd": "10.2.0.1"}"#,
            r#"{"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.9", "rangeEnd": "10.1.0.8"}"#,
            r#"{"subnet": "10.1.0.0/24", "gateway": "fd00::1"}"#,
        ] {
            assert!(range(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ranges_of_a_set_share_a_family_and_no_address() {
        assert!(set("[]").is_err());
        assert!(set(r#"[{"subnet": "10.1.0.0/24"}, {"subnet": "fd00::/64"}]"#).is_err());
        assert!(set(r#"[{"subnet": "10.1.0.0/24"}, {"subnet": "10.1.0.0/25"}]"#).is_err());
        let halves = r#"[{"subnet": "10.1.0.0/24", "rangeEnd": "10.1.0.9"},
                         {"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.10"}]"#;
        assert!(set(halves).is_ok());
    }

    #[test]
    fn the_search_continues_after_the_last_address_and_wraps_over_all_ranges() {
        let set = set(r#"[{"subnet": "10.1.0.0/29"}, {"subnet": "10.2.0.0/30"}]"#).unwrap();
        let fresh = [
            "10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5", "10.1.0.6", "10.2.0.2",
        ];
        assert_eq!(order(&set, None), fresh);
        let after = [
            "10.1.0.5", "10.1.0.6", "10.2.0.2", "10.1.0.2", "10.1.0.3", "10.1.0.4",
        ];
        assert_eq!(order(&set, Some("10.1.0.4")), after);
        let from_second = [
            "10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5", "10.1.0.6", "10.2.0.2",
        ];
        assert_eq!(order(&set, Some("10.2.0.2")), from_second);
    }

    #[test]
    fn a_last_address_of_another_config_starts_over() {
        let set = set(r#"[{"subnet": "10.1.0.0/29"}]"#).unwrap();
        assert_eq!(order(&set, Some("192.168.0.1")), order(&set, None));
    }

    #[test]
    fn an_address_is_new_in_order_in_a_range_that_nobody_comes_around() {
        let ip = |text: &str| text.parse().unwrap();
        let (vast, small) = (
            set(r#"[{"subnet": "fd00::/64"}, {"subnet": "fd01::/64"}]"#).unwrap(),
            set(r#"[{"subnet": "fd00::/112"}]"#).unwrap(),
        );
        for (set, address, last, is_new) in [
            (&vast, "fd00::2", None, true),
            (&vast, "fd00::9", Some("fd00::5"), true),
            (&vast, "fd00::5", Some("fd00::5"), false),
            (&vast, "fd00::2", Some("fd00::5"), false),
            (&vast, "fd01::6", Some("fd00::5"), false),
            (&vast, "fd02::6", None, false),
            (&small, "fd00::2", None, false),
            (&small, "fd00::9", Some("fd00::5"), false),
        ] {
            assert_eq!(
                set.is_new(ip(address), last.map(ip)),
                is_new,
                "{address} {last:?}"
            );
        }
    }

    #[test]
    fn the_whole_of_ipv6_does_not_overflow() {
        let set = set(r#"[{"subnet": "8000::/1"}]"#).unwrap();
        assert_eq!(
            set.candidates(None).next().unwrap().0.to_string(),
            "8000::2"
        );
        let last = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap();
        assert_eq!(
            set.candidates(Some(last)).next().unwrap().0.to_string(),
            "8000::2"
        );
    }

    proptest! {
        /// For any cursor: every address once, and no gateway.
        #[test]
        fn candidates_are_a_permutation(prefix in 24u8..=30, start in any::<u8>(), last in any::<u8>()) {
            let subnet = format!("10.1.0.0/{prefix}");
            let set = set(&format!(r#"[{{"subnet": "{subnet}"}}, {{"subnet": "10.2.0.0/28"}}]"#)).unwrap();
            let last = IpAddr::from([10, 1 + start % 2, 0, last]);
            let mut seen: Vec<_> = set.candidates(Some(last)).map(|(ip, _)| ip).collect();
            prop_assert_eq!(seen.len() as u128, set.size());
            seen.sort();
            seen.dedup();
            prop_assert_eq!(seen.len() as u128, set.size());
            prop_assert!(!seen.contains(&"10.1.0.1".parse().unwrap()));
        }

        /// A search by intervals finds the same address as trying each candidate.
        #[test]
        fn the_first_free_address_is_the_first_candidate_that_is_not_taken(
            last in proptest::option::of(any::<(bool, u8)>()),
            gateway in 1u8..=14,
            taken in proptest::collection::btree_set(any::<(bool, u8)>(), 0..40),
        ) {
            let set = set(&format!(
                r#"[{{"subnet": "10.1.0.0/28", "gateway": "10.1.0.{gateway}"}},
                    {{"subnet": "10.2.0.0/28", "rangeStart": "10.2.0.3", "gateway": "10.2.0.9"}}]"#
            )).unwrap();
            let ip = |(second, host): (bool, u8)| IpAddr::from([10, 1 + u8::from(second), 0, host % 16]);
            let taken: Vec<_> = taken.into_iter().map(ip).collect();
            let last = last.map(ip);
            let next_free = |from, to| {
                let all = (number(from)..=number(to)).map(|n| address(n, Family::Ipv4));
                Ok::<_, ()>(all.into_iter().find(|ip| !taken.contains(ip)))
            };
            let count = |from, to| {
                let all = (number(from)..=number(to)).map(|n| address(n, Family::Ipv4));
                Ok::<_, ()>(all.filter(|ip| taken.contains(ip)).count() as u128)
            };
            let expected = set.candidates(last).find(|(ip, _)| !taken.contains(ip));
            prop_assert_eq!(set.first_free(last, next_free).unwrap(), expected);
            let mut distinct = taken.clone();
            distinct.sort();
            distinct.dedup();
            prop_assert_eq!(set.count_by(count).unwrap(), set.count(&distinct));
        }
    }
}
