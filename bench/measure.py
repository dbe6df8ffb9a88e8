"""Cases in, rows out: every round visits each contender once, and compares it with the bare redirect of that round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from time import monotonic

from runtime import sys as kernel
from runtime.info import prog_info

from .cases import LIMIT, Case
from .contenders import Contender, Standing
from .rig import LATENCY_STEP_NS, Generator, Lane, Rig
from .traffic import ORDER_LENGTH, Traffic

SLICE_FRAMES = 2048
"""One stretch of traffic, about half a millisecond: short enough that most are not disturbed by anybody."""

SLICES = 8
"""Stretches in a row at each visit, after one that is not counted."""

UNDISTURBED = 0.02
"""A contender's figure is this quantile of its slices.

Disturbance by other machines and processes only ever adds time: on a busy machine the median moves by a quarter with
what others do, while the fastest stretches of the same program are as fast as ever.
"""

_CHECKED_FRAMES = 2 * ORDER_LENGTH
_ALONE_FRAMES = 5000
_FEWEST_ROUNDS = 3
_LATENCY_ROUNDS = 4


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement.

    `mpps`, `ratio_to_redirect` and `ns` (a packet's cost above the bare redirect) are those of undisturbed slices;
    `latency_ns` is the median of the
    time from sending to arrival of frames that are alone on their way, `latency_p99_ns` what 99 of 100 stay below;
    `spread` is half the range of that ratio over three parts of the run; `median_mpps` has the disturbance in it.
    """

    contender: str
    service: str
    traffic: str
    mode: str
    mpps: float
    ratio_to_redirect: float
    spread: float
    ns: float
    median_mpps: float
    lost: float
    latency_ns: int
    latency_p99_ns: int
    program_ns: float | None
    instructions: int | None
    verified_instructions: int | None

    def record(self) -> dict[str, object]:
        return asdict(self)


class Damaged(Exception):
    """A contender did not carry the traffic as it should have: its figures would mean nothing."""


@dataclass(slots=True)
class _Runner:
    """One contender on its lane, and what it reached in each round."""

    contender: Contender
    lane: Lane
    standing: Standing
    ns: list[float] = field(default_factory=list)
    latencies: list[int] = field(default_factory=list)
    lost: int = 0
    sent: int = 0


def measure(
    rig: Rig, cases: Sequence[Case], traffic: Traffic, seconds: float, progress: Callable[[str], None]
) -> list[Row]:
    """Rows for all `cases` with this traffic, in their order: `seconds` of rounds, three at least. Raises Damaged."""
    with ExitStack() as stack:
        generator = stack.enter_context(rig.generator(traffic))
        runners = []
        for case in cases:
            progress(f"{traffic.name}: setting up {case.contender.name} ({case.contender.service})")
            lane = rig.lane()
            runners.append(_Runner(case.contender, lane, case.contender.set_up(lane, stack)))
        for runner in runners:
            progress(f"{traffic.name}: checking {runner.contender.name} ({runner.contender.service})")
            rig.announce(runner.lane)
            check(rig, generator, runner.lane, runner.standing)
        end, rounds = monotonic() + seconds, 0
        while rounds < _FEWEST_ROUNDS or monotonic() < end:
            rounds += 1
            progress(f"{traffic.name}: round {rounds}, {max(0, end - monotonic()):.0f} s left")
            for runner in runners:
                _visit(generator, runner)
        limit = next(runner for runner in runners if runner.contender is LIMIT)
        progress(f"{traffic.name}: cost of the programs")
        stamped = stack.enter_context(rig.generator(traffic, stamped=True))
        for _ in range(_LATENCY_ROUNDS):
            for runner in runners:
                runner.latencies += _latencies(rig, stamped, runner)
        return [_row(generator, runner, limit) for runner in runners]


def check(rig: Rig, generator: Generator, lane: Lane, standing: Standing) -> None:
    """Every flow arrives whole, unchanged and in order. Raises Damaged."""
    with rig.sink_runs("sink_check", lane):
        sent = generator.send(lane, _CHECKED_FRAMES, standing.destination)
    flows = rig.flows()
    expected = set(generator.traffic.order())
    wrong = {
        "frames lost or added": sent.arrived.packets - sent.frames,
        "bytes": sent.arrived.bytes - sent.frames * generator.traffic.frame_bytes,
        "out of order": sent.arrived.out_of_order,
        "changed": sent.arrived.damaged,
        "flows missing or added": len(expected ^ flows.keys()),
    }
    if any(wrong.values()):
        found = ", ".join(f"{what}: {count}" for what, count in wrong.items() if count)
        raise Damaged(f"{_CHECKED_FRAMES} frames of {generator.traffic.name}: {found}")


def _visit(generator: Generator, runner: _Runner) -> None:
    generator.send(runner.lane, max(generator.traffic.flows, SLICE_FRAMES), runner.standing.destination)
    for _ in range(SLICES):
        sent = generator.send(runner.lane, SLICE_FRAMES, runner.standing.destination)
        runner.ns.append(sent.ns / max(sent.arrived.packets, 1))
        runner.sent += sent.frames
        runner.lost += sent.frames - sent.arrived.packets


def quantile(values: Sequence[float], share: float) -> float:
    """The value that a share of all values is below."""
    return sorted(values)[int(share * len(values))]


def ratio(limit: Sequence[float], ours: Sequence[float]) -> float:
    """Throughput of undisturbed slices, in parts of the limit's."""
    return quantile(limit, UNDISTURBED) / quantile(ours, UNDISTURBED)


def spread(limit: Sequence[float], ours: Sequence[float]) -> float:
    """Half the range of the ratio over three parts of the run, each with slices from all of its length."""
    parts = [ratio(limit[part::3], ours[part::3]) for part in range(3)]
    return (max(parts) - min(parts)) / 2


def _latencies(rig: Rig, generator: Generator, runner: _Runner) -> list[int]:
    """Nanoseconds from generator to sink of frames that are sent one by one."""
    rig.latencies()
    with rig.sink_runs("sink_latency", runner.lane):
        generator.send(runner.lane, _ALONE_FRAMES, runner.standing.destination, batch=1)
    counts = rig.latencies()
    return [number * LATENCY_STEP_NS for number, count in enumerate(counts) for _ in range(count)]


def _row(generator: Generator, runner: _Runner, limit: _Runner) -> Row:
    undisturbed = quantile(runner.ns, UNDISTURBED)
    infos = [prog_info(program) for program in runner.standing.programs]
    return Row(
        contender=runner.contender.name,
        service=runner.contender.service,
        traffic=generator.traffic.name,
        mode=str(runner.contender.mode),
        mpps=round(1000 / undisturbed, 3),
        ratio_to_redirect=round(ratio(limit.ns, runner.ns), 4),
        spread=round(spread(limit.ns, runner.ns), 4),
        ns=round(undisturbed - quantile(limit.ns, UNDISTURBED), 1),
        median_mpps=round(1000 / quantile(runner.ns, 0.5), 3),
        lost=round(runner.lost / runner.sent, 6),
        latency_ns=int(quantile(runner.latencies, 0.5)),
        latency_p99_ns=int(quantile(runner.latencies, 0.99)),
        program_ns=_program_ns(generator, runner) if infos else None,
        instructions=sum(info.xlated_size // 8 for info in infos) if infos else None,
        verified_instructions=sum(info.verified_insns for info in infos) if infos else None,
    )


def _program_ns(generator: Generator, runner: _Runner) -> float:
    """The kernel's own measurement of the attached program, tail calls included; some ns above its marginal cost."""
    attached = runner.standing.programs[0]
    with kernel.enable_stats():
        before = prog_info(attached)
        generator.send(runner.lane, _CHECKED_FRAMES, runner.standing.destination)
        after = prog_info(attached)
    return round((after.run_time_ns - before.run_time_ns) / (after.run_count - before.run_count), 1)
