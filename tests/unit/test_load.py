"""Loading against a scripted bpf(2): the order of calls, what is closed when one fails, and the words of refusals."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from runtime import features, load, sys
from runtime.spec import DataReference, DataSection, DataSymbol, ObjectSpec, ProgramSpec
from runtime.uapi import Cmd
from schemas.diagnostic import LoadFailed, NotSupported, VerifierRejected


class Kernel:
    """Takes everything, unless told to refuse a command from its n-th call on; remembers what was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Cmd, Any]] = []
        self.refuse: dict[Cmd, tuple[int, int]] = {}
        self.log = ""

    def __call__(self, cmd: Cmd, attr: Any) -> int:
        self.asked.append((cmd, attr))
        calls = [asked for asked, _ in self.asked].count(cmd)
        first, number = self.refuse.get(cmd, (calls + 1, 0))
        if calls >= first:
            self._tell(cmd, attr)
            raise sys.SyscallFailed(number, cmd.name)
        return os.dup(0) if cmd in (Cmd.BPF_MAP_CREATE, Cmd.BPF_PROG_LOAD, Cmd.BPF_BTF_LOAD) else 0

    def _tell(self, cmd: Cmd, attr: Any) -> None:
        pointer = {Cmd.BPF_PROG_LOAD: "log_buf", Cmd.BPF_BTF_LOAD: "btf_log_buf"}.get(cmd)
        if pointer and getattr(attr, pointer):
            sys.poke(getattr(attr, pointer), self.log.encode() + b"\0")

    def commands(self) -> list[str]:
        return [cmd.name for cmd, _ in self.asked]


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    kernel = Kernel()
    monkeypatch.setattr(sys, "syscall", kernel)
    before = set(os.listdir("/proc/self/fd"))
    yield kernel
    assert set(os.listdir("/proc/self/fd")) == before, "something was left open"


def program(name: str) -> ProgramSpec:
    wide = struct.pack("<BBhiBBhi", 0x18, 0x21, 0, 0, 0, 0, 0, 4)
    insns = wide + bytes.fromhex("b700000002000000 9500000000000000")
    return ProgramSpec(name, "xdp", insns, (), (), (DataReference(0, ".rodata"),), (), b"", b"")


DATA = DataSection(".rodata", bytes(8), (DataSymbol("low", 0, 4), DataSymbol("high", 4, 4)))
SPEC = ObjectSpec("unit.o", "GPL", (program("one"), program("two")), (), (DATA,), b"\x9f\xeb\x01")


def test_data_is_written_and_frozen_before_any_program_is_verified(kernel: Kernel) -> None:
    with load.load_object(SPEC, maps={}) as loaded:
        assert set(loaded.programs) == {"one", "two"}
        data_fd = loaded.data[".rodata"].fileno()
        for cmd, attr in kernel.asked:
            if cmd is Cmd.BPF_PROG_LOAD:
                assert attr.expected_attach_type == 37
    assert kernel.commands() == [
        "BPF_MAP_CREATE",
        "BPF_MAP_UPDATE_ELEM",
        "BPF_MAP_FREEZE",
        "BPF_BTF_LOAD",
        "BPF_PROG_LOAD",
        "BPF_PROG_LOAD",
    ]
    assert data_fd > 2


def test_the_descriptor_goes_into_the_instruction(monkeypatch: pytest.MonkeyPatch, kernel: Kernel) -> None:
    seen: list[tuple[int, int]] = []

    def watching(cmd: Cmd, attr: Any) -> int:
        if cmd is Cmd.BPF_PROG_LOAD:
            seen.append(struct.unpack_from("<4xi4xi", sys.peek(attr.insns, 16)))
        return kernel(cmd, attr)

    monkeypatch.setattr(sys, "syscall", watching)
    with load.load_object(SPEC, maps={}) as loaded:
        assert seen == [(loaded.data[".rodata"].fileno(), 4)] * 2


@pytest.mark.parametrize(
    ("cmd", "code"),
    [
        (Cmd.BPF_MAP_CREATE, "L123"),
        (Cmd.BPF_MAP_UPDATE_ELEM, "L123"),
        (Cmd.BPF_MAP_FREEZE, "L123"),
        (Cmd.BPF_BTF_LOAD, "L124"),
        (Cmd.BPF_PROG_LOAD, "L125"),
    ],
)
def test_each_refusal_has_its_code_and_leaves_nothing_open(kernel: Kernel, cmd: Cmd, code: str) -> None:
    kernel.refuse[cmd] = (1, errno.ENOMEM)
    with pytest.raises(LoadFailed, match=rf"{code}: the kernel refuses .*ENOMEM\) \(the memory limit"):
        load.load_object(SPEC, maps={})


def test_the_second_programs_refusal_closes_the_first(kernel: Kernel, tmp_path: Any) -> None:
    kernel.refuse[Cmd.BPF_PROG_LOAD] = (2, errno.EACCES)
    kernel.log = "3: (95) exit\nR0 !read_ok\nprocessed 1 insns\n"
    with pytest.raises(VerifierRejected, match="L130: the kernel's verifier refuses the program of `two`: R0 !read_ok"):
        load.load_object(SPEC, maps={}, log_directory=tmp_path)


def test_the_kernels_words_about_btf_are_kept(kernel: Kernel) -> None:
    kernel.refuse[Cmd.BPF_BTF_LOAD] = (1, errno.EINVAL)
    kernel.log = "magic: 0xeb9f\n[3] FUNC bad\nInvalid name\n"
    with pytest.raises(LoadFailed) as failed:
        load.load_object(SPEC, maps={})
    assert failed.value.diagnostics[0].notes == ("magic: 0xeb9f", "[3] FUNC bad", "Invalid name")


@pytest.mark.parametrize("cmd", [Cmd.BPF_MAP_CREATE, Cmd.BPF_PROG_LOAD])
def test_missing_privileges_are_named_instead_of_an_errno(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, cmd: Cmd
) -> None:
    monkeypatch.setattr(features, "missing_privileges", lambda: ("CAP_BPF", "CAP_NET_ADMIN"))
    kernel.refuse[cmd] = (1, errno.EPERM)
    with pytest.raises(NotSupported, match=r"L141: .*: missing CAP_BPF, CAP_NET_ADMIN"):
        load.load_object(SPEC, maps={})


def test_a_section_that_names_no_hook_is_refused(kernel: Kernel) -> None:
    odd = ProgramSpec("one", "kprobe/x", bytes.fromhex("9500000000000000"), (), (), (), (), b"", b"")
    with pytest.raises(LoadFailed, match="L107: program `one` is in section `kprobe/x`, which names no hook"):
        load.load_object(ObjectSpec("o", "GPL", (odd,), (), (), b""), maps={})
    assert kernel.asked == []


def test_an_unknown_map_type_is_refused_without_asking(kernel: Kernel) -> None:
    with pytest.raises(LoadFailed, match="L123: map `t`: there is no map type `BPF_MAP_TYPE_NEW`"):
        load.create_map(name="t", type="BPF_MAP_TYPE_NEW", key_size=4, value_size=4, max_entries=1)
    assert kernel.asked == []
