"""What the states of a spanning tree let through, on the wire: every pair of states × destination, in every mode.

The states are written by the test, as the control plane writes them; tests/kernel/test_spanning_tree.py has real trees.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from compiler.build import Compiled
from runtime import sys as kernel
from runtime.bpffs import bpffs_root
from runtime.pin import chain_pins
from schemas.manifest import Mode
from tests.rig.network import Network, network, running

pytestmark = pytest.mark.kernel

every_mode = pytest.mark.parametrize("mode", [mode.value for mode in Mode])

PORTS = ("a", "b", "c")
DISCARDING, LEARNING, FORWARDING = range(3)
STATES = (DISCARDING, LEARNING, FORWARDING)
BROADCAST, UNKNOWN = b"\xff" * 6, bytes.fromhex("02ff00000001")
BPDU_ADDRESS = bytes.fromhex("0180c2000000")
PORTS_SIZE = 128  # BRIDGE_PORTS
SERVED, UNSERVED = 2**63, 0
"""Until when there is a control plane, in nanoseconds."""

VLANS: dict[str, dict[str, Any]] = {
    "without VLANs": {port: {} for port in PORTS},
    "with VLANs": {
        "a": {"vlan": {"access": 10}},
        "b": {"vlan": {"trunk": [20], "native": 10}},
        "c": {"vlan": {"access": 10}},
    },
}
"""Either way an untagged frame stays untagged: what VLANs do to frames is another table's."""


def chain(mode: str, ports: Mapping[str, Any], stp: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "mode": mode,
        "interfaces": {port: {"device": port} for port in PORTS},
        "services": {"br0": {"kind": "bridge", "stp": stp or {}, "ports": dict(ports)}},
        "links": [[f"br0.{port}", port] for port in PORTS],
    }


def write_states(compiled: Compiled, states: Mapping[str, int], served_until_ns: int = SERVED) -> None:
    """struct port_states."""
    (record,) = [record for record in compiled.manifest.maps if record.name == "br0__states"]
    generation = max(chain_pins(bpffs_root(None), compiled.manifest.chain).generations(), key=lambda pins: pins.number)
    (service,) = compiled.manifest.services
    content = bytes(states[port] for port in service.ports).ljust(2 * PORTS_SIZE, b"\0") + served_until_ns.to_bytes(
        8, "little"
    )
    with kernel.obj_get(generation.map(record.name, record.layout)) as fd:
        kernel.map_update_elem(fd, bytes(4), content)


def station(port: str) -> bytes:
    return bytes([0x02, 0xAA, 0, 0, 0, ord(port)])


def frame(source: bytes, destination: bytes, serial: Iterator[int]) -> bytes:
    return destination + source + b"\x88\xb5" + next(serial).to_bytes(4) + bytes(42)


def receivers(states: Mapping[str, int], destination: bytes) -> set[str]:
    """Who gets a frame that came in by `a` (802.1D-2004 7.5, 7.7)."""
    known = {station(port): port for port in PORTS}
    if destination == BPDU_ADDRESS or states["a"] != FORWARDING:
        return set()
    wanted = {known[destination]} if destination in known else set(PORTS)
    return {port for port in wanted - {"a"} if states[port] == FORWARDING}


def forwarding() -> dict[str, int]:
    return dict.fromkeys(PORTS, FORWARDING)


def teach(net: Network, serial: Iterator[int]) -> None:
    for port in PORTS:
        sent = frame(station(port), BROADCAST, serial)
        net.send(port, sent)
        assert net.arrivals(**{other: 1 for other in PORTS if other != port}) == {
            other: [sent] for other in PORTS if other != port
        }


@every_mode
@pytest.mark.parametrize("vlans", VLANS)
def test_every_pair_of_states(mode: str, vlans: str, tmp_path: Path) -> None:
    serial = itertools.count()
    with network(*PORTS) as net, running(net.dut, chain(mode, VLANS[vlans]), tmp_path) as compiled:
        write_states(compiled, forwarding())
        teach(net, serial)
        for incoming, outgoing in itertools.product(STATES, STATES):
            states = {"a": incoming, "b": outgoing, "c": FORWARDING}
            write_states(compiled, states)
            expected: dict[str, list[bytes]] = {}
            for destination in (station("b"), station("c"), UNKNOWN, BROADCAST, BPDU_ADDRESS):
                sent = frame(station("a"), destination, serial)
                net.send("a", sent)
                for port in receivers(states, destination):
                    expected.setdefault(port, []).append(sent)
            arrived = net.arrivals(**{port: len(frames) for port, frames in expected.items()})
            assert arrived == expected, states


@every_mode
def test_a_learning_port_learns_and_a_discarding_one_does_not(mode: str, tmp_path: Path) -> None:
    serial = itertools.count()
    with network(*PORTS) as net, running(net.dut, chain(mode, VLANS["without VLANs"]), tmp_path) as compiled:
        for state, receiving in ((DISCARDING, {"a", "c"}), (LEARNING, {"a"})):
            mover = bytes([0x02, 0xBB, 0, 0, 0, state])
            write_states(compiled, forwarding() | {"a": state})
            net.send("a", frame(mover, BROADCAST, serial))
            assert net.arrivals() == {}
            write_states(compiled, forwarding())
            sent = frame(station("b"), mover, serial)
            net.send("b", sent)
            assert net.arrivals(**dict.fromkeys(receiving, 1)) == {key: [sent] for key in receiving}


@every_mode
def test_before_the_control_plane_says_anything_every_port_is_closed(mode: str, tmp_path: Path) -> None:
    serial = itertools.count()
    with network(*PORTS) as net, running(net.dut, chain(mode, VLANS["without VLANs"]), tmp_path):
        for port in PORTS:
            net.send(port, frame(station(port), BROADCAST, serial))
        assert net.arrivals() == {}


@every_mode
@pytest.mark.parametrize("vlans", VLANS)
def test_bpdus_pass_while_there_is_no_control_plane(mode: str, vlans: str, tmp_path: Path) -> None:
    """As through a bridge without a spanning tree, but only between ports that forward, and with no tag put on."""
    serial, trunk = itertools.count(), {"vlan": {"trunk": [10, 20]}} if vlans == "with VLANs" else {}
    with network(*PORTS) as net, running(net.dut, chain(mode, VLANS[vlans] | {"c": trunk}), tmp_path) as compiled:
        for incoming, outgoing in itertools.product(STATES, STATES):
            states = {"a": incoming, "b": outgoing, "c": FORWARDING}
            write_states(compiled, states, UNSERVED)
            sent = frame(station("a"), BPDU_ADDRESS, serial)
            net.send("a", sent)
            receiving = {port for port in ("b", "c") if incoming == states[port] == FORWARDING}
            assert net.arrivals(**dict.fromkeys(receiving, 1)) == {port: [sent] for port in receiving}, states
        write_states(compiled, forwarding(), SERVED)
        net.send("a", frame(station("a"), BPDU_ADDRESS, serial))
        assert net.arrivals() == {}


@every_mode
@pytest.mark.parametrize("kept", [{"bpdu-guard": True}, {"root-guard": True}, {"bpdu-filter": True}], ids=str)
def test_but_not_those_that_nobody_is_to_hear(mode: str, kept: dict[str, bool], tmp_path: Path) -> None:
    ports = {**VLANS["without VLANs"], "a": {"stp": kept}}
    with network(*PORTS) as net, running(net.dut, chain(mode, ports), tmp_path) as compiled:
        write_states(compiled, forwarding(), UNSERVED)
        net.send("a", frame(station("a"), BPDU_ADDRESS, itertools.count()))
        assert net.arrivals() == {}


@every_mode
@pytest.mark.parametrize("vlans", VLANS)
@pytest.mark.parametrize("features", [{}, {"multicast": {}}], ids=str)
def test_nor_do_they_leave_by_a_port_that_filters_them(
    mode: str, vlans: str, features: dict[str, Any], tmp_path: Path
) -> None:
    serial, ports = itertools.count(), VLANS[vlans]
    filtering = chain(mode, {**ports, "b": {**ports["b"], "stp": {"bpdu-filter": True}}})
    filtering["services"]["br0"] |= features
    with network(*PORTS) as net, running(net.dut, filtering, tmp_path) as compiled:
        write_states(compiled, forwarding(), UNSERVED)
        bpdu, others = frame(station("a"), BPDU_ADDRESS, serial), frame(station("a"), BROADCAST, serial)
        net.send("a", bpdu, others)
        assert net.arrivals(b=1, c=2) == {"b": [others], "c": [bpdu, others]}
