"""Every call by which a command of the runtime touches the kernel, counted; a test lets one fail, or be the last.

Nothing of this is in the runtime: bpf(2) has one replaceable door, netlink and the file system are replaced where the
standard library and pyroute2 have them.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import struct
import sys as python
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyroute2
import pytest

import runtime
from runtime import sys
from runtime.bpffs import bpffs_root
from runtime.uapi import Cmd
from tests.rig.frames import Wire
from tests.rig.network import Network
from tests.rig.waiting import until

KILLED = 9
EVERY_CALL = "BPFCHAIN_TEST_EVERY_CALL"
"""Environment variable: with it every single call is tried, in minutes; else every place in the runtime's code."""

_RUNTIME = str(Path(runtime.__file__).parent)
_FILES = ("mkdir", "rename", "unlink", "rmdir")
_LASTING = {
    Cmd.BPF_OBJ_PIN.name,
    Cmd.BPF_LINK_CREATE.name,
    Cmd.BPF_LINK_UPDATE.name,
    Cmd.BPF_LINK_DETACH.name,
    Cmd.BPF_PROG_DETACH.name,
    Cmd.BPF_MAP_UPDATE_ELEM.name,
    Cmd.BPF_MAP_DELETE_ELEM.name,
    Cmd.BPF_MAP_UPDATE_BATCH.name,
    Cmd.BPF_MAP_DELETE_BATCH.name,
    *_FILES,
}
_ON_HOOKS = {
    Cmd.BPF_LINK_CREATE.name,
    Cmd.BPF_LINK_UPDATE.name,
    Cmd.BPF_LINK_DETACH.name,
    Cmd.BPF_PROG_DETACH.name,
    "link set",
    "tc add-filter bpf",
    "tc replace-filter bpf",
}
_ATTEMPTS = {Cmd.BPF_PROG_LOAD.name: 3}
"""A refused program is loaded again to hear why, twice at most: a failure that does not last is rightly not noticed."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call: what was asked for, and the lines of the runtime that led there."""

    name: str
    place: tuple[tuple[str, int], ...]

    @property
    def lasts(self) -> bool:
        """Whether something of it outlives the process: only then does a death before it differ from one after it."""
        return self.name in _LASTING or self.name.startswith(("link set", "link add", "link del", "tc "))

    @property
    def step(self) -> tuple[str, tuple[tuple[str, int], ...]]:
        """The same for whoever had the step carried out in which it is made."""
        carried_out = [number for number, (file, _) in enumerate(self.place) if file.endswith("/steps.py")]
        return self.name, self.place[: carried_out[0] if carried_out else None]


Point = tuple[Call, int]
"""A call, and how many equal ones came before it: runs differ in how much they read, because the host is shared."""


class Doors:
    """Lets calls through and remembers them; those at `fail` fail, at `die` the process ends."""

    def __init__(self, *fail: Point, die: Point | None = None) -> None:
        self.points: list[Point] = []
        self._seen: Counter[Call] = Counter()
        self._refusals = {point: _ATTEMPTS.get(point[0].name, 1) for point in fail}
        self._threads: dict[Point, int] = {}
        self._die = die
        self._lock = threading.Lock()

    def __str__(self) -> str:
        return f"doors that fail at {list(self._refusals)} and close for good at {self._die}"

    @property
    def calls(self) -> list[Call]:
        return [call for call, _ in self.points]

    def enter(self, name: str, refusal: Callable[[], Exception]) -> None:
        call = Call(name, _place())
        with self._lock:
            point = call, self._seen[call]
            self._seen[call] += 1
            self.points.append(point)
            refused = self._refuses(point)
        if point == self._die:
            os._exit(KILLED)
        if refused:
            raise refusal()

    def _refuses(self, point: Point) -> bool:
        """Programs are loaded by several threads: what another one loads is no repetition of what was refused."""
        if point in self._refusals:
            self._threads[point] = threading.get_ident()
        for failing, thread in self._threads.items():
            again = failing[0].name == point[0].name and thread == threading.get_ident()
            if again and self._refusals[failing]:
                self._refusals[failing] -= 1
                return True
        return False

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """All calls of the block go through here."""
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(sys, "syscall", self._bpf(sys.syscall))
            patched.setattr(pyroute2, "IPRoute", self._netlink(pyroute2.IPRoute))
            for name in _FILES:
                patched.setattr(os, name, self._file(name, getattr(os, name)))
            yield

    def _bpf(self, real: Callable[[Cmd, Any], int]) -> Callable[[Cmd, Any], int]:
        def syscall(cmd: Cmd, attr: Any) -> int:
            self.enter(cmd.name, lambda: sys.SyscallFailed(errno.ENOMEM, cmd.name))
            return real(cmd, attr)

        return syscall

    def _netlink(self, real: Callable[..., Any]) -> Callable[..., Any]:
        return lambda **options: _Socket(self, real(**options))

    def _file(self, name: str, real: Callable[..., None]) -> Callable[..., None]:
        def call(path: Any, *arguments: Any, **options: Any) -> None:
            if str(path).startswith(str(bpffs_root())):
                self.enter(name, lambda: OSError(errno.ENOMEM, os.strerror(errno.ENOMEM), os.fspath(path)))
            real(path, *arguments, **options)

        return call


class _Socket:
    """A netlink socket whose requests go through the doors."""

    def __init__(self, doors: Doors, real: Any) -> None:
        self._doors, self._real = doors, real

    def __enter__(self) -> _Socket:
        return self

    def __exit__(self, *_: object) -> None:
        self._real.close()

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)

        def request(*arguments: Any, **options: Any) -> Any:
            words = " ".join([name, *(word for word in arguments if isinstance(word, str))])
            self._doors.enter(words, lambda: pyroute2.NetlinkError(errno.ENOMEM, "no memory, says the test"))
            return real(*arguments, **options)

        return request


def _place() -> tuple[tuple[str, int], ...]:
    frame, found = python._getframe(2), []
    while frame.f_back:
        if frame.f_code.co_filename.startswith(_RUNTIME):
            found.append((frame.f_code.co_filename, frame.f_lineno))
        frame = frame.f_back
    return tuple(found)


def to_fail(points: Sequence[Point], known: Collection[Call] = ()) -> list[Point]:
    """The calls that are to fail: the first of each place.

    Those `known` from other runs are left out, except where they are what touches traffic.
    """
    return _chosen(points, known, last=False)


def to_die_at(points: Sequence[Point], known: Collection[Call] = ()) -> list[Point]:
    """The calls before which the process is to die, such that every lasting change is the last one once.

    The beginning of a step is before some such call too. Of a loop the first and the last will do.
    """
    return _chosen([point for point in points if point[0].lasts], known, last=True)


def _chosen(points: Sequence[Point], known: Collection[Call], *, last: bool) -> list[Point]:
    if EVERY_CALL in os.environ:
        return list(points)
    last_of = dict(points)
    wanted = [point for point in points if point[0] not in known or point[0].name in _ON_HOOKS]
    return [(call, before) for call, before in wanted if before == 0 or (last and before == last_of[call])]


def dies(doors: Doors, command: Callable[[], object]) -> None:
    """A child process runs `command`, and is dead where `doors` say so, without another word."""
    child = os.fork()
    if child == 0:
        try:
            with doors.watched():
                command()
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == KILLED, f"it did not come to {doors}"


# --- frames meanwhile -----------------------------------------------------------------------------------------------

_COUNTS = struct.Struct("<?3Q")  # to stop; sent, arrived, arrived more than once
_MARK = b"\x88\xb6stream"
_PAUSE_SECONDS = 0.0005
_QUIET_SECONDS = 0.3


class Stream:
    """Numbered frames from one port's neighbour to another's, from a process of its own, without a pause."""

    def __init__(self, net: Network, source: str, destination: str) -> None:
        self._memory = mmap.mmap(-1, _COUNTS.size)
        self._ends = net.cables[source].station, net.cables[destination].station

    def __enter__(self) -> Stream:
        with Wire(self._ends[0]) as out, Wire(self._ends[1]) as into:
            self._child = os.fork()
            if self._child == 0:
                try:
                    self._run(out, into)
                finally:
                    os._exit(0)
        self.goes_on()
        return self

    def __exit__(self, *_: object) -> None:
        self._memory[0] = 1
        os.waitpid(self._child, 0)

    @property
    def arrived(self) -> int:
        return int(self._counts()[2])

    def goes_on(self, frames: int = 20) -> None:
        """Returns when so many more have arrived."""
        wanted = self.arrived + frames
        until(lambda: self.arrived >= wanted, lambda: "no frames arrive any more")

    def check(self) -> None:
        """After the end: every frame that was sent has arrived, once."""
        _, sent, arrived, repeated = self._counts()
        assert (arrived, repeated) == (sent, 0)

    def _counts(self) -> tuple[Any, ...]:
        return _COUNTS.unpack(self._memory[:])

    def _run(self, out: Wire, into: Wire) -> None:
        sent, seen, repeated = 0, set[bytes](), 0
        quiet_until = 0.0
        while not self._memory[0] or time.monotonic() < quiet_until:
            if not self._memory[0]:
                out.send((bytes.fromhex("02aa0000000b02aa0000000a") + _MARK + sent.to_bytes(8, "big")).ljust(60, b"\0"))
                sent += 1
                quiet_until = time.monotonic() + _QUIET_SECONDS
            while (frame := into.receive(0)) is not None:
                if frame[12:].startswith(_MARK):
                    repeated += frame in seen
                    seen.add(frame)
            self._memory[1:] = _COUNTS.pack(False, sent, len(seen), repeated)[1:]
            time.sleep(_PAUSE_SECONDS)


def killed_at_step(run: Callable[[Callable[[object], None]], object], number: int) -> None:
    """Runs a guard in a child process, which dies in the place of step `number`; `run` is given who hears of them."""
    count = 0

    def on_step(_: object) -> None:
        nonlocal count
        if count == number:
            os._exit(KILLED)
        count += 1

    child = os.fork()
    if child == 0:
        try:
            run(on_step)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == KILLED
