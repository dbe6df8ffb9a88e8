"""What is being tried of a chain: a record in bpffs that outlives everybody who waits, and the lock of who goes back.

The record is there from before the first hook is swapped until the try is taken back; or it is confirmed, and what it
replaced has gone. So are pins of the programs of others that are replaced: whoever put them there may be gone by then.
For as long as the guard lives, it holds a lock on the chain's directory, which the kernel takes from it whatever it
dies of: a record without the lock is a try that nobody will take back by himself.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct, to_builtins

from schemas.manifest import Mode

from . import sys
from .attach import Filter, Holder, Occupant
from .frozen import forget_frozen, read_frozen, unreadable, write_frozen
from .info import prog_by_id
from .pin import ChainPins, pin_name

_TRIAL, _REPLACED = "trial", "trial-replaced"
_FORMAT = 3


class Trial(Struct, frozen=True):
    """Generation `number` is tried instead of `back` (None: nothing ran). `deadline` is `now()` when it is over.

    `replaced` are programs of others, by the attach point of the tried generation that they have to leave to it.
    `kept` is a try that was confirmed, and whose end is not tidied up yet.
    """

    number: int
    back: int | None
    deadline: float
    replaced: tuple[tuple[str, Occupant], ...] = ()
    kept: bool = False

    @property
    def seconds_left(self) -> float:
        return max(0.0, self.deadline - now())


def now() -> float:
    """Seconds since boot, times of sleep included. bpffs lives no longer than that either."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def write_trial(pins: ChainPins, trial: Trial) -> None:
    """Makes it known that a try begins, or that it is kept: in one step."""
    content = {
        "format": _FORMAT,
        "number": trial.number,
        "back": trial.back,
        "deadline": trial.deadline,
        "replaced": [[name, to_builtins(found)] for name, found in trial.replaced],
        "kept": trial.kept,
    }
    write_frozen(_path(pins), json.dumps(content).encode())


def read_trial(pins: ChainPins) -> Trial | None:
    """The record, or None where there is none. Raises `LoadFailed` (A112)."""
    content = read_frozen(_path(pins))
    if content is None:
        return None
    try:
        data = _of_today(json.loads(content))
        if data["format"] != _FORMAT:
            raise unreadable(_path(pins), f"it has format {data['format']}, this version knows {_FORMAT}")
        back = None if data["back"] is None else int(data["back"])
        replaced = tuple((str(name), _occupant(found)) for name, found in data["replaced"])
        return Trial(int(data["number"]), back, float(data["deadline"]), replaced, bool(data["kept"]))
    except (KeyError, TypeError, ValueError) as error:
        raise unreadable(_path(pins), str(error)) from error


def _of_today(data: dict[str, Any]) -> dict[str, Any]:
    """The record of a try that an earlier version began: format 1 knew no `replaced`, and neither it nor 2 `kept`."""
    earlier = data["format"] in (1, 2)
    return {"replaced": [], "kept": False, **data, "format": _FORMAT} if earlier else data


def _occupant(data: dict[str, Any]) -> Occupant:
    """An occupant from the plain data that it is kept as."""
    found = Filter(**data["filter"]) if data["filter"] else None
    return Occupant(data["prog_id"], Holder(data["holder"]), Mode(data["mode"]), data["link_id"], found)


def forget_trial(pins: ChainPins) -> None:
    """The try is over, whichever way, or was never made known."""
    forget_frozen(_path(pins))
    forget_replaced(pins)


def forget_replaced(pins: ChainPins) -> None:
    """The programs of others are on their hooks again, or are not to come back."""
    kept = pins.path / _REPLACED
    if kept.exists():
        for path in kept.iterdir():
            path.unlink(missing_ok=True)
        kept.rmdir()


def pin_replaced(pins: ChainPins, name: str, found: Occupant) -> None:
    """Keeps somebody else's program alive for as long as it may have to go back to its hook."""
    path = replaced_pin(pins, name)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with prog_by_id(found.prog_id) as fd:
        sys.obj_pin(fd, path)


def replaced_pin(pins: ChainPins, name: str) -> Path:
    """Where the program is pinned that was on the hook of this name."""
    return pins.path / _REPLACED / pin_name(name)


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
