"""Which chains get a way in for their control planes, and where it leads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from msgspec.structs import replace

from compiler.build import lowered
from compiler.ir import ChainIR
from compiler.service import Service
from tests.rig import probe


def ir(
    tmp_path: Path, interfaces: Mapping[str, Any], services: list[str], links: list[list[str]], **how: Any
) -> ChainIR:
    """A chain of probes that are as `how` says."""
    file = tmp_path / "edge.yaml"
    kinds = {name: {"kind": "probe"} for name in services}
    file.write_text(json.dumps({"chain": "edge", "interfaces": interfaces, "services": kinds, "links": links}))
    service: Service = replace(probe.SERVICE, **how)
    with mock.patch.object(probe, "SERVICE", service), probe.installed():
        return lowered(file)


INTERFACES = {"wan": {"device": "eth0"}, "lan": {"device": "eth1"}}
ALONE = [["wan", "a.outside"], ["a.inside", "lan"]]
IN_A_ROW = [["wan", "a.outside"], ["a.inside", "b.outside"], ["b.inside", "lan"]]


def test_only_who_needs_it_gets_a_way_in(tmp_path: Path) -> None:
    assert ir(tmp_path, INTERFACES, ["a"], ALONE, control=None).injectors == ()
    assert ir(tmp_path, INTERFACES, ["a"], ALONE, injects=False).internal_links == ()
    assert [i.name for i in ir(tmp_path, INTERFACES, ["a"], ALONE).injectors] == ["inject_xdp"]


def test_who_sends_into_another_service_needs_it(tmp_path: Path) -> None:
    made = ir(tmp_path, INTERFACES, ["a", "b"], IN_A_ROW, injects=False)
    assert [link.name for link in made.internal_links] == ["inject.xdp"]


def test_every_port_can_be_reached(tmp_path: Path) -> None:
    made = ir(tmp_path, INTERFACES, ["a", "b"], IN_A_ROW)
    slots = {slot.program for slot in made.tail_slots if slot.map == "inject_xdp_ports"}
    assert slots == {program.name for program in made.programs}


def test_at_tc_each_namespace_has_its_own(tmp_path: Path) -> None:
    interfaces = {
        name: {"device": "eth0" if name[1] == "1" else "eth1", "mode": mode, "netns": netns}
        for name, mode, netns in (
            ("r1", "tc", "red"), ("r2", "tc", "red"), ("b1", "tc", "blue"), ("b2", "tc", "blue"),
            ("g1", "native", "green"), ("y2", "native", "yellow"),
        )
    }  # fmt: skip
    links = [["r1", "a.outside"], ["a.inside", "r2"], ["b1", "b.outside"], ["b.inside", "b2"], ["g1", "c.outside"]]
    made = ir(tmp_path, interfaces, ["a", "b", "c"], [*links, ["c.inside", "y2"]])
    found = {(link.name, link.program, link.interface) for link in made.internal_links}
    assert found == {
        ("inject.tc", "inject_tc", "r1"),
        ("inject.tc.2", "inject_tc_2", "b1"),
        ("inject.xdp", "inject_xdp", "g1"),
    }
    reached = {slot.map: slot.program.split("__")[0] for slot in made.tail_slots}
    assert reached == {"inject_tc_ports": "a", "inject_tc_2_ports": "b", "inject_xdp_ports": "c"}


@pytest.mark.parametrize("reasons", [(), ((0, "one"), (5, "other"))])
def test_reasons_make_the_slow_path(tmp_path: Path, reasons: tuple[tuple[int, str], ...]) -> None:
    made = ir(tmp_path, INTERFACES, ["a"], ALONE, slow_path_reasons=reasons)
    maps = {definition.name: definition for definition in made.maps}
    assert ("chain_slow_path" in maps, "chain_scratch" in maps) == (bool(reasons), bool(reasons))
    if reasons:
        assert (maps["a__buckets"].max_entries, maps["a__upcalls"].max_entries) == (2 * 6, 18)  # of two ports
        labels = [entry.path for entry in maps["a__upcalls"].entries]
        assert labels[:2] == ["a.slow-path one sent up", "a.slow-path one refused: rate"]
