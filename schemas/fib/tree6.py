"""IPv6 routes → a tree as table6 writes it: a part with several routes is a level, which decides 16 bits, one with a
single route is a tail.

Parts make no cycles, and Python's garbage collector never looks at them: it would take a tenth of the time of a burst.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from msgspec import Struct, field

from .layout import NO_ROUTE, STRIDE
from .ranges import Key, key
from .table4 import Route

BITS = 128

_FEW = 256
"""Values of a prefix that are taken one by one when it changes; with more of them its level is worked out anew."""


class Tail(Struct, gc=False):
    """The only route of a part, and its block (0: not written yet)."""

    route: Route
    block: int = 0

    def blocks(self) -> Iterator[int]:
        """What stands in the table."""
        if self.block:
            yield self.block


class Level(Struct, gc=False):
    """The prefixes that end within the 16 bits of this level, and the parts below it.

    `written` is the block that stands in the table (0: none); `block` is the same, but 0 from a change until that is
    written. What stands there does not hold at all if the level is `stale`, or else not for the values of these 16 bits
    that have `changed`. `lengths` are those that its prefixes have or had, the longest first.
    """

    routes: dict[Key, int] = field(default_factory=dict)
    below: dict[int, Part] = field(default_factory=dict)
    block: int = 0
    written: int = 0
    changed: dict[int, None] = field(default_factory=dict)
    lengths: tuple[int, ...] = ()
    stale: bool = True

    def put(self, prefix: Key, next_hop: int) -> None:
        """A prefix that ends here."""
        self.routes[prefix] = next_hop
        if prefix & 31 not in self.lengths:
            self.lengths = tuple(sorted((*self.lengths, prefix & 31), reverse=True))
        self._touch(prefix)

    def drop(self, prefix: Key) -> None:
        """The same, if it is there, no longer."""
        self.routes.pop(prefix, None)
        self._touch(prefix)

    def _touch(self, prefix: Key) -> None:
        first, values = prefix >> 5, 1 << STRIDE - (prefix & 31)
        if values > _FEW:
            self.stale = True
        elif not self.stale:
            for value in range(first, first + values):
                self.changed[value] = None

    def answer(self, value: int) -> int:
        """The next hop of the longest prefix in this level that a value is in."""
        for length in self.lengths:
            found = self.routes.get(key(value >> STRIDE - length << STRIDE - length, length))
            if found is not None:
                return found
        return NO_ROUTE

    def settle(self) -> None:
        """What was written as `block` stands in the table now."""
        self.written = self.block
        self.changed.clear()
        self.stale = False

    def blocks(self) -> Iterator[int]:
        """What stands in the table, here and below."""
        if self.written:
            yield self.written
        for part in self.below.values():
            yield from part.blocks()


Part = Level | Tail
_Place = tuple[dict[int, Part], int]
"""The parts that one is among, and the 16 bits that lead to it."""


class Tree:
    """All routes that are longer than 16 bits: `parts` by their first 16 bits.

    `gone` has, by the same, the blocks that stand in the table and that no part has any more.
    """

    def __init__(self) -> None:
        self.parts: dict[int, Part] = {}
        self.gone: defaultdict[int, list[int]] = defaultdict(list)

    def clear(self) -> None:
        """No routes."""
        for index, part in self.parts.items():
            self.gone[index].extend(part.blocks())
        self.parts = {}

    def build(self, index: int, routes: Sequence[Route]) -> None:
        """These are the routes below a root entry that had none; of those for one prefix the last counts."""
        self.parts[index] = _built(routes, 2 * STRIDE)

    def set(self, route: Route) -> None:
        """Adds or replaces a route."""
        address, length, next_hop = route
        parts, value, end = self.parts, address >> BITS - STRIDE, 2 * STRIDE
        while True:
            part = parts.get(value)
            if isinstance(part, Tail) and part.route[:2] != (address, length):
                part = parts[value] = self._opened(part, end)
            if not isinstance(part, Level):
                if part is not None:
                    self._leave(address, part.block)
                parts[value] = Tail(route)
                return
            part.block = 0
            value = _bits(address, end)
            if length <= end:
                part.put(key(value, length - end + STRIDE), next_hop)
                return
            part.changed[value] = None
            parts, end = part.below, end + STRIDE

    def _opened(self, tail: Tail, end: int) -> Level:
        """A level that decides the bits before `end`, with the one route of a tail."""
        level = Level()
        address, length, next_hop = tail.route
        if length <= end:
            level.put(key(_bits(address, end), length - end + STRIDE), next_hop)
            self._leave(address, tail.block)
        else:
            level.below[_bits(address, end)] = tail
        return level

    def delete(self, address: int, length: int) -> None:
        """Removes a route, if it is there."""
        parts, value, end = self.parts, address >> BITS - STRIDE, 2 * STRIDE
        way: list[_Place] = []
        while isinstance(part := parts.get(value), Level):
            way.append((parts, value))
            part.block = 0
            value = _bits(address, end)
            if length <= end:
                part.drop(key(value, length - end + STRIDE))
                break
            part.changed[value] = None
            parts, end = part.below, end + STRIDE
        else:
            if part is None or part.route[:2] != (address, length):
                return
            self._leave(address, part.block)
            del parts[value]
        while way and self._closed(*way.pop(), address, len(way)):
            pass

    def _closed(self, parts: dict[int, Part], value: int, address: int, depth: int) -> bool:
        """Whether a level has one route or none any more, and so has become its tail, or has gone."""
        level = parts[value]
        assert isinstance(level, Level)
        if len(level.routes) + len(level.below) > 1:
            return False
        only: Part | None = next(iter(level.below.values()), None)
        if isinstance(only, Level):
            return False
        self._leave(address, level.written)
        if only is None and level.routes:
            only = Tail(_only_route(level, address, STRIDE * (depth + 2)))
        if only is None:
            del parts[value]
        else:
            parts[value] = only
        return True

    def _leave(self, address: int, block: int) -> None:
        if block:
            self.gone[address >> BITS - STRIDE].append(block)


def _built(routes: Sequence[Route], end: int) -> Part:
    """A part for routes that are equal up to the 16 bits before `end`, and longer."""
    if len(routes) == 1:
        return Tail(routes[0])
    level = Level()
    longer: dict[int, list[Route]] = {}
    for route in routes:
        value = _bits(route[0], end)
        if route[1] <= end:
            level.put(key(value, route[1] - end + STRIDE), route[2])
        else:
            longer.setdefault(value, []).append(route)
    level.below = {value: _built(found, end + STRIDE) for value, found in longer.items()}
    return level


def _only_route(level: Level, address: int, end: int) -> Route:
    """That of a level with one, which decides the bits before `end`; `address` is any one of this level."""
    ((prefix, next_hop),) = level.routes.items()
    shift = BITS - end
    above = address >> shift + STRIDE << shift + STRIDE
    return above | prefix >> 5 << shift, end - STRIDE + (prefix & 31), next_hop


def _bits(address: int, end: int) -> int:
    """The 16 bits of an address before `end`."""
    return address >> BITS - end & 0xFFFF
