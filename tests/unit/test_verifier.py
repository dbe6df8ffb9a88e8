"""Verifier logs of several kernels in, the deciding lines out; and the way from an instruction to C and YAML."""

from __future__ import annotations

import errno
import struct
from pathlib import Path

import pytest

from runtime import sys, verifier
from runtime.spec import FunctionPlace, ProgramSpec
from schemas.diagnostic import Span
from schemas.manifest import Hook, LineRecord, ProgramRecord

STRINGS = "\0unit.c\0bridge.bpf.h\0return 1;\0*byte = 0;\0learn(pkt);\0"
UNIT, HEADER = STRINGS.index("unit.c"), STRINGS.index("bridge.bpf.h")


def string(at: int) -> str:
    return STRINGS[at : STRINGS.index("\0", at)]


def line(insn: int, file: int, text: str, number: int) -> bytes:
    return struct.pack("<IIII", insn, file, STRINGS.index(text), number << 10 | 3)


PROGRAM = ProgramSpec(
    name="br0_p1",
    section="xdp",
    insns=bytes(8 * 12),
    functions=(FunctionPlace("br0_p1", 0),),
    maps=(),
    sections=(),
    values=(),
    func_info=b"",
    line_info=line(0, UNIT, "return 1;", 30) + line(2, UNIT, "learn(pkt);", 41) + line(5, HEADER, "*byte = 0;", 88),
)
RECORD = ProgramRecord(
    name="br0_p1_xdp",
    service="br0",
    port="p1",
    hook=Hook.XDP,
    object="objects/1.o",
    function="br0_p1",
    span="edge.yaml:8:3",
    constants=(),
    lines=(LineRecord(1, "edge.yaml:1:1"), LineRecord(35, "edge.yaml:12:7"), LineRecord(42, "edge.yaml:20:1")),
)

LOGS = {
    "6.18": (
        (
            "0: R1=ctx() R10=fp0\n"
            "; void *d = (void*)(long)ctx->data; @ unit.c:6\n"
            "0: (61) r1 = *(u32 *)(r1 +0)          ; R1=pkt(r=0)\n"
            "1: (71) r0 = *(u8 *)(r1 +0)\n"
            "invalid access to packet, off=0 size=1, R1(id=0,off=0,r=0)\n"
            "R1 offset is outside of the packet\n"
            "processed 2 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0\n"
        ),
        ("invalid access to packet, off=0 size=1, R1(id=0,off=0,r=0)", "R1 offset is outside of the packet"),
        1,
        "r0 = *(u8 *)(r1 +0)",
    ),
    "5.15": (
        (
            "; return r;\n0: (bf) r0 = r7\nR7 !read_ok\n"
            "verification time 31 usec\nstack depth 0\n"
            "processed 1 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0\n"
        ),
        ("R7 !read_ok",),
        0,
        "r0 = r7",
    ),
    "a second path": (
        (
            "12: (15) if r1 == 0x0 goto pc+1\nfrom 12 to 14: R0=0 R10=fp0\n14: (95) exit\n"
            "At program exit the register R0 has value (0xff; 0x0) should have been in (0x0; 0x1)\n"
        ),
        ("At program exit the register R0 has value (0xff; 0x0) should have been in (0x0; 0x1)",),
        14,
        "exit",
    ),
    "before the first instruction": (
        "last insn is not an exit or jmp\nprocessed 0 insns (limit 1000000) max_states_per_insn 0\n",
        ("last insn is not an exit or jmp",),
        None,
        "",
    ),
    "content": ("processed 9 insns (limit 1000000) max_states_per_insn 0 total_states 0\n", (), None, ""),
    "nothing": ("", (), None, ""),
}


@pytest.mark.parametrize("kernel", LOGS)
def test_the_deciding_lines_are_found(kernel: str) -> None:
    log, reason, insn, text = LOGS[kernel]
    assert verifier.judge(log) == verifier.Verdict(reason, insn, text)


def test_an_instruction_of_a_header_leads_to_the_unit_that_it_was_inlined_into() -> None:
    lines = verifier.c_lines(PROGRAM, string, 7)
    assert lines == [verifier.CLine("bridge.bpf.h", 88, "*byte = 0;"), verifier.CLine("unit.c", 41, "learn(pkt);")]
    assert verifier.c_lines(PROGRAM, string, 3) == [verifier.CLine("unit.c", 41, "learn(pkt);")]
    assert verifier.yaml_span(RECORD, lines[-1].line) == Span("edge.yaml", 12, 7, 12, 8)


def test_a_refusal_says_all_that_is_known() -> None:
    verdict = verifier.Verdict(("invalid access",), 7, "*(u8 *)(r1 +0) = 0")
    rejected = verifier.rejection(PROGRAM, string, verdict, Path("/run/x.log"), RECORD)
    (diagnostic,) = rejected.diagnostics
    assert diagnostic.message == "the kernel's verifier refuses the program of `br0.p1` (xdp): invalid access"
    assert diagnostic.span == Span("edge.yaml", 12, 7, 12, 8)
    assert diagnostic.notes == (
        "instruction 7 of `br0_p1`: *(u8 *)(r1 +0) = 0",
        "C: bridge.bpf.h:88: *byte = 0;",
        "C: unit.c:41: learn(pkt);",
        "the whole log: /run/x.log",
    )
    assert rejected.log_path == "/run/x.log"


def test_a_refusal_without_instruction_points_at_the_port() -> None:
    rejected = verifier.rejection(PROGRAM, string, verifier.Verdict(("too long",), None, ""), Path("/l"), RECORD)
    assert rejected.diagnostics[0].span == Span("edge.yaml", 8, 3, 8, 4)
    unknown = verifier.rejection(PROGRAM, string, verifier.Verdict(("too long",), None, ""), Path("/l"), None)
    assert unknown.diagnostics[0].message == "the kernel's verifier refuses the program of `br0_p1`: too long"


@pytest.mark.parametrize("text", ["", "edge.yaml", "edge.yaml:3", "edge.yaml:x:y"])
def test_what_names_no_place_is_no_span(text: str) -> None:
    assert verifier.parse_span(text) is None


@pytest.mark.parametrize("true_size", [5 << 20, 0])
def test_a_log_that_does_not_fit_is_asked_for_again(true_size: int) -> None:
    sizes: list[int] = []

    def load(log: sys.Log) -> sys.Fd:
        sizes.append(log.size)
        log.true_size = true_size
        if len(sizes) == 1:
            raise sys.SyscallFailed(errno.ENOSPC, "BPF_PROG_LOAD")
        sys.poke(log.address, b"0: (95) exit\nR0 !read_ok\n\0")
        raise sys.SyscallFailed(errno.EACCES, "BPF_PROG_LOAD")

    assert verifier.load_with_log(load) == (None, "0: (95) exit\nR0 !read_ok\n")
    assert sizes[1] == max(true_size, 4 * sizes[0])


def test_a_silent_log_is_asked_for_in_more_detail_once() -> None:
    levels: list[int] = []

    def load(log: sys.Log) -> sys.Fd:
        levels.append(log.level)
        raise sys.SyscallFailed(errno.EINVAL, "BPF_PROG_LOAD")

    assert verifier.load_with_log(load) == (None, "")
    assert levels == [1, 2]


def test_a_log_that_never_fits_ends() -> None:
    sizes: list[int] = []

    def load(log: sys.Log) -> sys.Fd:
        sizes.append(log.size)
        sys.poke(log.address, b"the beginning\0")
        raise sys.SyscallFailed(errno.ENOSPC, "BPF_PROG_LOAD")

    assert verifier.load_with_log(load) == (None, "the beginning")
    assert max(sizes) <= 256 << 20


def test_a_program_that_loads_at_the_second_attempt_is_given_out() -> None:
    fd = sys.Fd(0)
    try:
        assert verifier.load_with_log(lambda log: fd)[0] is fd
    finally:
        fd.release()


def test_logs_are_private_and_named_after_their_program(tmp_path: Path) -> None:
    path = verifier.save_log("whole", "../br0 p1", tmp_path / "state")
    assert path == tmp_path / "state" / "verifier-___br0_p1.log"
    assert path.read_text() == "whole"
    assert path.stat().st_mode & 0o777 == 0o600
    assert verifier.save_log("new", "../br0 p1", tmp_path / "state").read_text() == "new"


def test_a_log_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("kept")
    (tmp_path / "verifier-p.log").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic links"):
        verifier.save_log("whole", "p", tmp_path)
    assert (tmp_path / "target").read_text() == "kept"


def test_without_a_state_directory_the_log_goes_to_a_private_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(verifier, "STATE_DIRECTORY", tmp_path / "file" / "below")
    path = verifier.save_log("whole", "p")
    assert path.read_text() == "whole"
    assert path.parent.stat().st_mode & 0o777 == 0o700
    path.unlink()
    path.parent.rmdir()
    monkeypatch.setattr(verifier, "STATE_DIRECTORY", tmp_path / "shared")
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)
    assert verifier._private_directory(None).parent != tmp_path
