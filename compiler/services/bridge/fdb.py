"""How a bridge's filtering database is laid out: its size, ports and ageing time → the bits of its entries.

fdb.h has the other half: an entry is one word of port, time and the part of the key that its set does not say.
"""

from __future__ import annotations

from msgspec import Struct

MAC_BITS = 48
WORD_BITS = 64
WAYS = 8  # FDB_WAYS in fdb.h
SET_SIZE = WAYS * WORD_BITS // 8  # bytes: struct fdb_set

_CONFIRMED_BITS = 1
_TICKS = ((3600, 15), (48, 9), (1, 3))
"""Ageing times in seconds from which on a tick is 2^N jiffies at 100 Hz: 3.6 to 5.5 min, 3.4 to 5.2 s, 53 to 82 ms.

An ageing time is eight ticks or more; changing it among those with equal ticks keeps the entries.
"""

_FASTEST_JIFFIES = 150  # ticks are shortest at 300 Hz: there they are twice as many jiffies as at 100 Hz
_LEAST_TIME_BITS = 13  # 8 hours of ticks, where stations age in some minutes


class Fdb(Struct, frozen=True):
    """A filtering database for `size` stations behind `ports` ports; `key_bits` are those of an address, or more."""

    size: int
    ports: int
    aging_s: int
    key_bits: int = MAC_BITS

    @property
    def port_bits(self) -> int:
        """Bits of a port's index plus one."""
        return self.ports.bit_length()

    @property
    def tick_bits(self) -> int:
        """Logarithm of a tick in jiffies at 100 Hz: entries tell time in ticks."""
        return next(bits for least_s, bits in _TICKS if self.aging_s >= least_s)

    @property
    def set_bits(self) -> int:
        """Logarithm of the number of sets: there is room for twice as many stations as are asked for, or more.

        Then fewer than 1 in 100 stations meets a set that is full (Poisson, mean 4 of 8). More sets than that are made
        where the words would have too few bits left for the time.
        """
        for_stations = (-(-2 * self.size // WAYS) - 1).bit_length()
        others = _CONFIRMED_BITS + self.port_bits + self.key_bits
        return max(1, for_stations, self._least_time_bits + others - WORD_BITS)

    @property
    def time_bits(self) -> int:
        """Bits of an entry's time: what all else leaves.

        A station that is silent until its time comes round again looks as if it had just sent, if its entry has
        survived until then. So these bits reach for four ageing times at the least, and for hours.
        """
        return WORD_BITS - self.key_bits + self.set_bits - self.port_bits - _CONFIRMED_BITS

    @property
    def layout(self) -> str:
        """What else than the numbers and names of ports gives an entry its meaning."""
        return f"fdb/2 key {self.key_bits} port {self.port_bits} tick {self.tick_bits}"

    @property
    def _least_time_bits(self) -> int:
        ticks = 4 * self.aging_s * _FASTEST_JIFFIES >> self.tick_bits
        return max(_LEAST_TIME_BITS, ticks.bit_length())
