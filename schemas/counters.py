"""Where a service's counters lie: the layout that generated C writes and `status` reads.

Every packet is counted once, at its verdict. A service has one per-CPU array, an element for each incoming port; the
element is a row of `struct counter {u64 packets, bytes}`: one for each port it went out of, then flood, then host, then
slow path (sent up to the control plane), then one for each drop reason. Received totals are the sum of the row; a
port's sent totals are the sum of its column and of the floods that came in elsewhere. Where not every port gets a copy
of a flood, a port counts those that it does get in its own row and column (a packet never leaves by the port that it
came in by): they are sent, not received.
"""

from __future__ import annotations

from msgspec import Struct

COUNTER_SIZE = 16  # bytes: packets, bytes
DROP_REASON_LIMIT = 64  # reasons are numbers below this


class Count(Struct, frozen=True):
    """Packets, and the bytes of their frames."""

    packets: int = 0
    bytes: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.packets + other.packets, self.bytes + other.bytes)

    def __bool__(self) -> bool:
        return bool(self.packets or self.bytes)


class CounterLayout(Struct, frozen=True):
    """Indices into one port's row of counters, for a service with `ports` ports."""

    ports: int

    @property
    def flood(self) -> int:
        return self.ports

    @property
    def host(self) -> int:
        return self.ports + 1

    @property
    def slow_path(self) -> int:
        return self.ports + 2

    def drop(self, reason: int) -> int:
        return self.ports + 3 + reason

    @property
    def entries(self) -> int:
        return self.ports + 3 + DROP_REASON_LIMIT

    @property
    def size(self) -> int:
        """Bytes of one port's row on one CPU."""
        return self.entries * COUNTER_SIZE
