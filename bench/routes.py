"""A router with 10 to a million kernel routes beside the bare redirect, on the bench's rig.

Run as root: `python -m bench.routes`. Each flow is for a destination of its own, and as long as there are routes
enough, each destination has a route of its own; the other routes are random ones with the lengths of a full table. All
of them lead to one next router, whose MAC is known. The tables are filled as the daemon fills them.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

import yaml

from compiler.build import build
from runtime import sys as kernel
from runtime.fib import grace_period
from runtime.generation import Generation
from schemas.fib.table4 import Fib4
from schemas.manifest import Mode
from schemas.services.router import NEIGHBOUR, NEIGHBOUR_KEY, Kind, NextHopRecord
from tests.rig.routes import Routes, internet, prefix

from .contenders import BareRedirect, attach, loaded
from .fib import tell, words_of
from .rig import Generator, Lane, Rig, take_one_cpu
from .traffic import Traffic

SLICE_FRAMES, SLICES = 2048, 8
UNDISTURBED = 0.02
"""Disturbance only adds time: a figure is what the fastest slices stay below, as in measure.py."""

GATEWAY = IPv4Address("192.168.0.2")
_TO_OUT = 1  # the second port of the chain file


class Spread(Traffic):
    """Each flow has a destination of its own."""

    def defines(self, *, stamped: bool) -> Mapping[str, int]:
        return {**super().defines(stamped=stamped), "SPREAD": 1}

    def destinations(self) -> list[int]:
        """As destination_of() in bpf/generator.c has them."""
        return [(20 + (flow >> 24) % 100) << 24 | flow & 0xFFFFFF for flow in self.identities()]


TRAFFIC = (Spread("1 flow"), Spread("1k flows", flows=1024), Spread("64k flows", flows=65536))


@dataclass(frozen=True, slots=True)
class Standing:
    """A contender on its lane: 0 routes is the bare redirect."""

    routes: int
    lane: Lane
    destination: bytes


def main() -> None:
    """Measures and prints one line for each traffic and number of routes."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--sizes", type=int, nargs="+", default=[10, 1000, 100_000, 1_000_000])
    arguments.add_argument("--seconds", type=float, default=20, help="of rounds, for each traffic")
    options = arguments.parse_args()
    take_one_cpu()
    tell(f"{'traffic':>10} {'routes':>8} {'ns':>6} {'ratio':>6} {'+ ns':>6}")
    for traffic in TRAFFIC:
        found = measure(traffic, options.sizes, options.seconds)
        for routes, ns in found.items():
            tell(f"{traffic.name:>10} {routes:>8} {ns:6.0f} {found[0] / ns:6.2f} {ns - found[0]:6.0f}")


def measure(traffic: Spread, sizes: Sequence[int], seconds: float) -> dict[int, float]:
    """Nanoseconds a packet by the number of routes; 0: the bare redirect."""
    with Rig() as rig, ExitStack() as stack:
        generator = stack.enter_context(rig.generator(traffic))
        standing = [_set_up(rig, size, traffic, stack) for size in (0, *sizes)]
        for each in standing:
            sent = generator.send(each.lane, SLICE_FRAMES, each.destination)
            if sent.arrived.packets != sent.frames:
                sys.exit(f"{each.routes} routes: {sent.arrived.packets} of {sent.frames} frames arrived")
        slices: dict[int, list[float]] = {each.routes: [] for each in standing}
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for each in standing:
                slices[each.routes] += _visit(generator, each)
    return {routes: sorted(ns)[int(len(ns) * UNDISTURBED)] for routes, ns in slices.items()}


def _visit(generator: Generator, standing: Standing) -> list[float]:
    """Nanoseconds a packet, slice by slice, after a frame of every flow."""
    generator.send(standing.lane, max(SLICE_FRAMES, generator.traffic.flows), standing.destination)
    sent = [generator.send(standing.lane, SLICE_FRAMES, standing.destination) for _ in range(SLICES)]
    return [slice_.ns / slice_.frames for slice_ in sent]


def _set_up(rig: Rig, size: int, traffic: Spread, stack: ExitStack) -> Standing:
    lane = rig.lane()
    if not size:
        standing = Standing(0, lane, BareRedirect().set_up(lane, stack).destination)
    else:
        _router(lane, _routes(size, traffic), stack)
        standing = Standing(size, lane, lane.entry.port.mac_bytes)
    rig.announce(lane)
    return standing


def _routes(size: int, traffic: Spread) -> Routes:
    """So many routes, a default route among them; next hop 1."""
    routes = dict.fromkeys(internet(random.Random(size), size - 1, 32), 1)  # noqa: S311  # the same each time
    for where, destination in zip([*routes], traffic.destinations(), strict=False):
        del routes[where]
        routes[prefix(destination, where[1], 32)] = 1
    return {(0, 0): 1, **routes}


def _router(lane: Lane, routes: Routes, stack: ExitStack) -> None:
    """A chain with its tables filled, attached at both sides."""
    with tempfile.TemporaryDirectory(prefix="bpfchain-bench-") as folder:
        file = Path(folder, "chain.yaml")
        file.write_text(yaml.safe_dump(_chain(len(routes)), sort_keys=False))
        compiled = build(file).chain
    generation = stack.enter_context(loaded(compiled, lane.dut))
    _fill(generation, routes, lane.station)
    for attached in compiled.manifest.attach:
        device = lane.entry.port if attached.interface == "in" else lane.exit.port
        stack.enter_context(attach(generation.programs[attached.program], device, Mode.NATIVE))


def _chain(size: int) -> dict[str, object]:
    ports = {"a": {"address": "10.0.0.1/8"}, "b": {"address": "192.168.0.1/24"}}
    follows = {"table": "main", "size": max(size, 16)}
    return {
        "chain": "bench",
        "interfaces": {"in": {"device": "in"}, "out": {"device": "out"}},
        "services": {"gw": {"kind": "router", "ports": ports, "kernel-routes": follows}},
        "links": [["in", "gw.a"], ["gw.b", "out"]],
    }


def _fill(generation: Generation, routes: Routes, station: bytes) -> None:
    """What the daemon would have written."""
    maps = generation.maps
    hop = NextHopRecord(Kind.VIA, _TO_OUT, gateway=GATEWAY.packed)
    kernel.map_update_elem(maps["gw__followed"], (1).to_bytes(4, "little"), hop.packed())
    key = NEIGHBOUR_KEY[4].pack(GATEWAY.packed, _TO_OUT)
    kernel.map_update_elem(maps["gw__neighbours4"], key, NEIGHBOUR.pack(station, 0))
    table = Fib4(words_of(maps["gw__roots4"], "Q"), words_of(maps["gw__ranges4"], "I"), grace_period)
    table.load([(address, length, value) for (address, length), value in routes.items()])


if __name__ == "__main__":
    main()
