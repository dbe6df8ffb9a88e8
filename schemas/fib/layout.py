"""How a FIB lies in maps: the words that compiler/services/router/fib.h reads and the tables here write."""

from __future__ import annotations

STRIDE = 16
"""Bits of an address that one level decides."""

ROOTS = 1 << STRIDE
ROOTS_SIZE = ROOTS * 8  # bytes of struct fib_roots

STEP = 4096
"""Routes that a step of loading deals with, about."""

NO_ROUTE = 0
LARGEST_NEXT_HOP = 0xFFFF

TAIL = 31
"""In the place of a block's order: the block is the one route that there is below."""

TAIL_ORDER = 2
"""A tail has four words: value and address, then mask, 64 bits each, high half first."""

RANGES4_PER_ROUTE = 4
"""A /16 with n longer prefixes has at most 2n + 1 ranges, which is at most 4n as a power of two."""

RANGES6_PER_ROUTE = 12
"""A route has a tail of 4 words and at most 4 ranges of its own; the rest is for levels that few routes share."""


def order_for(words: int) -> int:
    """The order of a block for so many words, 1 at least."""
    return max(1, (words - 1).bit_length())


def block(first: int, order: int) -> int:
    """The word for 2^order places from `first` on; never 0, which is that of no block, because `order` is not."""
    return first << 5 | order


def entry(next_hop: int, block: int) -> int:
    """An entry of the roots, or a range without its start."""
    return block << 16 | next_hop


def capacity(routes: int, ranges_per_route: int) -> int:
    """Places for at least `routes` routes and their replacement while they are read: a power of two."""
    return 1 << max(6, (routes * ranges_per_route * 3 // 2 - 1).bit_length())
