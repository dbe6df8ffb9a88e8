"""What the kernel does without us: bridge, forward, filter, translate; contenders set up over netlink."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from pyroute2.nftables.expressions import genex, ipv4addr, masq, verdict
from pyroute2.nftables.main import NFTables

from runtime.netns import entered

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
    """The kernel's router: one route, one neighbour that is known for good."""

    name: str = "ip forward"
    service: str = "router"
    mode: str = "kernel"

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
        return Standing(lane.entry.port.mac_bytes)


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
