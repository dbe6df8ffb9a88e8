"""A VLAN bridge after IEEE 802.1Q in plain Python: a frame and its port in, the frame that each port sends out."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from tests.services.model_bridge import BridgeModel

C_TAG = 0x8100
_ADDRESSES = 12
_MAX_VID = 4094


class PortState(IntEnum):
    """What the spanning tree lets frames do (enum port_state)."""

    DISCARDING = 0
    LEARNING = 1
    FORWARDING = 2


@dataclass(frozen=True, slots=True)
class PortVlans:
    """The VLANs of a port; `pvid` 0 admits no untagged frames, `tagged` are VLANs that leave with a tag."""

    pvid: int = 0
    tagged: frozenset[int] = frozenset()
    admit_tagged: bool = True

    @property
    def members(self) -> frozenset[int]:
        return self.tagged | ({self.pvid} if self.pvid else set())


def access(vlan: int) -> PortVlans:
    return PortVlans(vlan, admit_tagged=False)


def trunk(*vlans: int, native: int = 0, native_tagged: bool = False) -> PortVlans:
    tagged = frozenset(vlans) - ({native} if not native_tagged else set())
    return PortVlans(native, tagged | ({native} if native_tagged else set()))


@dataclass(slots=True)
class VlanBridgeModel:
    """One bridge; every VLAN learns for itself (8.8.8), as a bridge of its own whose ports are the VLAN's members.

    `states` are those of the spanning tree (802.1D 7.4); a port that is not among them forwards.
    """

    ports: Mapping[str, PortVlans]
    static: Mapping[tuple[int, bytes], str] = field(default_factory=dict)
    bridges: dict[int, BridgeModel] = field(default_factory=dict)
    states: Mapping[str, PortState] = field(default_factory=dict)

    def receive(self, port: str, frame: bytes) -> str:
        """`out PORT`, `flood` or `drop REASON`."""
        verdict, _ = self._judge(port, frame)
        return verdict

    def forward(self, port: str, frame: bytes) -> dict[str, bytes]:
        """What leaves by which port."""
        if self._state(port) is PortState.DISCARDING:
            return {}
        verdict, tci = self._judge(port, frame)
        if verdict.startswith("drop") or self._state(port) is not PortState.FORWARDING:
            return {}
        members = [name for name, vlans in self.ports.items() if tci & 0xFFF in vlans.members and name != port]
        receivers = members if verdict == "flood" else [verdict.removeprefix("out ")]
        forwarding = [name for name in receivers if self._state(name) is PortState.FORWARDING]
        return {name: self._leaving(name, tci, _untagged(frame)) for name in forwarding}

    def _state(self, port: str) -> PortState:
        return self.states.get(port, PortState.FORWARDING)

    def _judge(self, port: str, frame: bytes) -> tuple[str, int]:
        """The verdict, and the tag that the frame is carried with."""
        source, destination = frame[6:12], frame[0:6]
        outside = BridgeModel(tuple(self.ports)).receive(port, frame)
        if outside in ("drop invalid-source", "drop link-local"):
            return outside, 0
        tci = _tci(frame)
        if tci is None:
            return "drop truncated", 0
        own, vid = self.ports[port], tci & 0xFFF
        if vid == 0 and own.pvid:
            tci |= own.pvid
        elif vid == 0 or vid > _MAX_VID or not own.admit_tagged or vid not in own.members:
            return "drop vlan", 0
        vid = tci & 0xFFF
        if vid not in self.bridges:
            static = {mac: out for (vlan, mac), out in self.static.items() if vlan == vid}
            self.bridges[vid] = BridgeModel(tuple(self.ports), static=static)
        verdict = self.bridges[vid].receive(port, destination + source + frame[_ADDRESSES:])
        out = verdict.removeprefix("out ")
        if verdict.startswith("out ") and vid not in self.ports[out].members:
            return "drop vlan", 0
        return verdict, tci

    def _leaving(self, port: str, tci: int, frame: bytes) -> bytes:
        if tci & 0xFFF not in self.ports[port].tagged:
            return frame
        return frame[:_ADDRESSES] + struct.pack("!HH", C_TAG, tci) + frame[_ADDRESSES:]


def _tci(frame: bytes) -> int | None:
    """The outermost C-tag, 0 without one; None where the frame ends within it. An S-tag is payload (9.5)."""
    (ethertype,) = struct.unpack_from("!H", frame, _ADDRESSES)
    if ethertype != C_TAG:
        return 0
    if len(frame) < _ADDRESSES + 6:
        return None
    return int(struct.unpack_from("!H", frame, _ADDRESSES + 2)[0])


def _untagged(frame: bytes) -> bytes:
    (ethertype,) = struct.unpack_from("!H", frame, _ADDRESSES)
    return frame if ethertype != C_TAG else frame[:_ADDRESSES] + frame[_ADDRESSES + 4 :]
