"""IGMP and MLD snooping after RFC 4541 in plain Python, on top of a bridge's model: which ports a frame leaves by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address

from tests.services.model_bridge import BridgeModel
from tests.services.model_vlans import VlanBridgeModel

Address = IPv4Address | IPv6Address
Key = tuple[int, Address]

REPORTS_4 = {0x12, 0x16, 0x17, 0x22}
REPORTS_6 = {131, 132, 143}
OTHER_MLD = {130, 151, 152, 153}
_LOCAL = IPv4Network("224.0.0.0/24")


@dataclass(frozen=True, slots=True)
class Snooped:
    """One VLAN and version of IP: where groups go that have no entry (None: everywhere), and reports."""

    unregistered: frozenset[str] | None
    routers: frozenset[str]


@dataclass(slots=True)
class MulticastModel:
    """`groups` are ports by VLAN and group, routers among them; `snooped` is by VLAN and version of IP.

    What is not in `snooped` is flooded; so is everything if not `kept`.
    """

    bridge: VlanBridgeModel | BridgeModel
    groups: Mapping[Key, frozenset[str]] = field(default_factory=dict)
    snooped: Mapping[tuple[int, int], Snooped] = field(default_factory=dict)
    kept: bool = True

    def receive(self, port: str, frame: bytes) -> str:
        """The verdict: that of the bridge, but for what nobody wants."""
        verdict = self.bridge.receive(port, frame)
        wanted = self._wanted(self._vlan(port, frame), frame) if verdict == "flood" else None
        return "drop no-receiver" if wanted is not None and not wanted - {port} else verdict

    def forward(self, port: str, frame: bytes) -> dict[str, bytes]:
        """What leaves by which port."""
        wanted = self._wanted(self._vlan(port, frame), frame)
        leaving = self._flooded(port, frame)
        return {out: copy for out, copy in leaving.items() if wanted is None or out in wanted}

    def _flooded(self, port: str, frame: bytes) -> dict[str, bytes]:
        if isinstance(self.bridge, VlanBridgeModel):
            return self.bridge.forward(port, frame)
        verdict = self.bridge.receive(port, frame)
        outs = [out for out in self.bridge.ports if out != port] if verdict == "flood" else [verdict[4:]]
        return dict.fromkeys(outs, frame) if not verdict.startswith("drop") else {}

    def _vlan(self, port: str, frame: bytes) -> int:
        """0 without VLANs; else that of a frame which the bridge has admitted."""
        if isinstance(self.bridge, BridgeModel):
            return 0
        tagged = frame[12:14] == b"\x81\x00" and int.from_bytes(frame[14:16]) & 0xFFF
        return tagged or self.bridge.ports[port].pvid

    def _wanted(self, vlan: int, frame: bytes) -> frozenset[str] | None:
        """The ports that a frame is for; None: all."""
        if isinstance(self.bridge, VlanBridgeModel) and frame[12:14] == b"\x81\x00":
            frame = frame[:12] + frame[16:]
        group, report = classify(frame)
        if group is None or not self.kept:
            return None
        snooped = self.snooped.get((vlan, group.version))
        if report:
            return snooped.routers if snooped else None
        found = self.groups.get((vlan, group))
        return found if found is not None else snooped.unregistered if snooped else None


def classify(frame: bytes) -> tuple[Address | None, bool]:
    """The group that an untagged frame's packet is for, None where it is flooded; whether it is a report."""
    if not frame[0] & 1 or frame[:6] == b"\xff" * 6:
        return None, False
    if frame[12:14] == b"\x08\x00":
        return _classify4(frame[14:])
    if frame[12:14] == b"\x86\xdd":
        return _classify6(frame[14:])
    return None, False


def _classify4(packet: bytes) -> tuple[Address | None, bool]:
    if len(packet) < 20 or packet[0] >> 4 != 4:
        return None, False
    group, header = IPv4Address(packet[16:20]), 4 * (packet[0] & 15)
    if not group.is_multicast:
        return None, False
    if packet[9] == 2:
        report = header >= 20 and len(packet) >= header + 8 and packet[header] in REPORTS_4
        return (group, True) if report else (None, False)
    return (None, False) if group in _LOCAL else (group, False)


def _classify6(packet: bytes) -> tuple[Address | None, bool]:
    if len(packet) < 40 or packet[0] >> 4 != 6 or packet[24] != 0xFF:
        return None, False
    group = IPv6Address(packet[24:40])
    if packet[6] == 103 and group == IPv6Address("ff02::d"):
        return None, False
    kind = _mld(packet)
    if kind in REPORTS_6:
        return group, True
    return (None, False) if kind in OTHER_MLD or group == IPv6Address("ff02::1") else (group, False)


def _mld(packet: bytes) -> int | None:
    """The type of an ICMPv6 message behind a hop-by-hop header."""
    if packet[6] != 0 or len(packet) < 48 or packet[40] != 58:
        return None
    at = 48 + 8 * packet[41]
    return packet[at] if len(packet) >= at + 8 else None
