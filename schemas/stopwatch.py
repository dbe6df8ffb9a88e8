"""What takes how long: stages one after the other, for `--timings` and whoever calls from Python."""

from __future__ import annotations

from time import perf_counter

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


def timings_text(timings: Timings) -> str:
    """`read 1 ms  validate 3 ms`."""
    return "  ".join(f"{stage} {seconds * 1000:.0f} ms" for stage, seconds in timings)
