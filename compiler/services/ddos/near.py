"""A block list → the set of address slots that it touches: for almost all traffic one bit says that it is clean."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct

from ...addresses import Prefix

MAX_SLOT_BITS = 16  # DDOS_NEAR_SLOTS in ddos.bpf.h: 8 KiB, which a first-level cache holds beside the packets
HASH = 0x9E3779B1  # DDOS_NEAR_HASH


class Neighbourhood(Struct, frozen=True):
    """A set of 2^`bits` slots, in words of 64: an address whose slot is not in it is near no entry of the list.

    The slot of an IPv4 address is its first bits; that of an IPv6 address the first bits of a hash of its first 32, for
    all that is in use there begins with the same few.
    """

    bits: int
    words: tuple[int, ...]

    def packed(self) -> bytes:
        """As struct ddos_near has it."""
        return b"".join(word.to_bytes(8, "little") for word in self.words)


def neighbourhood(prefixes: Iterable[Prefix], bits: int = MAX_SLOT_BITS) -> Neighbourhood:
    """The slots that a list touches; at least 6 bits."""
    words = [0] * (1 << bits - 6)
    for prefix in prefixes:
        for slot in _slots(prefix, bits):
            words[slot // 64] |= 1 << slot % 64
    return Neighbourhood(bits, tuple(words))


def sparse(near: Neighbourhood) -> bool:
    """Whether at most a quarter of the slots are in the set: else looking costs more than it spares."""
    return sum(word.bit_count() for word in near.words) <= 1 << near.bits - 2


def _slots(prefix: Prefix, bits: int) -> Iterator[int]:
    """The slots of all addresses of a prefix, as C computes them."""
    first = int(prefix.network_address) >> prefix.max_prefixlen - 32
    last = int(prefix.broadcast_address) >> prefix.max_prefixlen - 32
    if prefix.version == 4:
        yield from range(first >> 32 - bits, (last >> 32 - bits) + 1)
    elif last - first < 1 << bits:
        yield from ((head * HASH & 0xFFFFFFFF) >> 32 - bits for head in range(first, last + 1))
    else:
        yield from range(1 << bits)
