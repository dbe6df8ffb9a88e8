"""What the reader makes of objects that clang wrote, spec by spec."""

from __future__ import annotations

import struct

import pytest

from runtime.instructions import INSN
from runtime.object import read_object
from runtime.spec import DataSymbol, FunctionPlace, MapSpec, ObjectSpec, ProgramSpec
from runtime.uapi import MapType, PseudoSource
from schemas.diagnostic import LoadFailed
from tests.clang.c import EVERYTHING, FLAGS, compile_c


@pytest.fixture(scope="module")
def spec() -> ObjectSpec:
    return read_object(compile_c(EVERYTHING), "unit.o")


def program(spec: ObjectSpec, name: str) -> ProgramSpec:
    return next(program for program in spec.programs if program.name == name)


def refused(text: str, flags: tuple[str, ...] = FLAGS) -> str:
    with pytest.raises(LoadFailed) as failed:
        read_object(compile_c(text, flags), "unit.o")
    (diagnostic,) = failed.value.diagnostics
    return f"{diagnostic.code}: {diagnostic.message}; {'; '.join(diagnostic.notes)}"


def test_same_bytes_give_the_same_spec(spec: ObjectSpec) -> None:
    assert read_object(compile_c(EVERYTHING), "unit.o") == spec


def test_programs_are_the_global_functions_of_named_sections(spec: ObjectSpec) -> None:
    assert spec.license == "GPL"
    assert {(program.name, program.section) for program in spec.programs} == {
        ("first", "xdp"),
        ("second", "xdp"),
        ("third", "tc"),
    }


def test_maps_have_the_shape_that_c_gives_them(spec: ObjectSpec) -> None:
    maps = {wanted.name: wanted for wanted in spec.maps}
    table = maps["table"]
    assert (table.type, table.key_size, table.value_size, table.max_entries, table.map_flags) == (
        MapType.BPF_MAP_TYPE_HASH, 8, 8, 100, 1,
    )  # fmt: skip
    assert 0 not in (table.btf_key_type_id, table.btf_value_type_id)
    assert maps["jumps"].values == ((2, "second"),)
    assert (maps["upcalls"].type, maps["upcalls"].key_size, maps["upcalls"].value_size) == (27, 0, 0)
    assert maps["left"].inner is None


def test_a_map_of_maps_knows_its_inner_map_and_first_entries(spec: ObjectSpec) -> None:
    nested = next(wanted for wanted in spec.maps if wanted.name == "nested")
    assert nested.values == ((0, "left"), (2, "right"))
    assert isinstance(nested.inner, MapSpec)
    assert (nested.inner.type, nested.inner.key_size, nested.inner.value_size, nested.inner.max_entries) == (2, 4, 8, 4)
    assert (nested.key_size, nested.value_size) == (4, 4)


def test_data_sections_with_content_and_symbols(spec: ObjectSpec) -> None:
    data = {section.name: section for section in spec.data}
    assert set(data) == {".rodata", ".data", ".bss"}
    assert data[".rodata"].content == struct.pack("<I", 5)
    assert data[".data"].symbols == (DataSymbol("start", 0, 4),)
    assert data[".bss"].content == bytes(36)
    assert {symbol.name: symbol.size for symbol in data[".bss"].symbols} == {"totals": 32, "calls": 4}
    assert [name for name, section in data.items() if section.read_only] == [".rodata"]


def test_called_functions_stand_once_behind_their_caller(spec: ObjectSpec) -> None:
    first = program(spec, "first")
    assert first.functions[0] == FunctionPlace("first", 0)
    assert sorted(place.name for place in first.functions) == ["add", "far", "first", "near", "scaled"]
    assert sorted(place.name for place in program(spec, "second").functions) == [
        "local_in_section", "scaled", "second",
    ]  # fmt: skip
    assert len(program(spec, "third").functions) == 1


def calls(linked: ProgramSpec) -> list[tuple[str, str]]:
    """(caller, called) for each call and each function pointer of a linked program."""
    starts = {place.insn: place.name for place in linked.functions}
    found = []
    for index, (opcode, registers, _, imm) in enumerate(INSN.iter_unpack(linked.insns)):
        call = opcode == 0x85 and registers >> 4 == PseudoSource.BPF_PSEUDO_CALL
        pointer = opcode == 0x18 and registers >> 4 == PseudoSource.BPF_PSEUDO_FUNC
        if call or pointer:
            caller = max((insn, name) for insn, name in starts.items() if insn <= index)[1]
            found.append((caller, starts[index + 1 + imm]))
    return found


def test_calls_within_and_across_sections_lead_to_their_functions(spec: ObjectSpec) -> None:
    assert calls(program(spec, "first")) == [("first", "add"), ("first", "near"), ("near", "scaled"), ("near", "far")]
    assert calls(program(spec, "second")) == [("second", "scaled"), ("second", "local_in_section")]


def test_references_name_maps_and_places_in_data(spec: ObjectSpec) -> None:
    first = program(spec, "first")
    assert [reference.map for reference in first.maps] == ["table"]
    assert {reference.section for reference in first.sections} == {".data", ".bss", ".rodata"}
    insns = list(INSN.iter_unpack(first.insns))
    places = {(r.section, insns[r.insn + 1][3]) for r in first.sections}
    symbols = {(s.name, symbol.name): symbol.offset for s in spec.data for symbol in s.symbols}
    assert places == {
        (".data", 0),
        (".bss", symbols[".bss", "totals"]),
        (".bss", symbols[".bss", "calls"]),
        (".rodata", 0),
    }
    assert all(insns[r.insn][1] >> 4 == PseudoSource.BPF_PSEUDO_MAP_VALUE for r in first.sections)
    assert [reference.map for reference in program(spec, "third").maps] == ["nested", "jumps"]


def test_values_that_the_loader_fills_in_stand_in_instructions(spec: ObjectSpec) -> None:
    first = program(spec, "first")
    assert sorted({reference.symbol for reference in first.values}) == ["hz", "mac"]
    insns = list(INSN.iter_unpack(first.insns))
    for reference in first.values:
        assert [insns[reference.insn + half][1:] for half in (0, 1)] == [
            (insns[reference.insn][1] & 15, 0, 0),
            (0, 0, 0),
        ]
    assert program(spec, "second").values == program(spec, "third").values == ()


def test_line_and_function_records_count_in_linked_instructions(spec: ObjectSpec) -> None:
    for linked in spec.programs:
        functions = list(struct.iter_unpack("<II", linked.func_info))
        lines = list(struct.iter_unpack("<IIII", linked.line_info))
        assert [insn for insn, _ in functions] == [place.insn for place in linked.functions]
        assert [insn for insn, *_ in lines] == sorted({insn for insn, *_ in lines})
        assert {place.insn for place in linked.functions} <= {insn for insn, *_ in lines}
        assert lines[-1][0] < len(linked.insns) // 8


def test_an_object_without_debug_records_still_reads() -> None:
    flags = tuple(flag for flag in FLAGS if flag != "-g")
    read = read_object(compile_c('SEC("xdp") int only(void *ctx) { return 2; }', flags))
    assert (read.btf, read.programs[0].func_info, read.programs[0].line_info) == (b"", b"", b"")


def test_unwind_tables_are_passed_over() -> None:
    flags = (*(flag for flag in FLAGS if not flag.startswith("-fno-asynchronous")), "-funwind-tables")
    read = read_object(compile_c('SEC("xdp") int only(void *ctx) { return 2; }', flags))
    assert [program.name for program in read.programs] == ["only"]


@pytest.mark.parametrize("cpu", ["v1", "v2", "v3", "v4"])
def test_every_instruction_set_reads(cpu: str) -> None:
    flags = (*(flag for flag in FLAGS if not flag.startswith("-mcpu")), f"-mcpu={cpu}")
    unit = """
    u32 many[8];
    SEC("xdp") int only(struct xdp_md *ctx)
    {
        for (u32 i = 0; i < ctx->rx_queue_index; i++) {
            many[i & 7] += many[1] / ctx->data;
            __sync_fetch_and_add(&many[1], i);
            many[i & 3] = (short)__builtin_bswap16(many[i & 2]);
        }
        return many[2];
    }"""
    assert read_object(compile_c(unit, flags)).programs[0].name == "only"


def test_a_map_without_btf_is_refused() -> None:
    unit = (
        'struct { __uint(type, 2); __uint(max_entries, 1); } m SEC(".maps");'
        'SEC("xdp") int only(void *ctx) { u32 k = 0; return bpf_map_lookup_elem(&m, &k) != 0; }'
    )
    flags = tuple(flag for flag in FLAGS if flag != "-g")
    assert refused(unit, flags) == (
        "L106: maps are described by BTF, and there is none: compile with -g; in unit.o: section `.maps`, offset 0x0"
    )


ONE_MAP = 'SEC("xdp") int only(void *ctx) { u32 k = 0; return bpf_map_lookup_elem(&m, &k) != 0; } shape m SEC(".maps");'


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        ("struct { __uint(max_entries, 1); }", "L103: map `m` has no type"),
        ("struct { __uint(type, 2); __uint(pinning, 1); }", "L103: map `m`, member `pinning`: not one of key, value"),
        ("struct { __uint(type, 2); int key_size; }", "L103: map `m`, member `key_size`: type"),
        (
            "struct { __uint(type, 2); __type(key, u64); __uint(key_size, 4); }",
            "L103: map `m`: key_size is 4, the type has 8 bytes",
        ),
        ("struct { __uint(type, 12); __uint(max_entries, 1); }", "L103: map `m`: an inner map belongs to maps of maps"),
    ],
)
def test_a_wrong_map_definition_is_refused(definition: str, message: str) -> None:
    unit = f"typedef {definition} shape; extern shape m; {ONE_MAP}"
    assert refused(unit).startswith(message)


@pytest.mark.parametrize(
    ("unit", "message"),
    [
        (
            "int outside(int); SEC('xdp') int only(void *c) { return outside(1); }",
            "L104: `outside` is declared but not",
        ),
        ("extern int far_away; SEC('xdp') int only(void *c) { return far_away; }", "L104: `far_away` is declared but"),
        (
            "int odd SEC('.elsewhere') = 3; SEC('xdp') int only(void *c) { return odd; }",
            "L104: a program refers to `odd`",
        ),
        (
            "int a; int *p SEC('.data.x') = &a; SEC('xdp') int only(void *c) { return *p; }",
            "L104: holds addresses, which a map cannot hold; in unit.o: section `.data.x`, offset 0x0",
        ),
        ("int lone(void) { return 1; }", "L101: there is no program in it"),
    ],
)
def test_a_reference_to_nothing_that_is_loaded_is_refused(unit: str, message: str) -> None:
    assert refused(unit.replace("'", '"')).startswith(message)


def test_a_foreign_object_is_refused() -> None:
    content = bytearray(compile_c(EVERYTHING))
    content[18:20] = (62).to_bytes(2, "little")
    with pytest.raises(LoadFailed, match="L102: made for ELF machine 62, not for BPF"):
        read_object(bytes(content))


def test_a_truncated_object_is_refused_wherever_it_is_cut() -> None:
    content = compile_c(EVERYTHING)
    for length in range(0, len(content), 37):
        with pytest.raises(LoadFailed):
            read_object(content[:length])
