"""Whoever stands by does nothing, unless the one that he stands by dies."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.standby import stood_in
from schemas.diagnostic import LoadFailed
from tests.rig.waiting import until


def dies(die: Callable[[], object], is_done: Callable[[], bool], finish: Callable[[], object]) -> None:
    """A process, in a group of its own, that dies in the block."""
    child = os.fork()
    if child == 0:
        os.setsid()
        try:
            with stood_in(is_done, finish):
                die()
        finally:
            os._exit(1)
    os.waitpid(child, 0)


def children() -> set[int]:
    """Of this thread, those that have died and were not waited for as well; other tests may have left some."""
    return {int(number) for number in Path("/proc/thread-self/children").read_text().split()}


def test_nothing_is_done_where_nobody_dies(tmp_path: Path) -> None:
    before, others = set(os.listdir("/proc/self/fd")), children()
    with stood_in(lambda: False, (tmp_path / "done").touch):
        pass
    assert not (tmp_path / "done").exists()
    assert set(os.listdir("/proc/self/fd")) == before
    assert children() == others


def test_without_a_second_process_nothing_is_begun_and_nothing_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def fork() -> int:
        raise BlockingIOError

    monkeypatch.setattr(os, "fork", fork)
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(BlockingIOError), stood_in(lambda: False, lambda: None):
        raise AssertionError("the block was entered")
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("where", ["fork", "close"])
def test_whoever_is_interrupted_before_the_block_leaves_nobody_waiting(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By Ctrl-C: right after the fork, or where the second process is waited for."""
    fork, children = os.fork, list[int]()

    def interrupted() -> int:
        child = fork()
        if child:
            children.append(child)
            if where == "fork":
                raise KeyboardInterrupt
            threading.Timer(0.05, signal.raise_signal, [signal.SIGINT]).start()
        else:
            time.sleep(0.5)
        return child

    monkeypatch.setattr(os, "fork", interrupted)
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(KeyboardInterrupt), stood_in(lambda: False, (tmp_path / "done").touch):
        raise AssertionError("the block was entered")
    assert set(os.listdir("/proc/self/fd")) == before
    eventually_gone(children[0])
    assert not (tmp_path / "done").exists()


def eventually_gone(child: int) -> None:
    """Fails where a child process does not end."""
    with contextlib.suppress(ChildProcessError):  # it was waited for
        until(lambda: os.waitpid(child, os.WNOHANG) != (0, 0))


def test_whoever_stands_by_may_be_killed(tmp_path: Path) -> None:
    others = children()
    with stood_in(lambda: False, (tmp_path / "done").touch):
        (child,) = children() - others
        os.kill(child, signal.SIGKILL)
        time.sleep(0.05)
    assert not (tmp_path / "done").exists()


def test_an_error_is_no_death(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), stood_in(lambda: False, (tmp_path / "done").touch):
        raise ZeroDivisionError
    assert not (tmp_path / "done").exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_it_is_done_for_whoever_dies_also_with_his_whole_group(number: signal.Signals, tmp_path: Path) -> None:
    def die() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.killpg(0, number)

    dies(die, lambda: False, (tmp_path / "done").touch)
    until((tmp_path / "done").exists)


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    def is_done() -> bool:
        (tmp_path / "asked").touch()
        return True

    dies(lambda: os._exit(9), is_done, (tmp_path / "done").touch)
    until((tmp_path / "asked").exists)
    time.sleep(0.1)
    assert not (tmp_path / "done").exists()


@pytest.mark.parametrize("error", [LoadFailed, OSError])
def test_what_fails_is_tried_again(error: type[Exception], tmp_path: Path) -> None:
    turns = []

    def finish() -> None:
        turns.append(1)
        if len(turns) < 3:
            raise error
        (tmp_path / "done").touch()

    dies(lambda: os._exit(9), lambda: False, finish)
    until((tmp_path / "done").exists)


class Refused(Exception):
    """What the block fails with."""


def test_the_way_back_is_taken_before_the_second_process_goes(tmp_path: Path) -> None:
    """Killed on it, the other one still finishes."""
    done, gone_back = tmp_path / "done", tmp_path / "gone back"
    with pytest.raises(Refused), stood_in(done.exists, done.touch, gone_back.touch):
        raise Refused
    assert (done.exists(), gone_back.exists()) == (False, True)
    child = os.fork()
    if child == 0:
        with stood_in(done.exists, done.touch, lambda: os._exit(1)):
            raise Refused
    os.waitpid(child, 0)
    until(done.exists)


def test_a_way_back_that_fails_does_not_hide_why(tmp_path: Path) -> None:
    def refused() -> None:
        raise OSError

    with pytest.raises(Refused), stood_in((tmp_path / "done").exists, (tmp_path / "done").touch, refused):
        raise Refused
    assert not (tmp_path / "done").exists()


def test_whoever_stands_by_goes_back_where_it_cannot_be_finished(tmp_path: Path) -> None:
    done = tmp_path / "done"

    def refused() -> None:
        raise OSError

    child = os.fork()
    if child == 0:
        with stood_in(done.exists, refused, done.touch):
            os._exit(1)
    os.waitpid(child, 0)
    until(done.exists)
