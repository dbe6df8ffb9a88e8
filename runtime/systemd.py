"""What systemd wants to hear of a service (sd_notify(3)), and the unit that runs the daemon."""

from __future__ import annotations

import os
import socket
import sys
from importlib.resources import files
from pathlib import Path


def notify(state: str) -> None:
    """`READY=1`, `STOPPING=1`, `WATCHDOG=1`; nothing is done where systemd has not started us."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.sendto(state.encode(), f"\0{address[1:]}" if address.startswith("@") else address)


def watchdog_seconds() -> float | None:
    """How often systemd wants to hear that we are alive, halved to be on the safe side; None: not at all."""
    asked = os.environ.get("WATCHDOG_USEC")
    if not asked or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(asked) / 2_000_000


def unit() -> str:
    """The unit, for the bpfchain that runs."""
    command = Path(sys.argv[0]).resolve()
    text = (files("runtime") / "bpfchain.service").read_text(encoding="utf-8")
    return text.replace("@bpfchain@", str(command))
