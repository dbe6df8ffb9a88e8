"""Random routes that nest and touch, addresses around their edges, and the longest prefix found the plain way."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping

Routes = dict[tuple[int, int], int]
"""Next hops by prefix: first address as a number, and length."""

_LENGTHS = {
    32: (0, 1, 7, 8, 15, 16, 17, 20, 23, 24, 24, 24, 24, 25, 30, 31, 32),
    128: (0, 3, 15, 16, 17, 20, 29, 32, 33, 40, 47, 48, 48, 48, 49, 56, 63, 64, 64, 65, 80, 96, 112, 113, 127, 128),
}


def longest_prefix(routes: Mapping[tuple[int, int], int], address: int, bits: int) -> int:
    """The next hop of the longest prefix that an address is in, or 0."""
    for length in range(bits, -1, -1):
        found = routes.get(prefix(address, length, bits))
        if found is not None:
            return found
    return 0


def prefix(address: int, length: int, bits: int) -> tuple[int, int]:
    """The prefix of this length that an address is in."""
    return address >> bits - length << bits - length, length


def crowded(random_: random.Random, bits: int) -> tuple[int, int]:
    """A prefix of a small part of the address space, so that prefixes meet; now and then one of anywhere."""
    if random_.random() < 0.2:
        return prefix(random_.getrandbits(bits), random_.choice(_LENGTHS[bits]), bits)
    kept = random_.choice((14, 16) if bits == 32 else (14, 16, 32, 48, 64, 112))
    common = (0x0A010000 if bits == 32 else 0x20010DB8 << 96) >> bits - kept << bits - kept
    inner = random_.choice((0, 1, 2, 0xFFFF, random_.getrandbits(16))) << random_.randrange(0, bits - kept)
    return prefix(common | inner & (1 << bits - kept) - 1, random_.choice(_LENGTHS[bits]), bits)


def edges(routes: Mapping[tuple[int, int], int], random_: random.Random, count: int, bits: int) -> Iterator[int]:
    """First and last addresses of `count` prefixes, one within, and the neighbours on both sides."""
    last = (1 << bits) - 1
    for address, length in random_.choices([*routes, (0, 0)], k=count):
        end = address | last >> length
        yield from (address, end, (address - 1) & last, (end + 1) & last, address | random_.getrandbits(bits) & end)


def internet(random_: random.Random, count: int, bits: int) -> Routes:
    """Prefixes with lengths as a full table has them: mostly /24, or /48 and /32 of some regions' blocks."""
    routes: Routes = {}
    while len(routes) < count:
        if bits == 32:
            length = random_.choice((24,) * 12 + (16, 18, 19, 20, 21, 22, 22, 23))
            address = random_.getrandbits(32)
        else:
            length = random_.choice((48,) * 10 + (32,) * 4 + (29, 36, 40, 44, 46, 64))
            region = random_.choice((0x2001, 0x2400, 0x2406, 0x2600, 0x2804, 0x2A00, 0x2A0A, 0x2C0F))
            address = region << 112 | random_.randrange(4000) << 96 | random_.getrandbits(96)
        routes[prefix(address, length, bits)] = random_.randrange(1, 64)
    return routes
