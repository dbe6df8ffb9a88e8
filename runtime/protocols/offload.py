"""A frame that a local stack has left for its device to finish in, the frame as it would be on the wire out.

A stack leaves checksums to devices that can do them. The field then holds the sum of the pseudo-header alone
(CHECKSUM_PARTIAL, Documentation/networking/checksum-offloads.rst). Only packets at TC are met like that.
"""

from __future__ import annotations

import struct

from msgspec import Struct

from .internet import checksum

_TAGS = (b"\x81\x00", b"\x88\xa8")
_IPV4, _IPV6 = b"\x08\x00", b"\x86\xdd"
_TCP, _UDP = 6, 17
_FIELD_AT = {_TCP: 16, _UDP: 6}
_LEAST = {_TCP: 20, _UDP: 8}
_FRAGMENT = 0x3FFF  # more fragments, or an offset


class _Segment(Struct, frozen=True):
    """Where a TCP or UDP segment lies in a frame, and the pseudo-header that it is summed with."""

    start: int
    end: int
    protocol: int
    pseudo: bytes


def finished(frame: bytes) -> bytes:
    """The frame with its TCP or UDP checksum, if it has only that of the pseudo-header; any other as it is.

    A complete checksum that happens to look like that of the pseudo-header comes out unchanged: it is computed again.
    """
    segment = _segment(frame)
    if segment is None:
        return frame
    field = segment.start + _FIELD_AT[segment.protocol]
    if int.from_bytes(frame[field : field + 2], "big") != checksum(segment.pseudo) ^ 0xFFFF:
        return frame
    content = frame[segment.start : field] + bytes(2) + frame[field + 2 : segment.end]
    total = checksum(segment.pseudo + content)
    if segment.protocol == _UDP and not total:
        total = 0xFFFF  # RFC 768: zero says that there is no checksum
    return frame[:field] + total.to_bytes(2, "big") + frame[field + 2 :]


def _segment(frame: bytes) -> _Segment | None:
    """The whole segment of a frame that is no fragment and has no IPv6 extension headers; None for anything else."""
    at = 14
    ethertype = frame[12:14]
    while ethertype in _TAGS:
        ethertype = frame[at + 2 : at + 4]
        at += 4
    if ethertype == _IPV4 and len(frame) >= at + 20:
        length, _, fragment, _, protocol = struct.unpack_from("!HHHBB", frame, at + 2)
        start, end = at + (frame[at] & 0x0F) * 4, at + length
        if fragment & _FRAGMENT:
            return None
        pseudo = frame[at + 12 : at + 20] + struct.pack("!HH", protocol, max(0, end - start))
    elif ethertype == _IPV6 and len(frame) >= at + 40:
        length, protocol = struct.unpack_from("!HB", frame, at + 4)
        start, end = at + 40, at + 40 + length
        pseudo = frame[at + 8 : at + 40] + struct.pack("!II", length, protocol)
    else:
        return None
    if protocol not in _FIELD_AT or end > len(frame) or end - start < _LEAST[protocol]:
        return None
    return _Segment(start, end, protocol, pseudo)
