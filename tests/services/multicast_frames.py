"""Frames to groups of every sort, built by scapy: data, reports, queries, hellos, and what only looks like them."""

from __future__ import annotations

from typing import Any

from scapy.layers.igmp import IGMP, IGMPv3_MQ, IGMPv3_MR, IGMPv3_MR_Group
from scapy.layers.inet import IP, UDP, IPOption_Router_Alert
from scapy.layers.inet6 import (
    ICMPv6MLDMultAddrRec,
    ICMPv6MLDone,
    ICMPv6MLQuery,
    ICMPv6MLQuery2,
    ICMPv6MLReport,
    ICMPv6MLReport2,
    ICMPv6ND_NS,
    IPv6,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    PadN,
    RouterAlert,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

V4, V6 = "239.1.1.1", "ff05::1:1"
"""A group of each version of IP that somebody listens to."""

OTHER4, OTHER6 = "239.9.9.9", "ff05::9:9"
"""Groups of nobody."""

_HERE, _LINK = "10.0.0.1", "fe80::1"


def mac4(group: str) -> str:
    octets = [int(part) for part in group.split(".")]
    return f"01:00:5e:{octets[1] & 127:02x}:{octets[2]:02x}:{octets[3]:02x}"


def _v4(destination: str, payload: Packet, **more: Any) -> bytes:
    """As bytes from the EtherType on."""
    return bytes(Ether() / IP(src=_HERE, dst=destination, ttl=1, **more) / payload)[12:]


def _v6(destination: str, payload: Packet, **more: Any) -> bytes:
    return bytes(Ether() / IPv6(src=_LINK, dst=destination, **more) / payload)[12:]


def _mld(destination: str, message: Packet, *, padded: bool = False) -> bytes:
    options = [RouterAlert(), PadN(optdata=bytes(8))] if padded else [RouterAlert()]
    return _v6(destination, IPv6ExtHdrHopByHop(options=options) / message, hlim=1)


def _data(size: int = 32) -> Packet:
    return UDP(sport=5007, dport=5007) / Raw(bytes(size))


MESSAGES: dict[str, bytes] = {
    "IGMPv1 report": _v4(V4, IGMP(type=0x12, gaddr=V4)),
    "IGMPv2 report": _v4(V4, IGMP(type=0x16, gaddr=V4)),
    "IGMPv2 report without router alert": _v4(V4, Raw(bytes(IGMP(type=0x16, gaddr=V4))), proto=2),
    "IGMPv2 leave": _v4("224.0.0.2", IGMP(type=0x17, gaddr=V4)),
    "IGMPv3 report": _v4("224.0.0.22", IGMPv3_MR(records=[IGMPv3_MR_Group(rtype=4, maddr=V4)])),
    "IGMPv2 query": _v4("224.0.0.1", IGMP(type=0x11)),
    "IGMPv2 query about one group": _v4(V4, IGMP(type=0x11, gaddr=V4)),
    "IGMPv3 query": _v4("224.0.0.1", IGMPv3_MQ()),
    "IGMP of an unknown type": _v4("224.0.0.1", Raw(bytes([0x7F]) + bytes(7)), proto=2),
    "router advertisement": _v4("224.0.0.106", Raw(bytes([0x30, 20]) + bytes(6)), proto=2),
    "PIM hello": _v4("224.0.0.13", Raw(bytes([0x20]) + bytes(7)), proto=103),
    "MLDv1 report": _mld(V6, ICMPv6MLReport(mladdr=V6)),
    "MLD done": _mld("ff02::2", ICMPv6MLDone(mladdr=V6)),
    "MLDv2 report": _mld("ff02::16", ICMPv6MLReport2(records=[ICMPv6MLDMultAddrRec(rtype=4, dst=V6)])),
    "MLDv2 report behind a longer header": _mld("ff02::16", ICMPv6MLReport2(records=[]), padded=True),
    "MLDv1 query": _mld("ff02::1", ICMPv6MLQuery()),
    "MLDv1 query about one group": _mld(V6, ICMPv6MLQuery(mladdr=V6)),
    "MLDv2 query": _mld("ff02::1", ICMPv6MLQuery2()),
    "PIM hello over IPv6": _v6("ff02::d", Raw(bytes([0x20]) + bytes(7)), nh=103),
}
"""What the control plane gets a copy of, from the EtherType on."""

OTHERS: dict[str, bytes] = {
    "data": _v4(V4, _data()),
    "data with options": _v4(V4, _data(), options=[IPOption_Router_Alert()]),
    "first fragment": _v4(V4, _data(), flags="MF"),
    "later fragment": _v4(V4, Raw(bytes(40)), frag=64, proto=17),
    "a longer frame": _v4(V4, _data(1400)),
    "data of nobody's group": _v4(OTHER4, _data()),
    "mDNS": _v4("224.0.0.251", _data()),
    "the last address that is never held back": _v4("224.0.0.255", _data()),
    "the first that is": _v4("224.0.1.0", _data()),
    "IPv6 data": _v6(V6, _data()),
    "IPv6 fragment": _v6(V6, IPv6ExtHdrFragment(offset=8) / Raw(bytes(40))),
    "IPv6 data of nobody's group": _v6(OTHER6, _data()),
    "all nodes": _v6("ff02::1", _data()),
    "neighbour solicitation": _v6("ff02::1:ff00:7", ICMPv6ND_NS(tgt="fe80::7")),
    "ICMPv6 of MLD's type, but no router alert": _v6(V6, ICMPv6MLReport(mladdr=V6)),
    "hop-by-hop header before data": _v6(V6, IPv6ExtHdrHopByHop(options=[RouterAlert()]) / _data()),
    "a hop-by-hop header that goes on behind the end": _v6(V6, Raw(bytes([58, 200]) + bytes(14)), nh=0),
    "IGMP that ends too early": _v4(V4, Raw(bytes([0x16, 0, 0, 0])), proto=2),
    "IPv4 with a header that is too short": b"\x08\x00\x44" + _v4(V4, _data())[3:],
    "version 5": b"\x08\x00\x55" + _v4(V4, _data())[3:],
    "IPv6 of version 4": b"\x86\xdd\x40" + _v6(V6, _data())[3:],
    "a group's MAC address, but the address of a host": _v4("10.0.0.9", _data()),
    "IPv4 cut short": _v4(V4, _data())[:12],
    "not IP": b"\x88\xb5" + bytes(46),
}

GROUP_MAC = bytes.fromhex("01005e010101")
"""Programs go by the IP address: every frame here has the same MAC address, be it the right one or not."""


def frame(source: bytes, content: bytes, tag: bytes = b"") -> bytes:
    """A frame with what stands in the tables above, behind a tag."""
    return GROUP_MAC + source + tag + content
