"""Cases in, rows out: all contenders stand side by side, and every round visits each of them once.

A run has several epochs. Each sets everything up anew, so that tables and packets lie in other pages: where they lie
decides how well a cache holds them, and differs from one to the next by more than a run within one place would show.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from statistics import median
from time import monotonic

from runtime import sys as kernel
from runtime.info import prog_info

from .cases import LIMIT, Case
from .contenders import Contender, Standing
from .rig import LATENCY_STEP_NS, Generator, Lane, Rig
from .traffic import ORDER_LENGTH, Traffic

SLICE_FRAMES = 2048
"""One stretch of traffic, about half a millisecond: short enough that most are not disturbed by anybody."""

FEWEST_SLICES = 8
"""Stretches in a row at each visit, after a warm-up that is not counted; as many more as it takes to see every flow."""

UNDISTURBED_SLICES = 0.02
UNDISTURBED_EPOCHS = 0.25
"""A contender's figure in an epoch is that quantile of its slices, its figure in the run this quantile of the epochs.

Disturbance by other machines and processes only ever adds time: on a busy machine the median moves by a quarter with
what others do, while the fastest stretches of the same program are as fast as ever. What waits for memory is disturbed
for longer than a stretch, because others use the caches too; hence the second quantile.
"""

_CHECKED_FRAMES = ORDER_LENGTH
_ENOUGH_SECONDS = 4.0
"""Of rounds for each contender: more of them make no figure better."""

_EPOCHS_OF_TABLES = 3
"""Where each flow has a destination of its own: a million routes take long to set up."""

_ALONE_FRAMES = 5000
_FEWEST_ROUNDS = 2
_LATENCY_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Effort:
    """How long is measured: `seconds` of rounds for each traffic, spread over `epochs`."""

    seconds: float
    epochs: int


@dataclass(frozen=True, slots=True)
class ProgramSize:
    """A loaded program: instructions as the kernel runs them, those that its verifier went through, machine code."""

    name: str
    instructions: int
    verified_instructions: int
    jited_bytes: int


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement.

    `mpps`, `ratio_to_redirect` and `ns` (a packet's cost above the bare redirect) are those of undisturbed slices and
    epochs; `spread` is half the range of the ratio over the better half of the epochs. `median_mpps` is that of all
    slices, with the disturbance in it. `latency_ns` is the median of the time from sending to arrival of frames that
    are alone on their way, `latency_p99_ns` what 99 of 100 stay below. Instructions are those of all `programs` on the
    way.
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
    programs: tuple[ProgramSize, ...] = ()

    def record(self) -> dict[str, object]:
        """Plain data, as it is in latest.json."""
        return asdict(self)


class Damaged(Exception):
    """A contender did not carry the traffic as it should have: its figures would mean nothing."""


@dataclass(slots=True)
class Epoch:
    """What one contender reached from one setting-up on: nanoseconds a packet, slice by slice."""

    ns: list[float] = field(default_factory=list)
    sent: int = 0
    lost: int = 0

    @property
    def undisturbed_ns(self) -> float:
        return quantile(self.ns, UNDISTURBED_SLICES)


@dataclass(frozen=True, slots=True)
class Aside:
    """What is measured once, apart from the rounds."""

    latencies: Sequence[int]
    program_ns: float | None
    programs: tuple[ProgramSize, ...]


@dataclass(frozen=True, slots=True)
class _Runner:
    """A contender in place on its lane."""

    contender: Contender
    lane: Lane
    standing: Standing
    epoch: Epoch = field(default_factory=Epoch)

    def __str__(self) -> str:
        return f"{self.contender.service}, {self.contender.name}"


Progress = Callable[[str], None]


def measure(cases: Sequence[Case], traffic: Traffic, effort: Effort, progress: Progress) -> list[Row]:
    """Rows for all `cases` with this traffic, in their order; the limit is one of them. Raises Damaged."""
    effort = _as_needed(effort, len(cases), traffic)
    epochs: list[list[Epoch]] = []
    asides: list[Aside] = []
    for number in range(effort.epochs):

        def tell(text: str, number: int = number) -> None:
            progress(f"{traffic.name}, epoch {number + 1} of {effort.epochs}: {text}")

        with Rig() as rig, ExitStack() as stack:
            generator = stack.enter_context(rig.generator(traffic))
            runners = _set_up_all(rig, cases, traffic, random.Random(number), stack, tell)  # noqa: S311  # an order, no secret
            for runner in runners:
                tell(f"checking {runner}")
                check(rig, generator, runner.lane, runner.standing)
            _rounds(generator, runners, effort.seconds / effort.epochs, tell)
            epochs.append([runner.epoch for runner in runners])
            if number == effort.epochs - 1:
                tell("latency, and the cost of programs")
                asides = _asides(rig, generator, runners)
    limit = next(index for index, case in enumerate(cases) if case.contender is LIMIT)
    return [
        row(case.contender, traffic, [epoch[index] for epoch in epochs], [epoch[limit] for epoch in epochs], aside)
        for index, (case, aside) in enumerate(zip(cases, asides, strict=True))
    ]


def _as_needed(effort: Effort, contenders: int, traffic: Traffic) -> Effort:
    """No longer than it takes for so few contenders, no more epochs than there is time for."""
    epochs = min(effort.epochs, _EPOCHS_OF_TABLES) if traffic.spread else effort.epochs
    return Effort(min(effort.seconds, contenders * _ENOUGH_SECONDS), epochs)


def _set_up_all(
    rig: Rig, cases: Sequence[Case], traffic: Traffic, order: random.Random, stack: ExitStack, tell: Progress
) -> list[_Runner]:
    """A runner for each case, set up in any order: pages that an epoch frees are taken again in the order of asking."""
    places = order.sample(range(len(cases)), len(cases))
    runners = {place: _set_up(rig, cases[place].contender, traffic, stack, tell) for place in places}
    return [runners[place] for place in range(len(cases))]


def _set_up(rig: Rig, contender: Contender, traffic: Traffic, stack: ExitStack, tell: Progress) -> _Runner:
    tell(f"setting up {contender.service}, {contender.name}")
    lane = rig.lane()
    runner = _Runner(contender, lane, contender.set_up(lane, stack))
    rig.announce(lane, traffic.vlan)
    return runner


def check(rig: Rig, generator: Generator, lane: Lane, standing: Standing, frames: int = _CHECKED_FRAMES) -> None:
    """Every flow arrives whole, unchanged and in order; there are more frames than flows. Raises Damaged."""
    with rig.sink_runs("sink_check", lane):
        sent = generator.send(lane, frames, standing.destination)
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
        raise Damaged(f"{frames} frames of {generator.traffic.name}: {found}")


def _rounds(generator: Generator, runners: Sequence[_Runner], seconds: float, tell: Progress) -> None:
    end, rounds = monotonic() + seconds, 0
    while rounds < _FEWEST_ROUNDS or monotonic() < end:
        rounds += 1
        tell(f"round {rounds}, {max(0, end - monotonic()):.0f} s left")
        for runner in runners:
            _visit(generator, runner)


def _visit(generator: Generator, runner: _Runner) -> None:
    """As many slices as see every flow once, after as many frames to warm the caches up."""
    lane, destination, epoch = runner.lane, runner.standing.destination, runner.epoch
    generator.send(lane, max(generator.traffic.flows, SLICE_FRAMES), destination)
    for _ in range(max(FEWEST_SLICES, generator.traffic.flows // SLICE_FRAMES)):
        sent = generator.send(lane, SLICE_FRAMES, destination)
        epoch.ns.append(sent.ns / max(sent.arrived.packets, 1))
        epoch.sent += sent.frames
        epoch.lost += sent.frames - sent.arrived.packets


def _asides(rig: Rig, generator: Generator, runners: Sequence[_Runner]) -> list[Aside]:
    latencies: dict[int, list[int]] = {runner.lane.number: [] for runner in runners}
    with rig.generator(generator.traffic, stamped=True) as stamped:
        for _ in range(_LATENCY_ROUNDS):
            for runner in runners:
                latencies[runner.lane.number] += _latencies(rig, stamped, runner)
    return [
        Aside(latencies[runner.lane.number], _program_ns(generator, runner), _sizes(runner.standing))
        for runner in runners
    ]


def _latencies(rig: Rig, generator: Generator, runner: _Runner) -> list[int]:
    """Nanoseconds from generator to sink of frames that are sent one by one."""
    rig.latencies()
    with rig.sink_runs("sink_latency", runner.lane):
        generator.send(runner.lane, _ALONE_FRAMES, runner.standing.destination, batch=1)
    counts = rig.latencies()
    return [number * LATENCY_STEP_NS for number, count in enumerate(counts) for _ in range(count)]


def _program_ns(generator: Generator, runner: _Runner) -> float | None:
    """The kernel's own measurement of the attached program, tail calls included; some ns above its marginal cost."""
    if not runner.standing.programs:
        return None
    attached = runner.standing.programs[0]
    with kernel.enable_stats():
        before = prog_info(attached)
        generator.send(runner.lane, ORDER_LENGTH, runner.standing.destination)
        after = prog_info(attached)
    return round((after.run_time_ns - before.run_time_ns) / (after.run_count - before.run_count), 1)


def _sizes(standing: Standing) -> tuple[ProgramSize, ...]:
    found = [prog_info(program) for program in standing.programs]
    return tuple(ProgramSize(p.name, p.xlated_size // 8, p.verified_insns, p.jited_size) for p in found)


def quantile(values: Sequence[float], share: float) -> float:
    """The value that a share of all values is below."""
    return sorted(values)[int(share * len(values))]


def undisturbed_ns(epochs: Sequence[Epoch]) -> float:
    """Nanoseconds a packet, of the run."""
    return quantile([epoch.undisturbed_ns for epoch in epochs], UNDISTURBED_EPOCHS)


def spread(ours: Sequence[Epoch], limit: Sequence[Epoch]) -> float:
    """Half the range of the ratio over the better half of the epochs."""
    found = sorted(there.undisturbed_ns / here.undisturbed_ns for here, there in zip(ours, limit, strict=True))
    return (found[-1] - found[len(found) // 2]) / 2


def row(contender: Contender, traffic: Traffic, ours: Sequence[Epoch], limit: Sequence[Epoch], aside: Aside) -> Row:
    """What the epochs of one contender come to, beside those of the limit."""
    ns, limit_ns, programs = undisturbed_ns(ours), undisturbed_ns(limit), aside.programs
    return Row(
        contender=contender.name,
        service=contender.service,
        traffic=traffic.name,
        mode=str(contender.mode),
        mpps=round(1000 / ns, 3),
        ratio_to_redirect=round(limit_ns / ns, 4),
        spread=round(spread(ours, limit), 4),
        ns=round(ns - limit_ns, 1),
        median_mpps=round(1000 / median(ns for epoch in ours for ns in epoch.ns), 3),
        lost=round(sum(epoch.lost for epoch in ours) / sum(epoch.sent for epoch in ours), 6),
        latency_ns=int(quantile(aside.latencies, 0.5)),
        latency_p99_ns=int(quantile(aside.latencies, 0.99)),
        program_ns=aside.program_ns,
        instructions=sum(program.instructions for program in programs) if programs else None,
        verified_instructions=sum(program.verified_instructions for program in programs) if programs else None,
        programs=programs,
    )
