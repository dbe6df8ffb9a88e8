"""Counters across reloads that rebuild their maps: each frame counted once, whoever asks when, whatever happens."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench.traffic import ORDER_LENGTH, Traffic
from runtime.bpffs import bpffs_root
from runtime.pin import chain_pins
from runtime.steps import Step
from schemas.counters import Count
from tests.kernel.live import Host
from tests.kernel.load import Load, load

pytestmark = pytest.mark.kernel

FLOWS = Traffic("64 flows", flows=64)
FRAMES = ORDER_LENGTH
KILLED = 9
PORTS = (("a", "b"), ("b", "c", "a"), ("c", "a", "b"))


def source_of(flow: int) -> str:
    """The address that the bench's generator sends a flow from (SOURCE_NETWORK in bench/bpf/frame.h)."""
    return f"10.{flow >> 16 & 255}.{flow >> 8 & 255}.{flow & 255}"


def chain(under: Load, ports: tuple[str, ...], *, also_blocked: str = "203.0.113.9") -> dict[str, Any]:
    """A guard that drops the first flow, and a bridge that knows where all frames go; its ports in this order."""
    blocked = [also_blocked, source_of(FLOWS.identities()[0])]
    static = [{"mac": under.lane.exit.station.mac, "port": "b"}]
    devices = {"b": "out", "c": "aside"}
    ways_out = {port: devices[port] for port in ports if port != "a"}
    return {
        "interfaces": {device: {"device": device} for device in ("in", *ways_out.values())},
        "services": {
            "guard": {"kind": "ddos", "block": {"sources": sorted(blocked)}},
            "br0": {"kind": "bridge", "fdb": {"static": static}, "ports": {port: {} for port in ports}},
        },
        "links": [
            ["in", "guard.outside"],
            ["guard.inside", "br0.a"],
            *([f"br0.{port}", device] for port, device in ways_out.items()),
        ],
    }


@pytest.fixture
def under(tmp_path: Path) -> Iterator[Load]:
    with load(tmp_path, FLOWS) as found:
        yield found


def counted(machine: Host) -> dict[str, int]:
    """Packets by what was counted; zeros left out. Nothing is on its way, so bytes agree with them."""
    counts = counts_of(machine)
    assert all(count.bytes == count.packets * FLOWS.frame_bytes for count in counts.values())
    return packets(counts)


def packets(counts: Mapping[str, Count]) -> dict[str, int]:
    return {name: count.packets for name, count in counts.items() if count.packets}


def counts_of(machine: Host) -> dict[str, Count]:
    status = machine.status()
    guard, bridge = status.service("guard"), status.service("br0")
    return {
        "guard received": guard.port("outside").received,
        "guard sent": guard.port("inside").sent,
        "guard dropped": guard.drops.get("blocked-source", Count()),
        **{f"label {label}": count for label, count in guard.labelled.items()},
        **{f"{port.name} received": port.received for port in bridge.ports},
        **{f"{port.name} sent": port.sent for port in bridge.ports},
    }


def expected(sent: int) -> dict[str, int]:
    dropped = sent // FLOWS.flows
    passed = sent - dropped
    return {
        "guard received": sent,
        "guard sent": passed,
        "guard dropped": dropped,
        f"label block.sources {source_of(FLOWS.identities()[0])}": dropped,
        "a received": passed,
        "b sent": passed,
    }


@contextmanager
def watched(machine: Host) -> Iterator[list[dict[str, int]]]:
    """Asks for the counts again and again, from a thread of its own."""
    seen: list[dict[str, int]] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            seen.append(packets(counts_of(machine)))  # programs count meanwhile: first packets, then bytes

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch)
        try:
            yield seen
        finally:
            stop.set()
            watching.result()


def test_counts_go_on_while_their_maps_are_rebuilt_under_load(under: Load) -> None:
    machine = under.machine
    chains = [
        machine.compiled(chain(under, ports, also_blocked=f"203.0.113.{number}")) for number, ports in enumerate(PORTS)
    ]
    machine.apply(chains[0])
    with under.running(), watched(machine) as seen:
        for number in range(1, 10):
            wanted = machine.plan(chains[number % 3])
            assert {"br0__counters", "guard__blocked"} <= {c.name for c in wanted.changes if c.state == "carried over"}
            machine.apply(chains[number % 3])
    assert counted(machine) == expected(under.sent)
    assert len(seen) > 10
    for before, after in itertools.pairwise(seen):
        assert all(count <= after.get(name, 0) for name, count in before.items()), "no count ever goes back"


def test_what_is_removed_is_not_counted_any_more(under: Load) -> None:
    """And begins again at zero where it comes back."""
    machine = under.machine
    machine.apply(chain(under, PORTS[1]))
    under.announce()  # floods to c as well
    assert counted(machine)["c sent"] == 1
    machine.apply(chain(under, PORTS[0]))
    machine.apply(chain(under, PORTS[1]))
    assert "c sent" not in counted(machine)
    assert counted(machine)["a sent"] == 1


class Stopped(Exception):
    """Raised by a test in the place of a step."""


def test_counts_of_a_swap_that_is_taken_back(under: Load) -> None:
    machine = under.machine
    machine.apply(chain(under, PORTS[0]))
    send(under)

    def on_step(step: Step) -> None:
        if step.title == "finish the new generation":
            send(under)  # every hook runs the new programs
            raise Stopped

    with pytest.raises(Stopped):
        machine.apply(chain(under, PORTS[1]), on_step=on_step)
    assert counted(machine) == expected(2 * FRAMES)
    assert len(machine.generations()) == 1
    send(under)
    machine.apply(chain(under, PORTS[2]))
    send(under)
    assert counted(machine) == expected(4 * FRAMES)


def test_counts_of_an_apply_that_is_killed_at_any_step(under: Load) -> None:
    machine = under.machine
    chains = [machine.compiled(chain(under, ports)) for ports in PORTS]
    machine.apply(chains[0])
    steps: list[str] = []
    machine.apply(chains[1], on_step=lambda step: steps.append(step.title))
    sent, runs = 0, 1
    number = next(number for number, title in enumerate(steps) if title.startswith(("swap", "attach")))
    while killed_at(machine, chains[(runs + 1) % 3], number):
        sent += send(under)
        assert counted(machine) == expected(sent), number
        runs = (runs + 1 + number % 2) % 3  # what was interrupted, or something else
        machine.apply(chains[runs])
        assert counted(machine) == expected(sent), number
        sent += send(under)
        assert counted(machine) == expected(sent), number
        assert len(machine.generations()) == 1
        number += 1
    assert number > steps.index("keep what was counted")
    (generation,) = chain_pins(bpffs_root(), machine.name).generations()
    known = generation.read_counted()
    assert known
    assert len(known.maps) <= 3, "maps that are gone are not remembered"


def send(under: Load) -> int:
    stretch = under.generator.send(under.lane, FRAMES, under.lane.station)
    assert stretch.arrived.packets == FRAMES - FRAMES // FLOWS.flows
    return stretch.frames


def killed_at(machine: Host, wanted: Any, number: int) -> bool:
    """A child process applies, and dies in the place of step `number` without another word. False: it had no such."""
    titles: list[str] = []

    def on_step(step: Step) -> None:
        if len(titles) == number:
            os._exit(KILLED)
        titles.append(step.title)

    child = os.fork()
    if child == 0:
        try:
            machine.apply(wanted, on_step=on_step)
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, KILLED)
    return code == KILLED
