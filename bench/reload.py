"""What changing a running chain costs: frames under load, and time from the saved file to the last hook's swap."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import monotonic
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
_LIVE_AT = re.compile(r"at ([0-9.]+) s of CLOCK_MONOTONIC")


@dataclass(frozen=True, slots=True)
class Reload:
    """Reloads of a guard and a bridge in a row, each with another number in two of the four programs.

    `lost` frames are all that did not arrive once, unchanged and in order. Times are medians in milliseconds, without
    load: through the Python API, and with `command` through the command line, from the start of its process. Those that
    are called `live` end with the last hook's swap, the others with all that is tidied up after it and the process.
    `code` is where code changes, and clang has to run: another block list in one program. None in older results.
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
    whole_ms: float | None = None
    command_live_ms: float | None = None
    code_ms: float | None = None
    code_command_live_ms: float | None = None
    code_command_ms: float | None = None

    @property
    def ways(self) -> tuple[tuple[float | None, float | None], ...]:
        """(until live, whole) for another number, then for other code: each through the API, then as a command."""
        return (
            (self.live_ms, self.whole_ms),
            (self.command_live_ms, self.command_ms),
            (self.code_live_ms, self.code_ms),
            (self.code_command_live_ms, self.code_command_ms),
        )

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
        applied = [chain.apply(swaps + number + 1) for number in range(swaps)]
        commands = [chain.command(number) for number in range(swaps)]
        code = [chain.apply(0, blocked=number + 1) for number in range(swaps)]
        code_commands = [chain.command(0, blocked=swaps + number + 1) for number in range(swaps)]
    wrong = abs(delivery.sent - delivery.arrived) + delivery.out_of_order + delivery.damaged + delivery.misdelivered
    stages = {stage: [dict(each.stages)[stage] for each in applied] for stage, _ in applied[0].stages}
    return Reload(
        mode=str(mode),
        swaps=swaps,
        frames=delivery.sent,
        lost=wrong,
        mpps=round(delivery.mpps, 2),
        live_ms=_median_ms(took.live for took in applied),
        stages_ms={stage: round(median(seconds) * 1000, 1) for stage, seconds in stages.items()},
        code_live_ms=_median_ms(took.live for took in code),
        command_ms=_median_ms(took.whole for took in commands),
        whole_ms=_median_ms(took.whole for took in applied),
        command_live_ms=_median_ms(took.live for took in commands),
        code_ms=_median_ms(took.whole for took in code),
        code_command_live_ms=_median_ms(took.live for took in code_commands),
        code_command_ms=_median_ms(took.whole for took in code_commands),
    )


def _median_ms(seconds: Iterable[float]) -> float:
    return round(median(seconds) * 1000, 1)


@dataclass(frozen=True, slots=True)
class _Took:
    """Seconds from the saved file until the change was live, and until all was done; of a command not by stages."""

    live: float
    whole: float
    stages: Timings = ()


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

    def command(self, number: int, blocked: int = 0) -> _Took:
        """What `bpfchain apply` takes for the file with another ageing time or block list, as a process."""
        self.save(number, blocked)
        words = [sys.executable, "-m", "bpfchain", "apply", "--quiet", "--timings", str(self.file)]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        with entered(self.under.lane.dut.name):
            begun = monotonic()
            ran = subprocess.run(words, env=environment, check=True, stderr=subprocess.PIPE, text=True)  # noqa: S603
        live = _LIVE_AT.search(ran.stderr)
        assert live, ran.stderr
        return _Took(float(live[1]) - begun, monotonic() - begun)

    def apply(self, number: int, blocked: int = 0) -> _Took:
        """Saves the file with another ageing time or block list, compiles it and applies it."""
        self.save(number, blocked)
        with entered(self.under.lane.dut.name):
            begun = monotonic()
            built = build(self.file)
            applied: Applied = apply(built.chain)
            return _Took(applied.live_at - begun, monotonic() - begun, built.seconds + applied.timings)


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
    lines = [f"{head} {'API':>9} {'command':>9} {'code: API':>9} {'command':>9}  stages, ms (live/whole)"]
    for row in found:
        stages = "  ".join(f"{stage} {ms:.1f}" for stage, ms in row.stages_ms.items())
        numbers = f"{row.swaps:>6} {row.frames:>10} {row.lost:>5} {row.mpps:>6.2f}"
        times = " ".join(f"{f'{live or 0:.0f}/{whole or 0:.0f}':>9}" for live, whole in row.ways)
        lines.append(f"{row.mode:<8} {numbers} {times}  {stages}")
    return "".join(f"{line}\n" for line in lines)
