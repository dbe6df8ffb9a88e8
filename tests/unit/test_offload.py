"""Checksums that a stack has left to its device are finished, and nothing else is touched."""

from __future__ import annotations

import random

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw

from runtime.protocols.internet import checksum
from runtime.protocols.offload import finished

NETWORKS = {
    "IPv4": Ether() / IP(src="10.0.0.1", dst="10.0.0.2"),
    "IPv4 with options": Ether() / IP(src="10.0.0.1", dst="10.0.0.2", options=b"\x94\x04\x00\x00"),
    "tagged": Ether() / Dot1Q(vlan=7) / IP(src="10.0.0.1", dst="10.0.0.2"),
    "QinQ": Ether() / Dot1AD(vlan=7) / Dot1Q(vlan=8) / IPv6(src="fd00::1", dst="fd00::2"),
    "IPv6": Ether() / IPv6(src="fd00::1", dst="fd00::2"),
}
TRANSPORTS = {"TCP": TCP(sport=1, dport=2, flags="S"), "UDP": UDP(sport=1, dport=2)}
FIELD = {"TCP": 16, "UDP": 6}


def partial(frame: bytes, at: int, transport: str) -> bytes:
    """The frame as a stack leaves it to a device: in the field is the sum of the pseudo-header."""
    segment = frame[at:]
    number = 6 if transport == "TCP" else 17
    if frame[at - 40] >> 4 == 6 and at >= 54:
        pseudo = frame[at - 32 : at] + len(segment).to_bytes(4, "big") + number.to_bytes(4, "big")
    else:
        header = next(start for start in (at - 20, at - 24) if frame[start] >> 4 == 4)
        pseudo = frame[header + 12 : header + 20] + number.to_bytes(2, "big") + len(segment).to_bytes(2, "big")
    field = at + FIELD[transport]
    return frame[:field] + (checksum(pseudo) ^ 0xFFFF).to_bytes(2, "big") + frame[field + 2 :]


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("network", NETWORKS)
def test_what_is_left_to_the_device_is_finished(network: str, transport: str) -> None:
    random_bytes = random.Random(network + transport)
    for size in (0, 1, 2, 33, 1000):
        whole: Packet = NETWORKS[network] / TRANSPORTS[transport] / Raw(random_bytes.randbytes(size))
        frame = bytes(whole)
        at = len(frame) - size - (20 if transport == "TCP" else 8)
        unfinished = partial(frame, at, transport)
        assert unfinished != frame
        assert finished(unfinished) == frame
        assert finished(frame) == frame


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        bytes(13),
        bytes(60),
        bytes(NETWORKS["IPv4"] / ICMP()),
        bytes(Ether() / IP(flags="MF") / UDP() / Raw(bytes(8))),
        bytes(Ether() / IP(frag=3) / Raw(bytes(40))),
        bytes(NETWORKS["IPv4"] / TCP())[:40],
        bytes(NETWORKS["IPv6"] / TCP())[:50],
        bytes(12) + b"\x81\x00" * 4,
        bytes(NETWORKS["IPv4"] / UDP(chksum=0) / Raw(b"none")),
    ],
)
def test_anything_else_is_left_alone(frame: bytes) -> None:
    assert finished(frame) == frame


def test_nothing_makes_it_raise() -> None:
    chance = random.Random(7)
    whole = [
        bytes(network / transport / Raw(bytes(20)))
        for network in NETWORKS.values()
        for transport in TRANSPORTS.values()
    ]
    for _ in range(5000):
        frame = bytearray(chance.choice(whole))
        for _ in range(chance.randrange(4)):
            frame[chance.randrange(12, len(frame))] = chance.randrange(256)
        finished(bytes(frame[: chance.randrange(len(frame) + 1)]))
