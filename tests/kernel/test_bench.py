"""The bench, short: it measures, and it refuses a contender that does not carry the traffic."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from bench import tables
from bench.cases import LIMIT, Case, bridge, cases
from bench.contenders import Standing, TailCalls
from bench.kernel import LinuxBridge, NftFilter
from bench.measure import Damaged, Effort, check, measure
from bench.reload import reloads, table
from bench.rig import Generator, Lane, Rig
from bench.traffic import Traffic
from schemas.manifest import Mode

pytestmark = pytest.mark.kernel

FEW_FLOWS = Traffic("16 flows", flows=16)
LARGE_TABLES = [tables.service(size) for size in tables.SIZES if size > 10]
LONGEST = (TailCalls(32), NftFilter(100))
"""Those of long rows that stand for the others."""


@dataclass(frozen=True, slots=True)
class Nothing:
    """A machine that forwards nothing."""

    name: str = "nothing"
    service: str = "none"
    mode: str = "kernel"

    def set_up(self, lane: Lane, stack: ExitStack) -> Standing:
        return Standing(lane.station)


def test_rows_of_three_contenders() -> None:
    chosen = [Case(contender, (FEW_FLOWS,)) for contender in (LIMIT, bridge(Mode.NATIVE), LinuxBridge())]
    limit, ours, kernel = measure(chosen, FEW_FLOWS, Effort(seconds=0, epochs=2), lambda _: None)
    assert limit.ratio_to_redirect == 1
    assert min(limit.mpps, kernel.mpps) > 0
    assert ours.instructions == sum(program.instructions for program in ours.programs)
    assert ours.verified_instructions
    assert ours.program_ns
    assert kernel.instructions is None
    assert {row.lost for row in (limit, ours, kernel)} == {0}


def test_contenders_carry_their_traffic() -> None:
    """What `make bench QUICK=1` leaves out, each with the first traffic that it is listed with."""
    with Rig() as rig, ExitStack() as stack:
        generators: dict[Traffic, Generator] = {}
        for case in cases():
            if case.quick or case.contender.service in LARGE_TABLES:
                continue
            if isinstance(case.contender, TailCalls | NftFilter) and case.contender not in LONGEST:
                continue
            traffic = case.traffic[0]
            if traffic not in generators:
                generators[traffic] = stack.enter_context(rig.generator(traffic))
            lane = rig.lane()
            standing = case.contender.set_up(lane, stack)
            rig.announce(lane, traffic.vlan)
            check(rig, generators[traffic], lane, standing, frames=4096)


def test_a_contender_that_drops_is_refused() -> None:
    chosen = [Case(LIMIT, ()), Case(Nothing(), ())]
    with pytest.raises(Damaged, match=r"frames lost or added: -65536, bytes: .*flows missing"):
        measure(chosen, FEW_FLOWS, Effort(seconds=0, epochs=1), lambda _: None)


def test_reloads_under_load_lose_nothing() -> None:
    (row,) = reloads([Mode.NATIVE], swaps=2)
    assert (row.swaps, row.lost) == (2, 0)
    assert row.frames > 0
    assert list(row.stages_ms) == ["read", "validate", "lower", "clang", "write", "look", "load", "swap", "clean up"]
    for live, whole in row.ways:
        assert live
        assert whole
        assert 0 < live < whole
    assert "native        2" in table([row])
