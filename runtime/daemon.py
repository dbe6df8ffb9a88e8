"""`bpfchain daemon`: finds the chains that run, and keeps their control planes running.

It holds nothing that forwards: it can be killed at any time and started again. Chains are told apart by their newest
generation and its record in bpffs; `apply` and `detach` say when to look, so does the kernel when a device changes, and
it looks ten times a second by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from schemas.diagnostic import ChainError, Diagnostic, LoadFailed

from . import features, sys
from .chain_control import ChainControl, needs_daemon
from .control import ControlPlane, find_control_plane
from .daemon_socket import STATUS, daemon_place
from .log import Log
from .pin import GenerationPins, chain_pins, chains
from .problems import ProblemLog
from .record import Record
from .systemd import notify, watchdog_seconds

LOOK_SECONDS = 0.1
LINK_SHARE = 0.05
"""Of the loop's time at most, unless something has changed: who asks for links waits for all who change anything in the
kernel's network (RTNL), such as thousands of routes."""
PROBLEM_SECONDS = 5.0
"""So often services' maps are asked for problems."""

Fingerprint = tuple[int, int]
"""A generation's number and its record's inode: another record is put in the place of the one before."""


class Daemon:
    """The control planes of all chains under one bpffs."""

    def __init__(self, root: Path, log: Log, find: Callable[[str], ControlPlane] = find_control_plane) -> None:
        self._root = root
        self._log = log
        self._find = find
        self._seen: dict[str, Fingerprint] = {}
        self._running: dict[str, ChainControl] = {}
        self._unseen: dict[str, str] = {}
        self._records: dict[str, tuple[GenerationPins, Record]] = {}
        self._problems = ProblemLog(log)
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Until it is told to stop (SIGTERM, SIGINT). Raises `LoadFailed` (A120) where another one is at work."""
        loop = asyncio.get_running_loop()
        stopped = asyncio.Event()
        with _only_one(self._root), contextlib.ExitStack() as watchdog:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, stopped.set)
            server = await asyncio.start_unix_server(self._answer, daemon_place(self._root).socket)
            try:
                self.look()
                notify("READY=1")
                self._log.info("daemon is ready", bpffs=self._root, pid=os.getpid(), chains=len(self._running))
                watchdog.callback(_watch(loop))
                await self._look_again_and_again(stopped)
            finally:
                notify("STOPPING=1")
                server.close()
                for control in self._running.values():
                    control.stop()
                self._log.info("daemon stops")

    async def _look_again_and_again(self, stopped: asyncio.Event) -> None:
        ending = asyncio.ensure_future(stopped.wait())
        looked_for_problems = links_are_due = 0.0
        while not ending.done():
            changing = asyncio.ensure_future(self._changed.wait())
            await asyncio.wait((ending, changing), timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            told = changing.done()
            changing.cancel()
            self._changed.clear()
            self.look()
            if told or time.monotonic() >= links_are_due:
                began = time.monotonic()
                self._look_at_links()
                ended = time.monotonic()
                links_are_due = ended + (ended - began) / LINK_SHARE
            if time.monotonic() >= looked_for_problems + PROBLEM_SECONDS:
                looked_for_problems = time.monotonic()
                self._look_for_problems()

    def look(self) -> None:
        """Finds what has changed under bpffs, and acts on it."""
        found = dict(self._newest())
        for chain in self._seen.keys() - found.keys():
            self._leave(chain)
        for chain, (pins, fingerprint) in found.items():
            if self._seen.get(chain) != fingerprint:
                self._enter(chain, pins, fingerprint)

    def _look_for_problems(self) -> None:
        """In all chains, those without a control plane too."""
        for pins, record in self._records.values():
            self._problems.look(pins, record)

    def _newest(self) -> Iterator[tuple[str, tuple[GenerationPins, Fingerprint]]]:
        """The generation that runs of every chain; what is being removed just now is left out."""
        for chain in chains(self._root):
            with contextlib.suppress(FileNotFoundError):
                finished = [pins for pins in chain_pins(self._root, chain).generations() if pins.finished]
                if finished:
                    pins = max(finished, key=lambda pins: pins.number)
                    yield chain, (pins, (pins.number, (pins.path / "record").stat().st_ino))

    def _look_at_links(self) -> None:
        """Finds what has changed at interfaces. A namespace that has gone is told once."""
        for chain, control in self._running.items():
            problem = ""
            try:
                control.look_at_links()
            except (ChainError, OSError) as error:
                problem = str(error)
            if problem != self._unseen.get(chain, ""):
                self._unseen[chain] = problem
                event = "interfaces cannot be looked at" if problem else "interfaces are back"
                self._log.warning(event, chain=chain, error=problem)

    def _enter(self, chain: str, pins: GenerationPins, fingerprint: Fingerprint) -> None:
        """Goes over to a generation; what cannot be read is logged once, and tried again when it changes."""
        before = self._running.get(chain)
        log = self._log.bound(chain=chain, generation=pins.number)
        try:
            record = pins.read_record()
            if record is None:
                return
            self._records[chain] = pins, record
            if before is None and not needs_daemon(record.manifest):
                self._seen[chain] = fingerprint
                return
            control = ChainControl(pins, record, self._find, log, self._changed.set, before)
        except (ChainError, OSError) as error:
            if isinstance(error, sys.SyscallFailed) and error.errno == errno.ENOENT:
                return  # replaced while we looked: the next look finds what is there instead
            self._seen[chain] = fingerprint
            log.error("chain cannot be read", error)
            return
        self._seen[chain] = fingerprint
        self._running[chain] = control
        log.info("chain is served", services=",".join(control.instances))

    def _leave(self, chain: str) -> None:
        del self._seen[chain]
        self._unseen.pop(chain, None)
        self._records.pop(chain, None)
        self._problems.forget(chain)
        control = self._running.pop(chain, None)
        if control:
            control.stop()
            self._log.info("chain is gone", chain=chain)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            question = await reader.readline()
            if question == STATUS:
                writer.write(json.dumps(self._status()).encode())
            else:
                self._changed.set()
            writer.close()
            await writer.wait_closed()

    def _status(self) -> dict[str, object]:
        served = {
            chain: {
                "generation": control.pins.number,
                "unclaimed": control.unclaimed,
                "unsent": control.down.unsent,
                "services": {
                    name: {
                        "state": instance.state.value,
                        "failures": instance.failures,
                        "problems": list(instance.problems),
                    }
                    for name, instance in control.instances.items()
                },
            }
            for chain, control in self._running.items()
        }
        return {"pid": os.getpid(), "chains": served}


def _watch(loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
    """Tells systemd's watchdog that the loop turns; gives the function that ends it."""
    seconds = watchdog_seconds()
    if seconds is None:
        return lambda: None
    pending: list[asyncio.TimerHandle] = []

    def again() -> None:
        notify("WATCHDOG=1")
        pending[:] = [loop.call_later(seconds, again)]

    again()
    return lambda: pending[0].cancel()


@contextlib.contextmanager
def _only_one(root: Path) -> Iterator[None]:
    """Holds the lock of the daemon; a socket that a dead one has left is removed."""
    place = daemon_place(root)
    place.lock.parent.mkdir(mode=0o755, exist_ok=True)
    with open(place.lock, "w", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = f"another daemon serves the chains under `{root}`"
            raise LoadFailed(Diagnostic("A120", message, help="`bpfchain status` shows whether it works")) from None
        place.socket.unlink(missing_ok=True)
        try:
            yield
        finally:
            place.socket.unlink(missing_ok=True)


def serve(root: Path) -> None:
    """Runs the daemon until it is stopped. Raises `NotSupported` (L141), `LoadFailed` (A120)."""
    features.require_privilege()
    asyncio.run(Daemon(root, Log()).run())
