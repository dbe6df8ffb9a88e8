"""A file in, the lock of it out, or who has it: one apply or detach at a time."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

from schemas.diagnostic import Diagnostic, LoadFailed

LOCK_PATIENCE_SECONDS = 30.0
WAITS_FOR_LOCK = "wait for another apply or detach"
"""What is shown meanwhile."""

OnWait = Callable[[], None]
"""Called once where somebody else has to be waited for."""

_POLL_SECONDS = 0.02


def deadline() -> float:
    """Until when whoever begins to wait now waits: `time.monotonic()` then."""
    return time.monotonic() + LOCK_PATIENCE_SECONDS


def lock(descriptor: int, deadline: float, on_wait: OnWait | None = None) -> None:
    """Locks an open file for as long as it is open. Raises `LoadFailed` (A111) if somebody else has it at `deadline`.

    `on_wait` is called once if somebody has it now.
    """
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                message = f"another apply or detach has been running for {LOCK_PATIENCE_SECONDS:.0f} s"
                raise LoadFailed(
                    Diagnostic("A111", message, notes=_holder(descriptor), help="wait until it is done")
                ) from None
            if on_wait:
                on_wait()
                on_wait = None
            time.sleep(_POLL_SECONDS)
        else:
            return


def _holder(descriptor: int) -> tuple[str, ...]:
    """Who has the lock of a file, as far as /proc tells: `4: FLOCK ADVISORY WRITE 71 00:1c:9 0 EOF`."""
    found = os.fstat(descriptor)
    file = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    holders = []
    for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
        fields = line.split()
        if fields[1] == "FLOCK" and fields[5:6] == [file]:
            holders.append(fields[4])
    return tuple(f"it is process {pid}{_command(pid)}" for pid in holders)


def _command(pid: str) -> str:
    try:
        words = Path("/proc", pid, "cmdline").read_bytes().split(b"\0")
    except OSError:  # it has just ended, or is in another PID namespace
        return ""
    return f", `{b' '.join(words).decode(errors='replace').strip()}`"
