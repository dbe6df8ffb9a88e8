"""The IR: one program for each place that packets reach, floods, slots; and the invariants that catch a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from compiler.build import lowered
from compiler.ir import ChainIR, Constant, FloodCopy, LoadTime, MapDef
from compiler.lower import c_name, layout_hash
from compiler.verify import InvariantBroken, verify
from schemas.manifest import Hook

CHAIN = """\
chain: edge
mode: {mode}
interfaces: {{wan: {{device: eth0}}, lan: {{device: eth1}}, other: {{device: eth2{other}}}}}
services:
  guard: {{kind: ddos}}
  br0: {{kind: bridge, ports: {{up: {{}}, p1: {{}}, p2: {{}}}}}}
links: [[wan, guard.outside], [guard.inside, br0.up], [br0.p1, lan], [br0.p2, other]]
"""


def ir_of(folder: Path, mode: str, other: str = "") -> ChainIR:
    file = folder / "edge.yaml"
    file.write_text(CHAIN.format(mode=mode, other=other))
    return lowered(file)


def test_one_program_for_each_port_that_packets_reach(tmp_path: Path) -> None:
    names = [program.name for program in ir_of(tmp_path, "native").programs]
    assert names == [
        "guard__outside__xdp", "guard__inside__xdp", "br0__up__xdp", "br0__p1__xdp", "br0__p2__xdp",
    ]  # fmt: skip


def test_a_second_hook_gets_programs_only_where_its_packets_go(tmp_path: Path) -> None:
    names = [p.name for p in ir_of(tmp_path, "native", ", mode: tc").programs if p.hook is Hook.TC]
    assert names == ["guard__inside__tc", "br0__p2__tc"]


def test_a_flood_at_xdp_reaches_another_service_over_an_internal_link(tmp_path: Path) -> None:
    ir = ir_of(tmp_path, "native")
    assert ir.program("br0__p1__xdp").flood == (FloodCopy("up", 0, "br0.up-xdp"), FloodCopy("p2", 2, "other"))
    assert ir.program("br0__up__xdp").flood == (FloodCopy("p1", 1, "lan"), FloodCopy("p2", 2, "other"))
    (link,) = ir.internal_links
    assert (link.name, link.program) == ("br0.up-xdp", "guard__inside__xdp")


def test_a_flood_at_tc_sends_the_original_to_the_other_service(tmp_path: Path) -> None:
    ir = ir_of(tmp_path, "tc")
    assert ir.program("br0__p1__tc").flood == (FloodCopy("up", 0, None), FloodCopy("p2", 2, "other"))
    assert ir.internal_links == ()


def test_slots_are_numbered_for_each_hook_from_zero(tmp_path: Path) -> None:
    ir = ir_of(tmp_path, "native", ", mode: tc")
    slots = {(slot.map, slot.index): slot.program for slot in ir.tail_slots}
    assert slots == {
        ("chain_xdp", 0): "guard__inside__xdp",
        ("chain_tc", 0): "guard__inside__tc",
        ("chain_xdp", 1): "br0__up__xdp",
    }


def test_two_names_never_become_one_in_c() -> None:
    names = ["a-b", "a--b", "a---b", "ab", "a-b-", "a.b"]
    assert len({c_name(name) for name in names}) == len(names)


def test_the_layout_hash_is_of_meaning_not_of_size(tmp_path: Path) -> None:
    fdb = next(definition for definition in ir_of(tmp_path, "native").maps if definition.name == "br0__fdb")
    assert layout_hash(replace(fdb, max_entries=8)) == layout_hash(fdb)
    for other in (replace(fdb, layout="fdb/2"), replace(fdb, value_size=128), replace(fdb, flags=0)):
        assert layout_hash(other) != layout_hash(fdb)


def broken(ir: ChainIR) -> str:
    with pytest.raises(InvariantBroken) as found:
        verify(ir, "test")
    return str(found.value)


def test_a_whole_chain_passes_verification(tmp_path: Path) -> None:
    ir = ir_of(tmp_path, "native")
    assert verify(ir, "test") is ir


def test_invariants_catch_a_slot_that_nothing_fills(tmp_path: Path) -> None:
    ir = ir_of(tmp_path, "native")
    assert "into slot 0, which nothing fills" in broken(replace(ir, tail_slots=ir.tail_slots[1:]))


def test_invariants_catch_what_is_there_twice(tmp_path: Path) -> None:
    ir = ir_of(tmp_path, "native")
    assert "program `guard__outside__xdp` is there 2 times" in broken(
        replace(ir, programs=(*ir.programs, ir.programs[0]))
    )
    assert "tail slot `chain_xdp[0]`" in broken(replace(ir, tail_slots=(*ir.tail_slots, ir.tail_slots[0])))


def test_invariants_catch_a_missing_map(tmp_path: Path) -> None:
    ir = ir_of(tmp_path, "native")
    maps = tuple(definition for definition in ir.maps if definition.name != "br0__fdb")
    assert "program `br0__p1__xdp` uses unknown map `br0__fdb`" in broken(replace(ir, maps=maps))


def test_invariants_catch_a_map_that_means_two_things(tmp_path: Path) -> None:
    ir = ir_of(tmp_path, "native")

    def grown(definition: MapDef) -> MapDef:
        return replace(definition, max_entries=2) if definition.name == "br0__fdb" else definition

    assert "map `br0__fdb` means something else" in broken(replace(ir, maps=tuple(grown(m) for m in ir.maps)))


def test_invariants_catch_values_that_no_instruction_can_hold(tmp_path: Path) -> None:
    ir = ir_of(tmp_path, "native")
    first, *rest = ir.programs
    span = first.span

    def given(*values: int) -> ChainIR:
        constants = tuple(Constant("guard.limit", "x", "limit", LoadTime("", value), span) for value in values)
        return replace(ir, programs=(replace(first, lowered=replace(first.lowered, constants=constants)), *rest))

    assert verify(given((1 << 64) - 1), "test")
    for value in (-1, 1 << 64):
        assert f"the value of `guard.limit` in `guard__outside__xdp` does not fit 64 bits: {value}" in broken(
            given(value)
        )
    assert "value of `guard__outside__xdp` `guard.limit` is there 2 times" in broken(given(1, 1))


def test_invariants_catch_unknown_devices(tmp_path: Path) -> None:
    ir = ir_of(tmp_path, "native")
    assert "unknown device `br0.up-xdp`" in broken(replace(ir, internal_links=()))
