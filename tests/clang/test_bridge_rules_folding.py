"""Who may be learned where, after clang: nothing of what is off; static stations that are code meet no map."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from compiler.build import Compiled, build
from runtime.object import read_object
from runtime.spec import ObjectSpec, ProgramSpec
from schemas.manifest import Hook
from tests.clang.machine import Machine
from tests.services.bridge_frames import GATEWAY, PRINTER, A, B, ethernet
from tests.services.bridge_rules import STATICS, bridge

XDP_REDIRECT = 4
OF_RULES = {"tested__movers", "tested__quotas", "tested__statics"}
LOOP, COARSE_NS = 181, 160

every_hook = pytest.mark.parametrize("hook", list(Hook), ids=str)


def compiled(folder: Path, config: Mapping[str, Any], hook: Hook = Hook.XDP) -> Compiled:
    """A guard before the first port of a bridge that is linked to interfaces with the others."""
    chain = {
        "chain": "edge",
        "mode": "tc" if hook is Hook.TC else "native",
        "interfaces": {name: {"device": name} for name in ("wan", "p2", "p3")},
        "services": {"guard": {"kind": "ddos", "block": {"sources": ["198.51.100.0/24"]}}, "tested": config},
        "links": [["wan", "guard.outside"], ["guard.inside", "tested.p1"], ["tested.p2", "p2"], ["tested.p3", "p3"]],
    }
    file = folder / "edge.yaml"
    file.write_text(yaml.safe_dump(chain, sort_keys=False))
    return build(file)


def spec(of: Compiled, port: str, hook: Hook = Hook.XDP) -> ObjectSpec:
    return read_object(next(each.elf for each in of.programs if each.unit.program.name == f"tested__{port}__{hook}"))


def calls(program: ProgramSpec) -> set[int]:
    slots = [program.insns[at : at + 8] for at in range(0, len(program.insns), 8)]
    return {int.from_bytes(s[4:], "little") for s in slots if s[0] == 0x85 and s[1] >> 4 == 0}


def without_counters(machine: Machine) -> list[str]:
    return [name for name in machine.looked_up if not name.endswith("counters")]


@every_hook
def test_nothing_is_left_of_rules_that_are_off(hook: Hook, tmp_path: Path) -> None:
    (plain,) = spec(compiled(tmp_path, bridge(), hook), "p2", hook).programs
    assert not {reference.map for reference in plain.maps} & OF_RULES
    assert not calls(plain) & {LOOP, COARSE_NS}
    assert len(plain.functions) == 1
    rules = bridge({"moves": {}, "inline": 0, "static": STATICS}, p2={"limit": 4, "beyond": "drop", "sticky": True})
    (full,) = spec(compiled(tmp_path, rules, hook), "p2", hook).programs
    assert {reference.map for reference in full.maps} >= OF_RULES
    assert calls(full) >= {LOOP, COARSE_NS}
    assert len(full.insns) > len(plain.insns)


@every_hook
def test_a_choice_that_changes_nothing_costs_nothing(hook: Hook, tmp_path: Path) -> None:
    """What is said out loud and is the default is the same program, to the byte."""
    given = {"static": STATICS, "inline": 256, "intruders": "forward"}
    said = spec(compiled(tmp_path, bridge(given, p2={"sticky": False}), hook), "p2", hook).programs
    assert said[0].insns == spec(compiled(tmp_path, bridge({"static": STATICS}), hook), "p2", hook).programs[0].insns


@every_hook
def test_no_configuration_is_read_from_memory(hook: Hook, tmp_path: Path) -> None:
    rules = bridge(
        {"moves": {"bridge": "9/s"}, "inline": 1, "static": STATICS, "intruders": "drop"},
        p1={"limit": 4, "beyond": "drop"},
        p2={"sticky": True},
    )
    for each in compiled(tmp_path, rules, hook).programs:
        (only,) = read_object(each.elf).programs
        assert not only.sections, each.unit.name


def test_a_destination_that_is_code_meets_no_map(tmp_path: Path) -> None:
    """Every instruction that such a frame goes through is run: the table is looked into for its source alone."""
    statics = [{"mac": GATEWAY, "port": "p3"}, {"mac": PRINTER, "port": "p3"}, {"mac": A, "port": "p2"}]
    program = spec(compiled(tmp_path, bridge({"static": statics, "inline": 1})), "p2")
    learning = ["tested__fdb", "tested__statics"]  # the source is new, and has no static entry
    for source, destination, maps in (
        (B, GATEWAY, learning),
        (B, PRINTER, [*learning, "tested__statics", "tested__fdb"]),
        (GATEWAY, GATEWAY, []),
    ):
        machine = Machine(program)
        assert machine.run(ethernet(source, destination)) == XDP_REDIRECT
        assert without_counters(machine) == maps
        assert machine.out == (2 if destination == GATEWAY else 0), "port p3; or the flood"
    everything = spec(compiled(tmp_path, bridge({"static": statics})), "p2")
    machine = Machine(everything)
    assert machine.run(ethernet(A, PRINTER)) == XDP_REDIRECT
    assert (without_counters(machine), machine.out) == ([], 2), "between static stations there is no table at all"


def test_only_what_holds_a_static_station_is_compiled_anew(tmp_path: Path) -> None:
    def objects(last: str, first: str = "p1") -> dict[str, str]:
        statics = [{"mac": GATEWAY, "port": first}, {"mac": PRINTER, "port": last}]
        manifest = compiled(tmp_path, bridge({"static": statics, "inline": 1})).manifest
        return {program.name: program.object for program in manifest.programs}

    before = objects("p2")
    assert objects("p3") == before, "a station in the map is in no program"
    after = objects("p2", first="p3")
    assert {name for name in after if after[name] != before[name]} == {
        f"tested__{port}__xdp" for port in ("p1", "p2", "p3")
    }, "the guard's programs are the same"
