"""Cases in, rows out: every round visits each contender once, and compares it with the bare redirect of that round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from statistics import median

from runtime import sys as kernel
from runtime.info import prog_info

from .cases import LIMIT, Case
from .contenders import Contender, Standing
from .rig import Generator, Lane, Rig
from .traffic import ORDER_LENGTH, Traffic

SLICE_NS = 6_000_000
"""How long one stretch of traffic is; a contender that is preempted in it is seen as an outlier, not in the median."""

_CHECKED_FRAMES = 2 * ORDER_LENGTH
_TRIAL_FRAMES = 8192


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement. `spread` is half the distance between the quartiles of the rounds' ratios."""

    contender: str
    service: str
    traffic: str
    mode: str
    mpps: float
    ratio_to_redirect: float
    spread: float
    ns: float
    lost: float
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
    frames: int = 0
    warm_up: int = 0
    ns: list[float] = field(default_factory=list)
    lost: int = 0
    sent: int = 0


def measure(
    rig: Rig, cases: Sequence[Case], traffic: Traffic, rounds: int, progress: Callable[[str], None]
) -> list[Row]:
    """Rows for all `cases` with this traffic, in their order. Raises Damaged."""
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
            _size_slice(generator, runner)
        for number in range(rounds):
            progress(f"{traffic.name}: round {number + 1} of {rounds}")
            for runner in runners:
                _run_slice(generator, runner)
        limit = next(runner for runner in runners if runner.contender is LIMIT)
        progress(f"{traffic.name}: cost of the programs")
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


def _size_slice(generator: Generator, runner: _Runner) -> None:
    """Slices of equal length, whole turns through all flows where there are many."""
    trial = generator.send(runner.lane, _TRIAL_FRAMES, runner.standing.destination)
    flows = generator.traffic.flows
    frames = max(SLICE_NS * trial.frames // trial.ns, _TRIAL_FRAMES if flows == 1 else ORDER_LENGTH)
    runner.frames = frames if flows == 1 else frames // ORDER_LENGTH * ORDER_LENGTH
    runner.warm_up = min(frames, max(flows, _TRIAL_FRAMES // 4))


def _run_slice(generator: Generator, runner: _Runner) -> None:
    generator.send(runner.lane, runner.warm_up, runner.standing.destination)
    sent = generator.send(runner.lane, runner.frames, runner.standing.destination)
    runner.ns.append(sent.ns / max(sent.arrived.packets, 1))
    runner.sent += sent.frames
    runner.lost += sent.frames - sent.arrived.packets


def _row(generator: Generator, runner: _Runner, limit: _Runner) -> Row:
    ratios = sorted(bare / ours for bare, ours in zip(limit.ns, runner.ns, strict=True))
    infos = [prog_info(program) for program in runner.standing.programs]
    return Row(
        contender=runner.contender.name,
        service=runner.contender.service,
        traffic=generator.traffic.name,
        mode=str(runner.contender.mode),
        mpps=round(1000 / median(runner.ns), 3),
        ratio_to_redirect=round(median(ratios), 4),
        spread=round((ratios[3 * len(ratios) // 4] - ratios[len(ratios) // 4]) / 2, 4),
        ns=round(median(runner.ns) - median(limit.ns), 1),
        lost=round(runner.lost / runner.sent, 6),
        program_ns=_program_ns(generator, runner) if infos else None,
        instructions=sum(info.xlated_size // 8 for info in infos) if infos else None,
        verified_instructions=sum(info.verified_insns for info in infos) if infos else None,
    )


def _program_ns(generator: Generator, runner: _Runner) -> float:
    """The kernel's own measurement of the attached program, tail calls included; some ns above its marginal cost."""
    attached = runner.standing.programs[0]
    with kernel.enable_stats():
        before = prog_info(attached)
        generator.send(runner.lane, runner.frames, runner.standing.destination)
        after = prog_info(attached)
    return round((after.run_time_ns - before.run_time_ns) / (after.run_count - before.run_count), 1)
