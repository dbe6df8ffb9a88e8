"""A chain file that is compiled in a process beside the command: what comes back, and what is left if nothing does."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from compiler.ahead import Ahead, compiling_ahead
from compiler.build import build
from compiler.clang import find_clang
from schemas.chains import examples

GUARDED = examples()["guarded-bridge"]
BPFCHAIN = (sys.executable, "-m", "bpfchain")


def is_over(ahead: Ahead) -> bool:
    """Whether there is no such process, not even one to be waited for, and no pipe."""
    with pytest.raises(ProcessLookupError):
        os.kill(ahead.process, 0)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(ahead.pipe)
    return True


def test_what_comes_back_is_what_compiling_here_makes() -> None:
    with compiling_ahead(GUARDED) as ahead:
        handed = ahead.compiled(GUARDED)
    here = build(GUARDED)
    assert handed
    assert handed.chain == here.chain
    assert [stage for stage, _ in handed.seconds] == [stage for stage, _ in here.seconds]
    assert is_over(ahead)


def test_another_file_than_that_which_is_asked_for(tmp_path: Path) -> None:
    with compiling_ahead(GUARDED) as ahead:
        assert ahead.compiled(tmp_path / "other.yaml") is None
    assert is_over(ahead)


@pytest.mark.parametrize("text", ["chain: [", "chain: x\nservices: {}\n"])
def test_a_file_with_mistakes(text: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(text)
    with compiling_ahead(wrong) as ahead:
        assert ahead.compiled(wrong) is None
    assert capfd.readouterr() == ("", "")


def test_a_process_that_is_killed() -> None:
    with compiling_ahead(GUARDED) as ahead:
        os.kill(ahead.process, signal.SIGKILL)
        assert ahead.compiled(GUARDED) is None
    assert is_over(ahead)


def test_nobody_asks() -> None:
    with compiling_ahead(GUARDED) as ahead:
        pass
    assert is_over(ahead)


# --- the command line -----------------------------------------------------------------------------------------------


class Slow:
    """A clang that takes long, unless it is only asked what it can do; and an empty cache."""

    def __init__(self, folder: Path) -> None:
        self.begun, self.temporary = folder / "begun", folder / "tmp"
        self.temporary.mkdir()
        self.clang = folder / "clang"
        real = shlex.join(find_clang().command)
        asked = 'case "$*" in *-fdebug-compilation-dir*)'
        self.clang.write_text(f'#!/bin/sh\n{asked} touch {self.begun}; exec sleep 3;; esac\nexec {real} "$@"\n')
        self.clang.chmod(0o755)
        self.environment = {
            **os.environ,
            "BPFCHAIN_CLANG": str(self.clang),
            "BPFCHAIN_CACHE": str(folder / "cache"),
            "TMPDIR": str(self.temporary),
        }

    def start(self, *words: str | Path) -> subprocess.Popen[str]:
        """A command in a process group of its own, once clang runs."""
        command = [*BPFCHAIN, *map(str, words)]
        started = subprocess.Popen(
            command, env=self.environment, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        while not self.begun.exists():
            assert started.poll() is None
            time.sleep(0.01)
        return started


@pytest.fixture
def slow(tmp_path: Path) -> Slow:
    return Slow(tmp_path)


def nobody_is_left(group: int) -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


def test_ctrl_c_while_clang_runs_leaves_nothing(slow: Slow) -> None:
    command = slow.start("plan", GUARDED)
    os.killpg(command.pid, signal.SIGINT)  # as a terminal does
    _, told = command.communicate(timeout=30)
    assert (command.returncode, told.strip()) == (1, "Aborted!")
    assert nobody_is_left(command.pid)
    assert list(slow.temporary.iterdir()) == []


def test_mistakes_are_told_once(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("chain: [\n")
    ran = subprocess.run([*BPFCHAIN, "plan", wrong], capture_output=True, text=True)
    assert ran.returncode == 1
    assert ran.stderr.count("error[") == 1, ran.stderr


def test_words_that_mean_something_else() -> None:
    ran = subprocess.run([*BPFCHAIN, "apply", GUARDED, "--no-such-option"], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "No such option" in ran.stderr
    ran = subprocess.run([*BPFCHAIN, "apply", "--help", GUARDED], capture_output=True, text=True)
    assert ran.returncode == 0
    assert "Usage: bpfchain apply" in ran.stdout
