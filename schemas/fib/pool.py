"""Places in an array, given out in aligned blocks of powers of two (a buddy allocator, Knowlton 1965).

A block that readers may still be in is retired, and free only after a grace period. Blocks of the size that is asked
for are taken as they come back; they are joined with their neighbours only when no block is large enough.
"""

from __future__ import annotations

from collections.abc import Callable


class Full(Exception):
    """There is no block of the size asked for, not even after a grace period."""


class Pool:
    """`1 << order` places. `grace` returns when everybody who was reading when it was called has finished."""

    def __init__(self, order: int, grace: Callable[[], None]) -> None:
        self._grace = grace
        self._joined: list[dict[int, None]] = [{} for _ in range(order + 1)]  # free, and no two of them are one
        self._joined[order][0] = None
        self._loose: list[list[int]] = [[] for _ in range(order + 1)]  # free
        self._retired: list[list[int]] = [[] for _ in range(order + 1)]

    def take(self, order: int) -> int:
        """The first place of a block of 2^order. Raises `Full`."""
        first = self._find(order)
        return self._find_more(order) if first is None else first

    def retire(self, first: int, order: int) -> None:
        """Gives back a block that nothing leads to any more."""
        self._retired[order].append(first)

    def reclaim(self) -> None:
        """Waits until nobody reads what was retired, and frees it."""
        if any(self._retired):
            self._grace()
        for loose, retired in zip(self._loose, self._retired, strict=True):
            loose += retired
            retired.clear()

    def release(self, first: int, order: int) -> None:
        """Gives back a block that nobody has ever read."""
        self._loose[order].append(first)

    def claim(self, first: int, order: int) -> None:
        """Takes this very block, which is in use already: what a table finds in maps that it has not written."""
        self._join()
        larger = order
        while (outer := first >> larger << larger) not in self._joined[larger]:
            larger += 1
            if larger == len(self._joined):
                raise Full
        del self._joined[larger][outer]
        while larger > order:
            larger -= 1
            half = first >> larger & 1
            self._joined[larger][outer | (half ^ 1) << larger] = None
            outer |= half << larger

    @property
    def free(self) -> int:
        """Places that are free, or will be after a grace period."""
        return sum(
            len(blocks) << order
            for kind in (self._joined, self._loose, self._retired)
            for order, blocks in enumerate(kind)
        )

    def _find_more(self, order: int) -> int:
        for make_more in (self._join, self.reclaim, self._join):
            make_more()
            first = self._find(order)
            if first is not None:
                return first
        raise Full

    def _find(self, order: int) -> int | None:
        """A block that is free, or the beginning of the smallest one that is joined and large enough."""
        if self._loose[order]:
            return self._loose[order].pop()
        for larger in range(order, len(self._joined)):
            if self._joined[larger]:
                first, _ = self._joined[larger].popitem()
                break
        else:
            return None
        while larger > order:
            larger -= 1
            self._joined[larger][first | 1 << larger] = None
        return first

    def _join(self) -> None:
        """Makes blocks that are beside each other one, as far as they go."""
        for order, loose in enumerate(self._loose):
            for first in loose:
                self._add(first, order)
            loose.clear()

    def _add(self, first: int, order: int) -> None:
        top = len(self._joined) - 1
        while order < top and (buddy := first ^ 1 << order) in self._joined[order]:
            del self._joined[order][buddy]
            first &= ~(1 << order)
            order += 1
        self._joined[order][first] = None
