"""The bench, short: it measures, and it refuses a contender that does not carry the traffic."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from bench.cases import LIMIT, Case, bridge
from bench.contenders import Standing
from bench.kernel import LinuxBridge
from bench.measure import Damaged, measure
from bench.rig import Lane, Rig
from bench.traffic import Traffic
from schemas.manifest import Mode

pytestmark = pytest.mark.kernel

FEW_FLOWS = Traffic("16 flows", flows=16)


@dataclass(frozen=True, slots=True)
class Nothing:
    """A machine that forwards nothing."""

    name: str = "nothing"
    service: str = "none"
    mode: str = "kernel"

    def set_up(self, lane: Lane, stack: ExitStack) -> Standing:
        return Standing(lane.station)


def test_rows_of_three_contenders() -> None:
    cases = [Case(contender, (FEW_FLOWS,)) for contender in (LIMIT, bridge(Mode.NATIVE), LinuxBridge())]
    with Rig() as rig:
        limit, ours, kernel = measure(rig, cases, FEW_FLOWS, seconds=0, progress=lambda _: None)
    assert limit.ratio_to_redirect == 1
    assert limit.mpps > kernel.mpps > 0
    assert ours.instructions
    assert ours.verified_instructions
    assert ours.program_ns
    assert kernel.instructions is None
    assert {row.lost for row in (limit, ours, kernel)} == {0}


def test_a_contender_that_drops_is_refused() -> None:
    with Rig() as rig, pytest.raises(Damaged, match=r"frames lost or added: -131072, bytes: .*flows missing"):
        measure(rig, [Case(LIMIT, ()), Case(Nothing(), ())], FEW_FLOWS, seconds=0, progress=lambda _: None)
