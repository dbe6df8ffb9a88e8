"""bpf(2) as a script of answers: what is asked, and what becomes of each answer; no kernel, no privilege."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from typing import Any

import pytest

from runtime import features, info, sys
from runtime.uapi import BPF_ENOTSUPP, AttachFlag, Cmd, MapType, ProgType, TestRunFlag
from schemas.diagnostic import NotSupported

Answer = Callable[[Any], int]


class Script:
    """Answers per command, in order; the last one of a command is repeated."""

    def __init__(self) -> None:
        self.answers: dict[Cmd, list[Answer]] = {}
        self.asked: list[Cmd] = []

    def on(self, cmd: Cmd, *answers: Answer | int) -> None:
        self.answers[cmd] = [answer if callable(answer) else _constant(answer) for answer in answers]

    def __call__(self, cmd: Cmd, attr: Any) -> int:
        self.asked.append(cmd)
        answers = self.answers[cmd]
        return (answers.pop(0) if len(answers) > 1 else answers[0])(attr)


def _constant(result: int) -> Answer:
    return lambda attr: result


def failing(number: int, count: int | None = None) -> Answer:
    def answer(attr: Any) -> int:
        if count is not None:
            attr.count = count
        raise sys.SyscallFailed(number, "scripted")

    return answer


def recording(asked: list[Any], pick: Callable[[Any], Any]) -> Answer:
    """Succeeds, and keeps what `pick` takes from the attributes."""

    def answer(attr: Any) -> int:
        asked.append(pick(attr))
        return 0

    return answer


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    script = Script()
    monkeypatch.setattr(sys, "syscall", script)
    return script


def test_a_descriptor_is_closed_once_by_its_owner() -> None:
    read_end, write_end = os.pipe()
    with sys.Fd(read_end) as fd:
        assert fd.fileno() == read_end
    with pytest.raises(ValueError, match="closed"):
        fd.fileno()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(read_end)
    owner = sys.Fd(write_end)
    assert owner.release() == write_end
    owner.close()
    os.close(write_end)


def test_a_descriptor_that_nobody_closed_is_told() -> None:
    read_end, write_end = os.pipe()
    os.close(write_end)
    with pytest.warns(ResourceWarning, match=f"unclosed Fd\\({read_end}\\)"):
        sys.Fd(read_end).__del__()


def test_an_error_names_the_command_and_keeps_errno() -> None:
    failure = sys.SyscallFailed(errno.EBUSY, "BPF_LINK_CREATE")
    assert str(failure) == "BPF_LINK_CREATE: Device or resource busy (EBUSY)"
    assert failure.errno == errno.EBUSY
    assert str(sys.SyscallFailed(BPF_ENOTSUPP, "X", "y")) == "X y: Operation not supported (ENOTSUPP)"


@pytest.mark.parametrize(
    ("name", "in_kernel"),
    [("br0__fdb", b"br0__fdb"), ("br0/fdb-x", b"br0_fdb_x"), ("a" * 40, b"a" * 15), ("prüf", b"pr_f")],
)
def test_names_are_cut_to_what_the_kernel_takes(name: str, in_kernel: bytes) -> None:
    assert sys.object_name(name) == in_kernel


def test_map_create_fills_the_attributes_by_their_names(script: Script) -> None:
    def created(attr: Any) -> int:
        fields = (attr.map_type, attr.key_size, attr.value_size, attr.max_entries, attr.map_flags, attr.map_name)
        assert fields == (9, 4, 8, 100, 2, b"fdb")
        return os.dup(0)

    script.on(Cmd.BPF_MAP_CREATE, created)
    fd = sys.map_create(
        MapType.BPF_MAP_TYPE_LRU_HASH, key_size=4, value_size=8, max_entries=100, map_flags=2, map_name="fdb"
    )
    fd.close()
    assert script.asked == [Cmd.BPF_MAP_CREATE]


def test_a_lookup_reads_what_the_kernel_wrote(script: Script) -> None:
    def found(attr: Any) -> int:
        assert (attr.map_fd, sys.peek(attr.key, 4)) == (7, b"key!")
        sys.poke(attr.value, b"value")
        return 0

    script.on(Cmd.BPF_MAP_LOOKUP_ELEM, found, failing(errno.ENOENT), failing(errno.EPERM))
    assert sys.map_lookup_elem(7, b"key!", 5) == b"value"
    assert sys.map_lookup_elem(7, b"none", 5) is None
    with pytest.raises(sys.SyscallFailed) as failed:
        sys.map_lookup_elem(7, b"fail", 5)
    assert failed.value.errno == errno.EPERM


def test_an_update_of_an_entry_that_must_exist_is_an_error(script: Script) -> None:
    script.on(Cmd.BPF_MAP_UPDATE_ELEM, failing(errno.ENOENT))
    with pytest.raises(sys.SyscallFailed, match=r"BPF_MAP_UPDATE_ELEM: .*\(ENOENT\)"):
        sys.map_update_elem(7, b"k", b"v", 2)


@pytest.mark.parametrize("refusal", [errno.EINVAL, BPF_ENOTSUPP])
def test_a_map_without_batches_is_written_entry_by_entry(script: Script, refusal: int) -> None:
    written: list[bytes] = []
    script.on(Cmd.BPF_MAP_UPDATE_BATCH, failing(refusal))
    script.on(Cmd.BPF_MAP_UPDATE_ELEM, recording(written, lambda attr: sys.peek(attr.key, 1) + sys.peek(attr.value, 1)))
    sys.map_update_batch(7, [b"a", b"b"], [b"1", b"2"])
    assert written == [b"a1", b"b2"]


def test_a_batch_that_stops_is_gone_on_with_where_it_stopped(script: Script) -> None:
    written: list[bytes] = []
    script.on(Cmd.BPF_MAP_UPDATE_BATCH, failing(errno.ENOMEM, count=1))
    script.on(Cmd.BPF_MAP_UPDATE_ELEM, recording(written, lambda attr: sys.peek(attr.key, 1)))
    sys.map_update_batch(7, [b"a", b"b", b"c"], [b"1", b"2", b"3"])
    assert written == [b"b", b"c"]


@pytest.mark.parametrize("refusal", [errno.EPERM, errno.EBADF, errno.ENOMEM])
def test_a_batch_that_is_refused_as_a_whole_has_done_nothing(script: Script, refusal: int) -> None:
    """The kernel leaves `count` as it was then."""
    script.on(Cmd.BPF_MAP_UPDATE_BATCH, failing(refusal))
    script.on(Cmd.BPF_MAP_UPDATE_ELEM, failing(refusal))
    with pytest.raises(sys.SyscallFailed, match="scripted"):
        sys.map_update_batch(7, [b"a", b"b"], [b"1", b"2"])
    script.on(Cmd.BPF_MAP_DELETE_BATCH, failing(refusal))
    script.on(Cmd.BPF_MAP_DELETE_ELEM, failing(refusal))
    with pytest.raises(sys.SyscallFailed, match="scripted"):
        sys.map_delete_batch(7, [b"a", b"b"])


def test_entries_come_in_batches_with_room_for_large_buckets(script: Script) -> None:
    room: list[int] = []

    def too_small(attr: Any) -> int:
        room.append(attr.count)
        return failing(errno.ENOSPC, count=0)(attr)

    def first(attr: Any) -> int:
        room.append(attr.count)
        assert attr.in_batch == 0
        sys.poke(attr.keys, b"ab")
        sys.poke(attr.values, b"12")
        sys.poke(attr.out_batch, b"next")
        attr.count = 2
        return 0

    def last(attr: Any) -> int:
        assert sys.peek(attr.in_batch, 4) == b"next"
        sys.poke(attr.keys, b"c")
        sys.poke(attr.values, b"3")
        return failing(errno.ENOENT, count=1)(attr)

    script.on(Cmd.BPF_MAP_LOOKUP_BATCH, too_small, first, last)
    assert list(sys.map_entries(7, 1, 1)) == [(b"a", b"1"), (b"b", b"2"), (b"c", b"3")]
    assert room[1] == 2 * room[0]


def test_an_entry_that_vanishes_meanwhile_is_passed_over(script: Script) -> None:
    def next_key(attr: Any) -> int:
        key = sys.peek(attr.key, 1) if attr.key else None
        following = {None: b"a", b"a": b"b"}.get(key)
        if following is None:
            raise sys.SyscallFailed(errno.ENOENT, "scripted")
        sys.poke(attr.value, following)
        return 0

    def lookup(attr: Any) -> int:
        if sys.peek(attr.key, 1) == b"a":
            raise sys.SyscallFailed(errno.ENOENT, "scripted")
        sys.poke(attr.value, b"2")
        return 0

    script.on(Cmd.BPF_MAP_LOOKUP_BATCH, failing(BPF_ENOTSUPP))
    script.on(Cmd.BPF_MAP_GET_NEXT_KEY, next_key)
    script.on(Cmd.BPF_MAP_LOOKUP_ELEM, lookup)
    assert list(sys.map_entries(7, 1, 1)) == [(b"b", b"2")]


def test_prog_load_tries_again_when_a_signal_interrupted_the_verifier(script: Script) -> None:
    def loaded(attr: Any) -> int:
        assert (attr.insn_cnt, attr.expected_attach_type, attr.prog_name) == (2, 37, b"two")
        assert sys.peek(attr.license, 4) == b"GPL\0"
        return os.dup(0)

    script.on(Cmd.BPF_PROG_LOAD, failing(errno.EAGAIN), failing(errno.EAGAIN), loaded)
    sys.prog_load(
        ProgType.BPF_PROG_TYPE_XDP, bytes(16), license="GPL", prog_name="two", expected_attach_type=37
    ).close()
    script.on(Cmd.BPF_PROG_LOAD, failing(errno.EAGAIN))
    with pytest.raises(sys.SyscallFailed, match="EAGAIN"):
        sys.prog_load(ProgType.BPF_PROG_TYPE_XDP, bytes(16), license="GPL")


def test_the_log_is_there_also_when_loading_fails(script: Script) -> None:
    def refused(attr: Any) -> int:
        sys.poke(attr.log_buf, b"R0 !read_ok\n\0")
        attr.log_true_size = 13
        raise sys.SyscallFailed(errno.EACCES, "BPF_PROG_LOAD")

    script.on(Cmd.BPF_PROG_LOAD, refused)
    log = sys.Log(size=64)
    with pytest.raises(sys.SyscallFailed, match="EACCES"):
        sys.prog_load(ProgType.BPF_PROG_TYPE_XDP, bytes(16), license="GPL", log=log)
    assert (log.text, log.true_size) == ("R0 !read_ok\n", 13)


def test_link_update_says_which_program_it_replaces(script: Script) -> None:
    asked: list[tuple[int, ...]] = []
    script.on(
        Cmd.BPF_LINK_UPDATE,
        recording(asked, lambda attr: (attr.link_fd, attr.new_prog_fd, attr.flags, attr.old_prog_fd)),
    )
    sys.link_update(3, 4)
    sys.link_update(3, 4, old_prog_fd=5)
    assert asked == [(3, 4, 0, 0), (3, 4, AttachFlag.BPF_F_REPLACE, 5)]


def test_live_frames_ask_for_nothing_back(script: Script) -> None:
    def ran(attr: Any) -> int:
        live = bool(attr.flags & TestRunFlag.BPF_F_TEST_XDP_LIVE_FRAMES)
        assert (attr.data_out == 0, attr.data_size_out == 0) == (live, live)
        attr.retval = 2
        return 0

    script.on(Cmd.BPF_PROG_TEST_RUN, ran)
    assert sys.prog_test_run(3, bytes(60)).retval == 2
    assert sys.prog_test_run(3, bytes(60), flags=TestRunFlag.BPF_F_TEST_XDP_LIVE_FRAMES, repeat=9).data == b""


def test_ids_are_gone_through_to_their_end(script: Script) -> None:
    def next_id(attr: Any) -> int:
        following = {0: 4, 4: 9}.get(attr.start_id)
        if following is None:
            raise sys.SyscallFailed(errno.ENOENT, "scripted")
        attr.next_id = following
        return 0

    script.on(Cmd.BPF_PROG_GET_NEXT_ID, next_id)
    assert list(sys.ids(Cmd.BPF_PROG_GET_NEXT_ID)) == [4, 9]


def test_an_object_that_goes_while_it_is_listed_is_left_out(script: Script) -> None:
    def describe(attr: Any) -> int:
        sys.poke(attr.info, struct.pack("<III4xII", 11, 9, 77, 3, 46))
        return 0

    script.on(Cmd.BPF_LINK_GET_NEXT_ID, _next(4), _next(9), failing(errno.ENOENT))
    script.on(Cmd.BPF_LINK_GET_FD_BY_ID, failing(errno.ENOENT), lambda attr: os.dup(0))
    script.on(Cmd.BPF_OBJ_GET_INFO_BY_FD, describe)
    assert list(info.links()) == [info.LinkInfo(type=11, id=9, prog_id=77, ifindex=3, attach_type=46)]


def _next(id: int) -> Answer:
    def answer(attr: Any) -> int:
        attr.next_id = id
        return 0

    return answer


def test_an_unknown_machine_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "host", "6", "1", "riscv64")))
    sys._bpf_syscall_number.cache_clear()
    with pytest.raises(NotSupported, match=r"L142: the runtime does not know bpf\(2\) on `riscv64`"):
        sys.map_freeze(0)
    sys._bpf_syscall_number.cache_clear()


def test_possible_cpus_are_counted_to_the_last(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    for text, count in (("0-3\n", 4), ("0\n", 1), ("0,2-5\n", 6), ("0-1,7\n", 8)):
        (tmp_path / "possible").write_text(text)
        monkeypatch.setattr(sys, "_POSSIBLE_CPUS", str(tmp_path / "possible"))
        sys.possible_cpus.cache_clear()
        assert sys.possible_cpus() == count
    sys.possible_cpus.cache_clear()


# --- features ---


@pytest.fixture
def unprobed() -> None:
    features._probed.cache_clear()


@pytest.mark.usefixtures("unprobed")
@pytest.mark.parametrize(
    ("feature", "cmd", "number", "there"),
    [
        ("link:tcx", Cmd.BPF_PROG_QUERY, errno.ENODEV, True),
        ("link:tcx", Cmd.BPF_PROG_QUERY, errno.EINVAL, False),
        ("link:xdp", Cmd.BPF_LINK_CREATE, errno.EOPNOTSUPP, True),
        ("link:xdp", Cmd.BPF_LINK_CREATE, errno.EINVAL, False),
        ("map:BPF_MAP_TYPE_RINGBUF", Cmd.BPF_MAP_CREATE, errno.EINVAL, False),
        ("program:xdp", Cmd.BPF_PROG_LOAD, errno.EINVAL, False),
    ],
)
def test_an_answer_decides_whether_a_feature_is_there(
    script: Script, feature: str, cmd: Cmd, number: int, there: bool
) -> None:
    script.on(Cmd.BPF_PROG_LOAD, lambda attr: os.dup(0))
    script.on(cmd, failing(number))
    assert features.has(feature) is there
    asked = len(script.asked)
    assert features.has(feature) is there
    assert len(script.asked) == asked, "an answer is kept"
    features._probed.cache_clear()


@pytest.mark.usefixtures("unprobed")
def test_a_probe_that_is_not_allowed_is_not_an_answer(script: Script) -> None:
    script.on(Cmd.BPF_MAP_CREATE, failing(errno.EPERM))
    with pytest.raises(NotSupported, match="L141: the kernel does not let us ask for `map:BPF_MAP_TYPE_HASH`"):
        features.has("map:BPF_MAP_TYPE_HASH")


@pytest.mark.parametrize(
    ("effective", "missing"),
    [
        (0, ("CAP_NET_ADMIN", "CAP_BPF", "CAP_PERFMON")),
        (1 << 21, ("CAP_NET_ADMIN",)),
        (1 << 12 | 1 << 39, ("CAP_PERFMON",)),
        (1 << 12 | 1 << 39 | 1 << 38, ()),
        ((1 << 41) - 1, ()),
    ],
)
def test_missing_privileges_are_named(
    monkeypatch: pytest.MonkeyPatch, effective: int, missing: tuple[str, ...]
) -> None:
    monkeypatch.setattr(features, "_effective_capabilities", lambda: effective)
    assert features.missing_privileges() == missing
    if missing:
        with pytest.raises(NotSupported, match=f"L141: this needs the privilege {', '.join(missing)}"):
            features.require(["link:xdp"])


def test_a_feature_nobody_knows_is_an_error() -> None:
    with pytest.raises(NotSupported, match="L140: this version does not know the kernel feature `magic:wand`"):
        features.has("magic:wand")
