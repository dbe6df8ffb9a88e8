"""The same random network and packets for a router of ours and for Linux with forwarding on: the same comes out.

Every packet has a number in its payload, by which is found again what comes out for it: the packet as it was forwarded,
its fragments, an ICMP error that quotes it, an echo reply. The identification of a router's own packets is its own
choice. Where the two differ on purpose (docs/services/router.md), `common` and `limited` say so.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import random
import struct
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from runtime import sys as kernel
from runtime.bpffs import bpffs_root
from runtime.pin import chain_pins
from runtime.protocols.internet import ICMP, ICMPV6, Ipv4, Ipv6, read_ipv4, read_ipv6
from schemas.services.router import NEIGHBOUR, NEIGHBOUR_KEY
from tests.rig.daemon import daemon, own_bpffs
from tests.rig.frames import Wire, collect
from tests.rig.lab import Lab, Namespace
from tests.rig.network import running
from tests.services import router_frames as frames
from tests.services.router_frames import IPV4, IPV6, TCP, UDP, checksum, ethernet, packed

pytestmark = pytest.mark.kernel

PORTS = ("left", "right", "south")
MTUS = {"left": 1500, "right": 1400, "south": 1500}
PACKETS, BURST = 10_000, 500
MARK = b"#!"
MAGIC_TTL = (0, 1, 2, 3, 64, 255)
LINUX = {
    "net/ipv4/ip_forward": "1",
    "net/ipv4/conf/all/send_redirects": "0",
    "net/ipv4/conf/default/send_redirects": "0",
    "net/ipv4/conf/all/accept_source_route": "0",
    "net/ipv4/icmp_ratelimit": "0",
    "net/ipv4/icmp_msgs_per_sec": "1000000",
    "net/ipv4/icmp_msgs_burst": "1000000",
    "net/ipv6/conf/all/forwarding": "1",
    "net/ipv6/icmp/ratelimit": "0",
    "net/ipv6/auto_flowlabels": "0",
}


@dataclass(frozen=True)
class Plan:
    """A random network: own addresses and neighbours of each port, and routes."""

    addresses: dict[str, list[str]]
    neighbours: dict[tuple[str, str], str]
    routes: list[dict[str, Any]]
    macs: dict[str, str]

    @functools.cached_property
    def own(self) -> set[str]:
        """The router's own addresses."""
        return {each.partition("/")[0] for port in self.addresses.values() for each in port}

    @functools.cached_property
    def targets(self) -> dict[int, list[str]]:
        """Addresses to send to, by IP version: neighbours, the router's own, and some behind each route."""
        beyond = [
            str(ipaddress.ip_network(route["to"])[offset % ipaddress.ip_network(route["to"]).num_addresses])
            for route in self.routes
            for offset in (1, 77)
        ]
        every = [*(address for _, address in self.neighbours), *sorted(self.own), *beyond]
        return {
            version: [each for each in every if ipaddress.ip_address(each).version == version] for version in (4, 6)
        }


def random_plan(generator: random.Random) -> Plan:
    addresses, neighbours, gateways = {}, {}, []
    for number, port in enumerate(PORTS):
        second = generator.randrange(256)
        addresses[port] = [f"10.{10 + number}.{second}.1/24", f"fd00:{number + 1}::1/64"]
        for host in generator.sample(range(2, 254), 4):
            for address in (f"10.{10 + number}.{second}.{host}", f"fd00:{number + 1}::{host:x}"):
                neighbours[port, address] = f"52:54:00:{number:02x}:00:{host:02x}"
                gateways.append((port, address))
    return Plan(
        addresses,
        neighbours,
        list(_random_routes(generator, gateways)),
        {port: f"02:00:00:00:{number:02x}:01" for number, port in enumerate(PORTS)},
    )


def _random_routes(generator: random.Random, gateways: list[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    seen = set()
    for _ in range(60):
        version = generator.choice([4, 4, 6])
        if version == 4:
            length = generator.randrange(9, 33)
            number = (
                (11 << 24 | generator.getrandbits(6) << 18 | generator.getrandbits(4)) >> (32 - length) << (32 - length)
            )
            prefix = f"{ipaddress.IPv4Address(number)}/{length}"
        else:
            length = generator.randrange(33, 129)
            number = 0x20010DB8 << 96 | generator.getrandbits(4) << 90 | generator.getrandbits(4)
            prefix = f"{ipaddress.IPv6Address(number >> (128 - length) << (128 - length))}/{length}"
        if prefix in seen:
            continue
        seen.add(prefix)
        refusal = generator.choice(["", "", "", "", "blackhole", "unreachable", "prohibit"])
        via = generator.choice([address for _, address in gateways if ipaddress.ip_address(address).version == version])
        yield {"to": prefix, **({refusal: True} if refusal else {"via": via})}


def chain(plan: Plan) -> dict[str, Any]:
    settings = {port: {"address": plan.addresses[port], "redirects": False} for port in PORTS}
    return {
        "mode": "native",
        "slow-path": {"rate": 10_000_000},
        "interfaces": {port: {"device": port} for port in PORTS},
        "services": {
            "gw": {
                "kind": "router",
                "ports": settings,
                "routes": plan.routes,
                "icmp": {"rate": 1_000_000, "receiver-rate": 1_000_000},
            }
        },
        "links": [[port, f"gw.{port}"] for port in PORTS],
    }


def set_up_linux(namespace: Namespace, plan: Plan) -> None:
    for key, value in LINUX.items():
        namespace.sysctl(key, value)
    with namespace.netlink() as netlink:
        index = {port: netlink.link_lookup(ifname=port)[0] for port in PORTS}
        for port in PORTS:
            namespace.sysctl(f"net/ipv6/conf/{port}/disable_ipv6", "0")
            for address in plan.addresses[port]:
                ip, length = address.split("/")
                netlink.addr("add", index=index[port], address=ip, prefixlen=int(length))
        for (port, address), mac in plan.neighbours.items():
            netlink.neigh("add", dst=address, lladdr=mac, ifindex=index[port], state=0x80)  # NUD_PERMANENT
        for route in plan.routes:
            refusal = next((key for key in ("blackhole", "unreachable", "prohibit") if key in route), None)
            where = {"type": refusal} if refusal else {"gateway": route["via"]}
            netlink.route("add", dst=route["to"], **where)


def introduce(plan: Plan, name: str) -> None:
    """All neighbours are known to our router from the start, as they are to Linux."""
    pins = chain_pins(bpffs_root(), name).generations()[-1]
    record = pins.read_record()
    assert record
    for version in (4, 6):
        (found,) = [each for each in record.manifest.maps if each.name == f"gw__neighbours{version}"]
        with kernel.obj_get(pins.map(found.name, found.layout)) as opened:
            for (port, address), mac in plan.neighbours.items():
                if ipaddress.ip_address(address).version == version:
                    key = NEIGHBOUR_KEY[version].pack(packed(address), PORTS.index(port))
                    kernel.map_update_elem(opened, key, NEIGHBOUR.pack(frames.mac(mac), 0))


@dataclass(frozen=True, slots=True)
class Sent:
    """A packet that both routers got, perhaps in fragments."""

    port: str
    frames: tuple[bytes, ...]


def random_packet(generator: random.Random, plan: Plan, number: int) -> Sent:
    pick = generator.choice
    port = pick(PORTS)
    version = pick([4, 4, 6])
    hosts = [
        address
        for where, address in plan.neighbours
        if where == port and ipaddress.ip_address(address).version == version
    ]
    targets = plan.targets[version]
    senders = targets if version == 4 else [each for each in targets if each not in plan.own]  # Linux lets IPv6 spoof
    source = pick(hosts) if generator.random() < 0.8 else pick(senders)
    destination = pick(targets) if generator.random() < 0.95 else pick(STRANGE[version])
    if generator.random() < 0.03:
        source = pick(STRANGE[version])
    packet = (_packet4 if version == 4 else _packet6)(generator, source, destination, number, MTUS[port])
    mac = pick([mac for (where, _), mac in plan.neighbours.items() if where == port])
    parts = _parts(generator, packet) if destination in plan.own else [packet]
    kind = IPV4 if version == 4 else IPV6
    return Sent(port, tuple(ethernet(mac, plan.macs[port], kind, part) for part in parts))


def _parts(generator: random.Random, packet: bytes) -> list[bytes]:
    """A packet for the router itself, or its fragments in any order, some of them twice; the last one completes it."""
    plain = packet[0] == 0x45 and not packet[6] and not checksum(packet[:20]) if packet[0] >> 4 == 4 else packet[6]
    if not plain or generator.random() < 0.5:
        return [packet]
    size = generator.choice([116, 596, 900])
    whole: Ipv4 | Ipv6 = read_ipv4(packet) if packet[0] >> 4 == 4 else read_ipv6(packet)
    cut = whole.cut(size) if isinstance(whole, Ipv4) else whole.cut(size, generator.getrandbits(32))
    parts = [part.packed() for part in cut]
    last = parts.pop(generator.randrange(len(parts)))
    again = [part for part in parts if generator.random() < 0.1]
    parts += again
    generator.shuffle(parts)
    return [*parts, last]


STRANGE = {
    4: ["127.0.0.1", "224.0.0.5", "255.255.255.255", "8.8.8.8"],
    6: ["::1", "ff05::5", "2001:db9::9"],
}


def _payload(generator: random.Random, protocol: int, number: int, size: int, source: str, destination: str) -> bytes:
    """Ports or an ICMP message, and the number; checksums that receivers look at are right."""
    marked = MARK + number.to_bytes(4, "big") + bytes(max(0, size))
    if protocol == UDP:
        return _summed(UDP, 6, struct.pack("!HHHH", 4000, 33434, 14 + max(0, size), 0) + marked, source, destination)
    if protocol == TCP:
        flags = generator.choice([0x02, 0x10])
        header = struct.pack("!HHIIHHHH", 4000, 179, number << 16, number << 16, 5 << 12 | flags, 0, 0, 0)
        return _summed(TCP, 16, header + marked, source, destination)
    if protocol in (ICMP, ICMPV6):
        kind = 8 if protocol == ICMP else 128
        message = bytes((kind, 0, 0, 0)) + bytes(4) + marked
        if protocol == ICMP:
            return message[:2] + checksum(message).to_bytes(2, "big") + message[4:]
        return _summed(ICMPV6, 2, message, source, destination)
    return bytes(4) + marked


def _summed(protocol: int, at: int, segment: bytes, source: str, destination: str) -> bytes:
    wide = ":" in source
    numbers = struct.pack("!II", len(segment), protocol) if wide else struct.pack("!HH", protocol, len(segment))
    total = checksum(packed(source) + packed(destination) + numbers + segment) or 0xFFFF
    return segment[:at] + total.to_bytes(2, "big") + segment[at + 2 :]


NO_WAY = {bytes((3, code)) for code in (0, 1, 13)}
OPTIONS = [
    b"\x01\x01\x01\x00",
    b"\x94\x04\0\0",
    b"\x07\x07\x04\0\0\0\0\0",
    b"\x07\x0b\x08\1\2\3\4\0\0\0\0\0",
    b"\x83\x07\x04\x0a\x0b\x0c\x0d\0",
]


def _packet4(generator: random.Random, source: str, destination: str, number: int, mtu: int) -> bytes:
    pick = generator.choice
    options = pick(OPTIONS) if generator.random() < 0.1 else b""
    size = pick([0, 40, 500, 1200, mtu - 20 - len(options) - 40, generator.randrange(1300)])
    protocol = pick([UDP, UDP, TCP, ICMP, 47])
    return frames.ipv4(
        source,
        destination,
        _payload(generator, protocol, number, size, source, destination),
        protocol=protocol,
        ttl=pick([64, 64, 64, 255, *MAGIC_TTL]),
        tos=pick([0, 0, 8, 0x10, 0xB8]),
        identification=number & 0xFFFF,
        fragment=pick([0, 0, 0x4000]),
        options=options,
        wrong_checksum=1 if generator.random() < 0.02 else 0,
    )


def _packet6(generator: random.Random, source: str, destination: str, number: int, mtu: int) -> bytes:
    pick = generator.choice
    size = pick([0, 40, 500, 1200, mtu - 40 - 60, generator.randrange(1200)])
    protocol = pick([UDP, UDP, TCP, ICMPV6, 47])
    payload = _payload(generator, protocol, number, size, source, destination)
    if generator.random() < 0.1:
        payload, protocol = (
            bytes((protocol, 0))
            + pick([b"\1\4\0\0\0\0", b"\x1e\4\0\0\0\0", b"\xde\4\0\0\0\0", b"\x5e\4\0\0\0\0"])
            + payload,
            0,
        )
    limit = pick([64, 64, 64, 255, *MAGIC_TTL])
    return frames.ipv6(source, destination, payload, protocol=protocol, hop_limit=limit, flow=pick([0, 0x12345]))


Outcome = tuple[str, bytes, bytes, Ipv4 | Ipv6]
"""A packet as it left: port, MAC addresses, and the rest; what is the router's own choice is zero."""


def outcome(port: str, frame: bytes, own: set[str]) -> tuple[int, Outcome] | None:
    """The number of the packet that this came of, and what it is; None for what has nothing to do with any."""
    kind = int.from_bytes(frame[12:14], "big")
    if kind not in (IPV4, IPV6):
        return None
    packet: Ipv4 | Ipv6 = read_ipv4(frame[14:]) if kind == IPV4 else read_ipv6(frame[14:])
    at = packet.payload.rfind(MARK) if len(packet.payload) < 100 else packet.payload.find(MARK)
    if at >= 0:
        number = int.from_bytes(packet.payload[at + 2 : at + 6], "big")
    elif isinstance(packet, Ipv4) and packet.is_fragment:
        number = packet.identification
    elif packet.protocol == TCP and packet.payload[13] & 0x04:  # a reset: one of its numbers is the segment's
        number = max(int.from_bytes(packet.payload[at : at + 2], "big") for at in (4, 8))
    else:
        return None
    if isinstance(packet, Ipv4) and str(packet.source) in own:
        packet = replace(packet, identification=0, options=b"")  # Linux echoes options in what it says itself
    return number, (port, frame[:6], frame[6:12], packet)


def common(found: Outcome) -> Outcome:
    """What both have in common where they differ on purpose."""
    port, to, source, packet = found
    if isinstance(packet, Ipv6) and packet.protocol == ICMPV6 and packet.payload[:2] == b"\x01\x06":
        packet = replace(packet, payload=_with_code(packet, 0))  # "reject route" is "no route" to Linux
    if (
        isinstance(packet, Ipv4)
        and packet.protocol == ICMP
        and packet.payload[0] in (3, 11)
        and packet.payload[8] > 0x45
    ):
        packet = replace(packet, payload=packet.payload[:2] + packet.payload[4:8])  # Linux quotes half-written options
    if isinstance(packet, Ipv4) and packet.is_later_fragment:
        packet = replace(packet, options=b"")  # options that are not copied are left out here, and overwritten there
    return port, to, source, packet


def limited(found: Counter[Outcome]) -> bool:
    """Whether it is an error of which Linux sends one a second to one receiver (ip_error(), net/ipv4/route.c)."""
    packets = [packet for _, _, _, packet in found]
    return len(packets) == 1 and packets[0].protocol == ICMP and packets[0].payload[:2] in NO_WAY


def _with_code(packet: Ipv6, code: int) -> bytes:
    """The ICMPv6 message with another code, and the checksum that goes with it."""
    message = bytes((packet.payload[0], code, 0, 0)) + packet.payload[4:]
    return _summed(ICMPV6, 2, message, str(packet.source), str(packet.destination))


@contextlib.contextmanager
def router(lab: Lab, label: str, plan: Plan) -> Iterator[tuple[Namespace, dict[str, Wire]]]:
    """A namespace with the plan's ports, and a tap on each of its links."""
    inside, outside = lab.namespace(label), lab.namespace(f"{label}-out")
    with contextlib.ExitStack() as wires:
        taps = {}
        for port in PORTS:
            cable = lab.cable((inside, port), (outside, port))
            with inside.netlink() as netlink:
                netlink.link("set", index=cable.port.ifindex, address=plan.macs[port], mtu=MTUS[port])
            with outside.netlink() as netlink:
                netlink.link("set", index=cable.station.ifindex, mtu=MTUS[port])
            taps[port] = wires.enter_context(Wire(cable.station, buffer=64 << 20))
        yield inside, taps


Outcomes = defaultdict[int, Counter[Outcome]]


def take(wires: dict[str, Wire], own: set[str], found: Outcomes, timeout: float) -> None:
    """What has come out, under the numbers of the packets that it came of."""
    for port, arrived in collect(wires, {}, timeout).items():
        for frame in arrived:
            told = outcome(port, frame, own)
            if told is not None:
                found[told[0]][common(told[1])] += 1


def test_linux_says_the_same(tmp_path: Path) -> None:
    generator = random.Random(1812)
    plan = random_plan(generator)
    packets = [random_packet(generator, plan, number) for number in range(PACKETS)]
    theirs, mine = Outcomes(Counter), Outcomes(Counter)
    with contextlib.ExitStack() as stack:
        stack.enter_context(own_bpffs(tmp_path))
        process = stack.enter_context(daemon(tmp_path))
        lab = stack.enter_context(Lab())
        linux, linux_wires = stack.enter_context(router(lab, "linux", plan))
        ours, our_wires = stack.enter_context(router(lab, "ours", plan))
        set_up_linux(linux, plan)
        name = stack.enter_context(running(ours, chain(plan), tmp_path)).manifest.chain
        introduce(plan, name)
        process.wait_for(name, "gw", "running")
        for first in range(0, PACKETS, BURST):
            for wires, found in ((linux_wires, theirs), (our_wires, mine)):
                for packet in packets[first : first + BURST]:
                    wires[packet.port].send(*packet.frames)
                take(wires, plan.own, found, 0.5)
        take(our_wires, plan.own, mine, 3.0)
    different = [
        (packet, theirs[number], mine[number])
        for number, packet in enumerate(packets)
        if mine[number] != theirs[number] and not (limited(mine[number]) and not theirs[number])
    ]
    assert not different, _report(different)
    compared = Counter(_sort(packet, theirs[number]) for number, packet in enumerate(packets))
    assert min(compared[sort] for sort in ("nothing", "forwarded", "answered", "put together", "several")) > 50, (
        compared
    )


def _sort(packet: Sent, expected: Counter[Outcome]) -> str:
    if sum(expected.values()) != 1:
        return "several" if expected else "nothing"
    ((_, _, _, out),) = expected
    sent = (read_ipv4 if packet.frames[0][12:14] == b"\x08\0" else read_ipv6)(packet.frames[0][14:])
    if len(packet.frames) > 1:
        return "put together"
    return "forwarded" if out.source == sent.source else "answered"


def _report(different: list[tuple[Sent, Counter[Outcome], Counter[Outcome]]]) -> str:
    lines = [f"{len(different)} packets came out otherwise"]
    for packet, expected, got in different[:12]:
        lines += [
            f"{packet.port} {' '.join(frame.hex() for frame in packet.frames)}",
            f"  linux {dict(expected)}",
            f"  ours  {dict(got)}",
        ]
    return "\n".join(lines)
