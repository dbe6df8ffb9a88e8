"""Rates in, the constants of a `struct bucket_rate` (compiler/bpf/bucket.h) out."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from schemas.diagnostic import Span

from .ir import Constant, Inlined, LoadTime

NS_PER_SECOND = 1_000_000_000
TIME_SHIFT = 4  # BUCKET_TIME_SHIFT
COARSE_TICK_NS = 10_000_000
"""Longest step of the coarse clock: a tick, with CONFIG_HZ=100."""


class Bucket(Struct, frozen=True):
    """`rate` packets a second and `burst` at once; each `path` is where the chain has it."""

    rate_path: str
    rate: int
    burst_path: str
    burst: int
    span: Span

    def constants(self, field: str, *, coarse: bool) -> Iterator[Constant]:
        """What fills the configuration's field `field`, a `struct bucket_rate`."""
        interval = (NS_PER_SECOND << TIME_SHIFT) // self.rate
        ahead = (self.burst - 1) * interval
        rate = f"{self.rate}/s"
        clock = "true" if coarse else "false"
        yield self._constant(self.rate_path, rate, "a limit", Inlined(f"{field}.limited", "true"))
        yield self._constant(self.rate_path, rate, "clock that ticks will do", Inlined(f"{field}.coarse", clock))
        yield self._constant(self.rate_path, rate, "1/16 ns between two", LoadTime(f"{field}.interval", interval))
        yield self._constant(self.burst_path, str(self.burst), "1/16 ns ahead", LoadTime(f"{field}.tolerance", ahead))

    def _constant(self, path: str, value: str, meaning: str, home: Inlined | LoadTime) -> Constant:
        return Constant(path, value, meaning, home, self.span)


def coarse_clock(rate: int, burst: int) -> bool:
    """Whether a clock that stands still between ticks will do: a tick brings at most a quarter of a burst.

    bpf_ktime_get_coarse_ns() takes 6 ns, bpf_ktime_get_ns() 32 (measured).
    """
    return rate * COARSE_TICK_NS * 4 <= burst * NS_PER_SECOND
