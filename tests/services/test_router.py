"""The router, packet by packet: tables by the rules of RFC 1812, 8200, 826 and 4861, random packets against a model."""

from __future__ import annotations

import ipaddress
import os
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from runtime.routing.neighbours import Key
from runtime.services.router import KnownNeighbours
from schemas.manifest import Hook
from tests.services import router_frames as frames
from tests.services.harness import Bench, Row, Scene
from tests.services.model_router import RouterModel
from tests.services.router_frames import ARP, IPV4, IPV6, arp, ethernet, icmp6, ipv4, ipv6, link_local, option, ports

LEFT, RIGHT, SOUTH = "02:00:00:00:01:01", "02:00:00:00:02:01", "02:00:00:00:03:01"
HOST, SERVER, GATEWAY, SECOND, MOVED = (f"52:54:00:00:00:0{digit}" for digit in range(1, 6))
BROADCAST = "ff:ff:ff:ff:ff:ff"
PORTS = ("left", "right", "south")

CONFIG: Mapping[str, Any] = {
    "kind": "router",
    "ports": {
        "left": {
            "address": ["10.7.1.1/24", "fd00:1::1/64"],
            "mac": LEFT,
            "mtu": 1500,
            "redirects": False,
            "advertise": {},
        },
        "right": {
            "address": ["10.7.2.1/24", "10.8.2.1/28", "fd00:2::1/64"],
            "mac": RIGHT,
            "mtu": 1400,
            "redirects": False,
        },
        "south": {"address": "10.7.3.0/31", "mac": SOUTH, "mtu": 1500, "redirects": False},
    },
    "routes": [
        {"to": "0.0.0.0/0", "via": "10.7.2.254"},
        {"to": "10.0.0.0/8", "unreachable": True},
        {"to": "10.9.0.0/16", "via": "10.7.1.9"},
        {"to": "10.9.8.0/24", "via": "10.7.2.254"},
        {"to": "10.9.8.7", "blackhole": True},
        {"to": "192.0.2.0/24", "prohibit": True},
        {"to": "198.51.100.0/24", "via": "10.7.2.254", "metric": 10},
        {"to": "198.51.100.0/24", "via": "10.7.3.1", "metric": 5},
        {"to": "203.0.113.0/24", "via": ["10.7.2.254", "10.7.3.1", "10.7.2.253"]},
        {"to": "172.16.0.0/12", "port": "south"},
        {"to": "2001:db8::/32", "via": "fd00:2::fe"},
        {"to": "2001:db8:1::/48", "blackhole": True},
        {"to": "2001:db8:2::/48", "unreachable": True},
        {"to": "2001:db8:3::/48", "prohibit": True},
        {"to": "2001:db8:4::/48", "via": "fe80::fe", "port": "right"},
        {"to": "2001:db8:5::/48", "via": ["fd00:2::fe", "fd00:1::9"]},
    ],
}
NEIGHBOURS = {
    ("left", "10.7.1.10"): HOST,
    ("left", "10.7.1.9"): SECOND,
    ("right", "10.7.2.20"): SERVER,
    ("right", "10.7.2.254"): GATEWAY,
    ("right", "10.7.2.253"): SECOND,
    ("south", "10.7.3.1"): SECOND,
    ("south", "172.16.5.5"): SERVER,
    ("left", "fd00:1::10"): HOST,
    ("left", "fd00:1::9"): SECOND,
    ("right", "fd00:2::20"): SERVER,
    ("right", "fd00:2::fe"): GATEWAY,
    ("right", "fe80::fe"): GATEWAY,
    ("left", "fe80::10"): HOST,
}
HERE, THERE, HERE6, THERE6 = "10.7.1.10", "10.7.2.20", "fd00:1::10", "fd00:2::20"


def redirecting(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same with redirects on all ports, as it is where nothing is said of them."""
    ports = {
        name: {key: value for key, value in port.items() if key != "redirects"}
        for name, port in config["ports"].items()
    }
    return {**config, "ports": ports}


def entries(config: Mapping[str, Any], neighbours: Mapping[tuple[str, str], str]) -> dict[str, dict[bytes, bytes]]:
    """The neighbours as the programs' maps hold them: struct neighbour4_key, neighbour6_key and neighbour."""
    maps: dict[str, dict[bytes, bytes]] = {}
    for (port, text), link_address in neighbours.items():
        if port not in config["ports"]:
            continue
        address = ipaddress.ip_address(text)
        key = address.packed + list(config["ports"]).index(port).to_bytes(4, "little")
        value = frames.mac(link_address) + bytes(6)
        maps.setdefault(f"tested__neighbours{address.version}", {})[key] = value
    return maps


def at_left(packet: bytes, ethertype: int = IPV4, *, to: str = LEFT, source: str = HOST) -> bytes:
    return ethernet(source, to, ethertype, packet)


@dataclass(frozen=True, slots=True)
class Way:
    """How packets leave: by `port`, from its MAC to that of the next neighbour."""

    port: str
    mine: str
    neighbour: str


TO_SERVER, TO_GATEWAY = Way("right", RIGHT, SERVER), Way("right", RIGHT, GATEWAY)
BACK, SOUTHWARDS, TO_SOUTH_SERVER = Way("left", LEFT, SECOND), Way("south", SOUTH, SECOND), Way("south", SOUTH, SERVER)


def forwarded(
    name: str, way: Way, source: str, destination: str, payload: bytes = ports(), *, ttl: int = 64, **fields: Any
) -> Row:
    """An IPv4 packet from `left` that leaves, its TTL less by one and its checksum computed anew."""
    before, after = (ipv4(source, destination, payload, ttl=left, **fields) for left in (ttl, ttl - 1))
    return Row(name, "left", at_left(before), f"out {way.port}", ethernet(way.mine, way.neighbour, IPV4, after))


def forwarded6(
    name: str, way: Way, source: str, destination: str, payload: bytes = ports(), *, hop_limit: int = 64, **fields: Any
) -> Row:
    """Likewise for IPv6."""
    before, after = (
        ipv6(source, destination, payload, hop_limit=left, **fields) for left in (hop_limit, hop_limit - 1)
    )
    return Row(name, "left", at_left(before, IPV6), f"out {way.port}", ethernet(way.mine, way.neighbour, IPV6, after))


def left(name: str, verdict: str, packet: bytes, ethertype: int = IPV4, **ends: str) -> Row:
    """A packet from `left` that does not leave: nothing of it has been changed."""
    return Row(name, "left", at_left(packet, ethertype, **ends), verdict)


def to_server(**fields: Any) -> bytes:
    return ipv4(HERE, THERE, **fields)


def to_server6(**fields: Any) -> bytes:
    return ipv6(HERE6, THERE6, **fields)


MALFORMED, TRUNCATED, CHECKSUM, MARTIAN, NOT_ROUTED, NOT_ASKED = (
    f"drop {reason}" for reason in ("malformed", "truncated", "checksum", "martian", "not-routed", "not-asked")
)
(
    RESOLVE,
    EXPIRED,
    NO_ROUTE,
    UNREACHABLE,
    PROHIBITED,
    TOO_BIG,
    OPTIONS,
    LOCAL,
    SLOW_ARP,
    SLOW_ND,
    SCOPE,
    MLD,
    SOLICITED,
) = (
    f"slow-path {reason}"
    for reason in (
        *("resolve", "expired", "no-route", "unreachable", "prohibited", "too-big", "options", "local", "arp", "nd"),
        *("scope", "mld", "solicited"),
    )
)

LINK_ROWS = [
    left("to another station (RFC 1812 3.3)", "drop other-station", to_server(), to=GATEWAY),
    left("from a group address", "drop invalid-source", to_server(), source="03:00:00:00:00:01"),
    left("IPv4 unicast in a broadcast frame (RFC 1812 5.3.4)", NOT_ROUTED, to_server(), to=BROADCAST),
    left("IPv4 unicast in a multicast frame", NOT_ROUTED, to_server(), to="01:00:5e:00:00:01"),
    left("IPv6 unicast in a multicast frame", NOT_ROUTED, to_server6(), IPV6, to="33:33:00:00:00:01"),
    left("neither IP nor ARP", "drop unknown-protocol", bytes(46), 0x88CC, to=BROADCAST),
    left("802.1Q: a port is in no VLAN", "drop unknown-protocol", b"\0\1\x08\0" + to_server(), 0x8100),
    left("LLC", "drop unknown-protocol", b"\x42\x42\x03" + bytes(40), 43, to="01:80:c2:00:00:00"),
]

HEADER_ROWS = [
    left("version 5 (RFC 1812 5.2.2 4)", MALFORMED, to_server(version=5)),
    left("version 6 in an IPv4 frame", MALFORMED, to_server(version=6)),
    left("header of four words (5.2.2 5)", MALFORMED, to_server(ihl=4)),
    left("total length less than the header (5.2.2 1)", MALFORMED, to_server(total=19)),
    left("total length beyond the frame", TRUNCATED, to_server(total=60)),
    left("header with options cut short", TRUNCATED, ipv4(HERE, THERE, b"", ihl=6, total=24)),
    left("checksum one too high (5.2.2 2)", CHECKSUM, to_server(wrong_checksum=1)),
    left("checksum one too low", CHECKSUM, to_server(wrong_checksum=-1)),
    left("checksum of the other zero", CHECKSUM, to_server()[:10] + b"\xff\xff" + to_server()[12:]),
    Row(
        "bytes behind the packet stay",
        "left",
        at_left(to_server() + bytes(6)),
        "out right",
        ethernet(RIGHT, SERVER, IPV4, ipv4(HERE, THERE, ttl=63) + bytes(6)),
    ),
    forwarded("shortest packet", TO_SERVER, HERE, THERE, b""),
    left("options (5.2.4)", OPTIONS, to_server(options=b"\x07\x07\x04" + bytes(5))),
    left("end of options only", OPTIONS, to_server(options=bytes(4))),
    left("options for the router", OPTIONS, ipv4(HERE, "10.7.1.1", options=bytes(4))),
    left("as many options as there can be", OPTIONS, to_server(options=b"\x07\x27\x04" + bytes(range(37)))),
    *(
        left(
            f"options of {size} bytes and a wrong checksum", CHECKSUM, to_server(options=bytes(size), wrong_checksum=1)
        )
        for size in (4, 20, 40)
    ),
    left("options, from the port's own MAC", "drop invalid-source", to_server(options=bytes(4)), source=LEFT),
    Row(
        "options and a wrong checksum, from the control plane",
        "left",
        ethernet(LEFT, LEFT, IPV4, to_server(options=bytes(4), wrong_checksum=1)),
        CHECKSUM,
        injected=True,
    ),
    Row(
        "options that the control plane has dealt with",
        "left",
        ethernet(LEFT, LEFT, IPV4, to_server(options=b"\x07\x07\x08\1\2\3\4\0")),
        "out right",
        ethernet(RIGHT, SERVER, IPV4, to_server(options=b"\x07\x07\x08\1\2\3\4\0", ttl=63)),
        injected=True,
    ),
]

MARTIAN_ROWS = [
    left(f"{what} (RFC 1812 5.3.7)", MARTIAN, ipv4(source, THERE))
    for what, source in (
        ("source 0.0.0.0", "0.0.0.0"),
        ("source of this network", "0.1.2.3"),
        ("source of the loopback network", "127.1.2.3"),
        ("source is a group", "224.0.0.5"),
        ("source is reserved", "240.0.0.1"),
        ("source is the limited broadcast", "255.255.255.255"),
        ("source is link-local", "169.254.1.1"),
        ("source is the router's own, of this port", "10.7.1.1"),
        ("source is the router's own, of another port", "10.7.2.1"),
        ("source is a directed broadcast", "10.7.1.255"),
    )
] + [
    left("destination of this network", MARTIAN, ipv4(HERE, "0.1.2.3")),
    left("destination of the loopback network", MARTIAN, ipv4(HERE, "127.0.0.1")),
    left("destination is a group nobody here is in", MARTIAN, ipv4(HERE, "224.0.0.251")),
    left("destination is reserved", MARTIAN, ipv4(HERE, "240.0.0.1")),
    left("destination is the limited broadcast", MARTIAN, ipv4(HERE, "255.255.255.255")),
    left("destination is link-local (RFC 3927 2.6.2)", MARTIAN, ipv4(HERE, "169.254.1.1")),
    left("directed broadcast of another port (RFC 2644)", NOT_ROUTED, ipv4(HERE, "10.7.2.255")),
    left("directed broadcast of this port", NOT_ROUTED, ipv4(HERE, "10.7.1.255")),
    left("directed broadcast of a small subnet", NOT_ROUTED, ipv4(HERE, "10.8.2.15")),
    forwarded("the same number in another subnet is a host", TO_GATEWAY, HERE, "11.7.2.255"),
]

FORWARD_ROWS = [
    forwarded("connected (5.2.4.3)", TO_SERVER, HERE, THERE),
    forwarded("default route", TO_GATEWAY, HERE, "8.8.8.8"),
    forwarded("longest prefix wins: /16", BACK, HERE, "10.9.1.1"),
    forwarded("longest prefix wins: /24", TO_GATEWAY, HERE, "10.9.8.6"),
    left("longest prefix wins: /32", "drop blackhole", ipv4(HERE, "10.9.8.7")),
    left("unreachable", UNREACHABLE, ipv4(HERE, "10.200.0.1")),
    left("prohibited", PROHIBITED, ipv4(HERE, "192.0.2.1")),
    forwarded("the lower metric", SOUTHWARDS, HERE, "198.51.100.1"),
    forwarded("on link without an address there", TO_SOUTH_SERVER, HERE, "172.16.5.5"),
    forwarded("a link of two addresses (RFC 3021)", SOUTHWARDS, HERE, "10.7.3.1"),
    forwarded("out of the port that it came in by", BACK, HERE, "10.9.0.1"),
    forwarded("from a source of anywhere", TO_SERVER, "8.8.4.4", THERE),
    left("neighbour that is not known yet", RESOLVE, ipv4(HERE, "10.7.2.21")),
    left("neighbour that is known on another port", RESOLVE, ipv4(HERE, "10.7.2.10")),
    left("the subnet's own number", RESOLVE, ipv4(HERE, "10.7.2.0")),
    forwarded("TTL 2 is the last to pass (5.3.1)", TO_SERVER, HERE, THERE, ttl=2),
    left("TTL 1", EXPIRED, to_server(ttl=1)),
    left("TTL 0", EXPIRED, to_server(ttl=0)),
    left(
        "TTL is looked at after the route", NO_ROUTE.replace("no-route", "unreachable"), ipv4(HERE, "10.200.0.1", ttl=1)
    ),
    forwarded("TTL 255", TO_SERVER, HERE, THERE, ttl=255),
    forwarded("type of service stays", TO_SERVER, HERE, THERE, tos=0xB8),
    forwarded("do not fragment stays", TO_SERVER, HERE, THERE, fragment=0x4000),
    forwarded("first fragment", TO_SERVER, HERE, THERE, fragment=0x2000),
    forwarded("later fragment", TO_SERVER, HERE, THERE, fragment=0x00B9),
    forwarded("a protocol without ports", TO_SERVER, HERE, THERE, bytes(4), protocol=47),
    forwarded("as long as the MTU", TO_SERVER, HERE, THERE, bytes(1380)),
    left("longer than the MTU", TOO_BIG, to_server(payload=bytes(1381))),
    left("longer than the MTU, and must not be cut", TOO_BIG, to_server(payload=bytes(1381), fragment=0x4000)),
    forwarded("another port has another MTU", BACK, HERE, "10.9.1.1", bytes(1480)),
    forwarded("checksum that carries over (RFC 1624)", TO_SERVER, HERE, THERE, identification=0x4C9B),
    left("for the router", LOCAL, ipv4(HERE, "10.7.1.1")),
    left("for the router's address on another port", LOCAL, ipv4(HERE, "10.8.2.1")),
    left("for the router, with TTL 1", LOCAL, ipv4(HERE, "10.7.1.1", ttl=1)),
    Row(
        "the router's own packet, from its control plane",
        "left",
        ethernet(LEFT, LEFT, IPV4, ipv4("10.7.1.1", THERE, ttl=65)),
        "out right",
        ethernet(RIGHT, SERVER, IPV4, ipv4("10.7.1.1", THERE, ttl=64)),
        injected=True,
    ),
    left("the router's own packet, but from the link", "drop invalid-source", ipv4("10.7.1.1", THERE), source=LEFT),
]

# Checksums that the identification makes: all over, and those at which RFC 1624's sum carries over, or is a zero.
CHECKSUM_EDGES = (0xFEFE, 0xFEFF, 0xFF00, 0xFFFE, 0x0000, 0x0001, 0x00FF)
CHECKSUM_ROWS = [
    forwarded(f"checksum of identification {number:#06x}", TO_SERVER, HERE, THERE, identification=number)
    for number in (
        *range(0x0000, 0x10000, 0x0FB3),
        *((0x639A - wanted) % 0xFFFF for wanted in CHECKSUM_EDGES),  # 0x639a is that of identification 0
    )
]

GROUP_OF_LEFT, ALL_NODES = "33:33:ff:00:00:01", "33:33:00:00:00:01"
ALERT = bytes.fromhex("3a00050200000100")
"""A hop-by-hop header with a router alert before ICMPv6."""
LONG_ALERT = b"\x3a\1" + ALERT[2:] + b"\1\6" + bytes(6)


def asks(
    target: str,
    source: str = HERE6,
    *,
    options: bytes = option(frames.SOURCE_OPTION, HOST),
    code: int = 0,
    **changes: int,
) -> bytes:
    """A neighbour solicitation from a host on `left`."""
    return icmp6(source, "ff02::1:ff00:1", frames.solicitation(target, options, code=code), **changes)


def answers(target: str, destination: str = HERE6, flags: int = 0xE0) -> bytes:
    message = frames.advertisement(target, option(frames.TARGET_OPTION, LEFT), flags)
    return ethernet(LEFT, HOST, IPV6, icmp6(target, destination, message))


def tells(target: str, link_address: str, destination: str = "ff02::1") -> bytes:
    """A neighbour advertisement."""
    return icmp6(target, destination, frames.advertisement(target, option(frames.TARGET_OPTION, link_address), 0x20))


SHORT = (bytes((133, 0, 0, 0)) + bytes(4), bytes((134, 0, 0, 0)) + bytes(12))
IPV6_ROWS = [
    forwarded6("IPv6: connected", TO_SERVER, HERE6, THERE6),
    forwarded6("IPv6: a route", TO_GATEWAY, HERE6, "2001:db8::1"),
    forwarded6("IPv6: via a link-local gateway", TO_GATEWAY, HERE6, "2001:db8:4::1"),
    left("IPv6: blackhole", "drop blackhole", ipv6(HERE6, "2001:db8:1::1"), IPV6),
    left("IPv6: unreachable", UNREACHABLE, ipv6(HERE6, "2001:db8:2::1"), IPV6),
    left("IPv6: prohibited", PROHIBITED, ipv6(HERE6, "2001:db8:3::1"), IPV6),
    left("IPv6: no route", NO_ROUTE, ipv6(HERE6, "2001:db9::1"), IPV6),
    left("IPv6: no route is said before the hop limit", NO_ROUTE, ipv6(HERE6, "2001:db9::1", hop_limit=1), IPV6),
    left("IPv6: neighbour that is not known yet", RESOLVE, ipv6(HERE6, "fd00:2::21"), IPV6),
    forwarded6("IPv6: hop limit 2", TO_SERVER, HERE6, THERE6, hop_limit=2),
    left("IPv6: hop limit 1 (RFC 8200 3)", EXPIRED, to_server6(hop_limit=1), IPV6),
    left("IPv6: hop limit 0", EXPIRED, to_server6(hop_limit=0), IPV6),
    forwarded6("IPv6: flow label and class stay", TO_SERVER, HERE6, THERE6, flow=0xA12345),
    forwarded6("IPv6: as long as the MTU", TO_SERVER, HERE6, THERE6, bytes(1360)),
    left("IPv6: longer than the MTU", TOO_BIG, to_server6(payload=bytes(1361)), IPV6),
    left("IPv6: version 4 in an IPv6 frame", MALFORMED, to_server6(version=4), IPV6),
    left("IPv6: payload length beyond the frame", TRUNCATED, to_server6(size=21), IPV6),
    forwarded6("IPv6: destination options are the receiver's", TO_SERVER, HERE6, THERE6, bytes(8), protocol=60),
    left("IPv6: hop-by-hop options", OPTIONS, to_server6(payload=b"\x11\0\1\4" + bytes(4), protocol=0), IPV6),
    left("IPv6: hop-by-hop options for the router", OPTIONS, ipv6(HERE6, "fd00:1::1", bytes(8), protocol=0), IPV6),
    left("IPv6: source is a group", MARTIAN, ipv6("ff02::1", THERE6), IPV6),
    left("IPv6: source is loopback", MARTIAN, ipv6("::1", THERE6), IPV6),
    left("IPv6: source is unspecified (RFC 4291 2.5.2)", MARTIAN, ipv6("::", THERE6), IPV6),
    left("IPv6: source is the router's own", MARTIAN, ipv6("fd00:1::1", THERE6), IPV6),
    left("IPv6: source is an anycast address", MARTIAN, ipv6("fd00:1::", THERE6), IPV6),
    left("IPv6: source is link-local (RFC 4291 2.5.6)", SCOPE, ipv6("fe80::10", THERE6), IPV6),
    left("IPv6: destination is loopback", MARTIAN, ipv6(HERE6, "::1"), IPV6),
    left("IPv6: destination is unspecified", MARTIAN, ipv6(HERE6, "::"), IPV6),
    left("IPv6: destination is somebody's link-local address", MARTIAN, ipv6(HERE6, "fe80::99"), IPV6),
    left("IPv6: source is an IPv4 address in IPv6 (RFC 6890)", MARTIAN, ipv6("::ffff:10.7.1.10", THERE6), IPV6),
    left("IPv6: destination is an IPv4 address in IPv6", MARTIAN, ipv6(HERE6, "::ffff:10.7.2.20"), IPV6),
    left(
        "IPv6: another source of zeros is anybody's", SCOPE.replace("scope", "resolve"), ipv6("::2", "fd00:2::99"), IPV6
    ),
    left(
        "IPv6: echo request to all nodes", LOCAL, icmp6("fe80::10", "ff02::1", b"\x80" + bytes(7)), IPV6, to=ALL_NODES
    ),
    left(
        "IPv6: echo request to all routers",
        LOCAL,
        icmp6(HERE6, "ff02::2", b"\x80" + bytes(7)),
        IPV6,
        to="33:33:00:00:00:02",
    ),
    left(
        "IPv6: echo request to another group",
        NOT_ROUTED,
        icmp6(HERE6, "ff02::3", b"\x80" + bytes(7)),
        IPV6,
        to="33:33:00:00:00:03",
    ),
    left(
        "IPv6: echo request to all routers of the site",
        NOT_ROUTED,
        icmp6(HERE6, "ff05::2", b"\x80" + bytes(7)),
        IPV6,
        to="33:33:00:00:00:02",
    ),
    left("IPv6: echo reply to all nodes", NOT_ROUTED, icmp6(HERE6, "ff02::1", b"\x81" + bytes(7)), IPV6, to=ALL_NODES),
    left("IPv6: UDP to all nodes", NOT_ROUTED, ipv6(HERE6, "ff02::1"), IPV6, to=ALL_NODES),
    left("IPv6: destination is a group", NOT_ROUTED, ipv6(HERE6, "ff05::2"), IPV6, to="33:33:00:00:00:02"),
    *(
        left(f"IPv6: {name}", verdict, ipv6("fe80::10", to, hops + message, protocol=0, hop_limit=1), IPV6, to=mac)
        for name, verdict, to, mac, hops, message in (
            ("multicast listener query", MLD, "ff02::1", "33:33:00:00:00:01", ALERT, b"\x82" + bytes(23)),
            ("query about a group", MLD, "ff02::1:ff00:1", GROUP_OF_LEFT, ALERT, b"\x82" + bytes(27)),
            ("done behind a router alert", NOT_ROUTED, "ff02::2", "33:33:00:00:00:02", ALERT, b"\x84" + bytes(23)),
            ("a query in a longer header", NOT_ROUTED, "ff02::1", "33:33:00:00:00:01", LONG_ALERT, b"\x82" + bytes(23)),
            (
                "a router alert before UDP",
                NOT_ROUTED,
                "ff02::1",
                "33:33:00:00:00:01",
                b"\x11" + ALERT[1:],
                b"\x82" + bytes(23),
            ),
            ("a query cut short", NOT_ROUTED, "ff02::1", "33:33:00:00:00:01", ALERT[:4], b""),
        )
    ),
    left("IPv6: multicast listener report", NOT_ROUTED, icmp6("fe80::10", "ff02::16", b"\x8f" + bytes(7)), IPV6),
    left("IPv6: for the router", LOCAL, ipv6(HERE6, "fd00:1::1"), IPV6),
    left("IPv6: for the router's address on another port", LOCAL, ipv6(HERE6, "fd00:2::1"), IPV6),
    left("IPv6: for the router's link-local address", LOCAL, ipv6("fe80::10", link_local(LEFT)), IPV6),
    left("IPv6: for another port's link-local address", MARTIAN, ipv6(HERE6, link_local(RIGHT)), IPV6),
    left("IPv6: for the subnet's routers (RFC 4291 2.6.1)", LOCAL, ipv6(HERE6, "fd00:1::"), IPV6),
    left("IPv6: echo request for the router", LOCAL, icmp6(HERE6, "fd00:1::1", b"\x80" + bytes(7)), IPV6),
    Row(
        "IPv6: the router's own packet, from its control plane",
        "left",
        ethernet(LEFT, LEFT, IPV6, ipv6("fd00:1::1", THERE6, hop_limit=65)),
        "out right",
        ethernet(RIGHT, SERVER, IPV6, ipv6("fd00:1::1", THERE6, hop_limit=64)),
        injected=True,
    ),
    left(
        "IPv6: the router's own packet, but from the link",
        "drop invalid-source",
        ipv6("fd00:1::1", THERE6),
        IPV6,
        source=LEFT,
    ),
    Row("IPv6: on a port that has none", "south", ethernet(SECOND, SOUTH, IPV6, to_server6()), "drop unknown-protocol"),
]

ND_ROWS = [
    Row(
        "solicitation (RFC 4861 7.2.4)",
        "left",
        at_left(asks("fd00:1::1"), IPV6, to=GROUP_OF_LEFT),
        "out left",
        answers("fd00:1::1"),
    ),
    Row("solicitation to the router alone", "left", at_left(asks("fd00:1::1"), IPV6), "out left", answers("fd00:1::1")),
    Row(
        "solicitation of the link-local address",
        "left",
        at_left(asks(link_local(LEFT)), IPV6, to=GROUP_OF_LEFT),
        "out left",
        answers(link_local(LEFT)),
    ),
    Row(
        "solicitation from a link-local address",
        "left",
        at_left(asks("fd00:1::1", "fe80::10"), IPV6, to=GROUP_OF_LEFT),
        "out left",
        answers("fd00:1::1", "fe80::10"),
    ),
    Row(
        "solicitation from somebody not known yet",
        "left",
        at_left(asks("fd00:1::1", "fd00:1::77"), IPV6, to=GROUP_OF_LEFT),
        "out left",
        answers("fd00:1::1", "fd00:1::77"),
    ),
    Row(
        "solicitation of an anycast address does not override (7.2.4)",
        "left",
        at_left(asks("fd00:1::"), IPV6, to="33:33:ff:00:00:00"),
        "out left",
        answers("fd00:1::", flags=0xC0),
    ),
    left("solicitation of another port's address", NOT_ASKED, asks("fd00:2::1"), IPV6, to=GROUP_OF_LEFT),
    left("solicitation of another host", NOT_ASKED, asks("fd00:1::11"), IPV6, to=GROUP_OF_LEFT),
    left(
        "solicitation that came from far (7.1.1)", MALFORMED, asks("fd00:1::1", hop_limit=254), IPV6, to=GROUP_OF_LEFT
    ),
    left("solicitation with a wrong checksum", CHECKSUM, asks("fd00:1::1", wrong_checksum=1), IPV6, to=GROUP_OF_LEFT),
    left("solicitation with a code", SLOW_ND, asks("fd00:1::1", code=1), IPV6, to=GROUP_OF_LEFT),
    left("solicitation with another option", SLOW_ND, asks("fd00:1::1", options=bytes((14, 1)) + bytes(6)), IPV6),
    left(
        "solicitation with an option more",
        SLOW_ND,
        asks("fd00:1::1", options=option(1, HOST) + bytes((14, 1)) + bytes(6)),
        IPV6,
    ),
    left("duplicate address probe", SLOW_ND, asks("fd00:1::1", "::", options=b""), IPV6, to=GROUP_OF_LEFT),
    left("probe with an option", SLOW_ND, asks("fd00:1::1", "::"), IPV6, to=GROUP_OF_LEFT),
    left("solicitation from a neighbour with a new card", SLOW_ND, asks("fd00:1::1", options=option(1, MOVED)), IPV6),
    left("advertisement for the router", SLOW_ND, tells(HERE6, HOST, "fd00:1::1"), IPV6),
    left("advertisement for all, nothing new", NOT_ASKED, tells(HERE6, HOST), IPV6, to=ALL_NODES),
    left("advertisement for all, a new card", SLOW_ND, tells(HERE6, MOVED), IPV6, to=ALL_NODES),
    left("advertisement for all, of a stranger", NOT_ASKED, tells("fd00:1::99", MOVED), IPV6, to=ALL_NODES),
    left(
        "advertisement that came from far",
        MALFORMED,
        ipv6(HERE6, "ff02::1", tells(HERE6, MOVED)[40:], protocol=58),
        IPV6,
        to=ALL_NODES,
    ),
    left(
        "somebody else has the address (RFC 4862 5.4.4)",
        SLOW_ND,
        tells("fd00:1::1", MOVED),
        IPV6,
        to=ALL_NODES,
    ),
    left("somebody else has the link-local address", SLOW_ND, tells(link_local(LEFT), MOVED), IPV6, to=ALL_NODES),
    left("somebody else asks from the router's address", SLOW_ND, asks(HERE6, "fd00:1::1"), IPV6, to=GROUP_OF_LEFT),
    left("somebody else has another port's address", MARTIAN, tells("fd00:2::1", MOVED), IPV6, to=ALL_NODES),
    left(
        "somebody else says it from far",
        MARTIAN,
        ipv6("fd00:1::1", "ff02::1", tells("fd00:1::1", MOVED)[40:], protocol=58),
        IPV6,
        to=ALL_NODES,
    ),
    left(
        "an echo request from the router's address",
        MARTIAN,
        icmp6("fd00:1::1", "ff02::1", b"\x80" + bytes(7)),
        IPV6,
        to=ALL_NODES,
    ),
    left("router advertisement", NOT_ASKED, icmp6("fe80::10", "ff02::1", SHORT[1] + bytes(16)), IPV6, to=ALL_NODES),
    left("redirect", NOT_ASKED, icmp6("fe80::10", "fd00:1::1", bytes((137, 0, 0, 0)) + bytes(36)), IPV6),
    *(
        Row(
            f"{name} on a port that {does}",
            port,
            ethernet(HOST, "33:33:00:00:00:02", IPV6, icmp6("fe80::10", "ff02::2", SHORT[0] + rest)),
            verdict,
        )
        for port, does, verdict in (("left", "advertises", SOLICITED), ("right", "does not", NOT_ASKED))
        for name, rest in (("router solicitation", b""), ("longer router solicitation", option(1, HOST) + bytes(24)))
    ),
]

ME, HIM, NOBODY = (LEFT, "10.7.1.1"), (HOST, HERE), ("00:00:00:00:00:00", "10.7.1.1")
ARP_ROWS = [
    Row(
        "ARP request (RFC 826)",
        "left",
        ethernet(HOST, BROADCAST, ARP, arp(1, HIM, NOBODY)),
        "out left",
        ethernet(LEFT, HOST, ARP, arp(2, ME, HIM)),
    ),
    Row(
        "ARP request, padded",
        "left",
        ethernet(HOST, BROADCAST, ARP, arp(1, HIM, NOBODY) + bytes(18)),
        "out left",
        ethernet(LEFT, HOST, ARP, arp(2, ME, HIM) + bytes(18)),
    ),
    Row(
        "ARP request to the router alone",
        "left",
        ethernet(HOST, LEFT, ARP, arp(1, HIM, ME)),
        "out left",
        ethernet(LEFT, HOST, ARP, arp(2, ME, HIM)),
    ),
    Row(
        "ARP request from somebody not known yet",
        "left",
        ethernet(MOVED, BROADCAST, ARP, arp(1, (MOVED, "10.7.1.77"), NOBODY)),
        "out left",
        ethernet(LEFT, MOVED, ARP, arp(2, ME, (MOVED, "10.7.1.77"))),
    ),
    Row(
        "ARP probe (RFC 5227 2.1)",
        "left",
        ethernet(MOVED, BROADCAST, ARP, arp(1, (MOVED, "0.0.0.0"), NOBODY)),
        "out left",
        ethernet(LEFT, MOVED, ARP, arp(2, ME, (MOVED, "0.0.0.0"))),
    ),
    left("ARP request for another port's address", NOT_ASKED, arp(1, HIM, (MOVED, "10.7.2.1")), ARP, to=BROADCAST),
    left("ARP request for another host", NOT_ASKED, arp(1, HIM, (MOVED, "10.7.1.11")), ARP, to=BROADCAST),
    left("ARP request for the broadcast address", NOT_ASKED, arp(1, HIM, (MOVED, "10.7.1.255")), ARP, to=BROADCAST),
    left("ARP request from a neighbour with a new card", SLOW_ARP, arp(1, (MOVED, HERE), NOBODY), ARP, to=BROADCAST),
    left("ARP reply", SLOW_ARP, arp(2, HIM, ME), ARP),
    left("ARP reply from a stranger", SLOW_ARP, arp(2, (MOVED, "10.7.1.77"), ME), ARP),
    left("gratuitous ARP, nothing new", NOT_ASKED, arp(1, HIM, HIM), ARP, to=BROADCAST),
    left("gratuitous ARP, a new card", SLOW_ARP, arp(1, (MOVED, HERE), (MOVED, HERE)), ARP, to=BROADCAST),
    left(
        "gratuitous ARP of a stranger", NOT_ASKED, arp(1, (MOVED, "10.7.1.77"), (MOVED, "10.7.1.77")), ARP, to=BROADCAST
    ),
    left(
        "somebody uses the router's address (RFC 5227 2.4)",
        SLOW_ARP,
        arp(1, (MOVED, "10.7.1.1"), NOBODY),
        ARP,
        to=BROADCAST,
    ),
    left("ARP cut short", TRUNCATED, arp(1, HIM, NOBODY)[:27], ARP, to=BROADCAST),
    left("ARP of another hardware", MALFORMED, arp(1, HIM, NOBODY, hardware=6), ARP, to=BROADCAST),
    left("ARP of another protocol", MALFORMED, arp(1, HIM, NOBODY, protocol=0x86DD), ARP, to=BROADCAST),
    left("ARP with other lengths", MALFORMED, arp(1, HIM, NOBODY, lengths=(8, 4)), ARP, to=BROADCAST),
    left("reverse ARP", MALFORMED, arp(3, HIM, NOBODY), ARP, to=BROADCAST),
    left("ARP from a group address", MALFORMED, arp(1, (BROADCAST, HERE), NOBODY), ARP, to=BROADCAST),
]


def scene(name: str, rows: list[Row], config: Mapping[str, Any] = CONFIG) -> Scene:
    model = partial(RouterModel, config, NEIGHBOURS)
    return Scene(name, config, tuple(config["ports"]), model, rows, entries(config, NEIGHBOURS))


BARE: Mapping[str, Any] = {
    "kind": "router",
    "ports": {"left": CONFIG["ports"]["left"], "right": CONFIG["ports"]["right"]},
}
BARE_ROWS = [
    forwarded("connected", TO_SERVER, HERE, THERE),
    left("no route (RFC 1812 5.2.4.3)", NO_ROUTE, ipv4(HERE, "8.8.8.8")),
    left("no route is said before the TTL", NO_ROUTE, ipv4(HERE, "8.8.8.8", ttl=1)),
    left("no IPv6 route", NO_ROUTE, ipv6(HERE6, "2001:db8::1"), IPV6),
]

TELLING: Mapping[str, Any] = redirecting(
    {
        **CONFIG,
        "ports": {**CONFIG["ports"], "south": {"address": ["10.7.3.1/24", "10.7.4.1/24"], "mac": SOUTH, "mtu": 1500}},
        "routes": [
            {"to": "10.9.0.0/16", "via": "10.7.1.9"},
            {"to": "10.10.0.0/16", "via": "10.7.4.9"},
            {"to": "10.11.0.0/16", "port": "left"},
            {"to": "192.0.2.0/24", "via": ["10.7.1.9", "10.7.1.10"]},
            {"to": "2001:db8::/32", "via": "fd00:1::9"},
            {"to": "2001:db8:1::/48", "via": "fe80::9", "port": "left"},
            {"to": "2001:db8:2::/48", "port": "left"},
        ],
    }
)
TELLING_NEIGHBOURS = {
    **NEIGHBOURS,
    ("left", "10.11.0.1"): SERVER,
    ("south", "10.7.3.9"): SECOND,
    ("south", "10.7.4.9"): SECOND,
    ("left", "fe80::9"): SECOND,
    ("left", "2001:db8:2::1"): SERVER,
}


def back(
    name: str,
    way: Way,
    source: str,
    destination: str,
    *,
    told: bool = True,
    station: str = HOST,
    injected: bool = False,
    fragment: int = 0,
) -> Row:
    """A packet that leaves by the port that it came in by; whether a copy goes up, so that its sender is told.

    A sender is looked at again after some time only: there is one row for each.
    """
    if ":" in source:
        kind, before, after = IPV6, ipv6(source, destination), ipv6(source, destination, hop_limit=63)
    else:
        before, after = (ipv4(source, destination, ttl=ttl, fragment=fragment) for ttl in (64, 63))
        kind = IPV4
    copies = ("redirect",) if told else ()
    frame, out = ethernet(station, way.mine, kind, before), ethernet(way.mine, way.neighbour, kind, after)
    return Row(name, way.port, frame, f"out {way.port}", out, copies, injected)


ON_LEFT, TO_LEFT_SERVER, BACK_SOUTH = BACK, Way("left", LEFT, SERVER), Way("south", SOUTH, SECOND)
REDIRECT_ROWS = [
    back("via a router in the sender's subnet (RFC 1812 5.2.7.2)", ON_LEFT, "10.7.1.30", "10.9.1.1"),
    back("to a host in the sender's subnet", Way("left", LEFT, HOST), "10.7.1.31", "10.7.1.10", station=MOVED),
    back("equal-cost paths: the one that it takes", ON_LEFT, "10.7.1.32", "192.0.2.3"),
    back("a later fragment", ON_LEFT, "10.7.1.33", "10.9.1.1", fragment=0x2001),
    back("on a port with two subnets, in the second", BACK_SOUTH, "10.7.4.30", "10.10.0.1"),
    back("sender and next hop in two subnets", BACK_SOUTH, "10.7.3.31", "10.10.0.1", told=False),
    back("the sender is not on the link", ON_LEFT, "10.20.0.1", "10.9.1.1", told=False),
    back("the destination is on the link without a subnet", TO_LEFT_SERVER, "10.7.1.34", "10.11.0.1", told=False),
    back("the next hop itself has sent it", ON_LEFT, "10.7.1.35", "10.9.1.1", told=False, station=SECOND),
    back("from the control plane", ON_LEFT, "10.7.1.36", "10.9.1.1", told=False, station=LEFT, injected=True),
    forwarded("out of another port", TO_SERVER, "10.7.1.37", THERE),
    left("not forwarded: TTL 1", EXPIRED, ipv4("10.7.1.38", "10.9.1.1", ttl=1)),
    left("not forwarded: the next hop is not known", RESOLVE, ipv4("10.7.1.39", "10.7.1.77")),
    left("not forwarded: a directed broadcast", NOT_ROUTED, ipv4("10.7.1.40", "10.7.1.255")),
    left("not forwarded: a group", MARTIAN, ipv4("10.7.1.41", "224.0.0.251")),
    left("not forwarded: options, a source route among them", OPTIONS, ipv4("10.7.1.42", "10.9.1.1", options=bytes(4))),
    back("IPv6: via a router by its link-local address (RFC 4861 8.2)", ON_LEFT, "fd00:1::30", "2001:db8:1::1"),
    back("IPv6: to a host on the link", TO_LEFT_SERVER, "fd00:1::31", "2001:db8:2::1"),
    back("IPv6: via a router by another address", ON_LEFT, "fd00:1::32", "2001:db8::1", told=False),
    back("IPv6: the sender is not on the link", ON_LEFT, "2001:db8:9::1", "2001:db8:1::1", told=False),
    back("IPv6: the next hop itself has sent it", ON_LEFT, "fd00:1::33", "2001:db8:1::1", told=False, station=SECOND),
    left(
        "IPv6: redirects of others are not followed",
        NOT_ASKED,
        icmp6("fe80::10", "fd00:1::1", bytes((137, 0, 0, 0)) + bytes(36)),
        IPV6,
    ),
]


def telling_scene() -> Scene:
    model = partial(RouterModel, TELLING, TELLING_NEIGHBOURS)
    return Scene("redirects", TELLING, PORTS, model, REDIRECT_ROWS, entries(TELLING, TELLING_NEIGHBOURS))


SCENES = (
    scene("links", LINK_ROWS),
    scene("headers", HEADER_ROWS),
    scene("martians", MARTIAN_ROWS),
    scene("forwarding", FORWARD_ROWS),
    scene("checksums", CHECKSUM_ROWS),
    scene("ipv6", IPV6_ROWS),
    scene("discovery", ND_ROWS),
    scene("arp", ARP_ROWS),
    scene("bare", BARE_ROWS, BARE),
    telling_scene(),
)


def test_the_table_is_large_enough() -> None:
    assert sum(len(each.rows) for each in SCENES) >= 60


def test_the_model_has_the_bytes_of_the_table() -> None:
    for each in SCENES:
        model = each.model()
        assert isinstance(model, RouterModel)
        for row in each.rows:
            expected = row.frame if row.out is None else row.out
            found = model.forward(row.port, row.frame, injected=row.injected)
            assert found == (row.verdict, expected), row.name
            assert model.copies(row.port, row.frame, injected=row.injected) == row.copies, row.name


ADDRESSES4 = [
    *(address for _, address in NEIGHBOURS if "." in address),
    *("10.7.1.1", "10.7.1.255", "10.7.2.1", "10.8.2.15", "10.7.3.0", "10.9.1.1", "10.9.8.6", "10.9.8.7", "10.1.1.1"),
    *("192.0.2.9", "198.51.100.4", "203.0.113.1", "203.0.113.2", "203.0.113.77", "172.16.5.5", "8.8.8.8", "127.0.0.1"),
    *("0.0.0.0", "224.0.0.1", "255.255.255.255", "169.254.0.1", "10.7.2.99"),
]
ADDRESSES6 = [
    *(address for _, address in NEIGHBOURS if ":" in address),
    *(
        "fd00:1::1",
        "fd00:2::1",
        "fd00:1::",
        "2001:db8::1",
        "2001:db8:1::1",
        "2001:db8:2::1",
        "2001:db8:3::1",
        "::",
        "::1",
    ),
    *("2001:db8:4::1", "2001:db8:5::1", "2001:db8:5::2", "ff02::1", "ff05::2", "fe80::99", "2001:db9::1"),
    "::ffff:10.7.2.20",
    *(link_local(LEFT), link_local(RIGHT)),
]


def random_frames(generator: random.Random, count: int) -> Iterator[tuple[str, bytes]]:
    """Packets of all sorts on every port, one in four damaged somewhere."""
    for _ in range(count):
        port = generator.choice(PORTS)
        mine = CONFIG["ports"][port]["mac"]
        to = generator.choice([mine] * 9 + [GATEWAY, BROADCAST, ALL_NODES])
        kind, packet = generator.choice([_random4, _random4, _random4, _random6, _random6, _random_arp, _random_nd])(
            generator
        )
        source = generator.choice([HOST] * 8 + [MOVED, mine, "03:00:00:00:00:01"])
        frame = bytearray(ethernet(source, to, kind, packet + bytes(generator.choice([0, 0, 6]))))
        if generator.random() < 0.25:
            frame[generator.randrange(12, min(len(frame), 90))] = generator.randrange(256)
        yield port, bytes(frame)


def _random4(generator: random.Random) -> tuple[int, bytes]:
    pick = generator.choice
    return IPV4, ipv4(
        pick(ADDRESSES4),
        pick(ADDRESSES4),
        ports(generator.randrange(65536), generator.randrange(65536), bytes(pick([0, 16, 16, 16, 1376, 1377, 1476]))),
        protocol=pick([1, 6, 17, 17, 132, 47]),
        ttl=pick([0, 1, 2, 64, 255]),
        identification=generator.randrange(65536),
        fragment=pick([0, 0, 0, 0x4000, 0x2000, 1]),
        options=bytes(pick([0, 0, 0, 0, 0, 4])),
    )


def _random6(generator: random.Random) -> tuple[int, bytes]:
    pick = generator.choice
    return IPV6, ipv6(
        pick(ADDRESSES6),
        pick(ADDRESSES6),
        ports(generator.randrange(65536), generator.randrange(65536), bytes(pick([0, 36, 36, 36, 1356, 1357]))),
        protocol=pick([0, 6, 17, 17, 58, 60]),
        hop_limit=pick([0, 1, 2, 64, 255]),
        flow=pick([0, generator.randrange(1 << 20)]),
    )


def _random_arp(generator: random.Random) -> tuple[int, bytes]:
    pick = generator.choice
    macs, addresses = [HOST, MOVED, LEFT], ["10.7.1.1", "10.7.1.10", "10.7.2.1", "10.7.1.77", "0.0.0.0", "10.7.3.0"]
    return ARP, arp(pick([1, 1, 2, 3]), (pick(macs), pick(addresses)), (pick(macs), pick(addresses)))


def _random_nd(generator: random.Random) -> tuple[int, bytes]:
    pick = generator.choice
    body = frames.solicitation if generator.random() < 0.7 else frames.advertisement
    options = pick([option(1, HOST), option(2, HOST), option(1, MOVED), b"", option(1, HOST) * 2])
    message = body(pick([*ADDRESSES6[:6], "fd00:1::1", "fd00:1::1", link_local(LEFT), "fd00:1::"]), options)
    return IPV6, icmp6(pick([HERE6, "fe80::10", "::", "fd00:1::77"]), pick(["ff02::1", "fd00:1::1"]), message)


def takes(hook: Hook, frame: bytes) -> bool:
    """Whether BPF_PROG_TEST_RUN runs it: it makes no skb of less than an untagged frame's own IP header."""
    least = {b"\x08\x00": 34, b"\x86\xdd": 54}.get(frame[12:14], 15)
    return hook is Hook.XDP or len(frame) >= least


every_hook = pytest.mark.parametrize("hook", list(Hook), ids=str)


@pytest.mark.kernel
@every_hook
@pytest.mark.parametrize("seed", range(2))
def test_random_packets_against_the_model(hook: Hook, seed: int, tmp_path: Path) -> None:
    """With redirects, and without."""
    config = redirecting(CONFIG) if seed else CONFIG
    model, seen, redirected = RouterModel(config, NEIGHBOURS), set(), 0
    with Bench(config, PORTS, hook, tmp_path, entries(config, NEIGHBOURS)) as bench:
        for port, frame in random_frames(random.Random(f"{hook} {seed}"), 3000):
            if not takes(hook, frame):
                continue
            expected = model.forward(port, frame)
            outcome = bench.receive(port, frame)
            assert (outcome.verdict, outcome.frame) == expected, f"{frame.hex()} on {port}"
            assert outcome.copies in ((), model.copies(port, frame)), f"{frame.hex()} on {port}"
            redirected += len(outcome.copies)
            seen.add(expected[0])
    assert bool(redirected) == bool(seed)
    assert len(seen) >= 22, "the packets are not varied enough to show anything"


@pytest.mark.kernel
@every_hook
def test_truncated_at_every_length(hook: Hook, tmp_path: Path) -> None:
    model = RouterModel(CONFIG, NEIGHBOURS)
    whole = [
        at_left(to_server()),
        at_left(to_server6(), IPV6),
        at_left(asks("fd00:1::1"), IPV6, to=GROUP_OF_LEFT),
        ethernet(HOST, BROADCAST, ARP, arp(1, HIM, NOBODY)),
    ]
    with Bench(CONFIG, PORTS, hook, tmp_path, entries(CONFIG, NEIGHBOURS)) as bench:
        for frame in whole:
            for size in range(14, len(frame)):
                cut = frame[:size]
                if takes(hook, cut):
                    assert bench.receive("left", cut).verdict == model.receive("left", cut) == TRUNCATED


@contextmanager
def known_neighbours(bench: Bench) -> Iterator[KnownNeighbours]:
    """The control plane's view of the programs' neighbours."""
    with ExitStack() as stack:
        names = ("neighbours4", "neighbours6", "neighbours_version")
        four, six, version = (stack.enter_context(closing(bench.control_map(name))) for name in names)
        with version.memory().cast("Q") as number:
            yield KnownNeighbours({4: four, 6: six}, number)


@pytest.mark.kernel
@every_hook
@pytest.mark.parametrize("version", [4, 6])
def test_what_changes_of_a_neighbour_is_seen_at_once(version: int, hook: Hook, tmp_path: Path) -> None:
    frame = at_left(to_server()) if version == 4 else at_left(to_server6(), IPV6)
    key = Key(PORTS.index("right"), ipaddress.ip_address(THERE if version == 4 else THERE6))
    with Bench(CONFIG, PORTS, hook, tmp_path, entries(CONFIG, NEIGHBOURS)) as bench, known_neighbours(bench) as known:
        for mac in (SERVER, MOVED, SERVER):
            assert known.add(key, frames.mac(mac))
            for _ in range(3):
                assert bench.receive("left", frame).frame[:6] == frames.mac(mac)
        assert known.take(key)
        assert bench.receive("left", frame).verdict == "slow-path resolve"


@pytest.mark.kernel
@pytest.mark.parametrize("version", [4, 6])
def test_a_neighbour_in_use_is_marked_every_second(version: int, tmp_path: Path) -> None:
    frame = at_left(to_server()) if version == 4 else at_left(to_server6(), IPV6)
    key = Key(PORTS.index("right"), ipaddress.ip_address(THERE if version == 4 else THERE6))
    neighbours = entries(CONFIG, NEIGHBOURS)
    with Bench(CONFIG, PORTS, Hook.XDP, tmp_path, neighbours) as bench, known_neighbours(bench) as known:
        marks = []
        for _ in range(2):
            for _ in range(3):
                bench.receive("left", frame)
            entry = known.get(key)
            assert entry
            marks.append(entry.used)
            time.sleep(1.1)
    assert 0 < marks[1] - marks[0] & 0xFFFFFFFF < 1 << 31


@pytest.mark.kernel
def test_neighbours_that_share_a_place_in_a_cpus_memory(tmp_path: Path) -> None:
    """More of them than a CPU remembers, in turn."""
    macs = {
        f"172.16.{number >> 8}.{number & 255}": f"02:11:00:00:{number >> 8:02x}:{number & 255:02x}"
        for number in range(4096)
    }
    neighbours = {("south", address): mac for address, mac in macs.items()}
    with Bench(CONFIG, PORTS, Hook.XDP, tmp_path, entries(CONFIG, neighbours)) as bench:
        for address, mac in [*macs.items(), *macs.items()]:
            outcome = bench.run_program("left", at_left(ipv4(HERE, address, ports(1, 2))))
            assert outcome.data[:6] == frames.mac(mac), address


@pytest.mark.kernel
@every_hook
@pytest.mark.parametrize("version", [4, 6])
def test_a_copy_for_a_sender_goes_up_every_now_and_then(version: int, hook: Hook, tmp_path: Path) -> None:
    """Not with every packet of a host that does not listen; others are not kept from being told."""
    rows = [
        row
        for row in REDIRECT_ROWS
        if row.copies and (b"\x86\xdd" if version == 6 else b"\x08\x00") in row.frame[12:14]
    ]
    first, second = rows[:2]
    with Bench(TELLING, PORTS, hook, tmp_path, entries(TELLING, TELLING_NEIGHBOURS)) as bench, one_cpu():
        begun, copies = time.monotonic(), 0
        for _ in range(500):
            copies += len(bench.receive(first.port, first.frame).copies)
        elapsed = time.monotonic() - begun
        assert bench.receive(second.port, second.frame).copies == ("redirect",)
        assert 1 <= copies <= 2 + elapsed * 16
        time.sleep(0.1)
        assert bench.receive(first.port, first.frame).copies == ("redirect",)


@contextmanager
def one_cpu() -> Iterator[None]:
    """Keeps this process on one CPU, and with it the programs of test runs."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.kernel
@pytest.mark.parametrize("version", [4, 6])
def test_flows_keep_their_path_and_use_them_all(version: int, tmp_path: Path) -> None:
    """Equal-cost paths: packets of a flow stay together, flows spread evenly."""
    model = RouterModel(CONFIG, NEIGHBOURS)
    members, flows = (3, 600) if version == 4 else (2, 400)
    taken: dict[bytes, int] = {}
    with Bench(CONFIG, PORTS, Hook.XDP, tmp_path, entries(CONFIG, NEIGHBOURS)) as bench:
        for flow in range(flows):
            segment = ports(1024 + flow, 443)
            packet = ipv4(HERE, "203.0.113.9", segment) if version == 4 else ipv6(HERE6, "2001:db8:5::9", segment)
            frame = at_left(packet, IPV4 if version == 4 else IPV6)
            outcome = bench.receive("left", frame)
            assert (outcome.verdict, outcome.frame) == model.forward("left", frame)
            assert bench.receive("left", frame) == outcome
            way = outcome.frame[:12]
            taken[way] = taken.get(way, 0) + 1
    assert len(taken) == members
    assert min(taken.values()) > flows / members / 2
