"""Places in an array, given out in aligned blocks of powers of two (a buddy allocator, Knowlton 1965).

A block that readers may still be in is retired, and free only after a grace period.
"""

from __future__ import annotations

from collections.abc import Callable


class Full(Exception):
    """There is no block of the size asked for, not even after a grace period."""


class Pool:
    """`1 << order` places. `grace` returns when everybody who was reading when it was called has finished."""

    def __init__(self, order: int, grace: Callable[[], None]) -> None:
        self._grace = grace
        self._free: list[dict[int, None]] = [{} for _ in range(order + 1)]
        self._free[order][0] = None
        self._retired: list[tuple[int, int]] = []

    def take(self, order: int) -> int:
        """The first place of a block of 2^order. Raises `Full`."""
        first = self._try_take(order)
        if first is None and self._retired:
            self.reclaim()
            first = self._try_take(order)
        if first is None:
            raise Full
        return first

    def retire(self, first: int, order: int) -> None:
        """Gives back a block that nothing leads to any more."""
        self._retired.append((first, order))

    def reclaim(self) -> None:
        """Waits until nobody reads what was retired, and frees it."""
        self._grace()
        retired, self._retired = self._retired, []
        for first, order in retired:
            self.release(first, order)

    def release(self, first: int, order: int) -> None:
        """Gives back a block that nobody has ever read."""
        top = len(self._free) - 1
        while order < top and (buddy := first ^ 1 << order) in self._free[order]:
            del self._free[order][buddy]
            first &= ~(1 << order)
            order += 1
        self._free[order][first] = None

    def claim(self, first: int, order: int) -> None:
        """Takes this very block, which is in use already: what a table finds in maps that it has not written."""
        larger = order
        while (outer := first >> larger << larger) not in self._free[larger]:
            larger += 1
            if larger == len(self._free):
                raise Full
        del self._free[larger][outer]
        while larger > order:
            larger -= 1
            half = first >> larger & 1
            self._free[larger][outer | (half ^ 1) << larger] = None
            outer |= half << larger

    @property
    def free(self) -> int:
        """Places that are free, or will be after a grace period."""
        free = sum(len(blocks) << order for order, blocks in enumerate(self._free))
        return free + sum(1 << order for _, order in self._retired)

    def _try_take(self, order: int) -> int | None:
        for larger in range(order, len(self._free)):
            if self._free[larger]:
                first, _ = self._free[larger].popitem()
                break
        else:
            return None
        while larger > order:
            larger -= 1
            self._free[larger][first | 1 << larger] = None
        return first
