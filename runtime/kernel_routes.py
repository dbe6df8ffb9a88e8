"""The routes of a kernel table, followed as they change: what a control plane writes into its service's FIB.

`KernelRoutes` is the table as the kernel's messages describe it. `Follower` keeps one true to the kernel: it subscribes
first and dumps then, so that no change is missed; and where changes were lost, or routes can have gone without a word,
it dumps anew while the old routes stay, and tells only the difference.
"""

from __future__ import annotations

import socket
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import islice

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
STEP = 4096
"""Changes that are taken from the kernel and told of together, about, at most."""


Paths = tuple[Path, ...]


class Outcome(Enum):
    """What a change has done to a table."""

    CHANGED = auto()
    UNKNOWN = auto()  # a route has gone that was not there
    UNCERTAIN = auto()  # messages do not tell


class KernelRoutes:
    """All routes of one table by prefix: what is said of each, in the order in which the kernel prefers them."""

    def __init__(self, table: int = MAIN_TABLE) -> None:
        self.table = table
        self._routes: dict[Prefix, Path | list[Path]] = {}  # nearly all prefixes have one

    def best(self, prefix: Prefix) -> Path | None:
        """The route in force, or None: that with the lowest metric, of equal ones the first."""
        found = self._routes.get(prefix)
        return found[0] if isinstance(found, list) else found

    def prefixes(self) -> Iterator[Prefix]:
        return iter(self._routes)

    def items(self) -> Iterator[tuple[Prefix, Path]]:
        """Every prefix with the route in force."""
        for prefix, found in self._routes.items():
            yield prefix, found[0] if isinstance(found, list) else found

    def paths(self, prefix: Prefix) -> Paths:
        """All routes of a prefix."""
        return tuple(self._of(prefix))

    def put(self, prefix: Prefix, paths: Paths) -> None:
        """Makes these all routes of a prefix."""
        self._set(prefix, list(paths))

    def __len__(self) -> int:
        return len(self._routes)

    def follows(self, path: Path) -> bool:
        """Whether a data plane can follow this route of the table: what is not one never comes in, nor goes out."""
        return not path.special and path.table == self.table and path.type in _FOLLOWED

    def enter(self, prefix: Prefix, path: Path, flags: int = 0) -> None:
        """Enters a route that is followed, as the request with these flags did."""
        if prefix not in self._routes:
            self._routes[prefix] = path
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
        prefix, path, gone, flags = change.prefix, change.path, change.gone, change.flags
        there = self._routes.get(prefix)
        if there is None and not gone:  # most changes are of a prefix that is new
            self._routes[prefix] = path
            return Outcome.CHANGED
        if there == path and gone and not _may_be_there_twice(path):  # or are the end of one
            del self._routes[prefix]
            return Outcome.CHANGED
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
        same = [other for other in self._of(prefix) if other.metric == path.metric]
        if len(same) > 1 or (gone and _may_be_there_twice(path)):
            return True
        replaces = bool(same) and bool(flags & NLM_F_REPLACE)
        return replaces and (len(same[0].hops) > 1 or _has_gateways(same[0]) != _has_gateways(path))

    def _of(self, prefix: Prefix) -> list[Path]:
        found = self._routes.get(prefix)
        if isinstance(found, list):
            return found
        return [] if found is None else [found]

    def _set(self, prefix: Prefix, paths: list[Path]) -> None:
        if paths:
            self._routes[prefix] = paths if len(paths) > 1 else paths[0]
        else:
            self._routes.pop(prefix, None)


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


def _may_be_there_twice(path: Path) -> bool:
    return path.family == socket.AF_INET6 and not _has_gateways(path)


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


class Dump:
    """Routes that are dumped while they change, and what they are after all of these changes.

    The kernel does not say at which of the changes it has dumped a prefix, and a change that is made twice is another
    than one that is made once: what has been appended would be appended behind what came after it. So each place that
    there can have been is thought through, and what goes on one way only, or comes to the same on all, is certain.

    A dump comes in pieces, and routes that nobody has touched can be missing in between. For IPv4 the kernel goes on
    at the same first address, at the number of the route there that comes next (fn_trie_dump_leaf(),
    net/ipv4/fib_trie.c). For IPv6 it goes on where it was, but after a route has been added, it goes back to the
    beginning and passes as many prefixes over as it had dumped, also those that have gone (fib6_dump_table(),
    net/ipv6/ip6_fib.c). `complete` says that nothing of that can have been.
    """

    def __init__(self, table: int) -> None:
        self.routes = KernelRoutes(table)
        self.complete = True
        self._families: set[int] = set()
        self._ends: set[int] = set()  # first addresses, of IPv4, at which a piece ended
        self._gone6 = False
        self._changes: defaultdict[Prefix, list[RouteChange]] = defaultdict(list)

    def begin(self, family: int) -> None:
        """Its routes are dumped from now on; all changes up to now have been replayed."""
        self._families.add(family)

    def add(self, piece: Sequence[RouteChange]) -> None:
        """Takes routes that were dumped together, of one prefix in the order of the kernel's preference."""
        for change in piece:
            if self.routes.follows(change.path):
                self.routes.enter(change.prefix, change.path, NLM_F_APPEND)
        if piece and piece[-1].prefix[0] == socket.AF_INET:
            self._ends.add(piece[-1].prefix[1])

    def replay(self, change: RouteChange) -> None:
        """Takes a change, when all routes of its family have been added; otherwise the dump that is to come has it."""
        if change.prefix[0] in self._families:
            self._look_for_gaps(change)
            if self.routes.follows(change.path):
                self._changes[change.prefix].append(change)

    def settle(self) -> Generator[None, None, bool]:
        """Brings `routes` to what they are now, in steps; returns whether all of them are certain.

        What is uncertain stays as it was dumped.
        """
        certain = True
        for number, (prefix, changes) in enumerate(self._changes.items(), start=1):
            dumped = self.routes.paths(prefix)
            possible = _possible(dumped, changes)
            if len(possible) != 1:
                certain = False
            elif possible[0] != dumped:
                self.routes.put(prefix, possible[0])
            if not number % STEP:
                yield
        return certain

    def keep(self, before: KernelRoutes) -> None:
        """Takes over what was there before, and may be missing for no reason."""
        for prefix in before.prefixes():
            if prefix not in self._changes and self.routes.best(prefix) is None:
                self.routes.put(prefix, before.paths(prefix))

    def _look_for_gaps(self, change: RouteChange) -> None:
        if change.prefix[0] == socket.AF_INET:
            self.complete &= change.prefix[1] not in self._ends
        elif change.path.table == self.routes.table:
            self._gone6 |= change.gone
            self.complete &= change.gone or not self._gone6


def _possible(dumped: Paths, changes: Sequence[RouteChange]) -> Sequence[Paths]:
    """What the routes of a prefix can be after all changes, at one of which they were dumped; nothing if it is unknown.

    Nearly all that happens is that one route is new.
    """
    if len(changes) == 1 and not changes[0].gone and dumped in ((), (changes[0].path,)):
        return ((changes[0].path,),)
    possible, told = {dumped: None}, _Told()
    for change in changes:
        after: dict[Paths, None] = {}
        for paths in possible:
            if not _is_impossible(paths, change):
                outcome, changed = _changed(paths, change)
                if outcome is Outcome.UNCERTAIN:
                    return ()
                if outcome is Outcome.CHANGED:
                    after[changed] = None
        told.take(change)
        if _may_be_the_last(dumped, change) and told.allows(dumped):
            after[dumped] = None
        possible = after
    return tuple(possible)


def _changed(paths: Paths, change: RouteChange) -> tuple[Outcome, Paths]:
    """What a change makes of the routes of its prefix."""
    alone = KernelRoutes(change.path.table)
    alone.put(change.prefix, paths)
    return alone.change(change), alone.paths(change.prefix)


class _Told:
    """What changes tell of the routes of a prefix, whatever they were before; only of IPv4."""

    __slots__ = ("absent", "first", "present")

    def __init__(self) -> None:
        self.first: dict[int, Path] = {}  # by metric, as far as it is known
        self.present: set[Path] = set()
        self.absent: set[Path] = set()

    def take(self, change: RouteChange) -> None:
        path = change.path
        if path.family != socket.AF_INET:
            return
        first = self.first.get(path.metric)
        if change.gone:
            self._leave(path)
        elif change.flags & NLM_F_REPLACE and first is not None:
            self._leave(first)
        elif change.flags & NLM_F_REPLACE:
            self.present = {other for other in self.present if other.metric != path.metric}
        if not change.gone:
            self.present.add(path)
            self.absent.discard(path)
            if not change.flags & NLM_F_APPEND:
                self.first[path.metric] = path

    def _leave(self, path: Path) -> None:
        self.present.discard(path)
        self.absent.add(path)
        if self.first.get(path.metric) == path:
            del self.first[path.metric]

    def allows(self, paths: Paths) -> bool:
        """Whether these can be the routes now."""
        if not self.present.issubset(paths) or not self.absent.isdisjoint(paths):
            return False
        firsts: dict[int, Path] = {}
        for path in paths:
            firsts.setdefault(path.metric, path)
        return all(firsts.get(metric) == first for metric, first in self.first.items())


def _is_impossible(before: Paths, change: RouteChange) -> bool:
    """Whether the kernel would not have made a new route of this one, because it has it.

    In IPv6 one that is to be replaced by itself is; and to what has gateways come others, and all of them are told of.
    """
    path = change.path
    if change.gone:
        return False
    if path.family == socket.AF_INET:
        return path in before
    if change.flags & NLM_F_REPLACE:
        return False
    same = [other for other in before if other.metric == path.metric and _has_gateways(other)]
    return path in before or (_has_gateways(path) and any(not set(other.hops) <= set(path.hops) for other in same))


def _may_be_the_last(after: Paths, change: RouteChange) -> bool:
    """Whether a prefix can have these routes right after a change."""
    path = change.path
    same = [other for other in after if other.metric == path.metric]
    if change.gone:
        return not any(other.type == path.type and set(path.hops) <= set(other.hops) for other in same)
    if path.family != socket.AF_INET:
        return path in same
    return bool(same) and same[-1 if change.flags & NLM_F_APPEND else 0] == path


@dataclass(slots=True)
class Follower:
    """Follows one table of a namespace. `update` gets every prefix that has changed, with its route (None: none).

    Begin with a `resync`. Then call `read` when `fileno` can be read, and `resync` again when it says so; that goes on
    in steps of some thousand routes.
    `on_neighbour` gets the kernel's neighbours: all with a `resync` (and as gone those that are no more), then changes.
    """

    netns: str | None
    update: Callable[[Mapping[Prefix, Path | None]], object]
    table: int = MAIN_TABLE
    on_neighbour: Callable[[NeighbourChange], object] | None = None
    buffer: int = RECEIVE_BUFFER
    resyncs: int = 0
    whole: bool = False
    has_gaps: bool = False
    routes: KernelRoutes = field(init=False)
    _subscription: Subscription = field(init=False)
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
        """Takes what has come, some thousand changes at most, and tells of them.

        False if that is not enough to know how things are: then `resync` is due.
        """
        changed = set[Prefix]()
        try:
            whole = self._apply(self._subscription.receive(STEP), self.routes, changed)
        except Overrun:
            whole = False
        if changed:
            self.update({prefix: self.routes.best(prefix) for prefix in changed})
        return whole

    def resync(self) -> Iterator[None]:
        """Dumps the table, takes what changed meanwhile, and tells what differs from before.

        Do not `read` before the end of the iterator. Then `whole` says whether this is how things are; if not, because
        routes may have gone without a word meanwhile, or because of the order in which they have changed, another is
        due. If it `has_gaps`, that is only because routes that have not changed may be missing: those that were known
        before are kept, and it may be read until then. Raises `Interrupted` where the kernel's table does not hold
        still for long.
        """
        self.resyncs += 1
        deadline = time.monotonic() + _DUMP_SECONDS
        while True:
            self._subscription.discard()  # the dump has it; and older changes would undo those that were lost
            dump = Dump(self.table)
            try:
                whole = yield from self._dump(dump)
                break
            except Interrupted:
                if time.monotonic() > deadline:
                    raise
        sure = (yield from dump.settle()) and whole
        self.whole, self.has_gaps = sure and dump.complete, sure and not dump.complete
        before, fresh = self.routes, dump.routes
        if not dump.complete:
            dump.keep(before)
        self.routes = fresh
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

    def _dump(self, dump: Dump) -> Generator[None, None, bool]:
        """Dumps all routes and replays the changes meanwhile; returns whether these tell all."""
        whole = True
        self._running = {link.ifindex: link.running for link in links(self.netns)}
        if self.on_neighbour is not None:
            self._tell_neighbours(self.on_neighbour)
        for family in FAMILIES:
            dump.begin(family)
            for found in routes(self.netns, family, self.table):
                dump.add(found)
                yield
            whole &= yield from self._catch_up(dump)
        return whole

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

    def _catch_up(self, dump: Dump) -> Generator[None, None, bool]:
        """Replays the changes that are waiting; returns whether they are all, and tell of routes by themselves."""
        whole = True
        while True:
            try:
                changes = self._subscription.receive(STEP)
            except Overrun:
                return False
            whole &= self._replay(changes, dump)
            if len(changes) < STEP:
                return whole
            yield

    def _replay(self, changes: Iterable[Change], dump: Dump) -> bool:
        """As `_apply`, with routes that are dumped meanwhile."""
        whole = True
        for change in changes:
            if isinstance(change, RouteChange):
                dump.replay(change)
            else:
                whole &= self._take_other(change)
        return whole

    def _apply(self, changes: Iterable[Change], table: KernelRoutes, changed: set[Prefix]) -> bool:
        """Enters changes into `table`; False if some may have done more to it, or other things, than they tell."""
        whole, uncertain = True, set[Prefix]()  # what comes after that is as uncertain
        for change in changes:
            if not isinstance(change, RouteChange):
                whole &= self._take_other(change)
            elif change.prefix not in uncertain and table.follows(change.path):
                outcome = table.change(change)
                if outcome is Outcome.CHANGED:
                    changed.add(change.prefix)
                else:
                    whole = False
                if outcome is Outcome.UNCERTAIN:
                    uncertain.add(change.prefix)
        return whole

    def _take_other(self, change: LinkChange | NeighbourChange | Upheaval | Lost) -> bool:
        """What is no route; False if it may have changed routes."""
        if isinstance(change, LinkChange):
            return not self._lets_routes_vanish(change)
        if isinstance(change, NeighbourChange):
            if self.on_neighbour is not None:
                self._neighbour(change, self.on_neighbour)
            return True
        return False

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
    while chunk := list(islice(prefixes, STEP)):
        yield chunk
