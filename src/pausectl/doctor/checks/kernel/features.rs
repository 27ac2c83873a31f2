//! The features of a kernel that pausenet uses, and what needs them.

/// Something that a kernel may or may not support.
#[derive(Debug, Clone, Copy)]
pub(super) struct Feature {
    pub(super) name: &'static str,
    /// The build options of a kernel that supports it.
    pub(super) option: &'static str,
    pub(super) needed_by: NeededBy,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum NeededBy {
    /// Every pod.
    Pods,
    /// Networks with one of these keys in their configuration, or with this capability.
    Keys(&'static [&'static str], Option<&'static str>),
    /// Something that no key of ours asks for.
    Other(&'static str),
}

const PORTS: NeededBy = NeededBy::Keys(&["ipMasq"], Some("portMappings"));
pub(super) const NFTABLES: Feature = Feature {
    name: "nftables for IPv4 and IPv6",
    option: "CONFIG_NF_TABLES and CONFIG_NF_TABLES_INET",
    needed_by: PORTS,
};
pub(super) const NAT: Feature = Feature {
    name: "nat in nftables",
    option: "CONFIG_NFT_NAT",
    needed_by: PORTS,
};
pub(super) const MASQUERADE: Feature = Feature {
    name: "masquerade in nftables",
    option: "CONFIG_NFT_MASQ",
    needed_by: PORTS,
};
pub(super) const CONNTRACK: Feature = Feature {
    name: "connection tracking in nftables",
    option: "CONFIG_NFT_CT",
    needed_by: PORTS,
};
pub(super) const FIB: Feature = Feature {
    name: "route look-ups in nftables",
    option: "CONFIG_NFT_FIB_INET",
    needed_by: NeededBy::Keys(&[], Some("portMappings")),
};
pub(super) const MAPS: Feature = Feature {
    name: "maps of ports in nftables",
    option: "CONFIG_NF_TABLES and CONFIG_NFT_NAT, of Linux 4.1 or newer",
    needed_by: NeededBy::Keys(&[], Some("portMappings")),
};
pub(super) const FLOWS: Feature = Feature {
    name: "deleting tracked connections",
    option: "CONFIG_NF_CT_NETLINK",
    needed_by: NeededBy::Keys(&[], Some("portMappings")),
};
pub(super) const FRAMES: Feature = Feature {
    name: "nftables for frames on bridges",
    option: "CONFIG_NF_TABLES_BRIDGE",
    needed_by: NeededBy::Keys(&["macspoofchk"], None),
};
pub(super) const VETH: Feature = Feature {
    name: "veth pairs",
    option: "CONFIG_VETH",
    needed_by: NeededBy::Pods,
};
pub(super) const BRIDGE: Feature = Feature {
    name: "bridges",
    option: "CONFIG_BRIDGE",
    needed_by: NeededBy::Keys(&["bridge", "isGateway", "isDefaultGateway"], None),
};
pub(super) const VLAN: Feature = Feature {
    name: "VLANs on bridges",
    option: "CONFIG_BRIDGE_VLAN_FILTERING",
    needed_by: NeededBy::Keys(&["vlan", "vlanTrunk"], None),
};
pub(super) const SHAPING: Feature = Feature {
    name: "token buckets",
    option: "CONFIG_NET_SCH_TBF",
    needed_by: NeededBy::Keys(&[], Some("bandwidth")),
};
pub(super) const IFB: Feature = Feature {
    name: "limits on what containers send",
    option: "CONFIG_IFB, CONFIG_NET_SCH_INGRESS, CONFIG_NET_CLS_U32 and CONFIG_NET_ACT_MIRRED",
    needed_by: NeededBy::Keys(&[], Some("bandwidth")),
};
pub(super) const IPV6: Feature = Feature {
    name: "IPv6",
    option: "CONFIG_IPV6",
    needed_by: NeededBy::Other("networks with IPv6 subnets"),
};
pub(super) const BR_NETFILTER: Feature = Feature {
    name: "IP rules for frames on bridges",
    option: "CONFIG_BRIDGE_NETFILTER (modprobe br_netfilter)",
    needed_by: NeededBy::Other(
        "Services of Kubernetes between pods on one bridge; mode ptp works without",
    ),
};
