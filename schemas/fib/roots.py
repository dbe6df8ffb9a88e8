"""The first level of a table, one entry for each value of an address's first 16 bits, and the prefixes that end in it.

Values are kept here until `publish` writes an entry, so that what it says of prefixes up to /16 and the block that it
leads to change in one store.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator

from .layout import NO_ROUTE, ROOTS, STRIDE, entry

ShortRoute = tuple[int, int, int]
"""First 16 bits, length, next hop."""


_WORD_SIZE = 8
_STRIP = 256
"""So many entries are compared at once; most are as they were, and in a new table empty."""


def occupied(words: memoryview) -> Iterator[int]:
    """Indices of the entries that lead to a block."""
    nothing = bytes(_STRIP * _WORD_SIZE)
    for start in range(0, ROOTS, _STRIP):
        strip = words[start : start + _STRIP]
        if strip.tobytes() != nothing:
            yield from (start + index for index, word in enumerate(strip) if word >> STRIDE)


def _differing(before: array[int], wanted: array[int]) -> Iterator[int]:
    for start in range(0, ROOTS, _STRIP):
        strips = before[start : start + _STRIP], wanted[start : start + _STRIP]
        if strips[0] != strips[1]:
            pairs = enumerate(zip(*strips, strict=True), start)
            yield from (index for index, (old, new) in pairs if old != new)


class Roots:
    """Entries in `words`, 64 bits each; `dirty` are the indices whose answer is no longer what stands there."""

    def __init__(self, words: memoryview) -> None:
        self._words = words
        self._routes: dict[tuple[int, int], int] = {}
        self._values = array("H", bytes(2 * ROOTS))
        self._deciding = bytearray(ROOTS)  # 1 + length of the prefix that an answer is from; 0: none
        self.dirty: set[int] = set()

    def load(self, routes: Iterable[ShortRoute]) -> None:
        """Exactly these prefixes, none of them written yet; every entry counts as dirty whose answer changes."""
        self._routes = {(first, length): value for first, length, value in routes}
        self._values = array("H", bytes(2 * ROOTS))
        self._deciding = bytearray(ROOTS)
        for (first, length), value in sorted(self._routes.items(), key=lambda route: route[0][1]):
            count = 1 << STRIDE - length
            self._values[first : first + count] = array("H", [value]) * count
            self._deciding[first : first + count] = bytes([length + 1]) * count
        answers = self._words.cast("B").cast("H")[:: _WORD_SIZE // 2]  # the low 16 bits of each entry
        self.dirty = set(_differing(array("H", answers.tobytes()), self._values))

    def set(self, first: int, length: int, value: int) -> None:
        """Adds or replaces a prefix."""
        self._routes[first, length] = value
        self._decide(first, length, length + 1, length + 1, value)

    def delete(self, first: int, length: int) -> None:
        """Removes a prefix; its addresses fall to the next shorter one. What is not there is passed over."""
        if self._routes.pop((first, length), None) is None:
            return
        for shorter in range(length - 1, -1, -1):
            value = self._routes.get((first >> STRIDE - shorter << STRIDE - shorter, shorter))
            if value is not None:
                self._decide(first, length, length + 1, shorter + 1, value)
                return
        self._decide(first, length, length + 1, 0, NO_ROUTE)

    def block(self, index: int) -> int:
        """The block that an entry leads to, or 0."""
        return int(self._words[index]) >> STRIDE

    def publish(self, index: int, block: int) -> None:
        """Writes an entry: from now on lookups give the new answers."""
        self._words[index] = entry(self._values[index], block)
        self.dirty.discard(index)

    def _decide(self, first: int, length: int, at_most: int, deciding: int, value: int) -> None:
        """Gives `value` to the prefix's addresses, except where a longer prefix decides."""
        values, decided = self._values, self._deciding
        for index in range(first, first + (1 << STRIDE - length)):
            if decided[index] <= at_most:
                decided[index] = deciding
                if values[index] != value:
                    values[index] = value
                    self.dirty.add(index)
