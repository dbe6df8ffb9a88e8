"""A router's routes in, the array of next hops and the index that each route has in it out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache

from msgspec import Struct

from schemas.diagnostic import Span
from schemas.services.router import Kind, NextHopRecord

from .model import NextHop, Route, RouterModel


class Slot(Struct, frozen=True):
    """An element of the array; `span` is of the first route that asked for it."""

    index: int
    text: str
    value: bytes
    span: Span


class NextHops(Struct, frozen=True):
    """Every next hop of a router once, from index 1 on; groups behind them, each before its members."""

    slots: tuple[Slot, ...]
    of_route: Mapping[Route, int]


@lru_cache(maxsize=4)
def number(model: RouterModel) -> NextHops:
    """Numbers the next hops in the order in which routes first use them."""
    slots: list[Slot] = []
    singles: dict[NextHop, int] = {}
    groups: dict[tuple[NextHop, ...], int] = {}
    for route in model.routes:
        if len(route.nexthops) == 1 and route.nexthops[0] not in singles:
            singles[route.nexthops[0]] = _append(slots, route.nexthops[0], route)
    for route in model.routes:
        if len(route.nexthops) > 1 and route.nexthops not in groups:
            groups[route.nexthops] = len(slots) + 1
            slots += _group(route, len(slots) + 1)
    indices = {route: groups.get(route.nexthops) or singles[route.nexthops[0]] for route in model.routes}
    return NextHops(tuple(slots), indices)


def _append(slots: list[Slot], nexthop: NextHop, route: Route) -> int:
    index = len(slots) + 1
    slots.append(Slot(index, nexthop.text, _single(nexthop), route.span))
    return index


def _group(route: Route, index: int) -> Iterator[Slot]:
    """A group at `index` and its members behind it, in one piece."""
    members = route.nexthops
    text = f"one of {len(members)}: {', '.join(member.text for member in members)}"
    group = NextHopRecord(Kind.GROUP, first=index + 1, members=len(members))
    yield Slot(index, text, group.packed(), route.span)
    for at, member in enumerate(members, start=index + 1):
        yield Slot(at, member.text, _single(member), route.span)


def _single(nexthop: NextHop) -> bytes:
    port = nexthop.port.index if nexthop.port else 0
    gateway = nexthop.gateway.packed if nexthop.gateway else b""
    return NextHopRecord(nexthop.kind, port, gateway=gateway).packed()
