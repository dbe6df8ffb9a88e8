"""An order in, a guard at work on it out: a process of its own, and what it says.

It has a session of its own and no terminal, so nothing that happens to those ends it; and neither memory nor
descriptors of whoever asked for it, which may be a program with threads and sockets. What it does is told through a
pipe, a line of JSON each, for as long as somebody reads.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import pickle
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

from msgspec import Struct, to_builtins

from schemas.diagnostic import ChainError, Diagnostic, LoadFailed, NotSupported, Severity, Span, VerifierRejected

from .guard import TERMINATED, End, Order, Outcome, guard, terminate

KILLED = "its guard was killed"
_PATH = "PYTHONPATH"
_THIS_PYTHON = "/proc/self/exe"
"""Wherever it lies: whoever has dropped privileges since may not be able to walk there any more."""


class Guard(Struct):
    """A guard at work: its process, and what it says."""

    process: subprocess.Popen[bytes]
    says: BinaryIO

    def messages(self, timeout: float) -> Iterator[dict[str, Any]]:
        """What it has said within `timeout` seconds; `end`, `error` and `defect` are last words. Raises EOFError."""
        ready, _, _ = select.select([self.says], [], [], timeout)
        if ready:
            line = self.says.readline()
            if not line:
                raise EOFError
            yield json.loads(line)

    def wait(self) -> None:
        """Until its process has gone."""
        self.says.close()
        self.process.wait()

    @property
    def why_silent(self) -> str:
        """What became of it where it has gone without a last word."""
        return TERMINATED if self.process.wait() == -signal.SIGTERM else KILLED


def set_guard(order: Order) -> Guard:
    """Starts a guard, which nothing ends that ends the caller, in the network namespace of the calling thread."""
    reading, writing = os.pipe()
    # The guard finds its modules where this has found them, and nowhere else: `-m` alone looks into this directory too.
    command = [sys.executable, "-P", "-m", __name__, order.chain.manifest.chain, str(writing)]
    output = None if order.require else subprocess.DEVNULL  # that of the required command is all there is
    try:
        process = subprocess.Popen(  # noqa: S603
            command,
            executable=_THIS_PYTHON,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env={**os.environ, _PATH: os.pathsep.join(path or os.getcwd() for path in sys.path)},
            pass_fds=[writing],
            start_new_session=True,
        )
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    assert process.stdin
    with contextlib.suppress(BrokenPipeError), process.stdin as stdin:  # then its last words say why
        pickle.dump((order, os.environ.get(_PATH)), stdin)
    return Guard(process, os.fdopen(reading, "rb", buffering=0))


def main() -> None:
    """Carries out the order that comes by standard input; what happens is said to the descriptor in the arguments."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, terminate)
    descriptor = int(sys.argv[2])
    os.set_inheritable(descriptor, False)  # the required command may live longer

    def say(**message: Any) -> None:
        with contextlib.suppress(BrokenPipeError):  # whoever waited for it has gone: all the more it goes on
            os.write(descriptor, json.dumps(message).encode() + b"\n")

    try:
        outcome = guard(
            _order(),
            tell=lambda text: say(text=text),
            begun=lambda trial: say(begun=math.ceil(trial.seconds_left)),
            on_wait=lambda: say(waits=True),
        )
        say(end=outcome.end, why=outcome.why)
    except ChainError as error:
        say(error=as_told(error))
    except BaseException:
        import traceback

        say(defect=traceback.format_exc())


def _order() -> Order:
    """The order, and the environment as it was. Raises `EOFError` where whoever gave it died over it."""
    order, path = pickle.load(sys.stdin.buffer)  # noqa: S301  # a pipe from the process that started this one
    with open(os.devnull) as nowhere:
        os.dup2(nowhere.fileno(), 0)
    if path is None:
        del os.environ[_PATH]
    else:
        os.environ[_PATH] = path
    assert isinstance(order, Order)
    return order


def its_end(message: dict[str, Any]) -> Outcome | None:
    """The outcome, if that is what a guard says. Raises the `ChainError` that kept it from its work."""
    if "error" in message:
        raise _error(message["error"])
    if "defect" in message:
        raise RuntimeError(message["defect"])
    return Outcome(End(message["end"]), message["why"]) if "end" in message else None


def as_told(error: ChainError) -> dict[str, Any]:
    """An error as plain data, with what its class carries beside diagnostics."""
    return {
        "class": type(error).__name__,
        "diagnostics": to_builtins(error.diagnostics),
        "feature": error.feature if isinstance(error, NotSupported) else "",
        "log_path": error.log_path if isinstance(error, VerifierRejected) else "",
    }


def _error(data: dict[str, Any]) -> ChainError:
    """The error that `as_told` told, of the class that it had where a caller may tell it from others."""
    diagnostics = map(_diagnostic, data["diagnostics"])
    match data["class"]:
        case "NotSupported":
            return NotSupported(data["feature"], *diagnostics)
        case "VerifierRejected":
            return VerifierRejected(*diagnostics, log_path=data["log_path"])
        case _:
            return LoadFailed(*diagnostics)


def _diagnostic(data: dict[str, Any]) -> Diagnostic:
    """A diagnostic from the plain data that it was told as."""
    span = Span(**data["span"]) if data["span"] else None
    return Diagnostic(**{**data, "span": span, "notes": tuple(data["notes"]), "severity": Severity(data["severity"])})


if __name__ == "__main__":
    main()
