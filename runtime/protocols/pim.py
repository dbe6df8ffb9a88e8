"""PIM's hello (RFC 7761 4.9.2), by which a multicast router shows that it is there."""

from __future__ import annotations

import struct

from .membership import RouterHello

PIM = 103

_VERSION_AND_HELLO = 0x20
_HOLD_TIME = 1  # option
_DEFAULT_HOLD_S = 105.0  # RFC 7761 4.11
_OPTION = struct.Struct("!HH")


def read_hello(message: bytes) -> tuple[RouterHello, ...]:
    """The hello that a PIM message is, whose checksum is right; nothing of other messages."""
    if len(message) < 4 or message[0] != _VERSION_AND_HELLO:
        return ()
    at = 4
    while at + _OPTION.size <= len(message):
        kind, length = _OPTION.unpack_from(message, at)
        value = message[at + _OPTION.size : at + _OPTION.size + length]
        if kind == _HOLD_TIME and len(value) == 2:
            return (RouterHello(float(int.from_bytes(value, "big"))),)
        at += _OPTION.size + length
    return (RouterHello(_DEFAULT_HOLD_S),)
