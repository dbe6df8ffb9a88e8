"""The demo: it passes, fails loudly when a count is wrong, and says in one sentence what it lacks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.bpffs import bpffs_root
from runtime.netns import NETNS_DIRECTORY
from runtime.pin import chains
from tests import demo

pytestmark = pytest.mark.kernel

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def ours(pid: int) -> list[str]:
    """Chains and namespaces of a demo that ran as process `pid`."""
    names = [*chains(bpffs_root()), *os.listdir(NETNS_DIRECTORY)]
    return [name for name in names if name.startswith(f"bpfchain-demo-{pid}-")]


def test_it_passes_and_leaves_nothing() -> None:
    with subprocess.Popen([sys.executable, "-m", "tests.demo"], cwd=ROOT, stdout=subprocess.PIPE, text=True) as running:
        output, _ = running.communicate(timeout=60)
    assert running.returncode == 0, output
    assert output.count("\u2713") == 13
    assert "All counts are what they must be." in output
    assert ours(running.pid) == []


def test_a_wrong_count_fails_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(demo, "blocked", lambda _: 199)
    assert demo.main() == 1
    assert "\u2717 packets that the guard counted as blocked: 199, where it must be 200" in capsys.readouterr().out
    assert ours(os.getpid()) == []


def test_without_root_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert demo.main() == 1
    (sentence,) = capsys.readouterr().out.splitlines()
    assert "needs root" in sentence


def test_terminated_in_the_middle_it_removes_everything() -> None:
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "tests.demo"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout
        for line in running.stdout:
            if "datagrams" in line:
                running.terminate()
                break
        running.stdout.read()
    assert running.returncode == 1
    assert ours(running.pid) == []
