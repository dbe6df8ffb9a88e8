"""The routes of a kernel table, followed as they change: what a control plane writes into its service's FIB.

`KernelRoutes` is the table as the kernel's messages describe it. `Follower` keeps one true to the kernel: it subscribes
first and dumps then, so that no change is missed; and where changes were lost, or routes can have gone without a word,
it dumps anew while the old routes stay, and tells only the difference.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from .rtnetlink import (
    NLM_F_APPEND,
    NLM_F_REPLACE,
    RECEIVE_BUFFER,
    RTN_BLACKHOLE,
    RTN_PROHIBIT,
    RTN_UNICAST,
    RTN_UNREACHABLE,
    Change,
    Group,
    Interrupted,
    LinkChange,
    NeighbourChange,
    Overrun,
    Route,
    RouteChange,
    Subscription,
    Upheaval,
    links,
    neighbours,
    routes,
)

MAIN_TABLE = 254
FAMILIES = (socket.AF_INET, socket.AF_INET6)
_GROUPS = (
    Group.RTNLGRP_LINK,
    Group.RTNLGRP_NEIGH,
    Group.RTNLGRP_IPV4_IFADDR,
    Group.RTNLGRP_IPV6_IFADDR,
    Group.RTNLGRP_IPV4_ROUTE,
    Group.RTNLGRP_IPV6_ROUTE,
    Group.RTNLGRP_NEXTHOP,
)
_FOLLOWED = {RTN_UNICAST, RTN_BLACKHOLE, RTN_UNREACHABLE, RTN_PROHIBIT}
_BATCH = 4096
"""Changes that are taken together: a block of the FIB that several of them are in is written once."""

Prefix = tuple[int, int, int]
"""Family, first address as a number, length."""


class KernelRoutes:
    """All routes of one table by prefix, each list in the order in which the kernel prefers them."""

    def __init__(self, table: int = MAIN_TABLE) -> None:
        self.table = table
        self._routes: dict[Prefix, list[Route]] = {}

    def best(self, prefix: Prefix) -> Route | None:
        """The route in force, or None: that with the lowest metric, of equal ones the first."""
        found = self._routes.get(prefix)
        return found[0] if found else None

    def prefixes(self) -> Iterable[Prefix]:
        return self._routes.keys()

    def is_ambiguous(self, change: RouteChange) -> bool:
        """Whether messages do not tell what becomes of an IPv6 prefix, before or after a change.

        There each way of a route is one of its own: routes with one metric can stand between each other's ways, one
        that is replaced by a route of another kind can lose some of its ways only, and one without a gateway can be
        there twice.
        """
        route = change.route
        if route.family != socket.AF_INET6:
            return False
        found = self._routes.get((route.family, route.address, route.length), ())
        same = [other for other in found if other.metric == route.metric]
        if len(same) > 1 or (change.gone and not _has_gateways(route)):
            return True
        replaces = bool(same) and bool(change.flags & NLM_F_REPLACE)
        return replaces and (len(same[0].hops) > 1 or _has_gateways(same[0]) != _has_gateways(route))

    def add(self, route: Route, flags: int = 0) -> Prefix | None:
        """Enters a route as the request with these flags did; the prefix, or None for what is not followed."""
        if not _is_followed(route) or route.table != self.table:
            return None
        prefix = route.family, route.address, route.length
        before = self._routes.setdefault(prefix, [])
        leaving = _replaced(before, route, flags) if before else ()
        at = before.index(leaving[0]) if leaving else _place(before, route, flags)
        self._routes[prefix] = [
            *(other for other in before[:at] if other not in leaving),
            route,
            *(other for other in before[at:] if other not in leaving),
        ]
        return prefix

    def remove(self, route: Route) -> Prefix | None:
        """Takes a route out, or some of its ways (IPv6 tells of each); the prefix, or None where nothing changes."""
        prefix = route.family, route.address, route.length
        before = self._routes.get(prefix)
        if not before or route.table != self.table:
            return None
        kept = list(_without(before, route))
        if kept:
            self._routes[prefix] = kept
        else:
            del self._routes[prefix]
        return prefix


def _is_followed(route: Route) -> bool:
    """Not: addresses of the host itself, multicast, and routes for some types of service or sources only."""
    return route.type in _FOLLOWED and not route.special


def _replaced(before: Sequence[Route], new: Route, flags: int) -> Sequence[Route]:
    """The routes whose place a new one takes.

    That is itself, where a change comes again that a dump has seen. An IPv6 message has all ways of a route, with those
    that it had before. A replacement is of the first with the same metric, for IPv6 rather of one that has gateways
    like the new one (fib6_add_rt2node(), net/ipv6/ip6_fib.c).
    """
    same = [other for other in before if other.metric == new.metric]
    found = [other for other in same if other == new]
    if new.family == socket.AF_INET6:
        found = [other for other in same if _has_gateways(other) and set(other.hops) <= set(new.hops)] or found
    if flags & NLM_F_REPLACE and same:
        alike = [other for other in same if _has_gateways(other) == _has_gateways(new)]
        found.append((alike or same if new.family == socket.AF_INET6 else same)[0])
    return sorted(found, key=before.index)


def _has_gateways(route: Route) -> bool:
    return any(hop.gateway for hop in route.hops)


def _place(before: Sequence[Route], new: Route, flags: int) -> int:
    """By metric; among equals, what is not appended comes first in IPv4. IPv6 always puts it last."""
    last = flags & NLM_F_APPEND or new.family == socket.AF_INET6
    for at, other in enumerate(before):
        if other.metric > new.metric or (other.metric == new.metric and not last):
            return at
    return len(before)


def _without(before: list[Route], gone: Route) -> Iterator[Route]:
    """The routes that stay: one goes, the one that is equal, or else the first with the same metric and type."""
    same = [other for other in before if (other.metric, other.type) == (gone.metric, gone.type)]
    leaving = next((other for other in same if other.hops == gone.hops), None)
    if leaving is None and gone.family == socket.AF_INET6 and gone.hops:
        leaving = next((other for other in same if set(gone.hops) < set(other.hops)), None)
        if leaving is not None:
            left = leaving._replace(hops=tuple(hop for hop in leaving.hops if hop not in gone.hops))
            yield from (left if other is leaving else other for other in before)
            return
    if leaving is None:
        leaving = next(iter(same), None)
    yield from (other for other in before if other is not leaving)


@dataclass(slots=True)
class Follower:
    """Follows one table of a namespace. `update` gets every prefix that has changed, with its route (None: none).

    Begin with a `resync`. Then call `read` whenever `fileno` can be read, and `resync` again when it says so.
    `on_neighbour` gets the kernel's neighbours: all with a `resync` (and as gone those that are no more), then changes.
    """

    netns: str | None
    update: Callable[[Mapping[Prefix, Route | None]], object]
    table: int = MAIN_TABLE
    on_neighbour: Callable[[NeighbourChange], object] | None = None
    buffer: int = RECEIVE_BUFFER
    resyncs: int = 0
    whole: bool = False
    routes: KernelRoutes = field(init=False)
    _subscription: Subscription = field(init=False)
    _running: dict[int, bool] = field(default_factory=dict)
    _neighbours: dict[tuple[int, bytes], NeighbourChange] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.routes = KernelRoutes(self.table)
        self._subscription = Subscription(self.netns, _GROUPS, self.buffer)

    def fileno(self) -> int:
        return self._subscription.fileno()

    def close(self) -> None:
        self._subscription.close()

    def read(self) -> bool:
        """Takes what has come. False if that is not enough to know how things are: then `resync` is due."""
        try:
            changes = self._subscription.receive(_BATCH)
        except Overrun:
            return False
        changed: set[Prefix] = set()
        whole = self._apply(changes, self.routes, changed)
        if changed:
            self.update({prefix: self.routes.best(prefix) for prefix in changed})
        return whole

    def resync(self) -> Iterator[None]:
        """Dumps the table, takes what changed meanwhile, and updates what differs from before, all at once.

        A step of the iterator is a few hundred routes; do not `read` before its end. Then `whole` says whether this is
        how things are; if not, because routes may have gone without a word meanwhile, another is due. Raises
        `Interrupted` where the kernel's table does not hold still for long.
        """
        self.resyncs += 1
        deadline = time.monotonic() + _DUMP_SECONDS
        while True:
            self._subscription.discard()  # the dump has it; and older changes would undo those that were lost
            fresh = KernelRoutes(self.table)
            try:
                yield from self._dump(fresh)
                break
            except Interrupted:
                if time.monotonic() > deadline:
                    raise
        self.whole = self._catch_up(fresh)
        before, self.routes = self.routes, fresh
        differing = {
            prefix: fresh.best(prefix)
            for prefix in {*before.prefixes(), *fresh.prefixes()}
            if before.best(prefix) != fresh.best(prefix)
        }
        if differing:
            self.update(differing)

    def _dump(self, fresh: KernelRoutes) -> Iterator[None]:
        self._running = {link.ifindex: link.running for link in links(self.netns)}
        if self.on_neighbour is not None:
            self._tell_neighbours(self.on_neighbour)
        for family in FAMILIES:
            for found in routes(self.netns, family, self.table):
                for route in found:
                    fresh.add(route, NLM_F_APPEND)  # the kernel dumps in the order of its preference
                yield

    def _tell_neighbours(self, tell: Callable[[NeighbourChange], object]) -> None:
        found = {(each.ifindex, each.address): each for each in neighbours(self.netns)}
        before, self._neighbours = self._neighbours, found
        for key, each in before.items():
            if key not in found:
                tell(each._replace(gone=True))
        for each in found.values():
            tell(each)

    def _neighbour(self, change: NeighbourChange, tell: Callable[[NeighbourChange], object]) -> None:
        key = change.ifindex, change.address
        if change.gone:
            self._neighbours.pop(key, None)
        else:
            self._neighbours[key] = change
        tell(change)

    def _catch_up(self, fresh: KernelRoutes) -> bool:
        """Whether the changes that are waiting are all, and can be told from routes alone."""
        whole = True
        try:
            while changes := self._subscription.receive(_BATCH):
                whole &= self._apply(changes, fresh, set())
        except Overrun:
            return False
        return whole

    def _apply(self, changes: Iterable[Change], table: KernelRoutes, changed: set[Prefix]) -> bool:
        """Enters changes into `table`; False if some of them may have taken more routes away than were told of."""
        whole = True
        for change in changes:
            if isinstance(change, RouteChange):
                before = table.is_ambiguous(change)
                prefix = table.remove(change.route) if change.gone else table.add(change.route, change.flags)
                if prefix is not None:
                    changed.add(prefix)
                    whole &= not before and not table.is_ambiguous(change._replace(flags=0))
            elif isinstance(change, LinkChange):
                whole &= not self._lets_routes_vanish(change)
            elif isinstance(change, Upheaval):
                whole = False
            elif self.on_neighbour is not None:
                self._neighbour(change, self.on_neighbour)
        return whole

    def _lets_routes_vanish(self, change: LinkChange) -> bool:
        """IPv4 routes by a device that goes down are removed without a message (fib_sync_down_dev, net/ipv4).

        Those of a device that comes up are alive again likewise (fib_sync_up). A device that is new has none.
        """
        if change.gone:
            return self._running.pop(change.ifindex, None) is not None
        before = self._running.get(change.ifindex, change.running)
        self._running[change.ifindex] = change.running
        return before != change.running


_DUMP_SECONDS = 10.0
"""How long dumps may be repeated because the table changes under them."""
