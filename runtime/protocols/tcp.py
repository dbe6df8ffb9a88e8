"""TCP where nobody listens: a segment in, the reset that answers it out (RFC 9293 3.5.2)."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

from .internet import TCP, transport_checksum

_HEADER = struct.Struct("!HHIIHHHH")
_FIN, _SYN, _RST, _ACK = 0x01, 0x02, 0x04, 0x10
_WORDS = 5 << 12  # of a header without options


def reset(source: IPv4Address | IPv6Address, destination: IPv4Address | IPv6Address, segment: bytes) -> bytes | None:
    """The answer from `destination` to `source`; None for a reset, and for what is no whole or no sound segment."""
    if len(segment) < _HEADER.size or transport_checksum(source, destination, TCP, segment) != 0:
        return None
    from_port, to_port, sequence, acknowledged, bits, _, _, _ = _HEADER.unpack_from(segment)
    if bits & _RST:
        return None
    if bits & _ACK:
        fields = (to_port, from_port, acknowledged, 0, _WORDS | _RST, 0)
    else:
        length = len(segment) - 4 * (bits >> 12) + bool(bits & _SYN) + bool(bits & _FIN)
        fields = (to_port, from_port, 0, (sequence + length) & 0xFFFFFFFF, _WORDS | _RST | _ACK, 0)
    bare = _HEADER.pack(*fields, 0, 0)
    return _HEADER.pack(*fields, transport_checksum(destination, source, TCP, bare), 0)
