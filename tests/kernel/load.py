"""A machine with a chain under the load of the bench (bench/load.py)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench import load as bench
from bench.rig import Generator, Lane
from bench.traffic import Traffic

from .live import Host, host


@dataclass(frozen=True, slots=True)
class Load:
    """What runs a chain, and what sends frames through it."""

    machine: Host
    traffic: bench.Load

    @property
    def lane(self) -> Lane:
        return self.traffic.lane

    @property
    def generator(self) -> Generator:
        return self.traffic.generator

    @property
    def sent(self) -> int:
        return self.traffic.sent

    def announce(self) -> None:
        self.traffic.announce()

    def running(self, at_least: int = 0) -> contextlib.AbstractContextManager[None]:
        return self.traffic.running(at_least)

    def delivery(self) -> bench.Delivery:
        return self.traffic.delivery()


@contextlib.contextmanager
def load(folder: Path, traffic: Traffic) -> Iterator[Load]:
    """A machine that runs nothing yet, with devices `in`, `out` and `aside`."""
    with bench.load(traffic) as found, host(found.lane.dut, folder) as machine:
        yield Load(machine, found)
