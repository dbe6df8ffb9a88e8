"""Ethernet frames: bytes in, addresses and payload out, and back."""

from __future__ import annotations

from typing import NamedTuple

HEADER_BYTES = 14
SHORTEST_FRAME = 60
"""Without its checksum (IEEE 802.3 4.2.3.3)."""
BROADCAST = b"\xff" * 6

ETH_P_IP, ETH_P_ARP, ETH_P_IPV6 = 0x0800, 0x0806, 0x86DD


class Frame(NamedTuple):
    """An Ethernet frame; MAC addresses are six bytes in the order of the wire."""

    destination: bytes
    source: bytes
    ethertype: int
    payload: bytes

    def packed(self) -> bytes:
        """The frame's bytes, padded to the shortest length that a wire takes."""
        header = self.destination + self.source + self.ethertype.to_bytes(2, "big")
        return (header + self.payload).ljust(SHORTEST_FRAME, b"\0")


def read_frame(frame: bytes) -> Frame:
    """Raises ValueError for what is no whole header."""
    if len(frame) < HEADER_BYTES:
        raise ValueError(f"{len(frame)} bytes are no Ethernet frame")
    return Frame(frame[:6], frame[6:12], int.from_bytes(frame[12:14], "big"), frame[HEADER_BYTES:])


def is_group(mac: bytes) -> bool:
    """The group bit is the lowest of the first byte on the wire (IEEE 802 8.2.2)."""
    return bool(mac[0] & 1)
