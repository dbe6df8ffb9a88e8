"""Waiting for what an idle machine does at once, and a busy one later: until it is so, and never for a fixed time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE_SECONDS = 60.0
"""Far more than anything takes here, on a machine with other work as well: who waits so long waits in vain."""

_PAUSE_SECONDS = 0.005
_T = TypeVar("_T")


def until(condition: Callable[[], object], tell: Callable[[], object] = str, seconds: float = PATIENCE_SECONDS) -> None:
    """Returns when the condition holds; fails, with what `tell` has to say, if it does not come to that."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, tell()
        time.sleep(_PAUSE_SECONDS)


async def turned_until(condition: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> None:
    """The same, while the event loop turns."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


def eventually(read: Callable[[], _T], wanted: _T, seconds: float = PATIENCE_SECONDS) -> None:
    """Returns when `read` gives what is wanted; fails, with what it gave at last, if it does not come to that."""
    deadline = time.monotonic() + seconds
    while (found := read()) != wanted and time.monotonic() < deadline:
        time.sleep(_PAUSE_SECONDS)
    assert found == wanted
