"""VLANs on the bridge, on the wire: every sort of port × tag × destination against 802.1Q in Python, in every mode.

The frames are real ones on veths and not test runs, because at TC a tag is in the skb's metadata only there.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest

from schemas.manifest import Mode
from tests.rig.network import Network, network, running
from tests.services.model_vlans import VlanBridgeModel, access, trunk

every_mode = pytest.mark.parametrize("mode", [mode.value for mode in Mode])

BROADCAST, UNKNOWN = b"\xff" * 6, bytes.fromhex("02ff00000001")
MULTICAST = bytes.fromhex("01005e0000fb")
CHUNK = 24
"""Frames sent at once: what a veth's queue and a socket's buffer hold, all copies counted."""

PORTS: dict[str, tuple[dict[str, Any], Any]] = {
    "a10": ({"vlan": {"access": 10}}, access(10)),
    "b10": ({"vlan": {"access": 10}}, access(10)),
    "a20": ({"vlan": {"access": 20}}, access(20)),
    "tag": ({"vlan": {"trunk": [10, 20, "100-199"]}}, trunk(10, 20, *range(100, 200))),
    "nat": ({"vlan": {"trunk": [10, "20-25", 150], "native": 1}}, trunk(10, *range(20, 26), 150, native=1)),
    "natl": ({"vlan": {"trunk": ["1-30"], "native": 20}}, trunk(*range(1, 31), native=20)),
    "natt": ({"vlan": {"trunk": [10], "native": 20, "native-tagged": True}}, trunk(10, native=20, native_tagged=True)),
    "plain": ({}, access(1)),
}
"""What the chain file says of a port, and what that means."""

TAGS = {
    "untagged": "",
    "priority": "8100a000",
    "priority and DEI": "8100f000",
    "VLAN 10": "8100000a",
    "VLAN 10, PCP 3, DEI": "8100700a",
    "VLAN 20, PCP 7": "8100e014",
    "native VLAN 1, tagged": "81000001",
    "in a range": "81000096",
    "first of a range": "81000064",
    "last of a range": "810000c7",
    "behind a range": "810000c8",
    "nobody's VLAN": "81000bb8",
    "reserved VLAN 4095": "81000fff",
    "802.1ad": "88a8000a",
    "802.1ad around 802.1Q": "88a8201481000014",
    "double": "8100000a81000014",
    "double, PCP inside": "810060148100e00a",
    "priority around a VLAN": "8100c00081000014",
    "triple": "8100000a8100001481000096",
}


def config(ports: Sequence[str]) -> dict[str, Any]:
    return {"kind": "bridge", "ports": {port: PORTS[port][0] for port in ports}}


def model(ports: Sequence[str]) -> VlanBridgeModel:
    return VlanBridgeModel({port: PORTS[port][1] for port in ports})


def chain(mode: str, ports: Sequence[str], bridge: dict[str, Any]) -> dict[str, Any]:
    return {
        "mode": mode,
        "interfaces": {port: {"device": port} for port in ports},
        "services": {"br0": bridge},
        "links": [[f"br0.{port}", port] for port in ports],
    }


def station(port: str, number: int = 0) -> bytes:
    return bytes([0x02, 0xAA, number, 0, 0, list(PORTS).index(port)])


def frame(source: bytes, destination: bytes, tags: str, serial: int) -> bytes:
    return destination + source + bytes.fromhex(tags) + b"\x88\xb5" + serial.to_bytes(4, "big") + bytes(46)


def teaching(ports: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """A station on each port says something in each of its VLANs that this table looks at, and one more untagged."""
    serial = itertools.count(1 << 24)
    for port in ports:
        vlans = PORTS[port][1]
        yield port, frame(station(port), BROADCAST, "", next(serial))
        for vid in sorted(vlans.members & {1, 10, 20, 150}) if vlans.admit_tagged else ():
            yield port, frame(station(port), BROADCAST, f"8100{vid:04x}", next(serial))


def table(ports: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Every port × tag × destination: known (of each port), known in other VLANs only, unknown, groups."""
    serial = itertools.count()
    for port, tags in itertools.product(ports, TAGS.values()):
        for destination in (*map(station, ports), UNKNOWN, MULTICAST, BROADCAST):
            yield port, frame(station(port, number=1), destination, tags, next(serial))


class Forwards(Protocol):
    """A model that says what leaves by which port."""

    def forward(self, port: str, frame: bytes) -> Mapping[str, bytes]: ...


def check(net: Network, bridge: Forwards, frames: Sequence[tuple[str, bytes]]) -> int:
    """Sends the frames and compares what arrives at each neighbour, byte for byte; returns how many arrived."""
    arrived = 0
    for start in range(0, len(frames), CHUNK):
        expected: dict[str, list[bytes]] = {}
        for port, sent in frames[start : start + CHUNK]:
            for out, leaving in bridge.forward(port, sent).items():
                expected.setdefault(out, []).append(leaving)
            net.send(port, sent)
        got = net.arrivals(**{port: len(leaving) for port, leaving in expected.items()})
        assert {port: sorted(found) for port, found in got.items()} == {p: sorted(e) for p, e in expected.items()}
        arrived += sum(map(len, expected.values()))
    return arrived


@pytest.mark.kernel
@every_mode
def test_every_port_tag_and_destination(mode: str, tmp_path: Path) -> None:
    ports = tuple(PORTS)
    bridge = model(ports)
    with network(*ports) as net, running(net.dut, chain(mode, ports, config(ports)), tmp_path):
        check(net, bridge, list(teaching(ports)))
        frames = list(table(ports))
        assert len(frames) == len(PORTS) * len(TAGS) * (len(PORTS) + 3)
        assert check(net, bridge, frames) > len(frames)
