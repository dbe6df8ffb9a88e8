"""What systemd is told, and the unit that it reads."""

from __future__ import annotations

import configparser
import os
import socket
from pathlib import Path

import pytest

from runtime import systemd


def test_notifications_go_where_systemd_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    systemd.notify("READY=1")
    for name in (os.fspath(tmp_path / "notify"), f"@bpfchain-test-{os.getpid()}"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
            heard.bind(name.replace("@", "\0"))
            monkeypatch.setenv("NOTIFY_SOCKET", name)
            systemd.notify("READY=1")
            assert heard.recv(100) == b"READY=1"


def test_the_watchdog_hears_twice_as_often_as_it_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    assert systemd.watchdog_seconds() is None
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert systemd.watchdog_seconds() == 15
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid() + 1))
    assert systemd.watchdog_seconds() is None


def test_the_unit_asks_for_no_more_than_it_takes() -> None:
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(systemd.unit())
    service = unit["Service"]
    assert service["Type"] == "notify"
    assert service["ExecStart"].endswith(" daemon")
    assert Path(service["ExecStart"].split()[0]).is_absolute()
    enough = {"CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN", "CAP_NET_RAW"}
    assert set(service["CapabilityBoundingSet"].split()) == set(service["AmbientCapabilities"].split()) == enough
