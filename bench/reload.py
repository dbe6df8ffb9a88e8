"""What changing a running chain costs: frames under load, and time from the saved file to the last hook's swap."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import yaml

from compiler.build import build
from runtime.apply import Applied, apply, detach
from runtime.netns import entered
from schemas.manifest import Mode
from schemas.stopwatch import Timings
from tests.rig.lab import unique_name

from .costs import cache_in
from .load import Load, load
from .traffic import Traffic

_FLOWS = Traffic("1k flows", flows=1024)
_AFTER_LIVE = "clean up"


@dataclass(frozen=True, slots=True)
class Reload:
    """Reloads of a guard and a bridge in a row, each with another number in two of the four programs.

    `lost` frames are all that did not arrive once, unchanged and in order. The stages are medians in milliseconds,
    without load; `live_ms` is that of all stages up to the last hook's swap. `code_live_ms` is the same where code
    changes, and clang has to run: another block list in one program. `command_ms` is that of the command line for
    another number, from the start of the process to its end. None in older results.
    """

    mode: str
    swaps: int
    frames: int
    lost: int
    mpps: float
    live_ms: float
    stages_ms: Mapping[str, float]
    code_live_ms: float | None = None
    command_ms: float | None = None

    def record(self) -> dict[str, object]:
        return asdict(self)


def reloads(modes: Sequence[Mode], swaps: int) -> list[Reload]:
    """One row for each mode, of as many swaps under load, and as many without."""
    return [_reload(mode, swaps) for mode in modes]


def _reload(mode: Mode, swaps: int) -> Reload:
    with load(_FLOWS) as under, _chain(under, mode) as chain:
        chain.apply(0)
        under.announce()
        with under.running():
            for number in range(swaps):
                chain.apply(number + 1)
        delivery = under.delivery()
        timings = [chain.apply(swaps + number + 1) for number in range(swaps)]
        commands = [chain.command(number) for number in range(swaps)]
        code = [chain.apply(0, blocked=number + 1) for number in range(swaps)]
    wrong = abs(delivery.sent - delivery.arrived) + delivery.out_of_order + delivery.damaged + delivery.misdelivered
    stages = {stage: [dict(each)[stage] for each in timings] for stage, _ in timings[0]}
    return Reload(
        mode=str(mode),
        swaps=swaps,
        frames=delivery.sent,
        lost=wrong,
        mpps=round(delivery.mpps, 2),
        live_ms=_until_live_ms(timings),
        stages_ms={stage: round(median(seconds) * 1000, 1) for stage, seconds in stages.items()},
        code_live_ms=_until_live_ms(code),
        command_ms=round(median(commands) * 1000, 1),
    )


def _until_live_ms(timings: Iterable[Timings]) -> float:
    """The median of several applies, without what is done after the last swap."""
    live = [sum(seconds for stage, seconds in each if stage != _AFTER_LIVE) for each in timings]
    return round(median(live) * 1000, 1)


@dataclass(frozen=True, slots=True)
class _Chain:
    """A chain on the machine under load."""

    under: Load
    mode: Mode
    name: str
    file: Path

    def source(self, aging_s: int, blocked: int) -> dict[str, Any]:
        return {
            "chain": self.name,
            "mode": str(self.mode),
            "interfaces": {device: {"device": device} for device in ("in", "out")},
            "services": {
                "guard": {"kind": "ddos", "block": {"sources": [f"203.0.{blocked}.0/24"]}},
                "br0": {"kind": "bridge", "fdb": {"aging": f"{aging_s}s"}, "ports": {"a": {}, "b": {}}},
            },
            "links": [["in", "guard.outside"], ["guard.inside", "br0.a"], ["br0.b", "out"]],
        }

    def save(self, number: int, blocked: int = 0) -> None:
        self.file.write_text(yaml.safe_dump(self.source(300 + number, blocked), sort_keys=False))

    def command(self, number: int) -> float:
        """The seconds that `bpfchain apply` takes for the file with another ageing time, as a process."""
        self.save(number)
        words = [sys.executable, "-m", "bpfchain", "apply", "--quiet", str(self.file)]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        with entered(self.under.lane.dut.name):
            begun = perf_counter()
            subprocess.run(words, env=environment, check=True)  # noqa: S603
        return perf_counter() - begun

    def apply(self, number: int, blocked: int = 0) -> Timings:
        """Saves the file with another ageing time or block list, compiles it and applies it."""
        self.save(number, blocked)
        built = build(self.file)
        with entered(self.under.lane.dut.name):
            applied: Applied = apply(built.chain)
        return built.seconds + applied.timings


@contextmanager
def _chain(under: Load, mode: Mode) -> Iterator[_Chain]:
    name = unique_name("bench")
    with tempfile.TemporaryDirectory(prefix="bpfchain-bench-") as folder, cache_in(Path(folder, "cache")):
        chain = _Chain(under, mode, name, Path(folder, "chain.yaml"))
        try:
            yield chain
        finally:
            detach(name)


def table(found: Sequence[Reload]) -> str:
    """Lines of text."""
    head = f"{'reload':<8} {'swaps':>6} {'frames':>10} {'lost':>5} {'Mpps':>6}"
    lines = [f"{head} {'live ms':>8} {'command':>8} {'code':>6}  stages, ms"]
    for row in found:
        stages = "  ".join(f"{stage} {ms:.1f}" for stage, ms in row.stages_ms.items())
        numbers = f"{row.swaps:>6} {row.frames:>10} {row.lost:>5} {row.mpps:>6.2f}"
        times = f"{row.live_ms:>8.1f} {row.command_ms or 0:>8.1f} {row.code_live_ms or 0:>6.1f}"
        lines.append(f"{row.mode:<8} {numbers} {times}  {stages}")
    return "".join(f"{line}\n" for line in lines)
