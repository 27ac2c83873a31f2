#!/usr/bin/env bash
# A list of the links of ANOTHER namespace (RTM_GETLINK, dump, IFLA_TARGET_NETNSID) takes long if it has an
# IFLA_EXT_MASK, and the longer the more links the namespace has that ASKS.
#
# The mask may be the one that leaves work out (RTEXT_FILTER_SKIP_STATS). For any mask but 0, the kernel first looks for
# the longest message that it might have to send, and measures every link of the socket's own namespace for that,
# whichever namespace is asked about. Without a mask it takes a fixed size. A host with 1,000 pods that asks for the
# links of each pod's namespace in this way has a million links measured.
#
# Use: findings/getlink-dump-with-a-mask.sh      (as root; installs pyroute2 into a temporary folder)
# Seen with Linux 6.18: in a namespace with 1,000 links, the list of one with only lo takes more than ten times as long
# with the mask as without. Fails when it takes less than three times as long.

set -euo pipefail
PYROUTE2=0.9.7

if [[ ${1-} != inside ]]; then
    work=$(mktemp -d)
    unshare --net sleep 300 &
    other=$!
    trap 'kill "$other"; rm -rf -- "$work"' EXIT
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$work" "pyroute2==$PYROUTE2" >&2
    until [[ ! /proc/$other/ns/net -ef /proc/$$/ns/net ]]; do
        kill -0 "$other" || exit
        sleep 0.1
    done
    PYTHONPATH=$work unshare --net "$0" inside "$other"
    exit
fi

exec python3 - "$2" <<'END'
import os, socket, statistics, sys, time
from pyroute2 import IPRoute
from pyroute2.netlink import NLM_F_DUMP, NLM_F_REQUEST
from pyroute2.netlink.rtnl import RTM_GETLINK
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

SKIP_STATS, NUMBER, LINKS = 8, 7, 1000


def request(attributes):
    message = ifinfmsg()
    message["header"]["type"] = RTM_GETLINK
    message["header"]["flags"] = NLM_F_REQUEST | NLM_F_DUMP
    message["attrs"] = attributes
    message.encode()
    return bytes(message.data)


def median(message):
    """Microseconds from the request to the end of the list."""
    taken = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        for _ in range(200):
            start = time.perf_counter()
            netlink.send(message)
            part = netlink.recv(65536)
            assert int.from_bytes(part[4:6], sys.byteorder) == 16, "no link, but an error"  # RTM_NEWLINK
            while int.from_bytes(part[-16:-14], sys.byteorder) != 3:  # NLMSG_DONE
                part = netlink.recv(65536)
            taken.append((time.perf_counter() - start) * 1e6)
    return statistics.median(taken)


with IPRoute() as host:
    for at in range(LINKS // 2):
        host.link("add", kind="veth", ifname=f"a{at}", peer={"ifname": f"b{at}"})
    host.set_netnsid(pid=int(sys.argv[1]), nsid=NUMBER)

target = ("IFLA_IF_NETNSID", NUMBER)  # the older name
without = median(request([target]))
masked = median(request([target, ("IFLA_EXT_MASK", SKIP_STATS)]))
print(f"Linux {os.uname().release.split('-')[0]}, {LINKS} links here, the links of another namespace:")
print(f"{without:.0f} us without a mask, {masked:.0f} us with RTEXT_FILTER_SKIP_STATS: {masked / without:.1f} times")
sys.exit(0 if masked > 3 * without else "the mask costs little now: this has changed")
END
