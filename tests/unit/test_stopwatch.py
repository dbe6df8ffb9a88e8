"""Stages and what they took."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from runtime.steps import Step, carry_out, staged, timed
from schemas import stopwatch
from schemas.stopwatch import Stopwatch, timings_text


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(stopwatch, "perf_counter", lambda: now[0])
    return now


def test_stages_follow_each_other(clock: list[float]) -> None:
    watch = Stopwatch()
    clock[0] += 5  # before the first stage: counted for none
    for stage, seconds in (("read", 0.5), ("clang", 0.25), ("clang", 0.25), ("read", 1)):
        watch.enter(stage)
        clock[0] += seconds
    timings = watch.stop()
    assert timings == (("read", 0.5), ("clang", 0.5), ("read", 1))
    assert timings_text(timings) == "read 500 ms  clang 500 ms  read 1000 ms"


def test_steps_are_counted_for_their_stage(clock: list[float]) -> None:
    def pass_time() -> None:
        clock[0] += 1

    watch, heard = Stopwatch(), []
    watch.enter("look")
    clock[0] += 2
    steps = [*staged("load", [Step("a", pass_time), Step("b", pass_time)]), *staged("swap", [Step("c", pass_time)])]
    carry_out(steps, timed(watch, lambda step: heard.append(step.title)))
    assert watch.stop() == (("look", 2), ("load", 2), ("swap", 1))
    assert heard == ["a", "b", "c"]


def test_a_process_knows_its_age() -> None:
    asked = "import time; time.sleep(0.3); from schemas.stopwatch import process_age; print(process_age())"
    begun = time.monotonic()
    ran = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert 0.3 <= float(ran.stdout) <= time.monotonic() - begun + 0.011  # it is kept in hundredths
