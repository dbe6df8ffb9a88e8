"""A chain to try in, its outcome out: a process of its own that applies, waits, and goes back unless somebody confirms.

The guard has a session of its own and no terminal, so nothing that happens to those ends it. What it does is told
through a pipe, a line of JSON each, for as long as somebody reads. Where it is killed, the record in bpffs says so.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO

from schemas.compiled import CompiledChain
from schemas.diagnostic import ChainError, Diagnostic, LoadFailed, Severity, Span
from schemas.render import render

from .bpffs import bpffs_root, locked
from .daemon_socket import tell_daemon
from .lock import OnWait
from .pin import chain_pins
from .state import read
from .steps import OnStep, Step
from .trial import Trial, read_trial
from .trying import begin, go_back, keep

POLL_SECONDS = 0.05
_PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
"""Seconds before what failed is tried again; then always the last."""
TERMINATED = "its guard was told to end"
WAITING = "wait until it is confirmed"


class End(StrEnum):
    """How a try ended."""

    KEPT = "kept"
    TAKEN_BACK = "taken back"
    NOTHING = "nothing to try"
    NOT_BEGUN = "not begun"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a try ended, and why where it was taken back."""

    end: End
    why: str = ""


Tell = Callable[[str], None]
"""Takes a sentence for people."""


def guard(
    chain: CompiledChain,
    timeout: timedelta,
    require: str | None = None,
    *,
    bpffs: str | Path | None = None,
    accept_state_loss: bool = False,
    tell: Tell = lambda _: None,
    begun: Callable[[Trial], None] = lambda _: None,
    on_step: OnStep | None = None,
    on_wait: OnWait | None = None,
    log_directory: Path | None = None,
) -> Outcome:
    """Tries a chain, in this process, from beginning to end. `require` is a shell command that has to succeed.

    Raises `ChainError` where it cannot be applied. Once it is, this ends when it is decided, and not before.
    """
    root = bpffs_root(bpffs)
    name = chain.manifest.chain
    with contextlib.ExitStack() as lock:
        applied, trial = begin(
            chain,
            timeout,
            lock,
            bpffs=bpffs,
            accept_state_loss=accept_state_loss,
            on_step=on_step,
            on_wait=on_wait,
            log_directory=log_directory,
        )
        for warning in applied.warnings:
            tell(render([warning], {}).rstrip())
        tell(str(applied))
        if trial is None:
            return Outcome(End.NOTHING)
        begun(trial)
        if on_step:
            on_step(Step(WAITING, lambda: None))
        why = _required(root, name, trial, require) if require else _expired(root, name, trial, timeout)
        outcome = _decided(root, name, trial, why, _once(tell), on_step, on_wait)
    tell_daemon(root)
    return outcome


def _decided(
    root: Path,
    chain: str,
    trial: Trial,
    why: str | None,
    tell: Tell,
    on_step: OnStep | None,
    on_wait: OnWait | None,
) -> Outcome:
    """Confirms, or goes back where there is a reason `why`, unless somebody else decided.

    Whatever stands in the way is told and tried again: as long as nothing is decided, nobody but the guard goes back.
    """
    for pause in itertools.chain(_PAUSES, itertools.repeat(_PAUSES[-1])):
        if _is_decided(root, chain, trial):
            break
        try:
            with locked(root, on_wait):
                live = read(root, chain)
                if live is None or live.trial != trial:
                    break
                if why is None:
                    keep(root, live, on_step)
                    return Outcome(End.KEPT)
                go_back(root, live, on_step)
                return Outcome(End.TAKEN_BACK, why)
        except ChainError as error:
            tell(render(error.diagnostics, {}).rstrip())
        except OSError as error:
            tell(str(error))
        time.sleep(pause)
    finished = [pins.number for pins in chain_pins(root, chain).generations() if pins.finished]
    if max(finished, default=None) == trial.number:
        return Outcome(End.KEPT)
    return Outcome(End.TAKEN_BACK, why or "it was aborted")


def _once(tell: Tell) -> Tell:
    """The same, but nothing is told twice."""
    told: set[str] = set()

    def tell_new(text: str) -> None:
        if text not in told:
            told.add(text)
            tell(text)

    return tell_new


def _is_decided(root: Path, chain: str, trial: Trial) -> bool:
    """Whether somebody has decided. What cannot be read just now is not decided: it is read again."""
    try:
        return read_trial(chain_pins(root, chain)) != trial
    except (ChainError, OSError):
        return False


def _expired(root: Path, chain: str, trial: Trial, timeout: timedelta) -> str | None:
    """Waits: why to go back, or None where somebody has decided."""
    while trial.seconds_left:
        if _is_decided(root, chain, trial):
            return None
        if _terminated:
            return TERMINATED
        time.sleep(POLL_SECONDS)
    return None if _is_decided(root, chain, trial) else f"it was not confirmed within {timeout.total_seconds():g} s"


def _required(root: Path, chain: str, trial: Trial, command: str) -> str | None:
    """Runs the required command: why to go back, or None where it succeeded or somebody has decided."""
    try:
        process = subprocess.Popen(command, shell=True, stdin=subprocess.DEVNULL, start_new_session=True)  # noqa: S602
    except OSError as error:
        return f"`{command}` cannot be run: {error.strerror}"
    try:
        while trial.seconds_left:
            code = process.poll()
            if code is not None:
                return f"`{command}` failed with exit code {code}" if code else None
            if _is_decided(root, chain, trial):
                return None
            if _terminated:
                return TERMINATED
            time.sleep(POLL_SECONDS)
        return f"`{command}` was not done in time"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


# --- a process of its own -------------------------------------------------------------------------------------------

_terminated: list[int] = []
"""Signals that asked the guard to end; it goes back then."""


@dataclass(slots=True)
class Guard:
    """A guard at work: its process, and what it says."""

    pid: int
    says: BinaryIO

    def messages(self, timeout: float) -> Iterator[dict[str, Any]]:
        """What it has said within `timeout` seconds; `end`, `error` and `defect` are last words. Raises EOFError."""
        ready, _, _ = select.select([self.says], [], [], timeout)
        if ready:
            line = self.says.readline()
            if not line:
                raise EOFError
            yield json.loads(line)


def set_guard(
    chain: CompiledChain, timeout: timedelta, require: str | None, bpffs: Path | None, accept_state_loss: bool
) -> Guard:
    """Starts the guard, which nothing ends that ends the caller."""
    reading, writing = os.pipe()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # the child must not hear of it any more
    pid = os.fork()
    if pid:
        os.close(writing)
        found = Guard(pid, os.fdopen(reading, "rb", buffering=0))
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return found

    def say(**message: Any) -> None:
        with contextlib.suppress(BrokenPipeError):  # whoever waited for it has gone: all the more it goes on
            os.write(writing, json.dumps(message).encode() + b"\n")

    try:
        os.close(reading)
        _leave_the_terminal(bool(require))
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        outcome = guard(
            chain,
            timeout,
            require,
            bpffs=bpffs,
            accept_state_loss=accept_state_loss,
            tell=lambda text: say(text=text),
            begun=lambda trial: say(begun=math.ceil(trial.seconds_left)),
            on_wait=lambda: say(waits=True),
        )
        say(end=outcome.end, why=outcome.why)
    except ChainError as error:
        say(error=[dataclasses.asdict(found) for found in error.diagnostics])
    except BaseException:
        import traceback

        say(defect=traceback.format_exc())
    finally:
        os._exit(0)


def _leave_the_terminal(keep_output: bool) -> None:
    """Only the output of the required command goes where the caller's goes."""
    os.setsid()
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: _terminated.append(number))
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0,) if keep_output else (0, 1, 2):
        os.dup2(nowhere, descriptor)
    sys.stdin = open(os.devnull)  # noqa: SIM115


def its_end(message: dict[str, Any]) -> Outcome | None:
    """The outcome, if that is what a guard says. Raises `LoadFailed` for what it could not do."""
    if "error" in message:
        raise LoadFailed(*map(_diagnostic, message["error"]))
    if "defect" in message:
        raise RuntimeError(message["defect"])
    return Outcome(End(message["end"]), message["why"]) if "end" in message else None


def _diagnostic(data: dict[str, Any]) -> Diagnostic:
    """A diagnostic as `dataclasses.asdict` gives it."""
    span = Span(**data["span"]) if data["span"] else None
    return Diagnostic(**{**data, "span": span, "notes": tuple(data["notes"]), "severity": Severity(data["severity"])})
