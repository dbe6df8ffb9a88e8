"""What is being tried of a chain: a record in bpffs that outlives everybody who waits, and the lock of who goes back.

The record is there from before the first hook is swapped until the try is confirmed or taken back. For as long as it
lives, the guard holds a lock on the chain's directory, which the kernel takes from it whatever it dies of: a record
without the lock is a try that nobody will take back by himself.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .frozen import forget_frozen, read_frozen, unreadable, write_frozen
from .pin import ChainPins

_TRIAL = "trial"
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Trial:
    """Generation `number` is tried instead of `back` (None: nothing ran). `deadline` is `now()` when it is over."""

    number: int
    back: int | None
    deadline: float

    @property
    def seconds_left(self) -> float:
        return max(0.0, self.deadline - now())


def now() -> float:
    """Seconds since boot, times of sleep included. bpffs lives no longer than that either."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def write_trial(pins: ChainPins, trial: Trial) -> None:
    """Makes it known that a try begins."""
    content = {"format": _FORMAT, "number": trial.number, "back": trial.back, "deadline": trial.deadline}
    write_frozen(_path(pins), json.dumps(content).encode())


def read_trial(pins: ChainPins) -> Trial | None:
    """The record, or None where there is none. Raises `LoadFailed` (A112)."""
    content = read_frozen(_path(pins))
    if content is None:
        return None
    try:
        data = json.loads(content)
        if data["format"] != _FORMAT:
            raise unreadable(_path(pins), f"it has format {data['format']}, this version knows {_FORMAT}")
        back = data["back"]
        return Trial(int(data["number"]), None if back is None else int(back), float(data["deadline"]))
    except (KeyError, TypeError, ValueError) as error:
        raise unreadable(_path(pins), str(error)) from error


def forget_trial(pins: ChainPins) -> None:
    """The try is over, whichever way, or was never made known."""
    forget_frozen(_path(pins))


@contextlib.contextmanager
def guarding(pins: ChainPins) -> Iterator[None]:
    """Makes the caller the guard for the length of the block, or of its life."""
    descriptor = os.open(pins.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def is_guarded(pins: ChainPins) -> bool:
    """Whether somebody alive will go back by himself."""
    try:
        descriptor = os.open(pins.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _path(pins: ChainPins) -> Path:
    return pins.path / _TRIAL
