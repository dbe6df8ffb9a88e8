"""How many ICMP errors a router sends: so many in all, so many to each receiver (RFC 1812 4.3.2.8, RFC 4443 2.4 f)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

RATE, BURST = 1000.0, 100.0
"""Errors a second, and at once, to all receivers together."""
RECEIVER_RATE, RECEIVER_BURST = 10.0, 10.0
REMEMBERED = 4096  # receivers; the one that was answered longest ago is forgotten first


@dataclass(slots=True)
class Bucket:
    """A token bucket; times are seconds."""

    rate: float
    burst: float
    tokens: float
    filled: float

    def take(self, now: float) -> bool:
        self.tokens = min(self.burst, self.tokens + (now - self.filled) * self.rate)
        self.filled = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


class ErrorLimit:
    """Says of each error whether it may be sent."""

    def __init__(self, now: float) -> None:
        self._all = Bucket(RATE, BURST, BURST, now)
        self._receivers: OrderedDict[Hashable, Bucket] = OrderedDict()
        self.refused = 0

    def allows(self, receiver: Hashable, now: float) -> bool:
        bucket = self._receivers.pop(receiver, None) or Bucket(RECEIVER_RATE, RECEIVER_BURST, RECEIVER_BURST, now)
        self._receivers[receiver] = bucket
        if len(self._receivers) > REMEMBERED:
            self._receivers.popitem(last=False)
        allowed = bucket.take(now) and self._all.take(now)
        self.refused += not allowed
        return allowed
