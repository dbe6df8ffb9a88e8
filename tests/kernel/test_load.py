"""Objects in the real kernel: what programs compute, what is frozen, what is refused and in which words."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from runtime import info, load, sys
from runtime.object import read_object
from runtime.spec import ObjectSpec
from runtime.uapi import AttachType, MapFlag, MapType, ProgType
from schemas.diagnostic import ChainError, Diagnostic, LoadFailed, VerifierRejected
from schemas.manifest import Hook, LineRecord, ProgramRecord
from tests.clang.c import EVERYTHING, compile_c
from tests.clang.test_mutations import mutated

pytestmark = pytest.mark.kernel

FRAME = bytes(64)
VALUES = {"hz": 250, "mac": int.from_bytes(bytes.fromhex("020000900004"), "little")}


@pytest.fixture(scope="module")
def spec() -> ObjectSpec:
    return read_object(compile_c(EVERYTHING), "unit.o")


@pytest.fixture
def maps(spec: ObjectSpec) -> Iterator[Mapping[str, sys.Fd]]:
    made = load.create_maps(spec)
    yield made
    for fd in made.values():
        fd.close()


@pytest.fixture
def loaded(spec: ObjectSpec, maps: Mapping[str, sys.Fd]) -> Iterator[load.LoadedObject]:
    with load.load_object(spec, maps=maps, values=VALUES) as loaded:
        yield loaded


def run(unit: str, name: str = "only", **options: Mapping[str, int]) -> int:
    """The return value of a program of a unit without maps."""
    spec = read_object(compile_c(unit), "unit.o")
    with load.load_object(spec, maps={}, **options) as loaded:  # type: ignore[arg-type]
        return sys.prog_test_run(loaded.programs[name], FRAME).retval


def refusal(unit: str, log_directory: Path, record: ProgramRecord | None = None) -> VerifierRejected:
    spec = read_object(compile_c(unit), "unit.o")
    records = {record.function: record} if record else {}
    with pytest.raises(VerifierRejected) as failed:
        load.load_object(spec, maps={}, records=records, log_directory=log_directory)
    return failed.value


def only(error: ChainError) -> Diagnostic:
    (diagnostic,) = error.diagnostics
    return diagnostic


def test_calls_globals_and_values_compute_together(loaded: load.LoadedObject) -> None:
    x = 7 + (0 + 1 + 2 + 3)  # `start` and what bpf_loop added up
    near = (x + 5) * 3 + (x * 7 + VALUES["mac"].to_bytes(6, "little")[3])
    assert sys.prog_test_run(loaded.programs["first"], FRAME).retval == near
    assert sys.prog_test_run(loaded.programs["second"], FRAME).retval == 2 + (1 + 5) + 1


def test_writable_data_is_shared_by_the_programs_of_an_object(spec: ObjectSpec, loaded: load.LoadedObject) -> None:
    for name in ("first", "second", "second"):
        sys.prog_test_run(loaded.programs[name], FRAME)
    section = next(section for section in spec.data if section.name == ".bss")
    content = sys.map_lookup_elem(loaded.data[".bss"], bytes(4), len(section.content))
    assert content is not None
    offsets = {symbol.name: symbol.offset for symbol in section.symbols}
    assert struct.unpack_from("<I", content, offsets["calls"]) == (3,)
    assert struct.unpack_from("<4Q", content, offsets["totals"]) == (0, 1, 0, 0)


def test_a_map_given_by_the_caller_is_the_one_that_programs_use(
    loaded: load.LoadedObject, maps: Mapping[str, sys.Fd]
) -> None:
    key = struct.pack("<II", 1, VALUES["hz"])
    sys.map_update_elem(maps["table"], key, struct.pack("<Q", 40))
    sys.prog_test_run(loaded.programs["first"], FRAME)
    assert sys.map_lookup_elem(maps["table"], key, 8) == struct.pack("<Q", 41)


def test_read_only_data_is_written_and_frozen(spec: ObjectSpec, loaded: load.LoadedObject) -> None:
    fd = loaded.data[".rodata"]
    section = next(section for section in spec.data if section.name == ".rodata")
    content = sys.map_lookup_elem(fd, bytes(4), len(section.content))
    assert content == section.content
    with pytest.raises(sys.SyscallFailed, match="EPERM"):
        sys.map_update_elem(fd, bytes(4), content)
    assert info.map_info(fd).map_flags & MapFlag.BPF_F_RDONLY_PROG


def test_values_remove_dead_code() -> None:
    """What the loader fills in is known to the verifier: the branch that cannot be taken would not verify."""
    unit = """
    LOADED(enabled);
    SEC("xdp") int only(void *ctx) { return loaded(enabled) ? *(volatile int *)8 : 2; }
    """
    assert run(unit, values={"enabled": 0}) == 2


@pytest.mark.parametrize(
    "value", [0, 1, (1 << 31) - 1, 1 << 31, 0xFFFFFFFF, 1 << 32, 0x123456789ABCDEF0, (1 << 64) - 1]
)
def test_a_value_arrives_whole(value: int) -> None:
    unit = """
    LOADED(value); LOADED(half);
    SEC("xdp") int only(void *ctx) { return loaded(value) >> loaded(half); }
    """
    assert [run(unit, values={"value": value, "half": half}) for half in (0, 32)] == [value & 0xFFFFFFFF, value >> 32]


def test_clang_believes_nothing_of_a_value() -> None:
    """It is the address of a symbol to clang: neither zero, nor equal values, nor odd ones may surprise it."""
    unit = """
    LOADED(one); LOADED(other);
    SEC("xdp") int only(void *ctx)
    {
        u64 a = loaded(one), b = loaded(other);

        return (a == 0) | (a == b) << 1 | (a & 1) << 2 | (a < b) << 3 | (a + 1 == 0) << 4 | (a - b == 5) << 5;
    }
    """
    most = (1 << 64) - 1
    for one, other, expected in ((0, 0, 3), (0, 7, 9), (7, 7, 6), (8, 7, 0), (most, 0, 20), (7, 2, 36), (4, most, 40)):
        assert run(unit, values={"one": one, "other": other}) == expected, (one, other)


def test_a_value_that_is_missing_or_too_large_is_refused(spec: ObjectSpec, maps: Mapping[str, sys.Fd]) -> None:
    with pytest.raises(LoadFailed, match="L122: program `first` wants a value for `mac`, and there is none"):
        load.load_object(spec, maps=maps, values={"hz": 250})
    with pytest.raises(LoadFailed, match=f"L122: the value of `hz` does not fit 64 bits: {1 << 64}"):
        load.load_object(spec, maps=maps, values={**VALUES, "hz": 1 << 64})


def test_the_kernel_knows_names_types_and_lines(spec: ObjectSpec, loaded: load.LoadedObject) -> None:
    for program in spec.programs:
        found = info.prog_info(loaded.programs[program.name])
        assert found.name == program.name
        assert found.btf_id
        assert found.gpl_compatible
        assert found.func_info_count == len(program.functions)
        assert found.line_info_count == len(program.line_info) // 16
    lines = list(struct.iter_unpack("<IIII", info.prog_line_info(loaded.programs["second"])))
    text = EVERYTHING.splitlines()
    assert "int second" in text[(lines[0][3] >> 10) - 1]


def test_programs_of_both_hooks_have_their_types(loaded: load.LoadedObject) -> None:
    assert info.prog_info(loaded.programs["first"]).type == ProgType.BPF_PROG_TYPE_XDP
    assert info.prog_info(loaded.programs["third"]).type == ProgType.BPF_PROG_TYPE_SCHED_CLS
    assert load.program_type(Hook.XDP)[1] == AttachType.BPF_XDP


def test_a_map_of_maps_is_filled_from_its_values(maps: Mapping[str, sys.Fd]) -> None:
    entries = {key[0]: struct.unpack("<I", value)[0] for key, value in sys.map_entries(maps["nested"], 4, 4)}
    assert entries == {0: info.map_info(maps["left"]).id, 2: info.map_info(maps["right"]).id}


def test_prog_array_values_are_filled_and_jumped_through() -> None:
    unit = """
    int target(void *ctx);
    struct { __uint(type, 3); __uint(key_size, 4); __uint(value_size, 4); __uint(max_entries, 2);
             __array(values, int (void *)); } jumps SEC(".maps") = { .values = { [1] = (void *)&target } };
    SEC("xdp") int target(void *ctx) { return 77; }
    SEC("xdp") int entry(void *ctx) { bpf_tail_call(ctx, &jumps, 1); return 1; }
    """
    spec = read_object(compile_c(unit), "unit.o")
    maps = load.create_maps(spec)
    with maps["jumps"], load.load_object(spec, maps=maps) as loaded:
        assert sys.prog_test_run(loaded.programs["entry"], FRAME).retval == 1
        load.fill_prog_arrays(spec, maps, loaded.programs)
        assert sys.prog_test_run(loaded.programs["entry"], FRAME).retval == 77


def test_a_prog_array_of_the_other_hook_is_told_in_a_sentence() -> None:
    """The kernel answers EINVAL and nothing else (FACTS: kernel commit 4540aed51b12)."""
    unit = """
    struct { __uint(type, 3); __uint(key_size, 4); __uint(value_size, 4); __uint(max_entries, 2); } jumps SEC(".maps");
    SEC("HOOK") int entry(void *ctx) { bpf_tail_call(ctx, &jumps, 1); return 1; }
    """
    xdp = read_object(compile_c(unit.replace("HOOK", "xdp")), "xdp.o")
    tc = read_object(compile_c(unit.replace("HOOK", "tc")), "tc.o")
    maps = load.create_maps(tc)
    with maps["jumps"], load.load_object(tc, maps=maps):
        with pytest.raises(LoadFailed) as failed:
            load.load_object(xdp, maps=maps)
        assert only(failed.value).code == "L126"
        assert only(failed.value).message == (
            "program `entry` (xdp) cannot use prog array `jumps` of programs of another kind"
        )


@pytest.mark.parametrize(
    ("differing", "note"),
    [
        (
            {"map_type": MapType.BPF_MAP_TYPE_LRU_HASH, "map_flags": 0},
            "type: object BPF_MAP_TYPE_HASH, map BPF_MAP_TYPE",
        ),
        ({"key_size": 4}, "key_size: object 8, map 4"),
        ({"value_size": 16}, "value_size: object 8, map 16"),
        ({"max_entries": 7}, "max_entries: object 100, map 7"),
        ({"map_flags": 0}, "flags: object 1, map 0"),
    ],
)
def test_a_given_map_must_agree_with_the_object(
    spec: ObjectSpec, maps: Mapping[str, sys.Fd], differing: dict[str, int], note: str
) -> None:
    shape = {"map_type": 1, "key_size": 8, "value_size": 8, "max_entries": 100, "map_flags": 1} | differing
    with sys.map_create(shape.pop("map_type"), **shape) as other, pytest.raises(LoadFailed) as failed:  # type: ignore[arg-type]
        load.load_object(spec, maps={**maps, "table": other}, values=VALUES)
    assert only(failed.value).code == "L120"
    assert any(line.startswith(note) for line in only(failed.value).notes)


def test_a_map_that_is_not_given_is_named(spec: ObjectSpec, maps: Mapping[str, sys.Fd]) -> None:
    with pytest.raises(LoadFailed, match=r"L121: object `unit\.o` needs a map `table`, which is not given"):
        load.load_object(spec, maps={name: fd for name, fd in maps.items() if name != "table"}, values=VALUES)


def test_a_devmap_agrees_although_the_kernel_adds_a_flag() -> None:
    unit = """
    struct { __uint(type, 14); __uint(key_size, 4); __uint(value_size, 8); __uint(max_entries, 2); } tx SEC(".maps");
    static long (*const bpf_redirect_map)(void *map, u64 key, u64 flags) = (void *)51;
    SEC("xdp") int only(void *ctx) { return bpf_redirect_map(&tx, 0, 1); }
    """
    spec = read_object(compile_c(unit), "unit.o")
    maps = load.create_maps(spec)
    with maps["tx"], load.load_object(spec, maps=maps) as loaded:
        assert sys.prog_test_run(loaded.programs["only"], FRAME).retval == 1


def test_a_map_that_the_kernel_refuses_is_described() -> None:
    with pytest.raises(LoadFailed) as failed:
        load.create_map(name="t", type="BPF_MAP_TYPE_LPM_TRIE", key_size=8, value_size=4, max_entries=1)
    assert only(failed.value).message == "the kernel refuses map `t`: BPF_MAP_CREATE: Invalid argument (EINVAL)"
    assert only(failed.value).notes == ("BPF_MAP_TYPE_LPM_TRIE, key 8, value 4 bytes, 1 entries, flags 0x0",)


BAD = """
static inline __attribute__((always_inline)) u32 first_byte(struct xdp_md *ctx)
{
	return *(u8 *)(long)ctx->data;
}

SEC("xdp") int guard_outside(struct xdp_md *ctx)
{
	if (ctx->rx_queue_index > 9)
		return 1;
	return first_byte(ctx);
}
"""


def test_the_verifiers_refusal_names_service_yaml_and_c(tmp_path: Path) -> None:
    record = ProgramRecord(
        name="guard_outside_xdp",
        service="guard",
        port="outside",
        hook=Hook.XDP,
        object="objects/0.o",
        function="guard_outside",
        span="edge.yaml:7:3",
        constants=(),
        lines=(LineRecord(1, "edge.yaml:7:3"), LineRecord(3, "edge.yaml:9:5"), LineRecord(7, "edge.yaml:20:1")),
    )
    rejected = refusal(BAD, tmp_path, record)
    diagnostic = only(rejected)
    assert diagnostic.code == "L130"
    assert diagnostic.message.startswith("the kernel's verifier refuses the program of `guard.outside` (xdp): ")
    assert "invalid access to packet, off=0 size=1" in diagnostic.message
    assert str(diagnostic.span) == "edge.yaml:9:5"
    assert any(
        note.startswith("C: ") and note.endswith("unit.c:4: return *(u8 *)(long)ctx->data;")
        for note in diagnostic.notes
    )
    assert any("r0 = *(u8 *)(r1 +0)" in note for note in diagnostic.notes)
    assert diagnostic.notes[-1] == f"the whole log: {rejected.log_path}"


def test_the_whole_log_is_kept_where_only_its_owner_reads_it(tmp_path: Path) -> None:
    directory = tmp_path / "logs"
    rejected = refusal(BAD, directory)
    path = Path(rejected.log_path)
    assert path.parent == directory
    assert "processed" in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert directory.stat().st_mode & 0o777 == 0o700


def test_a_log_longer_than_the_first_buffer_is_fetched_whole(tmp_path: Path) -> None:
    """Each branch is one more state in the log; the reason stands at its end."""
    branches = "\n".join(
        f"if (p[{index % 200}] == {index % 251}) sum += p[{(index * 7) % 200}];" for index in range(2000)
    )
    unit = f"""
    SEC("xdp") int only(struct xdp_md *ctx)
    {{
        volatile u8 *p = (void *)(long)ctx->data;
        u32 sum = 0;
        if ((u8 *)p + 200 > (u8 *)(long)ctx->data_end)
            return 1;
        {branches}
        return sum + p[200];
    }}"""
    rejected = refusal(unit, tmp_path)
    assert Path(rejected.log_path).stat().st_size > 1 << 20
    assert "invalid access to packet, off=200 size=1" in only(rejected).message


def open_fds() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_nothing_is_left_open_after_success_or_failure(
    spec: ObjectSpec, maps: Mapping[str, sys.Fd], tmp_path: Path
) -> None:
    load.load_object(spec, maps=maps, values=VALUES).close()  # whatever is kept for the process is there now
    before = open_fds()
    load.load_object(spec, maps=maps, values=VALUES).close()
    bad_last = read_object(compile_c('u32 x; SEC("xdp") int good(void *c) { return x; }\n' + BAD), "unit.o")
    with pytest.raises(VerifierRejected):
        load.load_object(bad_last, maps={}, log_directory=tmp_path)
    assert open_fds() == before


def test_corrupt_objects_that_read_are_loaded_or_refused(tmp_path: Path) -> None:
    content = compile_c(EVERYTHING)
    outcomes: dict[str, int] = {}
    for seed in range(200):
        try:
            spec = read_object(mutated(content, seed))
            maps = load.create_maps(spec)
        except ChainError:
            continue
        try:
            load.load_object(spec, maps=maps, values=VALUES, log_directory=tmp_path).close()
            outcome = "loaded"
        except ChainError as failed:
            outcome = type(failed).__name__
        finally:
            for fd in maps.values():
                fd.close()
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    assert outcomes["loaded"] > 30
    assert outcomes["VerifierRejected"] > 0
