"""A long block list is replaced while frames pass at full speed: what both lists block never gets through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.traffic import Traffic
from runtime.plan import Way
from schemas.counters import Count
from tests.kernel.load import load

pytestmark = pytest.mark.kernel

FLOWS = Traffic("64 flows", flows=64)
ENTRIES = 10_000


def addresses() -> list[tuple[int, int, int]]:
    """The last three bytes of the address that each flow comes from; the first is 10."""
    return [(flow >> 16 & 255, flow >> 8 & 255, flow & 255) for flow in FLOWS.identities()]


def guard(first: int, blocked: str) -> dict[str, Any]:
    """A guard whose list is `blocked`, and 10,000 networks that no frame comes from, from number `first` on."""
    numbers = range(first, first + ENTRIES)
    others = [f"{172 + (number >> 16)}.{number >> 8 & 255}.{number & 255}.0/24" for number in numbers]
    return {
        "interfaces": {"in": {"device": "in"}, "out": {"device": "out"}},
        "services": {"guard": {"kind": "ddos", "block": {"sources": [blocked, *others]}}},
        "links": [["in", "guard.outside"], ["guard.inside", "out"]],
    }


def test_a_list_is_replaced_under_load(tmp_path: Path) -> None:
    """One flow is blocked by an address in the one list, by its network in the other; the rest by neither."""
    (a, b, c), *free = addresses()
    assert all((x, y) != (a, b) for x, y, _ in free)
    with load(tmp_path, FLOWS) as under:
        machine = under.machine
        lists = [
            machine.compiled(guard(0, f"10.{a}.{b}.{c}")),
            machine.compiled(guard(ENTRIES, f"10.{a}.{b}.0/24")),
        ]
        machine.apply(lists[0])
        footprint = machine.footprint()
        wanted = machine.plan(lists[1])
        assert wanted.way is Way.IN_PLACE
        assert len(wanted.changes) == 2 * (ENTRIES + 1) + 1, "all entries, and the table that is looked at before"
        with under.running():
            for number in range(1, 5):
                assert machine.apply(lists[number % 2]).generation == 1
        dropped = under.sent // FLOWS.flows
        delivery = under.delivery()
        assert (delivery.arrived, delivery.out_of_order, delivery.damaged) == (under.sent - dropped, 0, 0)
        assert delivery.flows == 1
        status = machine.status().service("guard")
        assert status.drops == {"blocked-source": Count(dropped, dropped * FLOWS.frame_bytes)}
        assert machine.footprint() == footprint
        assert not machine.plan(lists[0])
