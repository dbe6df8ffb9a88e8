"""Prefixes within 16 bits, nested as they like → disjoint ranges, each with the answer of its longest prefix."""

from __future__ import annotations

from collections.abc import Mapping

from .layout import NO_ROUTE, STRIDE, entry

END = 1 << STRIDE

Key = int
"""A prefix within a level: where it starts, times 32, plus its length there (0 to 16, 17 for what lies below)."""

BELOW = STRIDE + 1


def key(start: int, length: int) -> Key:
    """Keys sort an enclosing prefix before what it encloses."""
    return start << 5 | length


def ranges(routes: Mapping[Key, int], below: Mapping[int, int] | None = None) -> dict[int, int]:
    """Entries by where their ranges start, in ascending order, the first at 0: the answer (0: no prefix) and the block.

    `below` has the blocks of single values that a further level decides; there the answer is that of the prefixes here.
    """
    keys = sorted(routes) if not below else sorted([*routes, *(key(start, BELOW) for start in below)])
    found = {0: NO_ROUTE}  # what starts later at the same place takes its place
    end, answer = END + 1, NO_ROUTE  # of the innermost prefix that is open
    around: list[tuple[int, int]] = []
    for item in keys:
        start, length = item >> 5, item & 31
        while end <= start:
            begin = end
            end, answer = around.pop()
            found[begin] = answer
        around.append((end, answer))
        if length == BELOW:
            assert below is not None
            end = start + 1
            found[start] = entry(answer, below[start])
        else:
            end = start + (END >> length)
            answer = found[start] = routes[item]
    while end < END:
        begin = end
        end, answer = around.pop()
        found[begin] = answer
    return _merged(found)


def _merged(found: Mapping[int, int]) -> dict[int, int]:
    """Without ranges that go on as the one before them."""
    merged = {}
    before = -1
    for start, word in found.items():
        if word != before:
            merged[start] = before = word
    return merged
