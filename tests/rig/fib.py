"""A forwarding table read as the programs read it: its two arrays in, the next hop of an address out."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.fib.layout import TAIL


@dataclass(slots=True)
class TableReader:
    """`roots` in 64-bit words, `places` in words of 32 (IPv4, `bits` 32) or 64 (IPv6, 128)."""

    bits: int
    roots: memoryview
    places: memoryview

    def lookup(self, address: int) -> int:
        """The index of the next hop; 0: no route."""
        return self._lookup4(address) if self.bits == 32 else self._lookup6(address)

    def _lookup4(self, address: int) -> int:
        root = int(self.roots[address >> 16])
        at = self._search(root >> 16, (address & 0xFFFF) << 16 | 0xFFFF) if root >> 16 else None
        found = int(self.places[at]) & 0xFFFF if at is not None else 0
        return found or root & 0xFFFF

    def _lookup6(self, address: int) -> int:
        entry = int(self.roots[address >> 112])
        found = entry & 0xFFFF
        for shift in range(96, -1, -16):
            block = entry >> 16
            if not block:
                break
            if block & 31 == TAIL:
                return self._tail(block >> 5, address) or found
            at = self._search(block, (address >> shift & 0xFFFF) << 48 | (1 << 48) - 1)
            entry = int(self.places[at]) & (1 << 48) - 1
            found = entry & 0xFFFF or found
        return found

    def _tail(self, first: int, address: int) -> int:
        high, low, high_mask, low_mask = self.places[first : first + 4].tolist()
        differing = (high ^ address >> 64) & high_mask | (low ^ address & (1 << 64) - 1) & low_mask
        return 0 if differing else high >> 48

    def _search(self, block: int, last: int) -> int:
        at, half = block >> 5, 1 << (block & 31) >> 1
        while half:
            at += half if self.places[at + half] <= last else 0
            half >>= 1
        return at
