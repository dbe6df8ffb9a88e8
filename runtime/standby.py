"""Two calls that only make sense together in, a process out that makes the second if this one is killed in between.

A device takes one XDP program in one mode: from one mode to the other its hook is empty for a moment, and stays so if
whoever changes it is killed right then. The other process does nothing but wait for that.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import time
from collections.abc import Callable, Iterator
from io import FileIO

from schemas.diagnostic import LoadFailed

_DONE = b"."
_ATTEMPTS, _PAUSE_SECONDS = 100, 0.02


@contextlib.contextmanager
def stood_in(
    is_done: Callable[[], bool], finish: Callable[[], object], back: Callable[[], object] | None = None
) -> Iterator[None]:
    """If this process dies in the block, `finish` is called in another one, unless all `is_done`.

    `back` is what is done instead where that fails: if the block does, here, while the other one still stands by.
    The other one has every descriptor of this one, the host's lock too: nobody else begins before it has ended.
    """
    child = 0
    with contextlib.ExitStack() as opened:
        hears, says = _pipe(opened)
        is_there, comes = _pipe(opened)
        try:
            child = os.fork()
            if child == 0:
                _stand_in(hears, says, comes, is_done, functools.partial(_either, finish, back))
            hears.close()
            comes.close()
            is_there.read(1)
            with _back_if_it_fails(back):
                yield
        finally:  # whatever came between: as long as nothing is said, it waits, with the lock that it has of this one
            with contextlib.suppress(BrokenPipeError):  # it has been killed: then it was not needed
                says.write(_DONE)
            if child:
                says.close()
                with contextlib.suppress(ChildProcessError):  # a program that waits for all of its children was faster
                    os.waitpid(child, 0)


@contextlib.contextmanager
def _back_if_it_fails(back: Callable[[], object] | None) -> Iterator[None]:
    try:
        yield
    except BaseException:
        if back:
            with contextlib.suppress(LoadFailed, OSError):  # whoever takes the step back will be told so, too
                back()
        raise


def _either(finish: Callable[[], object], back: Callable[[], object] | None) -> None:
    try:
        finish()
    except (LoadFailed, OSError):
        if back is None:
            raise
        back()


def _pipe(opened: contextlib.ExitStack) -> tuple[FileIO, FileIO]:
    reading, writing = os.pipe()
    return opened.enter_context(FileIO(reading, "r")), opened.enter_context(FileIO(writing, "w"))


def _stand_in(
    hears: FileIO, says: FileIO, comes: FileIO, is_done: Callable[[], bool], finish: Callable[[], object]
) -> None:
    """Waits for the word, or for the end of whoever would have said it."""
    try:
        says.close()
        os.setsid()  # what is sent to a terminal's processes, or to a group of them, is not for this one
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        comes.close()
        if hears.read(len(_DONE)) != _DONE:
            _finish(is_done, finish)
    finally:
        os._exit(0)


def _finish(is_done: Callable[[], bool], finish: Callable[[], object]) -> None:
    """Until it is done: a link that died with its process is on the hook for another moment."""
    for _ in range(_ATTEMPTS):
        try:
            if not is_done():
                finish()
        except (LoadFailed, OSError):
            time.sleep(_PAUSE_SECONDS)
        else:
            return
