"""A bpffs in, its daemon out: a lock that it holds, and a socket by which it is told of changes and asked for news."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
from pathlib import Path
from typing import Any

from msgspec import Struct

RUN_DIRECTORY = Path("/run/bpfchain")
RUN_VARIABLE = "BPFCHAIN_RUN"
"""Names another directory, for daemons of users who may not write to /run."""

TIMEOUT_SECONDS = 1.0
CHANGED, STATUS = b"changed\n", b"status\n"


class DaemonPlace(Struct, frozen=True):
    """Where the one daemon of a bpffs has its lock and its socket."""

    lock: Path
    socket: Path


def daemon_place(root: Path) -> DaemonPlace:
    """The place of the daemon for the bpffs at `root`."""
    name = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:12]
    directory = Path(os.environ.get(RUN_VARIABLE) or RUN_DIRECTORY)
    return DaemonPlace(directory / f"daemon-{name}.lock", directory / f"daemon-{name}.socket")


def tell_daemon(root: Path) -> None:
    """Tells the daemon, if one runs, that chains have changed; it would find out by itself a little later."""
    _ask(root, CHANGED)


def daemon_status(root: Path) -> dict[str, Any] | None:
    """What the daemon says of itself; None where none answers.

    `{"pid": N, "chains": {CHAIN: {"generation": N, "unclaimed": N, "unsent": N,
    "services": {SERVICE: {"state": "running", "failures": 0, "problems": []}}}}}`: `unclaimed` are packets that came
    up for a control plane that was not running, `unsent` frames that no device took, `problems` words for people.
    """
    answer = _ask(root, STATUS)
    if not answer:
        return None
    found: dict[str, Any] = json.loads(answer)
    return found


def _ask(root: Path, question: bytes) -> bytes:
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asker:
        asker.settimeout(TIMEOUT_SECONDS)
        asker.connect(os.fspath(daemon_place(root).socket))
        asker.sendall(question)
        answer = b""
        while piece := asker.recv(65536):
            answer += piece
        return answer
    return b""
