"""IPv4 routes → the words that fib4_lookup() reads: roots, and a block of ranges for each /16 with longer prefixes."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator

from .layout import NO_ROUTE, STEP, STRIDE, block, order_for
from .pool import Full, Pool
from .ranges import key, ranges
from .roots import Roots, occupied

Route = tuple[int, int, int]
"""First address as a number, length, next hop; next hop 0 (`NO_ROUTE`) removes the route."""


class Fib4:
    """A table in two arrays, 64 bits an entry in `roots`, 32 in `places` (a power of two of them).

    What stands there already goes on answering until `load` has replaced it. `grace` returns when every lookup that was
    under way has ended. `behind` are the /16s (their first 16 bits) whose longer prefixes are not as they should be,
    because there was no room; every later change tries again.
    """

    bits = 32

    def __init__(self, roots: memoryview, places: memoryview, grace: Callable[[], None]) -> None:
        self._roots = Roots(roots)
        self._places = places
        self._pool = Pool(len(places).bit_length() - 1, grace)
        self._long: dict[int, dict[int, int]] = {}
        self._used = set(occupied(roots))
        self.behind: set[int] = set()
        for index in self._used:
            found = self._roots.block(index)
            self._pool.claim(found >> 5, found & 31)

    def load(self, routes: Iterable[Route]) -> None:
        """Makes the table exactly these routes; every address goes from its old answer to its new one directly."""
        for _ in self.loading(routes):
            pass

    def loading(self, routes: Iterable[Route]) -> Iterator[None]:
        """`load` in steps of some thousand routes; nothing else may be asked of the table before the last one."""
        short, self._long = [], {}
        for number, (address, length, value) in enumerate(routes):
            if length <= STRIDE:
                short.append((address >> STRIDE, length, value))
            else:
                self._long.setdefault(address >> STRIDE, {})[key(address & 0xFFFF, length - STRIDE)] = value
            if not number % STEP:
                yield
        self._roots.load(short)
        yield from self._write(self._long.keys() | self._used)

    def update(self, changes: Iterable[Route]) -> None:
        """Adds, replaces and removes routes; of changes to one prefix the last counts."""
        touched = set(self.behind)
        for address, length, value in changes:
            if length > STRIDE:
                index = address >> STRIDE
                touched.add(index)
                self._change_long(index, key(address & 0xFFFF, length - STRIDE), value)
            elif value == NO_ROUTE:
                self._roots.delete(address >> STRIDE, length)
            else:
                self._roots.set(address >> STRIDE, length, value)
        for _ in self._write(touched):
            pass

    @property
    def free(self) -> int:
        """Places that are not used."""
        return self._pool.free

    def _change_long(self, index: int, prefix: int, value: int) -> None:
        if value != NO_ROUTE:
            self._long.setdefault(index, {})[prefix] = value
            return
        prefixes = self._long.get(index)
        if prefixes is not None:
            prefixes.pop(prefix, None)
            if not prefixes:
                del self._long[index]

    def _write(self, indices: set[int]) -> Iterator[None]:
        """Blocks that get smaller first make room for those that grow. A step is so many prefixes."""
        written = 0
        for index in sorted(indices, key=lambda index: (len(self._long.get(index, ())), index)):
            self._write_block(index)
            written += len(self._long.get(index, ())) + 1
            if written >= STEP:
                written = 0
                yield
        for index in sorted(self._roots.dirty):
            self._roots.publish(index, self._roots.block(index))

    def _write_block(self, index: int) -> None:
        old = self._roots.block(index)
        prefixes = self._long.get(index)
        words = [start << STRIDE | answer for start, answer in ranges(prefixes).items()] if prefixes else []
        order = order_for(len(words))
        words += words[-1:] * ((1 << order) - len(words))
        self.behind.discard(index)
        if old and words and old & 31 == order and self._places[old >> 5 : (old >> 5) + len(words)].tolist() == words:
            return
        try:
            first = self._pool.take(order) if words else 0
        except Full:
            self.behind.add(index)
            return
        self._places[first : first + len(words)] = array("I", words)
        self._roots.publish(index, block(first, order) if words else 0)
        self._used.add(index) if words else self._used.discard(index)
        if old:
            self._pool.retire(old >> 5, old & 31)
