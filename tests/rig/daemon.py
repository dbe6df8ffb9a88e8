"""A daemon in a process of its own, for a bpffs of its own; run as a program it is that daemon."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from runtime import sys as kernel
from runtime.bpffs import BPFFS_VARIABLE, bpffs_root
from runtime.control import ControlPlane, control_plane, find_control_plane
from runtime.daemon import Daemon
from runtime.daemon_socket import daemon_place, daemon_status
from runtime.log import Log

from .waiting import PATIENCE_SECONDS, until

CHECKOUT = Path(__file__).parents[2]
OF_TESTS = {"probe": "tests.rig.probe.control"}


@contextlib.contextmanager
def own_bpffs(folder: Path) -> Iterator[Path]:
    """A bpffs that nobody else uses, and that everything in the block uses: there is one daemon for each bpffs."""
    root = folder / "bpffs"
    root.mkdir(mode=0o700)
    kernel.mount("bpf", str(root), "bpf")
    try:
        with mock.patch.dict(os.environ, {BPFFS_VARIABLE: str(root)}):
            yield root
    finally:
        kernel.umount(str(root))
        daemon_place(root).lock.unlink(missing_ok=True)


@dataclass(slots=True)
class DaemonProcess:
    """A daemon for the bpffs that is in use; what it logs goes to `log`."""

    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it and waits until it answers."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.rig.daemon"],
                cwd=CHECKOUT,
                env={**os.environ, **self.environment},
                stderr=log,
            )
        until(self._answers, self.log.read_text)

    def _answers(self) -> bool:
        assert self._process
        assert self._process.poll() is None, self.log.read_text()
        return bool((self.status() or {}).get("pid") == self._process.pid)

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    def status(self) -> dict[str, Any] | None:
        return daemon_status(bpffs_root())

    def state(self, chain: str, service: str) -> str:
        """How a control plane is; empty where it is not served."""
        found = (self.status() or {"chains": {}})["chains"].get(chain, {"services": {}})["services"].get(service)
        return str(found["state"]) if found else ""

    def failures(self, chain: str, service: str) -> int:
        """How often a control plane has failed."""
        return int((self.status() or {})["chains"][chain]["services"][service]["failures"])

    def wait_for(self, chain: str, service: str, state: str) -> None:
        """Waits until a control plane is in a state."""
        until(lambda: self.state(chain, service) == state, self.log.read_text)

    def kill(self) -> None:
        """SIGKILL: it gets no chance to tidy up."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM; gives its exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(number)
        return process.wait(PATIENCE_SECONDS)


@contextlib.contextmanager
def daemon(folder: Path, **environment: str) -> Iterator[DaemonProcess]:
    """A daemon for the length of the block."""
    process = DaemonProcess(folder / "daemon.log", environment)
    process.start()
    try:
        yield process
    finally:
        process.stop()


def find(kind: str) -> ControlPlane:
    """The control planes of the tests, and then all others."""
    if kind in OF_TESTS:
        return control_plane(kind, importlib.import_module(OF_TESTS[kind]))
    return find_control_plane(kind)


if __name__ == "__main__":
    asyncio.run(Daemon(bpffs_root(), Log(), find).run())
