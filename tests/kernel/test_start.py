"""What a command does not need it does not import: imports are most of its time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from runtime.netns import entered
from tests.kernel.live import Host, bridge, host
from tests.rig.network import network

pytestmark = pytest.mark.kernel

SELDOM = {
    "asyncio",
    "elftools.dwarf",
    "importlib.metadata",
    "importlib.resources",
    "jsonschema",
    "pyroute2",
    "rich",
    "runtime.doctor",
    "runtime.guard",
    "runtime.supervisor",
    "runtime.verifier",
    "subprocess",
}
"""Where nothing is wrong, and nothing to be compiled that was not before."""
WRITING = {"tempfile"}
READING_YAML = {"compiler.resolve", "compiler.services", "yaml"}
RENDERING = {"compiler.emit", "jinja2"}
RUNNING = {"ctypes", "runtime.apply", "runtime.sys"}
LOADING = {"elftools", "runtime.load", "runtime.swap"}

ASKED = """
import sys, bpfchain
try:
    bpfchain.main()
finally:
    with open({output!r}, "w") as output:
        output.write("\\n".join(sys.modules))
"""


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Host]:
    with network("p1", "p2") as net, host(net.dut, tmp_path) as found:
        yield found


def imported(machine: Host, *words: str | Path) -> set[str]:
    """The modules that a command has imported by its end, in a process of its own."""
    output = machine.folder / "modules"
    command = [sys.executable, "-c", ASKED.format(output=str(output)), *map(str, words)]
    with entered(machine.namespace.name):
        ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode in (0, 3), ran.stderr
    return set(output.read_text().split())


def saved(machine: Host, aging: str) -> Path:
    file = machine.folder / f"aging-{aging}.yaml"
    file.write_text(yaml.safe_dump({"chain": machine.name, **bridge(aging=aging)}))
    return file


def test_commands_import_what_they_need(machine: Host) -> None:
    before, after, out = saved(machine, "300s"), saved(machine, "60s"), machine.folder / "out"
    for chain in (after, before):
        imported(machine, "compile", chain, "-o", out)
        imported(machine, "apply", chain)
    unneeded = {
        ("validate", after): WRITING | RENDERING | RUNNING | LOADING,
        ("compile", after, "-o", out): RUNNING | LOADING,
        ("status", machine.name): WRITING | READING_YAML | RENDERING | LOADING,
        ("plan", out): WRITING | READING_YAML | RENDERING | LOADING,
        ("apply", after): READING_YAML | RENDERING,  # a process beside it compiles
        ("plan", after): READING_YAML | RENDERING,
        ("apply", out): WRITING | READING_YAML | RENDERING | LOADING,
        ("detach", machine.name): WRITING | READING_YAML | RENDERING | LOADING,
    }
    for words, never in unneeded.items():
        assert imported(machine, *words) & (SELDOM | never) == set(), words


def test_the_daemon_collects_garbage() -> None:
    """A command is over before that pays; a daemon runs for months."""
    asked = """
import gc, sys, bpfchain, runtime.daemon
runtime.daemon.serve = lambda root: sys.stdout.write(f"collects: {gc.isenabled()}")
bpfchain.main()
"""
    ran = subprocess.run([sys.executable, "-c", asked, "daemon"], capture_output=True, text=True, check=True)
    assert ran.stdout == "collects: True"


def test_the_end_looks_for_no_garbage() -> None:
    asked = """
import atexit, gc, sys, bpfchain
atexit.register(lambda: print("to be looked at:", len(gc.get_objects()) > 1000))
bpfchain.main()
"""
    ran = subprocess.run([sys.executable, "-c", asked, "explain", "C201"], capture_output=True, text=True, check=True)
    assert ran.stdout.endswith("to be looked at: False\n")
