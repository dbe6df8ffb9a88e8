"""A chain to try in, its outcome out: applies, waits, and goes back unless somebody confirms.

A process of its own does that (guard_process.py). Where it is killed, the record in bpffs says so.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import time
from collections.abc import Callable
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from schemas.compiled import CompiledChain
from schemas.diagnostic import ChainError
from schemas.render import render

from .bpffs import bpffs_root, locked
from .daemon_socket import tell_daemon
from .lock import OnWait
from .pin import ChainPins, chain_pins
from .state import LiveChain, read
from .steps import OnStep, Step
from .trial import Trial, forget_trial, read_trial
from .trying import NotTakenBack, begin, go_back, keep

if TYPE_CHECKING:
    from .foreign import Replace

POLL_SECONDS = 0.05
_PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
"""Seconds before what failed is tried again; then always the last."""
TERMINATED = "its guard was told to end"
FAILED = "it failed"
WAITING = "wait until it is confirmed"


class End(StrEnum):
    """How a try ended."""

    KEPT = "kept"
    TAKEN_BACK = "taken back"
    NOTHING = "nothing to try"
    NOT_BEGUN = "not begun"


class Outcome(Struct, frozen=True):
    """How a try ended, and why where it was taken back."""

    end: End
    why: str = ""


Tell = Callable[[str], None]
"""Takes a sentence for people."""

_terminated: list[int] = []
"""Signals that asked the guard to end; it goes back then."""


def terminate(number: int, _: object = None) -> None:
    """Handles a signal that asks the guard to end."""
    _terminated.append(number)


class Order(Struct, frozen=True):
    """What is to be tried, and how. `require` is a shell command that has to succeed within `timeout`."""

    chain: CompiledChain
    timeout: timedelta
    require: str | None = None
    bpffs: str | Path | None = None
    replace: tuple[Replace, ...] = ()
    accept_state_loss: bool = False


def guard(
    order: Order,
    *,
    tell: Tell = lambda _: None,
    begun: Callable[[Trial], None] = lambda _: None,
    on_step: OnStep | None = None,
    on_wait: OnWait | None = None,
    log_directory: Path | None = None,
) -> Outcome:
    """Tries a chain, in this process, from beginning to end.

    Raises `ChainError` where it cannot be applied. Once it is, this ends when it is decided, and not before; also where
    it failed halfway, and cannot be taken back yet.
    """
    root = bpffs_root(order.bpffs)
    name = order.chain.manifest.chain
    with contextlib.ExitStack() as lock:
        try:
            applied, trial = begin(
                order.chain,
                order.timeout,
                lock,
                bpffs=root,
                replace=order.replace,
                accept_state_loss=order.accept_state_loss,
                on_step=on_step,
                on_wait=on_wait,
                log_directory=log_directory,
            )
        except NotTakenBack as failure:
            tell(render(failure.diagnostics, {}).rstrip())
            _decided(root, name, failure.trial, FAILED, _once(tell), None, on_wait)
            raise failure.error from None
        for warning in applied.warnings:
            tell(render([warning], {}).rstrip())
        tell(str(applied))
        if trial is None:
            return Outcome(End.NOTHING)
        begun(trial)
        if on_step:
            on_step(Step(WAITING, lambda: None))
        why = (
            _required(root, name, trial, order.require) if order.require else _expired(root, name, trial, order.timeout)
        )
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
    failed = False
    for pause in itertools.chain(_PAUSES, itertools.repeat(_PAUSES[-1])):
        if _is_decided(root, chain, trial):
            break
        try:
            with locked(root, on_wait):
                live = read(root, chain)
                if live is None or live.trial != trial:
                    _end(live, chain_pins(root, chain), trial)
                    break
                if why is None:
                    for warning in keep(root, live, on_step):
                        tell(render([warning], {}).rstrip())
                    return Outcome(End.KEPT)
                go_back(root, live, on_step)
                return Outcome(End.TAKEN_BACK, why)
        except ChainError as error:
            tell(render(error.diagnostics, {}).rstrip())
        except OSError as error:
            tell(str(error))
        failed = True
        time.sleep(pause)
    if failed:
        with contextlib.suppress(ChainError, OSError), locked(root, on_wait):  # or the next apply does it
            chain_pins(root, chain).remove_if_empty()
    finished = [pins.number for pins in chain_pins(root, chain).generations() if pins.finished]
    if max(finished, default=None) == trial.number:
        return Outcome(End.KEPT)
    return Outcome(End.TAKEN_BACK, why or "it was aborted")


def _end(live: LiveChain | None, pins: ChainPins, trial: Trial) -> None:
    """Ends a try that is taken back already, but for its record."""
    if live is None or live.recorded == trial:
        forget_trial(pins)
        pins.remove_if_empty()


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
