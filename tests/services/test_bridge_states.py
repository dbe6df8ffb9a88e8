"""The bridge with all of it at once, on the wire, against 802.1D and 802.1Q in Python, in every mode.

Every sort of port × tag × destination × state of the port that a frame comes in by × state of those that it would leave
by.

The many tags and ports of test_bridge_vlans.py, which all forward, are here one of each sort.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.manifest import Mode
from tests.rig.network import network, running
from tests.services.model_vlans import PortState
from tests.services.test_bridge_stp import write_states
from tests.services.test_bridge_vlans import (
    BROADCAST,
    UNKNOWN,
    chain,
    check,
    config,
    frame,
    model,
    station,
    teaching,
)

pytestmark = pytest.mark.kernel

SORTS = {"a10": "access", "tag": "trunk", "natl": "native, untagged", "natt": "native, tagged"}
OPEN = "b10"
"""One more access port, which always forwards: so not all copies of a flood meet the same."""

TAGS = {
    "untagged": "",
    "priority": "8100a000",
    "tagged, allowed on trunks": "8100700a",
    "tagged, native on some": "8100e014",
    "tagged, allowed nowhere": "81000bb8",
    "two C-tags": "810060148100e00a",
    "S-tag": "88a8000a",
    "S-tag around a C-tag": "88a8201481000014",
}
PAIRS = tuple(itertools.product(PortState, PortState))


def frames(port: str, source: bytes, serial: Iterator[int]) -> Iterator[tuple[str, bytes]]:
    """Every tag to every known station, an unknown one, and all."""
    for tags in TAGS.values():
        for destination in (*map(station, (*SORTS, OPEN)), UNKNOWN, BROADCAST):
            yield port, frame(source, destination, tags, next(serial))


def questions(source: bytes, serial: Iterator[int]) -> Iterator[tuple[str, bytes]]:
    """A frame to a station in each of the VLANs that it can have been learned in."""
    for vlan in (10, 20):
        yield "tag", frame(station("tag"), source, f"8100{vlan:04x}", next(serial))


@pytest.mark.parametrize("mode", [mode.value for mode in Mode])
def test_every_port_tag_destination_and_pair_of_states(mode: str, tmp_path: Path) -> None:
    ports, serial = (*SORTS, OPEN), itertools.count()
    bridge = model(ports)
    with network(*ports) as net, running(net.dut, chain(mode, ports, {**config(ports), "stp": {}}), tmp_path) as found:
        forwarding = dict.fromkeys(ports, PortState.FORWARDING)
        write_states(found, forwarding)
        check(net, bridge, list(teaching(ports)))
        arrived = dict.fromkeys(PAIRS, 0)
        for number, ((incoming, outgoing), port) in enumerate(itertools.product(PAIRS, SORTS), start=1):
            source = station(port, number)
            bridge.states = dict.fromkeys(ports, outgoing) | {port: incoming, OPEN: PortState.FORWARDING}
            write_states(found, bridge.states)
            arrived[incoming, outgoing] += check(net, bridge, list(frames(port, source, serial)))
            bridge.states = forwarding
            write_states(found, forwarding)
            check(net, bridge, list(questions(source, serial)))
    assert {incoming for (incoming, _), count in arrived.items() if count} == {PortState.FORWARDING}
