"""What a network engineer has at hand, run in namespaces: ping, traceroute, tracepath, curl, a web server."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from runtime.netns import entered

from .lab import Namespace

PATIENCE_SECONDS = 60.0
_PORT = 8080


def run(namespace: Namespace, program: str, *arguments: str) -> str:
    """What a program prints. It is one of those that `make tools` installs."""
    with entered(namespace.name):
        process = subprocess.Popen([_found(program), *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        printed = process.communicate(timeout=PATIENCE_SECONDS)[0].decode()
    finally:
        process.kill()
    assert process.returncode == 0, f"{program} {' '.join(arguments)}: {printed}"
    return printed


def pings(namespace: Namespace, target: str, count: int = 3, size: int = 56) -> int:
    """How many echo requests with `size` bytes are answered within 10 s; it ends when so many are.

    Without a deadline ping waits for the last answer no longer than for two round trips, too short on a busy machine.
    """
    printed = run(namespace, "ping", "-n", "-c", str(count), "-s", str(size), "-i", "0.2", "-w", "10", target)
    return int(_all(r"(\d+) received", printed)[0])


def traceroute(namespace: Namespace, target: str) -> list[str]:
    """The addresses that answer on the way, one probe to each hop, one after the other."""
    printed = run(namespace, "traceroute", "-n", "-q", "1", "-N", "1", "-w", "3", "-m", "6", target)
    return _all(r"^ *\d+ +(\S+)", printed)


def tracepath(namespace: Namespace, target: str) -> int:
    """The MTU of the way to an address, which is found out anew."""
    return int(_all(r"Resume: pmtu (\d+)", run(namespace, "tracepath", "-n", "-m", "6", target))[0])


@contextlib.contextmanager
def web_server(namespace: Namespace, folder: Path) -> Iterator[None]:
    """Serves the files of a folder, at all addresses of both IP versions."""
    with entered(namespace.name):
        server = subprocess.Popen(
            [sys.executable, "-m", "http.server", "--bind", "::", "--directory", str(folder), str(_PORT)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    try:
        yield
    finally:
        server.kill()
        server.wait()


def curl(namespace: Namespace, address: str, name: str, into: Path) -> None:
    """Fetches a file from a web server, which may have to come up first."""
    host = f"[{address}]" if ":" in address else address
    patience = ("--retry", "20", "--retry-connrefused", "--retry-delay", "1", "--max-time", str(int(PATIENCE_SECONDS)))
    url = f"http://{host}:{_PORT}/{name}"
    run(namespace, "curl", "--silent", "--show-error", "--fail", *patience, "--output", str(into), url)


def _found(program: str) -> str:
    found = shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin")
    assert found, f"there is no `{program}`: make tools"
    return found


def _all(pattern: str, text: str) -> list[str]:
    found: list[str] = re.findall(pattern, text, re.MULTILINE)
    assert found, text
    return found
