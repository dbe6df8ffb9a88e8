"""IPv6 routes → the words that fib6_lookup() reads: roots, and below them a tree of blocks that decide 16 bits each.

A part of the tree that has one route is no chain of blocks but a tail, which says where that route is. Whatever changes
is written to new blocks, up to the root entry that leads there: one store shows all of it.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from .layout import NO_ROUTE, STEP, STRIDE, TAIL, TAIL_ORDER, block, entry, order_for
from .pool import Full, Pool
from .ranges import Key, key, ranges
from .roots import Roots, occupied
from .table4 import Route

_ALL = (1 << 128) - 1
_LOW = (1 << 64) - 1
_BELOW_ROOT = (1 << 112) - 1
_BELOW_START = (1 << 48) - 1


class _Tail:
    """The only route of a part of the tree, and its block (0: not written yet)."""

    __slots__ = ("block", "route")

    def __init__(self, route: Route) -> None:
        self.route = route
        self.block = 0


class _Level:
    """The prefixes that end within the 16 bits of this level, and the parts below it.

    `block` is what was written last (0: nothing). It no longer holds if the level is `stale`, or else for the values of
    these 16 bits that have `changed`. `lengths` are those that its prefixes have or had, the longest first.
    """

    __slots__ = ("below", "block", "changed", "lengths", "routes", "stale")

    def __init__(self) -> None:
        self.routes: dict[int, int] = {}
        self.below: dict[int, _Part] = {}
        self.block = 0
        self.changed: set[int] = set()
        self.lengths: Sequence[int] = ()
        self.stale = True

    def put(self, prefix: Key, next_hop: int) -> None:
        """A prefix that ends here."""
        self.routes[prefix] = next_hop
        if prefix & 31 not in self.lengths:
            self.lengths = sorted((*self.lengths, prefix & 31), reverse=True)
        self._touch(prefix)

    def drop(self, prefix: Key) -> None:
        """The same, if it is there, no longer."""
        self.routes.pop(prefix, None)
        self._touch(prefix)

    def _touch(self, prefix: Key) -> None:
        if prefix & 31 == STRIDE:
            self.changed.add(prefix >> 5)
        else:
            self.stale = True

    def answer(self, value: int) -> int:
        """The next hop of the longest prefix in this level that a value is in."""
        for length in self.lengths:
            found = self.routes.get(key(value >> STRIDE - length << STRIDE - length, length))
            if found is not None:
                return found
        return NO_ROUTE


_Part = _Level | _Tail


class Fib6:
    """A table in two arrays of 64-bit entries, `places` a power of two of them; `Fib4` has the same methods.

    What stands there already goes on answering until `load` has replaced it. `grace` returns when every lookup that was
    under way has ended. `behind` are the /16s (their first 16 bits) whose longer prefixes are not as they should be,
    because there was no room; every later change tries again.
    """

    bits = 128

    def __init__(self, roots: memoryview, places: memoryview, grace: Callable[[], None]) -> None:
        self._roots = Roots(roots)
        self._places = places
        self._pool = Pool(len(places).bit_length() - 1, grace)
        self._parts: dict[int, _Part] = {}
        self._gone: dict[int, list[int]] = {}  # blocks that a root entry leads to until it is published again
        self.behind: set[int] = set()
        for index in occupied(roots):
            self._gone[index] = list(self._claim(self._roots.block(index)))

    def load(self, routes: Iterable[Route]) -> None:
        """Makes the table exactly these routes; every address goes from its old answer to its new one directly."""
        for _ in self.loading(routes):
            pass

    def loading(self, routes: Iterable[Route]) -> Iterator[None]:
        """`load` in steps of some thousand routes; nothing else may be asked of the table before the last one."""
        short: list[Route] = []
        long: dict[int, list[Route]] = {}
        for number, route in enumerate(routes):
            if route[1] <= STRIDE:
                short.append((route[0] >> 112, route[1], route[2]))
            else:
                long.setdefault(route[0] >> 112, []).append(route)
            if not number % STEP:
                yield
        for index, part in self._parts.items():
            self._gone.setdefault(index, []).extend(_blocks(part))
        self._parts = {}
        for index, found in long.items():
            self._parts[index] = _part(found, 1)
            yield
        self._roots.load(short)
        yield from self._write(self._parts.keys() | self._gone.keys())

    def update(self, changes: Iterable[Route]) -> None:
        """Adds, replaces and removes routes; of changes to one prefix the last counts."""
        touched = set(self.behind)
        for address, length, value in changes:
            index = address >> 112
            if length > STRIDE:
                touched.add(index)
                self._change_long(index, (address, length, value))
            elif value == NO_ROUTE:
                self._roots.delete(index, length)
            else:
                self._roots.set(index, length, value)
        for _ in self._write(touched):
            pass

    @property
    def free(self) -> int:
        """Places that are not used."""
        return self._pool.free

    def _claim(self, found: int) -> Iterator[int]:
        """The blocks from `found` on, which another process has written."""
        order = found & 31
        self._pool.claim(found >> 5, TAIL_ORDER if order == TAIL else order)
        yield found
        if order != TAIL:
            words = self._places[found >> 5 : (found >> 5) + (1 << order)]
            for inner in {word >> STRIDE & 0xFFFFFFFF for word in words} - {0}:
                yield from self._claim(inner)

    def _change_long(self, index: int, route: Route) -> None:
        gone = self._gone.setdefault(index, [])
        change = _without if route[2] == NO_ROUTE else _with
        part = change(self._parts.get(index), route, 1, gone)
        if part is None:
            self._parts.pop(index, None)
        else:
            self._parts[index] = part

    def _write(self, indices: Iterable[int]) -> Iterator[None]:
        """A step is all that has its first 16 bits in common."""
        for index in sorted(indices):
            self._write_part(index)
            yield
        for index in sorted(self._roots.dirty):
            self._roots.publish(index, self._roots.block(index))

    def _write_part(self, index: int) -> None:
        """Everything that has changed below a root entry, or nothing of it."""
        part = self._parts.get(index)
        written: list[tuple[_Part, int]] = []
        self.behind.discard(index)
        try:
            found = self._written(part, written) if part else 0
        except Full:
            for _, new in written:
                self._pool.release(new >> 5, _order(new))
            self.behind.add(index)
            return
        self._roots.publish(index, found)
        for each, new in written:
            self._retire(each.block)
            each.block = new
            if isinstance(each, _Level):
                each.stale = False
                each.changed.clear()
        for old in self._gone.pop(index, ()):
            self._retire(old)

    def _retire(self, old: int) -> None:
        if old:
            self._pool.retire(old >> 5, _order(old))

    def _written(self, part: _Part, written: list[tuple[_Part, int]]) -> int:
        """The block of a part: the one that it has, or a new one, which is added to `written`. Raises `Full`."""
        if isinstance(part, _Tail):
            if part.block:
                return part.block
            words, tail = array("Q", _tail_words(part.route)), True
        else:
            if not part.stale and not part.changed:
                return part.block
            words, tail = self._level_words(part, written), False
        order = order_for(len(words))
        words.extend(words[-1:] * ((1 << order) - len(words)))
        first = self._pool.take(order)
        self._places[first : first + len(words)] = words
        new = block(first, TAIL if tail else order)
        written.append((part, new))
        return new

    def _level_words(self, level: _Level, written: list[tuple[_Part, int]]) -> array[int]:
        """The ranges of a level; where only a few values have changed, as they were but for these."""
        if level.stale or len(level.changed) * _REPLACING > 1 << _order(level.block):
            blocks = {start: self._written(part, written) for start, part in level.below.items()}
            return array("Q", [start << 48 | word for start, word in ranges(level.routes, blocks).items()])
        first = level.block >> 5
        words = array("Q", self._places[first : first + (1 << _order(level.block))].tobytes())
        del words[bisect_left(words, words[-1]) + 1 :]  # the last range stands there more than once
        changed = {}
        for value in sorted(level.changed):
            part = level.below.get(value)
            changed[value] = entry(level.answer(value), self._written(part, written) if part else 0)
        return _replaced(words, changed)


_REPLACING = 8
"""To replace one range takes as long as to work out so many anew, about (measured)."""


def _replaced(words: array[int], changed: Mapping[int, int]) -> array[int]:
    """Ranges with others for single values, in ascending order; those beside them say what they said."""
    found = array("Q")
    done = 0
    for value, word in changed.items():
        at = bisect_right(words, value << 48 | _BELOW_START) - 1
        old = words[at] & _BELOW_START
        found.extend(words[done : at if words[at] >> 48 == value else at + 1])
        if found and found[-1] >> 48 == value:  # what the value before this one has left to it
            found.pop()
        if not found or found[-1] & _BELOW_START != word:
            found.append(value << 48 | word)
        done = at + 1
        if done == len(words) or words[done] >> 48 != value + 1:
            if value + 1 < 1 << STRIDE and old != word:
                found.append(value + 1 << 48 | old)
        elif words[done] & _BELOW_START == word:
            done += 1
    found.extend(words[done:])
    return found


def _order(found: int) -> int:
    return TAIL_ORDER if found & 31 == TAIL else found & 31


def _tail_words(route: Route) -> list[int]:
    """The first 16 bits of a tail's address have been decided, so that there is room for the answer."""
    address, length, value = route
    mask = (_ALL << 128 - length) & _BELOW_ROOT
    return [value << 48 | address >> 64 & _BELOW_START, address & _LOW, mask >> 64, mask & _LOW]


def _blocks(part: _Part) -> Iterator[int]:
    """The blocks of a part and of all below it."""
    if part.block:
        yield part.block
    if isinstance(part, _Level):
        for below in part.below.values():
            yield from _blocks(below)


def _part(routes: Sequence[Route], depth: int) -> _Part:
    """The part of the tree for routes that are longer than 16 * `depth` bits and equal up to there."""
    if len(routes) == 1:
        return _Tail(routes[0])
    level = _Level()
    longer: dict[int, list[Route]] = {}
    end = STRIDE * (depth + 1)
    for route in routes:
        if route[1] <= end:
            level.put(_key(route, depth), route[2])
        else:
            longer.setdefault(_start(route, depth), []).append(route)
    level.below = {start: _part(found, depth + 1) for start, found in longer.items()}
    return level


def _start(route: Route, depth: int) -> int:
    """The 16 bits of a route's address that the level at `depth` decides."""
    return route[0] >> 112 - STRIDE * depth & 0xFFFF


def _key(route: Route, depth: int) -> int:
    return key(_start(route, depth), route[1] - STRIDE * depth)


def _with(part: _Part | None, route: Route, depth: int, gone: list[int]) -> _Part:
    """The part with a route added or replaced; `gone` gets the blocks of what is no longer in it."""
    if part is None:
        return _Tail(route)
    if isinstance(part, _Tail):
        if part.route[:2] == route[:2]:
            gone.extend(_blocks(part))
            return _Tail(route)
        part = _opened(part, depth, gone)
    if route[1] <= STRIDE * (depth + 1):
        part.put(_key(route, depth), route[2])
        return part
    start = _start(route, depth)
    part.below[start] = _with(part.below.get(start), route, depth + 1, gone)
    part.changed.add(start)
    return part


def _opened(tail: _Tail, depth: int, gone: list[int]) -> _Level:
    """A level with the one route of a tail."""
    level = _Level()
    if tail.route[1] <= STRIDE * (depth + 1):
        level.put(_key(tail.route, depth), tail.route[2])
        gone.extend(_blocks(tail))
    else:
        level.below[_start(tail.route, depth)] = tail
    return level


def _without(part: _Part | None, route: Route, depth: int, gone: list[int]) -> _Part | None:
    """The part without a route, None if nothing is left; `gone` gets the blocks of what is no longer in it."""
    if part is None:
        return None
    if isinstance(part, _Tail):
        if part.route[:2] != route[:2]:
            return part
        gone.extend(_blocks(part))
        return None
    if route[1] <= STRIDE * (depth + 1):
        part.drop(_key(route, depth))
    elif before := part.below.get(start := _start(route, depth)):
        after = _without(before, route, depth + 1, gone)
        if after is None:
            del part.below[start]
        else:
            part.below[start] = after
        part.changed.add(start)
    return _closed(part, route[0], depth, gone)


def _closed(level: _Level, address: int, depth: int, gone: list[int]) -> _Part | None:
    """The level itself, unless it has one route or none: then a tail or None. `address` is any address of the level."""
    if len(level.routes) + len(level.below) > 1:
        return level
    only = next(iter(level.below.values()), None)
    if isinstance(only, _Level):
        return level
    if level.block:
        gone.append(level.block)
    if only is not None or not level.routes:
        return only
    ((prefix, value),) = level.routes.items()
    shift = 112 - STRIDE * depth
    above = address >> shift + STRIDE << shift + STRIDE
    return _Tail((above | prefix >> 5 << shift, STRIDE * depth + (prefix & 31), value))
