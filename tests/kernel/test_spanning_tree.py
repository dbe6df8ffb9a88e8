"""Spanning trees of real bridges: ours among themselves and mixed with the kernel's own, in rings and meshes.

A broadcast from any host must reach every other host once, and never twice, not even while the tree is being found.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import bpfchain
from compiler.build import Compiled
from runtime import sys as kernel
from runtime.bpffs import bpffs_root
from runtime.pin import chain_pins
from schemas.manifest import Mode
from tests.rig.daemon import DaemonProcess, daemon, own_bpffs
from tests.rig.frames import Wire, collect
from tests.rig.lab import Lab, Namespace
from tests.rig.network import running

pytestmark = pytest.mark.kernel

OURS, THEIRS = "ours", "theirs"
HOST = "desk"
Link = tuple[int, int]

COST = 2
"""What the Linux bridge takes for a veth, whose speed is 10 Gb/s (IEEE 802.1D-1998 costs)."""

# The shortest timers that 802.1D lets go together, so that the old protocol is done within seconds.
QUICK = {"hello": 1, "max-age": 6, "forward-delay": 4}
THEIR_FORWARDING = 3  # BR_STATE_FORWARDING in linux/if_bridge.h
OUR_FORWARDING = 2  # enum port_state
STATES_SIZE = 256  # struct port_states

STP_SECONDS = 40.0
"""Twice what the timers come to, and more for a machine with other work."""

RSTP_SECONDS = 10.0
"""Far below what timers alone take with the default ones: 50 s."""

EXPERIMENTAL = b"\x88\xb5"


@dataclass(slots=True)
class Switches:
    """Bridges with a host on each, under their indices: the lower the index, the better the bridge."""

    kinds: Sequence[str]
    links: Sequence[Link]
    machines: Sequence[Namespace]
    hosts: Mapping[int, Wire]
    chains: dict[int, Compiled] = field(default_factory=dict)
    serial: Iterator[int] = field(default_factory=itertools.count)

    def heard(self, sender: int) -> Counter[int]:
        """How often each host gets a broadcast of one of them; fails if any gets it twice."""
        frame = b"\xff" * 6 + bytes([2, 0xCC, 0, 0, 0, sender]) + EXPERIMENTAL + next(self.serial).to_bytes(46)
        for wire in self.hosts.values():
            wire.drain()
        self.hosts[sender].send(frame)
        others = {str(host): wire for host, wire in self.hosts.items() if host != sender}
        arrived = collect(others, dict.fromkeys(others, 1), timeout=0.3)
        found = Counter({int(host): frames.count(frame) for host, frames in arrived.items()})
        assert max(found.values()) <= 1, f"a broadcast of host {sender} goes in circles: {found}"
        return +found

    def is_whole(self) -> bool:
        return all(set(self.heard(sender)) == set(self.hosts) - {sender} for sender in self.hosts)

    def wait_until_whole(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self.is_whole():
            assert time.monotonic() < deadline, f"not whole after {seconds} s; forwarding: {sorted(self.forwarding())}"

    def wait_until_found(self, seconds: float) -> None:
        """Until every port is where the standard puts it; before that, hosts may well reach each other."""
        self.wait_until_whole(seconds)
        wanted, deadline = expected(len(self.kinds), self.links), time.monotonic() + seconds
        while (found := self.forwarding()) != wanted:
            assert time.monotonic() < deadline, (sorted(found), sorted(wanted))
            assert self.is_whole()

    def forwarding(self) -> set[Link]:
        """(bridge, neighbour) of every port between bridges that forwards."""
        return {
            (one, other)
            for link in self.links
            for one, other in (link, link[::-1])
            if (self._ours if self.kinds[one] == OURS else self._theirs)(one, other)
        }

    def _ours(self, bridge: int, neighbour: int) -> bool:
        compiled = self.chains[bridge]
        (record,) = [record for record in compiled.manifest.maps if record.name == "br0__states"]
        generation = max(chain_pins(bpffs_root(), compiled.manifest.chain).generations(), key=lambda pins: pins.number)
        with kernel.obj_get(generation.map(record.name, record.layout)) as fd:
            content = kernel.map_lookup_elem(fd, bytes(4), STATES_SIZE)
        assert content
        ports = next(service.ports for service in compiled.manifest.services)
        return content[ports.index(f"to{neighbour}")] == OUR_FORWARDING

    def _theirs(self, bridge: int, neighbour: int) -> bool:
        with self.machines[bridge].netlink() as netlink:
            (link,) = netlink.get_links(ifname=f"to{neighbour}")
        slave = link.get_nested("IFLA_LINKINFO", "IFLA_INFO_SLAVE_DATA")
        return bool(slave.get_attr("IFLA_BRPORT_STATE") == THEIR_FORWARDING)

    def cut(self, link: Link, *, state: str = "down") -> None:
        with self.machines[link[0]].netlink() as netlink:
            (index,) = netlink.link_lookup(ifname=f"to{link[1]}")
            netlink.link("set", index=index, state=state)


@contextmanager
def switches(
    kinds: Sequence[str], links: Sequence[Link], folder: Path, mode: str = "native", *, quick: bool = True
) -> Iterator[tuple[Switches, DaemonProcess]]:
    """Bridges and hosts, everything up; one daemon for all bridges of ours."""
    with ExitStack() as stack:
        stack.enter_context(own_bpffs(folder))
        process = stack.enter_context(daemon(folder))
        lab = stack.enter_context(Lab())
        machines = [lab.namespace(f"bridge{number}") for number in range(len(kinds))]
        far = lab.namespace("hosts")
        ends = {n: lab.cable((machines[n], HOST), (far, f"host{n}")).station for n in range(len(kinds))}
        wires = {number: stack.enter_context(Wire(station)) for number, station in ends.items()}
        for one, other in links:
            lab.cable((machines[one], f"to{other}"), (machines[other], f"to{one}"))
        made = Switches(kinds, links, machines, wires)
        for number, kind in enumerate(kinds):
            neighbours = [other if one == number else one for one, other in links if number in (one, other)]
            if kind == OURS:
                place = folder / f"bridge{number}"
                place.mkdir()
                described = chain(number, neighbours, mode, quick=quick)
                made.chains[number] = stack.enter_context(running(machines[number], described, place))
            else:
                kernel_bridge(machines[number], number, neighbours)
        yield made, process


def priority(number: int) -> int:
    return (number + 1) * 4096


def chain(number: int, neighbours: Sequence[int], mode: str, *, quick: bool) -> dict[str, Any]:
    between: dict[str, Any] = {f"to{other}": {"stp": {"cost": COST}} for other in neighbours}
    ports = {HOST: {"stp": {"edge": True}}, **between}
    stp = {"priority": priority(number), **(QUICK if quick else {})}
    return {
        "mode": mode,
        "interfaces": {port: {"device": port} for port in ports},
        "services": {"br0": {"kind": "bridge", "stp": stp, "ports": ports}},
        "links": [[f"br0.{port}", port] for port in ports],
    }


def kernel_bridge(machine: Namespace, number: int, neighbours: Sequence[int]) -> None:
    hundredths = {f"br_{name.replace('-', '_').replace('hello', 'hello_time')}": 100 * s for name, s in QUICK.items()}
    with machine.netlink() as netlink:
        netlink.link("add", ifname="br0", kind="bridge", br_stp_state=1, br_priority=priority(number), **hundredths)
        (bridge,) = netlink.link_lookup(ifname="br0")
        for device in (HOST, *(f"to{other}" for other in neighbours)):
            (index,) = netlink.link_lookup(ifname=device)
            netlink.link("set", index=index, master=bridge)
        netlink.link("set", index=bridge, state="up")


def expected(count: int, links: Sequence[Link]) -> set[Link]:
    """The ports that forward once the tree is found (802.1D-2004 17.6): root ports and designated ports.

    All links cost the same and no two bridges have two of them, so distances from the root and indices decide.
    """
    distance = {0: 0}
    while len(distance) < count:
        edge = {n: distance[known] + 1 for link in links for known, n in (link, link[::-1]) if known in distance}
        distance = edge | distance
    rank = {number: (distance[number], number) for number in range(count)}
    root_ports = {
        (number, min((b if a == number else a for a, b in links if number in (a, b)), key=rank.__getitem__))
        for number in range(1, count)
    }
    designated = {(min(link, key=rank.__getitem__), max(link, key=rank.__getitem__)) for link in links}
    return root_ports | designated


def ring(count: int) -> list[Link]:
    return [(number, (number + 1) % count) for number in range(count)]


@pytest.mark.parametrize("mode", list(Mode), ids=str)
def test_a_ring_of_ours_and_the_kernels(mode: Mode, tmp_path: Path) -> None:
    """Both protocols on one bridge, and the blocked port where the standard puts it; then a link is cut."""
    with switches([THEIRS, OURS, THEIRS, OURS], ring(4), tmp_path, mode.value) as (found, _):
        found.wait_until_found(STP_SECONDS)
        if mode is Mode.NATIVE:  # it takes long, and control planes do not know the mode
            found.cut((0, 1))
            found.wait_until_whole(STP_SECONDS)


def test_a_mesh_in_which_the_root_is_ours(tmp_path: Path) -> None:
    links = list(itertools.combinations(range(4), 2))
    with switches([OURS, THEIRS, OURS, THEIRS], links, tmp_path) as (found, _):
        found.wait_until_found(STP_SECONDS)


def test_rings_of_ours_heal_without_waiting_for_timers(tmp_path: Path) -> None:
    """The default timers: listening and learning alone would take 30 s."""
    with switches([OURS] * 5, ring(5), tmp_path, quick=False) as (found, _):
        found.wait_until_found(RSTP_SECONDS)
        for link in ((0, 1), (4, 0)):
            found.cut(link)
            found.wait_until_whole(RSTP_SECONDS)
            found.cut(link, state="up")
            found.wait_until_found(RSTP_SECONDS)


def test_without_a_control_plane_no_port_opens(tmp_path: Path) -> None:
    with switches([OURS] * 3, ring(3), tmp_path, quick=False) as (found, process):
        found.wait_until_whole(RSTP_SECONDS)
        assert [port.note for port in bpfchain.status(found.chains[0].manifest.chain).service("br0").ports] == [
            "designated, forwarding"
        ] * 3
        process.kill()
        before = found.forwarding()
        assert found.is_whole()
        found.cut((0, 1))
        time.sleep(1)
        assert found.forwarding() == before
        assert not found.is_whole()
        process.start()
        found.wait_until_whole(RSTP_SECONDS)
