"""Things in the order of where they begin → a binary decision between them, as the steps of nested `if`s in C."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from msgspec import Struct

Thing = TypeVar("Thing")
Leaf = TypeVar("Leaf")


class Below(Struct, frozen=True):
    """`if (value < pivot) {`: the smaller half follows, then its end."""

    depth: int
    pivot: int


class End(Struct, frozen=True):
    """`}` of a smaller half; the other half follows."""

    depth: int


def decision(
    ordered: Sequence[Thing], first: Callable[[Thing], int], leaf: Callable[[int, Thing], Leaf], depth: int = 1
) -> Iterator[Below | End | Leaf]:
    """Every path ends in the leaf of one thing: the last that begins (`first`) at the value or before it."""
    if len(ordered) == 1:
        yield leaf(depth, ordered[0])
        return
    middle = len(ordered) // 2
    yield Below(depth, first(ordered[middle]))
    yield from decision(ordered[:middle], first, leaf, depth + 1)
    yield End(depth)
    yield from decision(ordered[middle:], first, leaf, depth)
