"""What takes how long: stages one after the other, for `--timings` and whoever calls from Python."""

from __future__ import annotations

import os
import time
from time import perf_counter

_STARTTIME = 19  # field of /proc/PID/stat, after the name (proc_pid_stat(5))

Timings = tuple[tuple[str, float], ...]
"""Stages in their order, with the seconds that each took."""


class Stopwatch:
    """Runs from when it is made."""

    def __init__(self) -> None:
        self._since = perf_counter()
        self._stage = ""
        self._seconds: list[tuple[str, float]] = []

    def enter(self, stage: str) -> None:
        """From now on it is `stage`; what was before ends, unless it is the same."""
        if stage != self._stage:
            self._end()
            self._stage = stage

    def stop(self) -> Timings:
        """All stages so far."""
        self._end()
        self._stage = ""
        return tuple(self._seconds)

    def _end(self) -> None:
        now = perf_counter()
        if self._stage:
            self._seconds.append((self._stage, now - self._since))
        self._since = now


def process_age() -> float:
    """Seconds since this process began, to the hundredth that Linux keeps of that: up to 0.01 too many."""
    with open("/proc/self/stat", encoding="ascii", errors="replace") as file:
        began = int(file.read().rpartition(")")[2].split()[_STARTTIME]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - began


def timings_text(timings: Timings) -> str:
    """`read 1 ms  validate 3 ms`."""
    return "  ".join(f"{stage} {seconds * 1000:.0f} ms" for stage, seconds in timings)
