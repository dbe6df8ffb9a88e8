"""IPv6 routes → the words that fib6_lookup() reads: roots, and below them a tree of blocks that decide 16 bits each.

A part of the tree that has one route is no chain of blocks but a tail, which says where that route is. Whatever changes
is written to new blocks, up to the root entry that leads there: one store shows all of it.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping

from .layout import NO_ROUTE, STEP, STRIDE, TAIL, TAIL_ORDER, block, entry, order_for
from .pool import Full, Pool
from .ranges import ranges
from .roots import Roots, occupied
from .table4 import Route
from .tree6 import Level, Part, Tail, Tree

_ALL = (1 << 128) - 1
_LOW = (1 << 64) - 1
_BELOW_ROOT = (1 << 112) - 1
_BELOW_START = (1 << 48) - 1


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
        self._tree = Tree()
        self.behind: set[int] = set()
        for index in occupied(roots):
            self._tree.gone[index] = list(self._claim(self._roots.block(index)))

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
        self._tree.clear()
        for index, found in long.items():
            self._tree.build(index, found)
            yield
        self._roots.load(short)
        yield from self._write(self._tree.parts.keys() | self._tree.gone.keys())

    def update(self, changes: Iterable[Route]) -> None:
        """Adds, replaces and removes routes; of changes to one prefix the last counts."""
        touched = set(self.behind)
        for route in changes:
            address, length, value = route
            index = address >> 112
            if length > STRIDE:
                touched.add(index)
                if value == NO_ROUTE:
                    self._tree.delete(address, length)
                else:
                    self._tree.set(route)
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

    def _write(self, indices: Iterable[int]) -> Iterator[None]:
        """A step is all that has its first 16 bits in common."""
        for index in sorted(indices):
            self._write_part(index)
            yield
        for index in sorted(self._roots.dirty):
            self._roots.publish(index, self._roots.block(index))

    def _write_part(self, index: int) -> None:
        """Everything that has changed below a root entry, or nothing of it."""
        part = self._tree.parts.get(index)
        new: list[Part] = []
        self.behind.discard(index)
        try:
            found = self._block(part, new) if part else 0
        except Full:
            for each in new:
                self._pool.release(each.block >> 5, _order(each.block))
                each.block = 0
            self.behind.add(index)
            return
        self._roots.publish(index, found)
        gone = self._tree.gone.pop(index, [])
        for each in new:
            if isinstance(each, Level):
                gone.append(each.written)
                each.settle()
        for old in gone:
            if old:
                self._pool.retire(old >> 5, _order(old))

    def _block(self, part: Part, new: list[Part]) -> int:
        """The block of a part, which is added to `new` if it had none. Raises `Full`."""
        if not part.block:
            part.block = self._new_tail(part.route) if isinstance(part, Tail) else self._new_level(part, new)
            new.append(part)
        return part.block

    def _new_tail(self, route: Route) -> int:
        """The first 16 bits of a tail's address have been decided, so that there is room for the answer."""
        address, length, value = route
        mask = (_ALL << 128 - length) & _BELOW_ROOT
        words = (value << 48 | address >> 64 & _BELOW_START, address & _LOW, mask >> 64, mask & _LOW)
        first = self._pool.take(TAIL_ORDER)
        self._places[first : first + len(words)] = array("Q", words)
        return block(first, TAIL)

    def _new_level(self, level: Level, new: list[Part]) -> int:
        words = self._words(level, new)
        order = order_for(len(words))
        words.extend(words[-1:] * ((1 << order) - len(words)))
        first = self._pool.take(order)
        self._places[first : first + len(words)] = words
        return block(first, order)

    def _words(self, level: Level, new: list[Part]) -> array[int]:
        """The ranges of a level; where only a few values have changed, as they were but for these."""
        below = level.below
        if level.stale or len(level.changed) * _REPLACING > len(level.routes) + len(below):
            blocks = {value: part.block or self._block(part, new) for value, part in below.items()}
            return array("Q", [start << 48 | word for start, word in ranges(level.routes, blocks).items()])
        first = level.written >> 5
        words = array("Q", self._places[first : first + (1 << _order(level.written))].tobytes())
        del words[bisect_left(words, words[-1]) + 1 :]  # the last range stands there more than once
        changed = {}
        for value in sorted(level.changed):
            part = below.get(value)
            found = part.block or self._block(part, new) if part else 0
            changed[value] = entry(level.answer(value), found)
        return _replaced(words, changed)


_REPLACING = 3
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
