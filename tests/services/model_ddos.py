"""A ddos service in plain Python: the chain file's mapping and raw frames in, verdicts out."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

PROTOCOL_NUMBERS = {
    "icmp": 1, "ipip": 4, "tcp": 6, "udp": 17, "dccp": 33, "ipv6-route": 43, "ipv6-frag": 44, "gre": 47, "esp": 50,
    "ah": 51, "icmpv6": 58, "sctp": 132, "udplite": 136,
}  # fmt: skip
WITH_PORTS = {6, 17, 33, 132, 136}
HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION, MOBILITY = 0, 43, 44, 51, 60, 135
EXTENSIONS = {HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION, MOBILITY}
FOLLOWED = 8

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Dropped(Exception):
    """A packet goes no further; the argument is the reason's name, as `status` shows it."""


class DdosModel:
    """One service: `config` as the chain file has it under the service's name."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        block = config.get("block", {})
        self.sources = [ipaddress.ip_network(text) for text in block.get("sources", [])]
        self.destinations = [ipaddress.ip_network(text) for text in block.get("destinations", [])]
        self.protocols = {PROTOCOL_NUMBERS.get(name, name) for name in block.get("protocols", [])}
        self.ports = [_port_range(text) for text in block.get("ports", [])]
        self.source_ports = [_port_range(text) for text in block.get("source-ports", [])]
        self.rate = config.get("rate")
        self.buckets: dict[object, tuple[Fraction, int]] = {}

    def receive(self, port: str, frame: bytes, now_ns: int = 0) -> str:
        """`out PORT` or `drop REASON`, for a frame that comes in by `port`."""
        if port == "inside":
            return "out outside"
        try:
            if self._looks_at(4) or self._looks_at(6):
                self._check(frame, now_ns)
        except Dropped as dropped:
            return f"drop {dropped}"
        return "out inside"

    def _looks_at(self, version: int) -> bool:
        prefixes = [*self.sources, *self.destinations]
        return self._looks_deeper() or bool(self.rate) or any(prefix.version == version for prefix in prefixes)

    def _looks_deeper(self) -> bool:
        return bool(self.protocols or self.ports or self.source_ports)

    def _check(self, frame: bytes, now_ns: int) -> None:
        offset, tags = 12, 0
        while (ethertype := int.from_bytes(frame[offset : offset + 2], "big")) in (0x8100, 0x88A8):
            tags += 1
            if tags > 2:
                raise Dropped("malformed")
            if len(frame) < offset + 6:
                raise Dropped("truncated")
            offset += 4
        packet = frame[offset + 2 :]
        if ethertype == 0x0800 and self._looks_at(4):
            self._check_ipv4(packet, now_ns)
        elif ethertype == 0x86DD and self._looks_at(6):
            self._check_ipv6(packet, now_ns)

    def _check_ipv4(self, packet: bytes, now_ns: int) -> None:
        if len(packet) < 20:
            raise Dropped("truncated")
        header_bytes = (packet[0] & 15) * 4
        total, _, fragment = struct.unpack("!HHH", packet[2:8])
        if packet[0] >> 4 != 4 or header_bytes < 20 or total < header_bytes:
            raise Dropped("malformed")
        if total > len(packet):
            raise Dropped("truncated")
        source, destination = ipaddress.IPv4Address(packet[12:16]), ipaddress.IPv4Address(packet[16:20])
        self._check_addresses(source, destination)
        if self._looks_deeper():
            offset = (fragment & 0x1FFF) * 8
            if offset and offset + total - header_bytes > 65535:
                raise Dropped("malformed")
            self._check_chain(packet[9], packet[header_bytes:total], offset, {AUTHENTICATION})
        self._check_rate(source, now_ns)

    def _check_ipv6(self, packet: bytes, now_ns: int) -> None:
        if len(packet) < 40:
            raise Dropped("truncated")
        if packet[0] >> 4 != 6:
            raise Dropped("malformed")
        size, protocol = struct.unpack("!HB", packet[4:7])
        if size == 0 and protocol == HOP_BY_HOP:
            size = len(packet) - 40
        if 40 + size > len(packet):
            raise Dropped("truncated")
        source, destination = ipaddress.IPv6Address(packet[8:24]), ipaddress.IPv6Address(packet[24:40])
        self._check_addresses(source, destination)
        if self._looks_deeper():
            self._check_chain(protocol, packet[40 : 40 + size], 0, EXTENSIONS)
        self._check_rate(int(source) >> 64, now_ns)

    def _check_addresses(self, source: Address, destination: Address) -> None:
        if any(source in prefix for prefix in self.sources):
            raise Dropped("blocked-source")
        if any(destination in prefix for prefix in self.destinations):
            raise Dropped("blocked-destination")

    def _check_chain(self, protocol: int, rest: bytes, offset: int, extensions: set[int]) -> None:
        """`rest` is what follows the fixed header and its options; `offset` its place in the datagram."""
        followed = 0
        while True:
            if protocol in self.protocols:
                raise Dropped("blocked-protocol")
            if offset or protocol not in extensions:
                break
            if followed == FOLLOWED:
                raise Dropped("extension-headers")
            protocol, rest, offset = _step(protocol, rest)
            followed += 1
        if not offset and protocol in WITH_PORTS:
            self._check_ports(protocol, rest)

    def _check_ports(self, protocol: int, segment: bytes) -> None:
        if not self.ports and not self.source_ports:
            return
        if len(segment) < 4:
            raise Dropped("truncated")
        source, destination = struct.unpack("!HH", segment[:4])
        if any(protocol == entry[0] and destination in entry[1] for entry in self.ports):
            raise Dropped("blocked-port")
        if any(protocol == entry[0] and source in entry[1] for entry in self.source_ports):
            raise Dropped("blocked-port")

    def _check_rate(self, source: object, now_ns: int) -> None:
        """A bucket of tokens as textbooks have it, in exact fractions: the clock fills it, each packet takes one."""
        if not self.rate:
            return
        burst, rate = self.rate["burst"], self.rate["per-source"]
        tokens, since = self.buckets.get(source, (Fraction(burst), now_ns))
        tokens = min(Fraction(burst), tokens + Fraction(rate * (now_ns - since), 10**9))
        self.buckets[source] = (tokens - 1 if tokens >= 1 else tokens, now_ns)
        if tokens < 1:
            raise Dropped("rate")


def _step(protocol: int, rest: bytes) -> tuple[int, bytes, int]:
    """Behind an extension header: the next protocol, what is left, and the place in the datagram."""
    if len(rest) < 8:
        raise Dropped("truncated")
    size, offset = (rest[1] + 1) * 8, 0
    if protocol == FRAGMENT:
        size, offset = 8, int.from_bytes(rest[2:4], "big") & 0xFFF8
    elif protocol == AUTHENTICATION:
        size = (rest[1] + 2) * 4
    if len(rest) < size:
        raise Dropped("truncated")
    if offset and offset + len(rest) - size > 65535:
        raise Dropped("malformed")
    return rest[0], rest[size:], offset


def _port_range(text: str) -> tuple[int, Sequence[int]]:
    protocol, ports = text.split("/")
    first, _, last = ports.partition("-")
    return PROTOCOL_NUMBERS[protocol], range(int(first), int(last or first) + 1)
