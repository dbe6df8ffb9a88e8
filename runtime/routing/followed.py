"""Kernel routes → a router's tables: next hops in their map, and for each prefix the index of its next hop in the FIB.

The order of writing is: next hops, then the routes that lead to them, and only then are next hops given up that no
route leads to any more; their places are used again when no lookup can have seen them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address
from socket import AF_INET, AF_INET6
from typing import TypeVar

from msgspec import Struct, field

from schemas.fib.layout import NO_ROUTE
from schemas.fib.pool import Full, Pool
from schemas.fib.table4 import Fib4
from schemas.fib.table4 import Route as FibRoute
from schemas.fib.table6 import Fib6
from schemas.services.router import NEXTHOP, Address, Kind, NextHopRecord, group_order

from ..rtnetlink import RTN_BLACKHOLE, RTN_PROHIBIT, RTN_UNICAST, RTN_UNREACHABLE, Path, Prefix

LARGEST_GROUP = 256
"""Members of a group of next hops; weights are rounded until it has no more."""

_STEP = 4096
_VERSIONS: dict[int, int] = {AF_INET: 4, AF_INET6: 6}
_FAMILIES: dict[int, int] = {4: AF_INET, 6: AF_INET6}
_REFUSALS = {
    RTN_BLACKHOLE: Kind.BLACKHOLE,
    RTN_UNREACHABLE: Kind.UNREACHABLE,
    RTN_PROHIBIT: Kind.PROHIBIT,
}
_UNREACHABLE = (NextHopRecord(Kind.UNREACHABLE),)
Of = TypeVar("Of")
Ways = tuple[NextHopRecord, ...]
"""What becomes of a packet: one next hop, or several that share the load."""


class Held(Struct):
    """Ways that are in the map, where they are, and how many prefixes lead there."""

    ways: Ways
    first: int
    order: int
    prefixes: int = 0


_Known = dict[int, tuple[Path, Held]]
"""Where paths lead, by their identity: of many routes that come together most share one, and hashing it takes long."""


class NextHops:
    """Next hops in the memory of their map, a power of two of them; equal ways have one place, and place 0 is empty.

    What another process has written stays until `forget`, because the FIB that it left behind leads there, and is used
    again: so taking it over needs no room. Places are cleared before they are free, so that blocks do not overlap.
    """

    def __init__(self, memory: memoryview, grace: Callable[[], None]) -> None:
        self._memory = memory
        self._grace = grace
        self._held: dict[Ways, Held] = {}
        self._retired: list[tuple[int, int]] = []
        places = len(memory) // NEXTHOP.size
        self._pool = Pool(places.bit_length() - 1, self._settle)
        self._pool.claim(0, 0)
        self._found = list(self._find_all(places))

    def _find_all(self, places: int) -> Iterator[Held]:
        """All that another process has written; where equal ways are there twice, the first is found by `find`."""
        end = 0
        for index, kind in enumerate(self._memory[:: NEXTHOP.size].tobytes()):
            if not kind or index < end:
                continue
            held = self._found_at(index, places)
            self._pool.claim(held.first, held.order)
            end = index + (1 << held.order)
            self._held.setdefault(held.ways, held)
            yield held

    def _found_at(self, index: int, places: int) -> Held:
        """The ways at an index. A group that is not whole is one place, to which nothing leads."""
        first = self._get(index)
        if first.kind is not Kind.GROUP:
            return Held((first,), index, 0)
        order, members = group_order(first.members), range(index + 1, index + 1 + first.members)
        if first.first == index + 1 and not index % (1 << order) and members.stop <= places:
            ways = tuple(self._get(member) for member in members)
            if all(way.kind not in (Kind.NONE, Kind.GROUP) for way in ways):
                return Held(ways, index, order)
        return Held((first,), index, 0)

    def forget(self) -> None:
        """Clears what another process has written and nobody has found useful, now that the FIB leads elsewhere."""
        unused = [held for held in self._found if not held.prefixes]
        self._found = []
        if unused:
            self._grace()
        for held in unused:
            if self._held.get(held.ways) is held:
                del self._held[held.ways]
            self._clear(held.first, held.order)
            self._pool.release(held.first, held.order)

    def find(self, ways: Ways) -> Held:
        """The place of these ways, which whoever leads a prefix there counts in `prefixes`. Raises `Full`."""
        held = self._held.get(ways)
        if held is None:
            held = self._held[ways] = self._write(ways)
        return held

    def release(self, held: Held) -> None:
        """One prefix less; call it when the FIB does not lead there any more."""
        held.prefixes -= 1
        if not held.prefixes:
            del self._held[held.ways]
            self._retired.append((held.first, held.order))
            self._pool.retire(held.first, held.order)

    def _settle(self) -> None:
        self._grace()
        for first, order in self._retired:
            self._clear(first, order)
        self._retired = []

    def _clear(self, first: int, order: int) -> None:
        size = NEXTHOP.size << order
        self._memory[first * NEXTHOP.size : first * NEXTHOP.size + size] = bytes(size)

    def _write(self, ways: Ways) -> Held:
        if len(ways) == 1:
            first = self._pool.take(0)
            self._set(first, ways[0])
            return Held(ways, first, 0)
        order = group_order(len(ways))
        first = self._pool.take(order)
        for index, way in enumerate(ways, start=first + 1):
            self._set(index, way)
        self._set(first, NextHopRecord(Kind.GROUP, first=first + 1, members=len(ways)))
        return Held(ways, first, order)

    def _get(self, index: int) -> NextHopRecord:
        return NextHopRecord.unpacked(self._memory[index * NEXTHOP.size : (index + 1) * NEXTHOP.size])

    def _set(self, index: int, record: NextHopRecord) -> None:
        self._memory[index * NEXTHOP.size : (index + 1) * NEXTHOP.size] = record.packed()


class Followed(Struct):
    """The routes of one router: `ports` by ifindex; `fixed`, those of the chain file, come before the kernel's."""

    hops: NextHops
    tables: Mapping[int, Fib4 | Fib6]
    ports: Mapping[int, int]
    fixed: Mapping[Prefix, Ways]
    unplaced: dict[Prefix, Ways] = field(default_factory=dict)
    _held: dict[Prefix, Held] = field(default_factory=dict)

    @property
    def without_room(self) -> int:
        """Routes that are not in the tables, or not in their newest state, because there is no room for them."""
        return len(self.unplaced) + sum(len(table.behind) for table in self.tables.values())

    def load(self, routes: Iterable[tuple[Prefix, Path]]) -> Iterator[None]:
        """Makes the tables exactly these routes and the fixed ones, whatever was there before.

        Call it once, first of all, and nothing else before its end: a step of the iterator is some thousand routes, and
        meanwhile every address has its old way or its new one.
        """
        entries = self._no_entries()
        for prefix, ways in sorted(self.fixed.items(), key=_places, reverse=True):
            if prefix[0] in entries and (index := self._lead_by(prefix, ways)):
                entries[prefix[0]].append((prefix[1], prefix[2], index))
        known: _Known = {}
        for number, (prefix, path) in enumerate(routes):
            if prefix[0] in entries and prefix not in self.fixed and not _never_routed(prefix):
                index = self._lead(prefix, path, known)
                if index:
                    entries[prefix[0]].append((prefix[1], prefix[2], index))
            if not number % _STEP:
                yield
        for version, table in self.tables.items():
            yield from table.loading(entries[_FAMILIES[version]])
        self.hops.forget()
        self._place_again()

    def update(self, routes: Mapping[Prefix, Path | None]) -> None:
        """Brings the tables to what these prefixes are now."""
        entries = self._no_entries()
        known: _Known = {}
        given_up: list[Held] = []
        for prefix, path in routes.items():
            family, address, length = prefix
            if family not in entries or prefix in self.fixed:
                continue
            if self.unplaced:
                self.unplaced.pop(prefix, None)
            before = self._held.pop(prefix, None)
            index = NO_ROUTE
            if path is not None and not _never_routed(prefix):
                index = self._lead(prefix, path, known)
            if before is not None:
                given_up.append(before)
            if index or before is not None:
                entries[family].append((address, length, index))
        for version, table in self.tables.items():
            changes = entries[_FAMILIES[version]]
            if changes or table.behind:
                table.update(changes)
        for held in given_up:
            self.hops.release(held)
        if given_up and self.unplaced:
            self._place_again()

    def _no_entries(self) -> dict[int, list[FibRoute]]:
        return {_FAMILIES[version]: [] for version in self.tables}

    def _place_again(self) -> None:
        """Next hops have gone: perhaps there is room for those that had none."""
        for prefix, ways in list(self.unplaced.items()):
            index = self._lead_by(prefix, ways)
            if index:
                self.tables[_VERSIONS[prefix[0]]].update([(prefix[1], prefix[2], index)])

    def way(self, destination: Address) -> NextHopRecord | None:
        """The next hop, the first of several, that the longest prefix of an address has."""
        held = longest(self._held, destination)
        return held.ways[0] if held else None

    def _lead(self, prefix: Prefix, path: Path, known: _Known) -> int:
        """Leads a prefix along a path of the kernel's, as `_lead_by`; `known` are those of the same call so far."""
        found = known.get(id(path))
        if found is None:
            index = self._lead_by(prefix, self._to_ways(path))
            if index:
                known[id(path)] = path, self._held[prefix]  # as long as the path is there, nothing else has its id
            return index
        held = found[1]
        held.prefixes += 1
        self._held[prefix] = held
        return held.first

    def _lead_by(self, prefix: Prefix, ways: Ways) -> int:
        """The index of a prefix's next hop; 0 if there is no room for it, so that its covering prefix holds."""
        try:
            held = self.hops.find(ways)
        except Full:
            self.unplaced[prefix] = ways
            return NO_ROUTE
        self.unplaced.pop(prefix, None)
        held.prefixes += 1
        self._held[prefix] = held
        return held.first

    def _to_ways(self, path: Path) -> Ways:
        if path.type != RTN_UNICAST:
            return (NextHopRecord(_REFUSALS[path.type]),)
        size = 4 if path.family == AF_INET else 16
        hops = [hop for hop in path.hops if hop.ifindex in self.ports and len(hop.gateway) in (0, size)]
        # A device that is none of the router's ports: better told that it cannot be reached than sent another way.
        if not hops:
            return _UNREACHABLE
        counts = _shares([hop.weight for hop in hops])
        ways = [_way(self.ports[hop.ifindex], hop.gateway) for hop in hops]
        return tuple(way for way, count in zip(ways, counts, strict=True) for _ in range(count))


def longest(routes: Mapping[Prefix, Of], destination: Address) -> Of | None:
    """What the longest prefix of an address has."""
    family, bits = (AF_INET, 32) if isinstance(destination, IPv4Address) else (AF_INET6, 128)
    for length in range(bits, -1, -1):
        found = routes.get((family, int(destination) >> bits - length << bits - length, length))
        if found:
            return found
    return None


def _places(route: tuple[Prefix, Ways]) -> int:
    """Blocks that are taken in the order of their size, largest first, leave no gaps."""
    return len(route[1])


def _way(port: int, gateway: bytes) -> NextHopRecord:
    if not any(gateway):
        return NextHopRecord(Kind.CONNECTED, port)
    return NextHopRecord(Kind.VIA, port, gateway=gateway.ljust(16, b"\0"))


def _shares(weights: Sequence[int]) -> list[int]:
    """How often each way is in its group: as its weight is to the others', as nearly as the group's size allows."""
    if len(weights) == 1:
        return [1]
    divisor = math.gcd(*weights)
    shares = [weight // divisor for weight in weights]
    scale = min(1.0, (LARGEST_GROUP - len(shares)) / sum(shares))
    return [max(1, round(share * scale)) for share in shares]


def _never_routed(prefix: Prefix) -> bool:
    """Groups (224.0.0.0/4, ff00::/8) and link-local addresses (fe80::/10), of which each link has its own."""
    family, address, length = prefix
    if family == AF_INET:
        return length >= 4 and address >> 28 == 0xE
    return (length >= 8 and address >> 120 == 0xFF) or (length >= 10 and address >> 118 == 0xFE80 >> 6)
