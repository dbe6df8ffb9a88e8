"""Prefixes within 16 bits, nested as they like → disjoint ranges, each with the answer of its longest prefix."""

from __future__ import annotations

from collections.abc import Mapping

from .layout import STRIDE

END = 1 << STRIDE

Key = int
"""A prefix within a level: where it starts, times 32, plus its length there (0 to 16, 17 for what lies below)."""

BELOW = STRIDE + 1


def key(start: int, length: int) -> Key:
    """Keys sort an enclosing prefix before what it encloses."""
    return start << 5 | length


def ranges(routes: Mapping[Key, int], below: Mapping[int, int] | None = None) -> list[tuple[int, int, int]]:
    """Starts in ascending order, the first 0, each with its answer (0: no prefix) and block.

    `below` has the blocks of single values that a further level decides; there the answer is that of the prefixes here.
    """
    keys = sorted(routes) if not below else sorted([*routes, *(key(start, BELOW) for start in below)])
    found = [(0, 0, 0)]
    open_prefixes = [(END + 1, 0)]  # end and answer, the innermost last
    for item in keys:
        start, length = item >> 5, item & 31
        while open_prefixes[-1][0] <= start:
            _close(found, open_prefixes)
        if length == BELOW:
            assert below is not None
            _begin(found, start, open_prefixes[-1][1], below[start])
            open_prefixes.append((start + 1, open_prefixes[-1][1]))
        else:
            answer = routes[item]
            _begin(found, start, answer, 0)
            open_prefixes.append((start + (END >> length), answer))
    while len(open_prefixes) > 1:
        _close(found, open_prefixes)
    return found


def _close(found: list[tuple[int, int, int]], open_prefixes: list[tuple[int, int]]) -> None:
    end, _ = open_prefixes.pop()
    if end < END:
        _begin(found, end, open_prefixes[-1][1], 0)


def _begin(found: list[tuple[int, int, int]], start: int, answer: int, block: int) -> None:
    """A range that starts where the last one starts replaces it; one with the last one's answer extends it."""
    if found[-1][0] == start:
        found.pop()
    if not found or found[-1][1:] != (answer, block):
        found.append((start, answer, block))
