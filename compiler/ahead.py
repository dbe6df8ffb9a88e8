"""A chain file in, its compiled chain out, from a process beside this one: two CPUs start a command faster than one.

The command line begins before it imports what it needs itself, and asks when it has come as far as the chain. Compiling
changes nothing but the cache, so whoever did not need it after all, or gets no answer, has lost nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from schemas.compiled import CompiledChain
from schemas.stopwatch import Timings


class Handed(Struct, frozen=True):
    """A compiled chain from the other process, and what each stage of compiling it took there."""

    chain: CompiledChain
    seconds: Timings


class Ahead(Struct, frozen=True):
    """The other process, which compiles `file`, and the pipe that its answer comes by."""

    file: Path
    process: int
    pipe: int

    def compiled(self, file: Path) -> Handed | None:
        """What it makes of `file`, waited for; None where that is another file, is wrong, or the process was killed.

        Whoever compiles it again then, in this process, hears why.
        """
        if file != self.file:
            return None
        import pickle

        with open(self.pipe, "rb", closefd=False) as pipe:
            answer = pipe.read()
        try:
            handed: Handed = pickle.loads(answer)  # noqa: S301 - it is this very program's
        except (EOFError, pickle.UnpicklingError):  # it is not whole
            return None
        return handed

    def end(self) -> None:
        """Ends the other process where it has not ended; a clang that runs is waited for."""
        import signal

        os.close(self.pipe)
        with contextlib.suppress(ProcessLookupError, ChildProcessError):  # whoever started us had SIGCHLD ignored
            os.kill(self.process, signal.SIGTERM)
            os.waitpid(self.process, 0)


@contextlib.contextmanager
def compiling_ahead(file: Path) -> Iterator[Ahead]:
    """Compiles a chain file in another process, for the length of a `with` block."""
    ahead = _begin(file)
    try:
        yield ahead
    finally:
        ahead.end()


def _begin(file: Path) -> Ahead:
    reading, writing = os.pipe()
    process = os.fork()
    if process:
        os.close(writing)
        return Ahead(file, process, reading)
    try:
        os.close(reading)
        _answer(file, writing)
    finally:  # whatever happens: everything else in this process is the other's, its way out included
        os._exit(0)


def _answer(file: Path, pipe: int) -> None:
    """Compiles, and hands over. What goes wrong is not told: the other process will come across it itself."""
    import pickle
    import signal

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _stop)
    from .build import build
    from .progress import CompileProgress

    with CompileProgress() as progress:
        compiled = build(file, progress=progress)
    with open(pipe, "wb") as answer:
        pickle.dump(Handed(compiled.chain, compiled.seconds), answer)


def _stop(*_: object) -> None:
    """Begins to tidy up, and is not disturbed in that: Ctrl-C reaches this process by itself and through the other."""
    import signal

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    raise KeyboardInterrupt
