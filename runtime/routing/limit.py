"""How many ICMP errors a router sends: so many in all, so many to each receiver (RFC 1812 4.3.2.8, RFC 4443 2.4 f).

And how many redirects: fewer and fewer to a host that does not listen.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from msgspec import Struct

REMEMBERED = 4096  # receivers; the one that was answered longest ago is forgotten first


class Bucket(Struct):
    """A token bucket; times are seconds."""

    rate: float
    burst: float
    tokens: float
    filled: float

    def earned(self, now: float) -> float:
        """How many tokens there are by now."""
        return min(self.burst, self.tokens + (now - self.filled) * self.rate)

    def take(self, now: float) -> bool:
        self.tokens, self.filled = self.earned(now), now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


class ErrorLimit:
    """Says of each error whether it may be sent.

    `rate` errors a second go to all receivers together, a tenth of them at once; `receiver_rate` to one, all at once.
    """

    def __init__(self, rate: float, receiver_rate: float, now: float) -> None:
        self._receiver_rate = receiver_rate
        self._all = Bucket(rate, rate / 10, rate / 10, now)
        self._receivers: OrderedDict[Hashable, Bucket] = OrderedDict()
        self.refused = 0

    def is_exhausted(self, receiver: Hashable, now: float) -> bool:
        """Whether `allows` would say no; counted as if it had. A flood costs no more than this question."""
        bucket = self._receivers.get(receiver)
        exhausted = self._all.earned(now) < 1 or (bucket is not None and bucket.earned(now) < 1)
        self.refused += exhausted
        return exhausted

    def allows(self, receiver: Hashable, now: float) -> bool:
        bucket = self._receivers.pop(receiver, None) or self._full(now)
        self._receivers[receiver] = bucket
        if len(self._receivers) > REMEMBERED:
            self._receivers.popitem(last=False)
        allowed = bucket.take(now) and self._all.take(now)
        self.refused += not allowed
        return allowed

    def _full(self, now: float) -> Bucket:
        return Bucket(self._receiver_rate, self._receiver_rate, self._receiver_rate, now)


class Redirected(Struct):
    """A sender: when it was last redirected, or seen when it was not any more, and how often it was."""

    last: float
    times: int = 0


class RedirectLimit:
    """Says of each packet whether its sender may be redirected, as Linux does (`ip_rt_send_redirect()`).

    At once, then after `PAUSE` of seconds that doubles each time. A sender that goes on after `MOST` of them does not
    listen, and is told nothing more until it has been silent for as long as the next pause but one would be.
    """

    PAUSE = 0.02
    MOST = 9
    SILENCE = PAUSE * 2 ** (MOST + 1)

    def __init__(self) -> None:
        self._senders: OrderedDict[Hashable, Redirected] = OrderedDict()

    def allows(self, sender: Hashable, now: float) -> bool:
        found = self._senders.pop(sender, None)
        if found is None or now - found.last > self.SILENCE:
            found = Redirected(now)
        self._senders[sender] = found
        if len(self._senders) > REMEMBERED:
            self._senders.popitem(last=False)
        if found.times >= self.MOST:
            found.last = now
            return False
        if found.times and now - found.last <= self.PAUSE * 2**found.times:
            return False
        found.last, found.times = now, found.times + 1
        return True
