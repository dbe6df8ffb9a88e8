"""The routes of a kernel table, followed as they change: what a control plane writes into its service's FIB.

`KernelRoutes` is the table as the kernel's messages describe it. `Follower` keeps one true to the kernel: it subscribes
first and dumps then, so that no change is missed; and where changes were lost, or routes can have gone without a word,
it dumps anew while the old routes stay, and tells only the difference.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import chain, islice

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
    Lost,
    NeighbourChange,
    Overrun,
    Path,
    Prefix,
    RouteChange,
    Subscription,
    Upheaval,
    links,
    neighbours,
    routes,
)

MAIN_TABLE = 254
FAMILIES = (socket.AF_INET, socket.AF_INET6)
_FOLLOWED = {RTN_UNICAST, RTN_BLACKHOLE, RTN_UNREACHABLE, RTN_PROHIBIT}
_BITE = 2048
"""Changes that are taken from the kernel in one step."""

_GATHER_SECONDS = 0.02
"""How long changes are gathered while more keep coming, or as long as it took to tell of the last ones, if that is
longer: a block of the FIB that several changes are in is written once."""

_TOGETHER = 16384
"""Changes that are told of together, about, at most."""


class Outcome(Enum):
    """What a change has done to a table."""

    CHANGED = auto()
    UNKNOWN = auto()  # a route has gone that was not there
    UNCERTAIN = auto()  # messages do not tell


class KernelRoutes:
    """All routes of one table by prefix: what is said of each, in the order in which the kernel prefers them."""

    def __init__(self, table: int = MAIN_TABLE) -> None:
        self.table = table
        self._alone: dict[Prefix, Path] = {}  # nearly all prefixes have one route
        self._several: dict[Prefix, list[Path]] = {}

    def best(self, prefix: Prefix) -> Path | None:
        """The route in force, or None: that with the lowest metric, of equal ones the first."""
        several = self._several.get(prefix)
        return several[0] if several else self._alone.get(prefix)

    def prefixes(self) -> Iterator[Prefix]:
        return chain(self._alone, self._several)

    def items(self) -> Iterator[tuple[Prefix, Path]]:
        """Every prefix with the route in force."""
        yield from self._alone.items()
        for prefix, paths in self._several.items():
            yield prefix, paths[0]

    def __len__(self) -> int:
        return len(self._alone) + len(self._several)

    def follows(self, path: Path) -> bool:
        """Whether a data plane can follow this route of the table: what is not one never comes in, nor goes out."""
        return not path.special and path.table == self.table and path.type in _FOLLOWED

    def enter(self, prefix: Prefix, path: Path, flags: int = 0) -> None:
        """Enters a route that is followed, as the request with these flags did."""
        if prefix not in self._alone and prefix not in self._several:
            self._alone[prefix] = path
        else:
            self._set(prefix, _entered(self._of(prefix), path, flags))

    def remove(self, prefix: Prefix, path: Path) -> bool:
        """Takes a route out, or some of its ways (IPv6 tells of each); False if there is none like it."""
        after = _without(self._of(prefix), path)
        if after is None:
            return False
        self._set(prefix, after)
        return True

    def change(self, change: RouteChange) -> Outcome:
        """Enters or removes what is followed. Where the outcome is uncertain, the prefix stays as it is."""
        prefix, path, gone, flags = change
        if self._is_ambiguous(prefix, path, flags, gone=gone):
            return Outcome.UNCERTAIN
        before = self._of(prefix)
        if not gone:
            self.enter(prefix, path, flags)
        elif not self.remove(prefix, path):
            return Outcome.UNKNOWN
        if self._is_ambiguous(prefix, path, 0, gone=gone):
            self._set(prefix, before)
            return Outcome.UNCERTAIN
        return Outcome.CHANGED

    def _is_ambiguous(self, prefix: Prefix, path: Path, flags: int, *, gone: bool) -> bool:
        """Whether messages do not tell what becomes of an IPv6 prefix.

        There each way of a route is one of its own: routes with one metric can stand between each other's ways, one
        that is replaced by a route of another kind can lose some of its ways only, and one without a gateway can be
        there twice.
        """
        if prefix[0] != socket.AF_INET6:
            return False
        if prefix not in self._several and not gone and not (flags & NLM_F_REPLACE and prefix in self._alone):
            return False  # nothing to stand between or to replace: most changes are one route that is new
        same = [other for other in self._of(prefix) if other.metric == path.metric]
        if len(same) > 1 or (gone and not _has_gateways(path)):
            return True
        replaces = bool(same) and bool(flags & NLM_F_REPLACE)
        return replaces and (len(same[0].hops) > 1 or _has_gateways(same[0]) != _has_gateways(path))

    def _of(self, prefix: Prefix) -> list[Path]:
        alone = self._alone.get(prefix)
        return [alone] if alone is not None else self._several.get(prefix, [])

    def _set(self, prefix: Prefix, paths: list[Path]) -> None:
        self._alone.pop(prefix, None)
        self._several.pop(prefix, None)
        if len(paths) == 1:
            self._alone[prefix] = paths[0]
        elif paths:
            self._several[prefix] = paths


def _entered(before: list[Path], new: Path, flags: int) -> list[Path]:
    """The routes of a prefix with a new one."""
    leaving = _replaced(before, new, flags)
    at = before.index(leaving[0]) if leaving else _place(before, new, flags)
    return [
        *(other for other in before[:at] if other not in leaving),
        new,
        *(other for other in before[at:] if other not in leaving),
    ]


def _replaced(before: Sequence[Path], new: Path, flags: int) -> Sequence[Path]:
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


def _has_gateways(path: Path) -> bool:
    return any(hop.gateway for hop in path.hops)


def _place(before: Sequence[Path], new: Path, flags: int) -> int:
    """By metric; among equals, what is not appended comes first in IPv4. IPv6 always puts it last."""
    last = flags & NLM_F_APPEND or new.family == socket.AF_INET6
    for at, other in enumerate(before):
        if other.metric > new.metric or (other.metric == new.metric and not last):
            return at
    return len(before)


def _without(before: list[Path], gone: Path) -> list[Path] | None:
    """The routes that stay when one goes, or some ways of one; None if none of them is like it."""
    same = [other for other in before if (other.metric, other.type) == (gone.metric, gone.type)]
    leaving = next((other for other in same if other.hops == gone.hops), None)
    left: list[Path] = []
    if leaving is None and gone.family == socket.AF_INET6 and gone.hops:
        leaving = next((other for other in same if set(gone.hops) < set(other.hops)), None)
        if leaving is not None:
            left = [leaving._replace(hops=tuple(hop for hop in leaving.hops if hop not in gone.hops))]
    if leaving is None:
        return None
    at = before.index(leaving)
    return [*before[:at], *left, *before[at + 1 :]]


@dataclass(slots=True)
class Follower:
    """Follows one table of a namespace. `update` gets every prefix that has changed, with its route (None: none).

    Begin with a `resync`. Then call `read` whenever `fileno` can be read, and `resync` again when it says so; that goes
    on in steps of some thousand routes.
    `on_neighbour` gets the kernel's neighbours: all with a `resync` (and as gone those that are no more), then changes.
    """

    netns: str | None
    update: Callable[[Mapping[Prefix, Path | None]], object]
    table: int = MAIN_TABLE
    on_neighbour: Callable[[NeighbourChange], object] | None = None
    buffer: int = RECEIVE_BUFFER
    resyncs: int = 0
    whole: bool = False
    routes: KernelRoutes = field(init=False)
    _subscription: Subscription = field(init=False)
    _changed: set[Prefix] = field(default_factory=set)  # not told of yet
    _waiting_since: float = 0.0  # since when there are such
    _telling_took: float = 0.0  # seconds, the last time
    _running: dict[int, bool] = field(default_factory=dict)
    _neighbours: dict[tuple[int, bytes], NeighbourChange] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.routes = KernelRoutes(self.table)
        self._subscription = Subscription(self.netns, tuple(Group), self.buffer)

    def fileno(self) -> int:
        return self._subscription.fileno()

    def close(self) -> None:
        self._subscription.close()

    def read(self) -> bool:
        """Takes some of what has come; changes are told of as soon as nothing more waits, or it has been long enough.

        False if that is not enough to know how things are: then `resync` is due.
        """
        if not self._changed:
            self._waiting_since = time.monotonic()
        try:
            whole = self._apply(self._subscription.receive(_BITE), self.routes, self._changed)
        except Overrun:
            whole = False
        if not whole or self._is_enough() or not self._subscription.has_more():
            self._tell_changes()
        return whole

    def _is_enough(self) -> bool:
        gathering = time.monotonic() - self._waiting_since
        return gathering > max(_GATHER_SECONDS, self._telling_took) or len(self._changed) >= _TOGETHER

    def _tell_changes(self) -> None:
        changed, self._changed = self._changed, set()
        if changed:
            began = time.monotonic()
            self.update({prefix: self.routes.best(prefix) for prefix in changed})
            self._telling_took = time.monotonic() - began

    def resync(self) -> Iterator[None]:
        """Dumps the table, takes what changed meanwhile, and tells what differs from before.

        Do not `read` before the end of the iterator. Then `whole` says whether this is how things are; if not, because
        routes may have gone without a word meanwhile, another is due. Raises `Interrupted` where the kernel's table
        does not hold still for long.
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
        self.whole = yield from self._catch_up(fresh)
        before, self.routes = self.routes, fresh
        for chunk in _chunks(fresh.prefixes()):
            self._tell_differences(before, chunk)
            yield
        for chunk in _chunks(before.prefixes()):
            self._tell_differences(before, [prefix for prefix in chunk if fresh.best(prefix) is None])
            yield

    def _tell_differences(self, before: KernelRoutes, prefixes: Iterable[Prefix]) -> None:
        best = self.routes.best
        differing = {prefix: found for prefix in prefixes if (found := best(prefix)) != before.best(prefix)}
        if differing:
            self.update(differing)

    def _dump(self, fresh: KernelRoutes) -> Iterator[None]:
        self._running = {link.ifindex: link.running for link in links(self.netns)}
        if self.on_neighbour is not None:
            self._tell_neighbours(self.on_neighbour)
        for family in FAMILIES:
            for found in routes(self.netns, family, self.table):
                for change in found:
                    if fresh.follows(change.path):  # the kernel dumps in the order of its preference
                        fresh.enter(change.prefix, change.path, NLM_F_APPEND)
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

    def _catch_up(self, fresh: KernelRoutes) -> Generator[None, None, bool]:
        """Takes the changes that are waiting; returns whether they are all, and can be told from routes alone.

        The first of them are older than what was dumped, and none of that may be told of. So what goes that is not
        there had gone before it was dumped.
        """
        whole = True
        while True:
            try:
                changes = self._subscription.receive(_BITE)
            except Overrun:
                return False
            whole &= self._apply(changes, fresh, set(), replayed=True)
            if len(changes) < _BITE:
                return whole
            yield

    def _apply(
        self, changes: Iterable[Change], table: KernelRoutes, changed: set[Prefix], *, replayed: bool = False
    ) -> bool:
        """Enters changes into `table`; False if some of them may have done more to it, or other things, than they tell.

        `replayed` are those that the table may have been dumped after.
        """
        whole, uncertain = True, set[Prefix]()  # what comes after that is as uncertain
        for change in changes:
            if isinstance(change, RouteChange):
                if change.prefix in uncertain or not table.follows(change.path):
                    continue
                outcome = table.change(change)
                if outcome is Outcome.CHANGED:
                    changed.add(change.prefix)
                elif outcome is Outcome.UNCERTAIN:
                    uncertain.add(change.prefix)
                    whole = False
                else:
                    whole &= replayed
            elif isinstance(change, LinkChange):
                whole &= not self._lets_routes_vanish(change)
            elif isinstance(change, (Upheaval, Lost)):
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


def _chunks(prefixes: Iterator[Prefix]) -> Iterator[list[Prefix]]:
    while chunk := list(islice(prefixes, _TOGETHER)):
        yield chunk
