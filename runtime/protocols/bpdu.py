"""Bytes of a frame in, a bridge protocol data unit out, and back (IEEE 802.1D-2004 clause 9)."""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple, Self

from msgspec import Struct

BRIDGE_GROUP_ADDRESS = bytes.fromhex("0180c2000000")
_LLC = bytes.fromhex("424203")  # both SAPs 0x42, unnumbered information (802.1D 9.2, 802.2)
_ETHERNET_HEADER = 14
_SHORTEST_FRAME = 60
_HEADER = struct.Struct("!HBB")
_BODY = struct.Struct("!BQIQHHHHH")
_VERSION_1_LENGTH = b"\0"


class Type(IntEnum):
    """BPDU type (9.3)."""

    CONFIG = 0x00
    RST = 0x02
    TCN = 0x80


class Role(IntEnum):
    """Port role as an RST BPDU carries it (table 9-1): alternate and backup share a value."""

    UNKNOWN = 0
    ALTERNATE_OR_BACKUP = 1
    ROOT = 2
    DESIGNATED = 3


class Flag(IntEnum):
    """Bits of the flags octet (9.3.1, 9.3.3)."""

    TOPOLOGY_CHANGE = 0x01
    PROPOSAL = 0x02
    LEARNING = 0x10
    FORWARDING = 0x20
    AGREEMENT = 0x40
    TOPOLOGY_CHANGE_ACK = 0x80


_TYPES = {kind.value for kind in Type}
_ROLE_SHIFT, _ROLE_MASK = 2, 0x3
_FLAGS_OF = {Type.CONFIG: Flag.TOPOLOGY_CHANGE | Flag.TOPOLOGY_CHANGE_ACK, Type.RST: 0xFF ^ Flag.TOPOLOGY_CHANGE_ACK}


class Times(NamedTuple):
    """Timer values of a BPDU in seconds (17.13): how old the information is, and what the root bridge set."""

    message_age: float
    max_age: float
    hello_time: float
    forward_delay: float


class PriorityVector(NamedTuple):
    """What decides between two pieces of spanning-tree information: the smaller one is better (17.6).

    A bridge id is 16 bits of priority before 48 bits of address, a port id 4 bits of priority before 12 of number.
    """

    root_id: int
    root_path_cost: int
    bridge_id: int
    port_id: int


NO_PRIORITY = PriorityVector(0, 0, 0, 0)
NO_TIMES = Times(0, 0, 0, 0)


class Bpdu(Struct, frozen=True):
    """One BPDU. A TCN has neither `priority` nor `times`; only an RST has a role and the flags from `proposal` on."""

    type: Type
    priority: PriorityVector = NO_PRIORITY
    times: Times = NO_TIMES
    role: Role = Role.UNKNOWN
    topology_change: bool = False
    topology_change_ack: bool = False
    proposal: bool = False
    learning: bool = False
    forwarding: bool = False
    agreement: bool = False

    @property
    def designated(self) -> bool:
        """Whether a designated port sent it: a Configuration BPDU says so by being one, as does no role (9.2.9)."""
        return self.type is Type.CONFIG or self.role in (Role.DESIGNATED, Role.UNKNOWN)

    def encode(self) -> bytes:
        """The BPDU without LLC header and padding."""
        if self.type is Type.TCN:
            return _HEADER.pack(0, 0, Type.TCN)
        version = 2 if self.type is Type.RST else 0
        times = (round(seconds * 256) for seconds in self.times)
        body = _BODY.pack(self._flags(), *self.priority, *times)
        return _HEADER.pack(0, version, self.type) + body + (_VERSION_1_LENGTH if version else b"")

    def _flags(self) -> int:
        flags = Flag.TOPOLOGY_CHANGE * self.topology_change
        if self.type is Type.CONFIG:
            return flags | Flag.TOPOLOGY_CHANGE_ACK * self.topology_change_ack
        flags |= Flag.PROPOSAL * self.proposal | Flag.AGREEMENT * self.agreement
        flags |= Flag.LEARNING * self.learning | Flag.FORWARDING * self.forwarding
        return flags | self.role << _ROLE_SHIFT

    @classmethod
    def decode(cls, data: bytes) -> Self | None:
        """A BPDU from the bytes behind the LLC header; None for what is none, or no valid one (9.3.4)."""
        if len(data) < _HEADER.size:
            return None
        protocol, version, kind = _HEADER.unpack_from(data)
        if protocol != 0 or kind not in _TYPES:
            return None
        if kind == Type.TCN:
            return cls(Type.TCN)
        wanted = _HEADER.size + _BODY.size + len(_VERSION_1_LENGTH) * (kind == Type.RST)
        if len(data) < wanted or (kind == Type.RST and version < 2):
            return None
        return cls._of_body(Type(kind), data)

    @classmethod
    def _of_body(cls, kind: Type, data: bytes) -> Self | None:
        flags, root, cost, bridge, port, *times = _BODY.unpack_from(data, _HEADER.size)
        flags &= _FLAGS_OF[kind]
        believed = _believed(Times(*(ticks / 256 for ticks in times)))
        if kind is Type.CONFIG and believed.message_age >= believed.max_age:
            return None
        return cls(
            kind,
            PriorityVector(root, cost, bridge, port),
            believed,
            role=Role(flags >> _ROLE_SHIFT & _ROLE_MASK),
            topology_change=bool(flags & Flag.TOPOLOGY_CHANGE),
            topology_change_ack=bool(flags & Flag.TOPOLOGY_CHANGE_ACK),
            proposal=bool(flags & Flag.PROPOSAL),
            learning=bool(flags & Flag.LEARNING),
            forwarding=bool(flags & Flag.FORWARDING),
            agreement=bool(flags & Flag.AGREEMENT),
        )

    def frame(self, source: bytes) -> bytes:
        """The whole Ethernet frame from the port with address `source`, padded to the shortest length."""
        payload = _LLC + self.encode()
        frame = BRIDGE_GROUP_ADDRESS + source + len(payload).to_bytes(2) + payload
        return frame.ljust(_SHORTEST_FRAME, b"\0")

    @classmethod
    def of_frame(cls, frame: bytes) -> Self | None:
        """The BPDU in an Ethernet frame without tags; None for any other frame."""
        length = int.from_bytes(frame[12:14])
        payload = frame[_ETHERNET_HEADER : _ETHERNET_HEADER + length]
        if frame[:6] != BRIDGE_GROUP_ADDRESS or len(payload) != length or payload[: len(_LLC)] != _LLC:
            return None
        return cls.decode(payload[len(_LLC) :])


def _believed(times: Times) -> Times:
    """Within the ranges of table 17-1 (and those that bridges take beyond it), whatever somebody sends."""
    return Times(
        message_age=min(times.message_age, times.max_age, _LONGEST.max_age),
        max_age=_within(times.max_age, _SHORTEST.max_age, _LONGEST.max_age),
        hello_time=_within(times.hello_time, _SHORTEST.hello_time, _LONGEST.hello_time),
        forward_delay=_within(times.forward_delay, _SHORTEST.forward_delay, _LONGEST.forward_delay),
    )


def _within(seconds: float, least: float, most: float) -> float:
    return max(least, min(seconds, most))


_SHORTEST = Times(0, 6, 1, 2)
_LONGEST = Times(40, 40, 10, 30)
