"""Reloads under load: no frame is lost, none is there twice, and what was learned and counted is the same."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.traffic import Traffic
from runtime import sys
from runtime.bpffs import bpffs_root
from runtime.pin import chain_pins
from schemas.counters import Count
from tests.kernel.live import Host, stations
from tests.kernel.load import load

pytestmark = pytest.mark.kernel

FLOWS = Traffic("1k flows", flows=1024)
FRAME_BYTES = FLOWS.frame_bytes


def guarded_bridge(mode: str, aging: int) -> dict[str, Any]:
    """A guard that remembers every source, and behind it a bridge with a port that no frame is for."""
    return {
        "mode": mode,
        "interfaces": {device: {"device": device} for device in ("in", "out", "aside")},
        "services": {
            "guard": {
                "kind": "ddos",
                "block": {"sources": ["203.0.113.0/24"]},
                "rate": {"per-source": 10_000_000, "burst": 10_000_000},
            },
            "br0": {"kind": "bridge", "fdb": {"aging": f"{aging}s"}, "ports": {"a": {}, "b": {}, "c": {}}},
        },
        "links": [["in", "guard.outside"], ["guard.inside", "br0.a"], ["br0.b", "out"], ["br0.c", "aside"]],
    }


def contents(machine: Host, name: str, value_size: int) -> list[bytes]:
    """The values of a state map."""
    (generation,) = chain_pins(bpffs_root(), machine.name).generations()
    (path,) = (path for path in generation.pinned("maps") if path.name.startswith(f"{name}-"))
    with sys.obj_get(path) as fd:
        return [value for _, value in sys.map_entries(fd, 4, value_size)]


def remembered(machine: Host) -> set[int]:
    """The sources that have a bucket."""
    buckets = [pair for value in contents(machine, "guard__buckets4", 64) for pair in struct.iter_unpack("<QQ", value)]
    return {source for source, _ in buckets if source}


def received(machine: Host) -> dict[str, Count]:
    """What each port received, and how much of it was dropped."""
    ports = [(f"{s.name}.{p.name}", p) for s in machine.status().services for p in s.ports]
    counts = {name: port.received for name, port in ports if port.received}
    return counts | {f"{name} {reason}": count for name, port in ports for reason, count in port.drops.items()}


@pytest.mark.parametrize(
    ("mode", "reloads", "frames"), [("native", 50, 20_000_000), ("generic", 10, 2_000_000), ("tc", 10, 2_000_000)]
)
def test_no_frame_notices_a_reload(
    mode: str, reloads: int, frames: int, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """An inlined constant changes again and again at full speed; the frames are counted at both ends, flow by flow."""
    with load(tmp_path, FLOWS) as under:
        machine = under.machine
        chains = [machine.compiled(guarded_bridge(mode, aging)) for aging in (300, 299, 298, 297)]
        machine.apply(chains[0])
        under.announce()
        with under.running():
            pass
        before = stations(machine), remembered(machine)
        assert (len(before[0]), len(before[1])) == (FLOWS.flows + 1, FLOWS.flows)
        with under.running(at_least=frames):
            for number in range(1, reloads + 1):
                assert machine.apply(chains[number % len(chains)]).generation == number + 1
        delivery = under.delivery()
        record_property("mpps", delivery.mpps)
        print(f"{mode}: {delivery.sent} frames at {delivery.mpps:.2f} Mpps, {reloads} reloads")
        assert delivery.sent >= frames
        assert delivery.whole, delivery
        assert (stations(machine), remembered(machine)) == before
        everything = Count(delivery.sent, delivery.sent * FRAME_BYTES)
        flooded = Count(1, FRAME_BYTES)  # the frame that showed where all others go to
        assert received(machine) == {
            "guard.outside": everything,
            "guard.inside": flooded,
            "br0.a": everything,
            "br0.b": flooded,
        }
