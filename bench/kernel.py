"""What the kernel does without us: bridge, forward, filter, translate; contenders set up over netlink."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from pyroute2.nftables.expressions import genex, ipv4addr, masq, verdict
from pyroute2.nftables.main import NFTables

from runtime.netns import entered
from tests.rig.routes import Routes

from . import tables
from .contenders import Standing
from .rig import Lane

_NF_DROP, _NF_ACCEPT = 0, 1
_NFT_META_OIFNAME, _NFT_REG_1, _NFT_CMP_EQ = 7, 1, 0
_TABLE = "bench"
_STATION = "192.168.0.2"  # DESTINATION in bpf/frame.h


@dataclass(frozen=True, slots=True)
class LinuxBridge:
    """The kernel's own bridge over both devices."""

    name: str = "Linux bridge"
    service: str = "bridge"
    mode: str = "kernel"

    def set_up(self, lane: Lane, stack: ExitStack) -> Standing:
        with lane.dut.netlink() as netlink:
            # With snooping the bridge would join a group of its own, and announce that into the traffic.
            netlink.link("add", ifname="br0", kind="bridge", br_mcast_snooping=0)
            (bridge,) = netlink.link_lookup(ifname="br0")
            netlink.link("set", index=bridge, state="up")
            for device in (lane.entry.port, lane.exit.port):
                netlink.link("set", index=device.ifindex, master=bridge)
        return Standing(lane.station)


@dataclass(frozen=True, slots=True)
class IpForward:
    """The kernel's router: one neighbour that is known for good, and as many routes as lead to it (tables.py)."""

    routes: int = 0
    name: str = "ip forward"
    mode: str = "kernel"

    @property
    def service(self) -> str:
        return tables.service(self.routes) if self.routes else "router"

    def set_up(self, lane: Lane, stack: ExitStack) -> Standing:
        lane.dut.sysctl("net/ipv4/ip_forward", "1")
        lane.dut.sysctl("net/ipv4/conf/all/rp_filter", "0")
        for cable, address in zip((lane.entry, lane.exit), ("10.0.0.1/8", "192.168.0.1/24"), strict=True):
            lane.dut.sysctl(f"net/ipv4/conf/{cable.port.name}/rp_filter", "0")
            with lane.dut.netlink() as netlink:
                ip, length = address.split("/")
                netlink.addr("add", index=cable.port.ifindex, address=ip, prefixlen=int(length))
        with lane.dut.netlink() as netlink:
            station = lane.exit.station.mac
            netlink.neigh("add", dst=_STATION, lladdr=station, ifindex=lane.exit.port.ifindex, state="permanent")
        if self.routes:
            _add_routes(lane, tables.routes(self.routes))
        return Standing(lane.entry.port.mac_bytes)


# nlmsghdr, rtmsg, and the attributes RTA_DST, RTA_GATEWAY and RTA_OIF with their headers
_ROUTE = struct.Struct("<IHHII BBBBBBBBI HH4s HH4s HHI")
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_CREATE = 0x1, 0x4, 0x400
_RTM_NEWROUTE, _RT_TABLE_MAIN, _RTPROT_STATIC, _RT_SCOPE_UNIVERSE, _RTN_UNICAST = 24, 254, 4, 0, 1
_RTA_DST, _RTA_OIF, _RTA_GATEWAY = 1, 4, 5
_AT_ONCE = 1000
_ANSWER_BYTES = 4096
_ERROR = struct.Struct("<IHHIIi")  # nlmsghdr, error


def _add_routes(lane: Lane, routes: Routes) -> None:
    """All of them by way of the neighbour, many to a system call. Raises OSError."""
    gateway, ifindex = socket.inet_aton(_STATION), lane.exit.port.ifindex
    with entered(lane.dut.name):
        netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    with netlink:
        netlink.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * _AT_ONCE * _ROUTE.size)
        prefixes = list(routes)
        for first in range(0, len(prefixes), _AT_ONCE):
            *others, last = prefixes[first : first + _AT_ONCE]
            messages = [_route(*prefix, gateway, ifindex) for prefix in others]
            netlink.send(b"".join((*messages, _route(*last, gateway, ifindex, _NLM_F_ACK))))
            *_, code = _ERROR.unpack_from(netlink.recv(_ANSWER_BYTES))  # the first refusal, or that there was none
            if code:
                raise OSError(-code, f"one of {_AT_ONCE} routes from number {first} on: {os.strerror(-code)}")


def _route(address: int, length: int, gateway: bytes, ifindex: int, flags: int = 0) -> bytes:
    header = (_ROUTE.size, _RTM_NEWROUTE, _NLM_F_REQUEST | _NLM_F_CREATE | flags, 0, 0)
    rtmsg = (socket.AF_INET, length, 0, 0, _RT_TABLE_MAIN, _RTPROT_STATIC, _RT_SCOPE_UNIVERSE, _RTN_UNICAST, 0)
    attributes = (8, _RTA_DST, address.to_bytes(4), 8, _RTA_GATEWAY, gateway, 8, _RTA_OIF, ifindex)
    return _ROUTE.pack(*header, *rtmsg, *attributes)


@dataclass(frozen=True, slots=True)
class NftFilter:
    """`ip forward` behind a linear list of rules, each of which drops one source that does not send."""

    rules: int
    service: str = "filter"
    mode: str = "kernel"

    @property
    def name(self) -> str:
        return f"nft, {self.rules} rules"

    def set_up(self, lane: Lane, stack: ExitStack) -> Standing:
        standing = IpForward().set_up(lane, stack)
        with _nftables(lane) as nft:
            nft.chain("add", table=_TABLE, name="forward", hook="forward", type="filter", policy=_NF_ACCEPT)
            for number in range(self.rules):
                blocked = ipv4addr(src=f"198.18.{number >> 8}.{number & 255}")
                nft.rule("add", table=_TABLE, chain="forward", expressions=(blocked, verdict(code=_NF_DROP)))
        return standing


@dataclass(frozen=True, slots=True)
class NftMasquerade:
    """`ip forward` with source NAT on the way out."""

    name: str = "nft masquerade"
    service: str = "nat"
    mode: str = "kernel"

    def set_up(self, lane: Lane, stack: ExitStack) -> Standing:
        standing = IpForward().set_up(lane, stack)
        with _nftables(lane) as nft:
            nft.chain("add", table=_TABLE, name="out", hook="postrouting", type="nat", policy=_NF_ACCEPT)
            nft.rule("add", table=_TABLE, chain="out", expressions=(_leaves_by(lane.exit.port.name), masq()))
        return standing


@contextmanager
def _nftables(lane: Lane) -> Iterator[Any]:
    """A transaction on the machine's tables."""
    with entered(lane.dut.name):
        nft = NFTables(nfgen_family=2)
    try:
        nft.begin()
        nft.table("add", name=_TABLE)
        yield nft
        nft.commit()
    finally:
        nft.close()


def _leaves_by(device: str) -> list[Any]:
    """The expressions of `oifname DEVICE`."""
    name = device.encode().ljust(16, b"\0")
    return [
        genex("meta", {"key": _NFT_META_OIFNAME, "dreg": _NFT_REG_1}),
        genex("cmp", {"sreg": _NFT_REG_1, "op": _NFT_CMP_EQ, "data": {"attrs": [("NFTA_DATA_VALUE", name)]}}),
    ]
