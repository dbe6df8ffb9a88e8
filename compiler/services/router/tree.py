"""Prefixes and what each leads to → a binary decision over disjoint ranges of addresses: the longest prefix as code."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from ...decision import Below, End, decision
from .model import Route


class Answer(Struct, frozen=True):
    """All addresses that are left have this next hop; `route` is one that says so (None: no route, next hop 0)."""

    depth: int
    nexthop: int
    route: Route | None


Step = Below | End | Answer


class Range(Struct, frozen=True):
    """Addresses from `start` up to the next range."""

    start: int
    nexthop: int
    route: Route | None


def tree(routes: Sequence[tuple[Route, int]]) -> Iterator[Step]:
    """The decision for routes of one IP version, each with the index of its next hop, none to the same prefix."""
    return decision(
        ranges(routes), lambda found: found.start, lambda depth, found: Answer(depth, found.nexthop, found.route)
    )


def ranges(routes: Sequence[tuple[Route, int]]) -> list[Range]:
    """Ranges in the order of addresses from 0 on; neighbours differ in their next hop."""
    longest = sorted(routes, key=lambda item: -item[0].prefix.prefixlen)
    found: list[Range] = []
    for start in sorted({0, *_edges(routes)}):
        route, nexthop = next((item for item in longest if _first(item[0]) <= start <= _last(item[0])), (None, 0))
        if not found or found[-1].nexthop != nexthop:
            found.append(Range(start, nexthop, route))
    return found


def _edges(routes: Sequence[tuple[Route, int]]) -> Iterator[int]:
    """Where a prefix begins, and where it has ended."""
    for route, _ in routes:
        yield _first(route)
        if _last(route) + 1 < 1 << route.prefix.max_prefixlen:
            yield _last(route) + 1


def _first(route: Route) -> int:
    return int(route.prefix.network_address)


def _last(route: Route) -> int:
    return int(route.prefix.broadcast_address)
