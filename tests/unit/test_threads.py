"""Work in threads: results in order, whatever happens to some of it."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from schemas.threads import in_threads


def test_what_is_made_is_in_the_order_of_the_items() -> None:
    gate = threading.Barrier(2)

    def make(number: int) -> int:
        gate.wait(timeout=10)  # two at a time, or never
        return number * number

    assert in_threads(make, [1, 2, 3, 4], most=2) == [1, 4, 9, 16]
    assert in_threads(make, []) == []


def test_what_is_raised_is_told_beside_the_rest() -> None:
    def make(number: int) -> int:
        return 12 // number

    first, failed, last = in_threads(make, [3, 0, 4])
    assert (first, last) == (4, 3)
    assert isinstance(failed, ZeroDivisionError)


def test_no_more_at_a_time_than_is_said() -> None:
    running, most = [0], [0]
    lock = threading.Lock()

    def make(_: int) -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        with lock:
            running[0] -= 1

    in_threads(make, list(range(50)), most=1)
    assert most == [1]


def test_whoever_is_interrupted_waits_for_what_has_begun() -> None:
    done: list[int] = []

    def make(number: int) -> None:
        time.sleep(0.3)
        done.append(number)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt):
            in_threads(make, list(range(10)), most=2)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert sorted(done) == [0, 1]
