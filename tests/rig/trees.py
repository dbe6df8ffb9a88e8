"""Networks of bridges, ours and the kernel's own, that find a spanning tree; several can be looked at in one go.

Bridges go by their indices: the lower, the better. Each has a host. A broadcast from any host must reach every other
one that there is a way to once, and never twice.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compiler.build import Compiled
from runtime import sys as kernel
from runtime.pin import chain_pins

from .daemon import DaemonProcess, daemon, own_bpffs
from .frames import Wire, collect
from .lab import Lab, Namespace
from .network import running

OURS, THEIRS = "ours", "theirs"
HOST = "desk"
Link = tuple[int, int]

COST = 2
"""What the Linux bridge takes for a veth, whose speed is 10 Gb/s (IEEE 802.1D-1998 costs)."""

# The shortest timers that 802.1D lets go together, so that the old protocol is done within seconds.
QUICK = {"hello": 1, "max-age": 6, "forward-delay": 4}
THEIR_FORWARDING = 3  # BR_STATE_FORWARDING in linux/if_bridge.h
OUR_FORWARDING = 2  # enum port_state
STATES_SIZE = 264  # struct port_states

EXPERIMENTAL = b"\x88\xb5"
_HEARING_SECONDS = 0.3
_serial = itertools.count()


@dataclass(frozen=True, slots=True)
class Plan:
    """What to build. `victims` are bridges of ours that have a daemon of their own, the same for all of them. The links
    of those `apart` are cut from the beginning on.

    Without `quick` timers are the defaults, so that waiting for them would be noticed.
    """

    kinds: Sequence[str]
    links: Sequence[Link]
    mode: str = "native"
    quick: bool = True
    victims: Collection[int] = ()
    apart: Collection[int] = ()

    @property
    def name(self) -> str:
        kinds = "".join("o" if kind == OURS else "t" for kind in self.kinds)
        return f"{kinds}-{len(self.links)}-{self.mode}"

    def neighbours(self, bridge: int) -> list[int]:
        return [other if one == bridge else one for one, other in self.links if bridge in (one, other)]


def ring(count: int) -> list[Link]:
    return [(number, (number + 1) % count) for number in range(count)]


def mesh(count: int) -> list[Link]:
    """Every bridge joined to every other one."""
    return list(itertools.combinations(range(count), 2))


@dataclass(slots=True, eq=False)
class Network:
    """A plan that has become real. `chains` has those of our bridges with the bpffs that each is in; `cut` what is."""

    plan: Plan
    machines: Sequence[Namespace]
    hosts: Mapping[int, Wire]
    chains: dict[int, tuple[Compiled, Path]] = field(default_factory=dict)
    cut: set[Link] = field(default_factory=set)

    @property
    def links(self) -> list[Link]:
        """Those that are not cut."""
        return [link for link in self.plan.links if link not in self.cut]

    def switch(self, link: Link, *, on: bool) -> None:
        """Cuts a link, or mends it."""
        self.cut ^= {link}
        assert (link in self.cut) is not on
        with self.machines[link[0]].netlink() as netlink:
            (index,) = netlink.link_lookup(ifname=f"to{link[1]}")
            netlink.link("set", index=index, state="up" if on else "down")

    def forwarding(self) -> set[Link]:
        """(bridge, neighbour) of every port at a link that is not cut and that forwards."""
        ends = [end for link in self.links for end in (link, link[::-1])]
        return {(one, other) for one, other in ends if self._forwards(one, other)}

    def _forwards(self, bridge: int, neighbour: int) -> bool:
        if self.plan.kinds[bridge] == THEIRS:
            return self._theirs(bridge, neighbour)
        return self._ours(bridge, neighbour)

    def _ours(self, bridge: int, neighbour: int) -> bool:
        compiled, bpffs = self.chains[bridge]
        (record,) = [record for record in compiled.manifest.maps if record.name == "br0__states"]
        generation = max(chain_pins(bpffs, compiled.manifest.chain).generations(), key=lambda pins: pins.number)
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

    def reachable(self) -> set[Link]:
        """(sender, receiver) of all hosts that there is a way between."""
        parts = components(len(self.plan.kinds), self.links)
        return {pair for part in parts for pair in itertools.permutations(part, 2)}

    def is_found(self) -> bool:
        """Whether every port is where the standard puts it."""
        return self.forwarding() == expected(len(self.plan.kinds), self.links)


def components(count: int, links: Sequence[Link]) -> list[set[int]]:
    """The bridges that there is a way between, the best one's first."""
    part = {number: {number} for number in range(count)}
    for one, other in links:
        joined = part[one] | part[other]
        part |= dict.fromkeys(joined, joined)
    return [part[number] for number in range(count) if number == min(part[number])]


def expected(count: int, links: Sequence[Link]) -> set[Link]:
    """The ports that forward once the tree is found (802.1D-2004 17.6): root ports and designated ports.

    All links cost the same and no two bridges have two of them, so distances from the root and indices decide.
    """
    distance: dict[int, int] = {min(part): 0 for part in components(count, links)}
    while len(distance) < count:
        edge = {n: distance[known] + 1 for link in links for known, n in (link, link[::-1]) if known in distance}
        distance = edge | distance
    rank = {number: (distance[number], number) for number in range(count)}
    root_ports = {
        (number, min((b if a == number else a for a, b in links if number in (a, b)), key=rank.__getitem__))
        for number in range(count)
        if distance[number]
    }
    designated = {(min(link, key=rank.__getitem__), max(link, key=rank.__getitem__)) for link in links}
    return root_ports | designated


# --- looking at several -----------------------------------------------------------------------------------------------


def heard(networks: Sequence[Network]) -> list[set[Link]]:
    """(sender, receiver) of all broadcasts that arrive, where every host sends one; fails if any arrives twice."""
    wires = {f"{at}.{host}": wire for at, network in enumerate(networks) for host, wire in network.hosts.items()}
    for wire in wires.values():
        wire.drain()
    number = next(_serial)
    waited = {f"{at}.{to}": 0 for at, network in enumerate(networks) for to in network.hosts}
    for at, network in enumerate(networks):
        for sender, wire in network.hosts.items():
            wire.send(_broadcast(number, at, sender))
        for _, receiver in network.reachable():
            waited[f"{at}.{receiver}"] += 1
    arrived = collect(wires, waited, _HEARING_SECONDS)
    return [_pairs(network, number, at, arrived) for at, network in enumerate(networks)]


def _broadcast(number: int, network: int, sender: int) -> bytes:
    return b"\xff" * 6 + bytes([2, 0xCC, 0, 0, network, sender]) + EXPERIMENTAL + number.to_bytes(46)


def _pairs(network: Network, number: int, at: int, arrived: Mapping[str, list[bytes]]) -> set[Link]:
    found: Counter[Link] = Counter()
    for sender, receiver in itertools.product(network.hosts, network.hosts):
        found[sender, receiver] = arrived[f"{at}.{receiver}"].count(_broadcast(number, at, sender))
    twice = {pair for pair, count in found.items() if count > 1}
    assert not twice, f"{network.plan.name}: broadcasts arrive more than once (from, to): {sorted(twice)}"
    return set(+found)


def are_whole(networks: Sequence[Network]) -> list[Network]:
    """Those in which every host is heard by all that there is a way to."""
    return [network for network, pairs in zip(networks, heard(networks), strict=True) if pairs == network.reachable()]


def wait_until_whole(networks: Sequence[Network], seconds: float) -> None:
    """Until every host hears every other one; fails after so long, and if a broadcast arrives twice meanwhile."""
    _wait(networks, are_whole, seconds)


def wait_until_found(networks: Sequence[Network], seconds: float) -> None:
    """Until every port is where the standard puts it as well; before that, hosts may well reach each other."""
    _wait(networks, lambda some: [each for each in are_whole(some) if each.is_found()], seconds)


def _wait(networks: Sequence[Network], done: Callable[[Sequence[Network]], list[Network]], seconds: float) -> None:
    deadline, finished = time.monotonic() + seconds, done(networks)
    while len(finished) < len(networks):
        late = [f"{n.plan.name}: forwarding: {sorted(n.forwarding())}" for n in networks if n not in finished]
        assert time.monotonic() < deadline, f"after {seconds} s: {'; '.join(late)}"
        finished = done(networks)


# --- building ---------------------------------------------------------------------------------------------------------


@contextmanager
def switched(plans: Sequence[Plan], folder: Path) -> Iterator[tuple[list[Network], DaemonProcess]]:
    """The networks, everything up, and a daemon to kill: that of the victims, or without any that of all bridges."""
    with ExitStack() as stack:
        lab = stack.enter_context(Lab())
        networks = [_cabled(plan, lab, stack) for plan in plans]
        process = stack.enter_context(_serve(networks, folder / "others", victims=False))
        if any(plan.victims for plan in plans):
            process = stack.enter_context(_serve(networks, folder / "victims", victims=True))
        yield networks, process


@contextmanager
def _serve(networks: Sequence[Network], folder: Path, *, victims: bool) -> Iterator[DaemonProcess]:
    """The chains of our bridges that are victims, or of those that are not, and their daemon."""
    folder.mkdir()
    with own_bpffs(folder) as bpffs, daemon(folder) as process, ExitStack() as chains:
        for network in networks:
            for number, kind in enumerate(network.plan.kinds):
                if kind == OURS and (number in network.plan.victims) is victims:
                    compiled = chains.enter_context(
                        running(network.machines[number], _chain(network.plan, number), folder)
                    )
                    network.chains[number] = compiled, bpffs
        yield process


def _cabled(plan: Plan, lab: Lab, stack: ExitStack) -> Network:
    """The machines with their cables, and the kernel's bridges on them."""
    machines = [lab.namespace(f"bridge{number}") for number in range(len(plan.kinds))]
    far = lab.namespace("hosts")
    ends = {n: lab.cable((machines[n], HOST), (far, f"host{n}")).station for n in range(len(machines))}
    for one, other in plan.links:
        lab.cable((machines[one], f"to{other}"), (machines[other], f"to{one}"))
    wires = {number: stack.enter_context(Wire(station)) for number, station in ends.items()}
    network = Network(plan, machines, wires)
    for link in plan.links:
        if set(plan.apart) & set(link):
            network.switch(link, on=False)
    for number, kind in enumerate(plan.kinds):
        if kind == THEIRS:
            _kernel_bridge(machines[number], number, plan.neighbours(number))
    return network


def priority(number: int) -> int:
    return (number + 1) * 4096


def _chain(plan: Plan, number: int) -> dict[str, Any]:
    between: dict[str, Any] = {f"to{other}": {"stp": {"cost": COST}} for other in plan.neighbours(number)}
    ports = {HOST: {"stp": {"edge": True}}, **between}
    stp = {"priority": priority(number), **(QUICK if plan.quick else {})}
    return {
        "mode": plan.mode,
        "interfaces": {port: {"device": port} for port in ports},
        "services": {"br0": {"kind": "bridge", "stp": stp, "ports": ports}},
        "links": [[f"br0.{port}", port] for port in ports],
    }


def _kernel_bridge(machine: Namespace, number: int, neighbours: Sequence[int]) -> None:
    hundredths = {f"br_{name.replace('-', '_').replace('hello', 'hello_time')}": 100 * s for name, s in QUICK.items()}
    with machine.netlink() as netlink:
        netlink.link("add", ifname="br0", kind="bridge", br_stp_state=1, br_priority=priority(number), **hundredths)
        (bridge,) = netlink.link_lookup(ifname="br0")
        for device in (HOST, *(f"to{other}" for other in neighbours)):
            (index,) = netlink.link_lookup(ifname=device)
            netlink.link("set", index=index, master=bridge)
        netlink.link("set", index=bridge, state="up")
