"""Rates in, the `struct bucket_rate` of compiler/bpf/bucket.h out."""

from __future__ import annotations

NS_PER_SECOND = 1_000_000_000
TIME_SHIFT = 4  # BUCKET_TIME_SHIFT
COARSE_TICK_NS = 10_000_000
"""Longest step of the coarse clock: a tick, with CONFIG_HZ=100."""


def bucket_rate(rate: int, burst: int, *, coarse: bool) -> str:
    """The initialiser for `rate` packets a second and `burst` at once."""
    interval = (NS_PER_SECOND << TIME_SHIFT) // rate
    return f"{{{interval}ULL, {(burst - 1) * interval}ULL, {'true' if coarse else 'false'}}}"


def coarse_clock(rate: int, burst: int) -> bool:
    """Whether a clock that stands still between ticks will do: a tick brings at most a quarter of a burst.

    bpf_ktime_get_coarse_ns() takes 6 ns, bpf_ktime_get_ns() 32 (measured).
    """
    return rate * COARSE_TICK_NS * 4 <= burst * NS_PER_SECOND
