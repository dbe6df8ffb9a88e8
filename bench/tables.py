"""Routers with 10 to a million routes, as the kernel's are once the daemon has taken them over, and the kernel itself.

Each of the bench's 64k destinations has a route of its own, as long as there are enough; the other routes are random
ones with the lengths of a full table. All of them lead to one next router, whose MAC is known.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Mapping
from ipaddress import IPv4Address

from schemas.fib.layout import RANGES4_PER_ROUTE, ROOTS_SIZE, capacity
from schemas.fib.table4 import Fib4
from schemas.manifest import Mode
from schemas.services.router import NEIGHBOUR, NEIGHBOUR_KEY, Kind, NextHopRecord
from tests.rig.routes import Routes, internet, prefix

from .contenders import Chain
from .rig import Lane
from .traffic import Traffic

SIZES = (10, 1000, 100_000, 1_000_000)
GATEWAY = IPv4Address("192.168.0.2")
ONE_DESTINATION = Traffic("1 destination", spread=True)
MANY_DESTINATIONS = Traffic("64k destinations", flows=65536, spread=True)
_TO_OUT = 1  # the second port of the chain file
_ZERO = bytes(4)


def service(routes: int) -> str:
    """What rows call a router with so many routes."""
    return f"router, {routes:,} routes"


def router(size: int) -> Chain:
    """A chain with so many kernel routes in its maps."""
    ports = {"a": {"address": "10.0.0.1/8"}, "b": {"address": "192.168.0.1/24"}}
    follows = {"table": "main", "size": max(size, 16)}
    services = {"gw": {"kind": "router", "ports": ports, "kernel-routes": follows}}
    links = [("in", "gw.a"), ("gw.b", "out")]
    state = functools.partial(_state, size)
    return Chain(service(size), services, links, Mode.NATIVE, to_device=True, state=state)


@functools.cache
def routes(size: int) -> Routes:
    """So many routes, a default route among them; next hop 1."""
    found = dict.fromkeys(internet(random.Random(size), size - 1, 32), 1)  # noqa: S311  # the same each time
    for where, destination in zip([*found], MANY_DESTINATIONS.destinations(), strict=False):
        del found[where]
        found[prefix(destination, where[1], 32)] = 1
    return {(0, 0): 1, **found}


def _state(size: int, lane: Lane) -> Mapping[str, Mapping[bytes, bytes]]:
    """What the daemon would have written."""
    roots, ranges = _words(size)
    hop = NextHopRecord(Kind.VIA, _TO_OUT, gateway=GATEWAY.packed)
    return {
        "gw__followed": {(1).to_bytes(4, "little"): hop.packed()},
        "gw__neighbours4": {NEIGHBOUR_KEY[4].pack(GATEWAY.packed, _TO_OUT): NEIGHBOUR.pack(lane.station, 0)},
        "gw__roots4": {_ZERO: roots},
        "gw__ranges4": {_ZERO: ranges},
    }


@functools.cache
def _words(size: int) -> tuple[bytes, bytes]:
    """The two arrays of the table."""
    roots, ranges = bytearray(ROOTS_SIZE), bytearray(4 * capacity(max(size, 16), RANGES4_PER_ROUTE))
    table = Fib4(memoryview(roots).cast("Q"), memoryview(ranges).cast("I"), lambda: None)
    table.load([(address, length, value) for (address, length), value in routes(size).items()])
    return bytes(roots), bytes(ranges)
