"""The one door to the kernel: bpf(2), setns(2) and mount(2) as typed functions, file descriptors with an owner.

Each function is one command with its UAPI name; each argument is the attribute's field of that name. `syscall` is the
only way through, and tests replace it: it takes the command and its attributes as a ctypes structure whose fields carry
the names of `union bpf_attr`.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import mmap
import os
import socket
import warnings
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any

from msgspec import Struct

from schemas.diagnostic import Diagnostic, NotSupported

from .uapi import BPF_ENOTSUPP, BPF_OBJ_NAME_LEN, BPF_STATS_RUN_TIME, PER_CPU_MAP_TYPES, AttachFlag, Cmd

_BPF_SYSCALL_NUMBERS = {"x86_64": 321, "aarch64": 280}
_PROG_LOAD_ATTEMPTS = 5
_BATCH_ENTRIES = 4096
_POSSIBLE_CPUS = "/sys/devices/system/cpu/possible"


class SyscallFailed(OSError):
    """The kernel said no: `errno` is its answer, `call` the command or system call that got it."""

    errno: int

    def __init__(self, number: int, call: str, subject: str = "") -> None:
        super().__init__(number, os.strerror(number) if number != BPF_ENOTSUPP else "Operation not supported")
        self.call = call
        self.subject = subject

    def __str__(self) -> str:
        name = "ENOTSUPP" if self.errno == BPF_ENOTSUPP else errno.errorcode.get(self.errno, str(self.errno))
        subject = f" {self.subject}" if self.subject else ""
        return f"{self.call}{subject}: {self.strerror} ({name})"


class Fd:
    """A file descriptor that is closed by its owner, at the end of a `with` block or when nobody holds it any more."""

    __slots__ = ("_number",)

    def __init__(self, number: int) -> None:
        self._number = number

    def fileno(self) -> int:
        if self._number < 0:
            raise ValueError("the file descriptor is closed")
        return self._number

    def close(self) -> None:
        number, self._number = self._number, -1
        if number >= 0:
            os.close(number)

    def release(self) -> int:
        """Gives ownership up: the number, which the caller must close."""
        number = self.fileno()
        self._number = -1
        return number

    def duplicate(self) -> Fd:
        """A second owner of the same kernel object."""
        return Fd(os.dup(self.fileno()))

    def __enter__(self) -> Fd:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if self._number >= 0:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            self.close()

    def __repr__(self) -> str:
        return f"Fd({self._number})" if self._number >= 0 else "Fd(closed)"


AnyFd = int | Fd
"""What the commands take: they borrow it, whoever owns it."""


def _number(fd: AnyFd) -> int:
    return fd if isinstance(fd, int) else fd.fileno()


# --- union bpf_attr, one structure for each family of commands ------------------------------------------------------

_C_TYPES = {"u32": ctypes.c_uint32, "u64": ctypes.c_uint64, "name": ctypes.c_char * BPF_OBJ_NAME_LEN}


def _layout(declaration: str) -> list[tuple[str, Any]]:
    """`u32 map_fd; u64 key value` as ctypes takes it; padding is C's own."""
    runs = (run.split() for run in declaration.split(";"))
    return [(name, _C_TYPES[c_type]) for c_type, *names in runs for name in names]


class MapCreateAttr(ctypes.Structure):
    """BPF_MAP_CREATE."""

    _fields_ = _layout(
        "u32 map_type key_size value_size max_entries map_flags inner_map_fd numa_node; name map_name; u32 "
        "map_ifindex btf_fd btf_key_type_id btf_value_type_id btf_vmlinux_value_type_id; u64 map_extra"
    )


class MapElemAttr(ctypes.Structure):
    """BPF_MAP_*_ELEM, BPF_MAP_GET_NEXT_KEY (`value` is then `next_key`), BPF_MAP_FREEZE."""

    _fields_ = _layout("u32 map_fd; u64 key value flags")


class MapBatchAttr(ctypes.Structure):
    """BPF_MAP_*_BATCH."""

    _fields_ = _layout("u64 in_batch out_batch keys values; u32 count map_fd; u64 elem_flags flags")


class ProgLoadAttr(ctypes.Structure):
    """BPF_PROG_LOAD."""

    _fields_ = _layout(
        "u32 prog_type insn_cnt; u64 insns license; u32 log_level log_size; u64 log_buf; u32 kern_version "
        "prog_flags; name prog_name; u32 prog_ifindex expected_attach_type prog_btf_fd func_info_rec_size; u64 "
        "func_info; u32 func_info_cnt line_info_rec_size; u64 line_info; u32 line_info_cnt attach_btf_id "
        "attach_prog_fd core_relo_cnt; u64 fd_array core_relos; u32 core_relo_rec_size log_true_size"
    )


class BtfLoadAttr(ctypes.Structure):
    """BPF_BTF_LOAD."""

    _fields_ = _layout("u64 btf btf_log_buf; u32 btf_size btf_log_size btf_log_level btf_log_true_size")


class ObjAttr(ctypes.Structure):
    """BPF_OBJ_PIN, BPF_OBJ_GET."""

    _fields_ = _layout("u64 pathname; u32 bpf_fd file_flags")


class ProgAttachAttr(ctypes.Structure):
    """BPF_PROG_ATTACH, BPF_PROG_DETACH."""

    _fields_ = _layout(
        "u32 target_ifindex attach_bpf_fd attach_type attach_flags replace_bpf_fd relative_fd; u64 expected_revision"
    )


class ProgQueryAttr(ctypes.Structure):
    """BPF_PROG_QUERY."""

    _fields_ = _layout(
        "u32 target_ifindex attach_type query_flags attach_flags; u64 prog_ids; u32 count; u64 prog_attach_flags "
        "link_ids link_attach_flags revision"
    )


class TestRunAttr(ctypes.Structure):
    """BPF_PROG_TEST_RUN."""

    __test__ = False  # pytest: not a test class

    _fields_ = _layout(
        "u32 prog_fd retval data_size_in data_size_out; u64 data_in data_out; u32 repeat duration ctx_size_in "
        "ctx_size_out; u64 ctx_in ctx_out; u32 flags cpu batch_size"
    )


class IdAttr(ctypes.Structure):
    """BPF_*_GET_NEXT_ID and BPF_*_GET_FD_BY_ID (`start_id` is then the id)."""

    _fields_ = _layout("u32 start_id next_id open_flags")


class InfoAttr(ctypes.Structure):
    """BPF_OBJ_GET_INFO_BY_FD."""

    _fields_ = _layout("u32 bpf_fd info_len; u64 info")


class LinkCreateAttr(ctypes.Structure):
    """BPF_LINK_CREATE, with the tail that TCX has."""

    _fields_ = _layout("u32 prog_fd target_ifindex attach_type flags relative_fd; u64 expected_revision")


class LinkUpdateAttr(ctypes.Structure):
    """BPF_LINK_UPDATE; its first field alone is BPF_LINK_DETACH."""

    _fields_ = _layout("u32 link_fd new_prog_fd flags old_prog_fd")


class EnableStatsAttr(ctypes.Structure):
    """BPF_ENABLE_STATS."""

    _fields_ = _layout("u32 type")


class BindMapAttr(ctypes.Structure):
    """BPF_PROG_BIND_MAP."""

    _fields_ = _layout("u32 prog_fd map_fd flags")


# --- the door -------------------------------------------------------------------------------------------------------


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


@functools.cache
def _bpf_syscall_number() -> int:
    machine = os.uname().machine
    if machine not in _BPF_SYSCALL_NUMBERS or ctypes.sizeof(ctypes.c_void_p) != 8:
        known = ", ".join(sorted(_BPF_SYSCALL_NUMBERS))
        raise NotSupported(
            "syscall:bpf",
            Diagnostic(
                "L142", f"the runtime does not know bpf(2) on `{machine}`", notes=(f"it runs on 64-bit {known}",)
            ),
        )
    return _BPF_SYSCALL_NUMBERS[machine]


def _bpf(cmd: Cmd, attr: ctypes.Structure) -> int:
    result: int = _libc().syscall(
        ctypes.c_long(_bpf_syscall_number()), ctypes.c_int(cmd), ctypes.byref(attr), ctypes.c_uint(ctypes.sizeof(attr))
    )
    if result < 0:
        raise SyscallFailed(ctypes.get_errno(), cmd.name)
    return result


syscall: Callable[[Cmd, ctypes.Structure], int] = _bpf
"""Carries a command out and returns what the kernel did; raises `SyscallFailed`. Tests put a script in its place."""


def peek(address: int, size: int) -> bytes:
    """The bytes behind a pointer in an attribute structure (for a replaced `syscall`)."""
    return ctypes.string_at(address, size) if size else b""


def poke(address: int, content: bytes) -> None:
    """Writes behind a pointer in an attribute structure (for a replaced `syscall`)."""
    ctypes.memmove(address, content, len(content))


class _Memory:
    """Bytes with an address; they live as long as this does."""

    __slots__ = ("_array", "size")

    def __init__(self, content: bytes | int) -> None:
        self.size = content if isinstance(content, int) else len(content)
        self._array = ctypes.create_string_buffer(content, max(self.size, 1))

    @property
    def address(self) -> int:
        return ctypes.addressof(self._array)

    def read(self, size: int | None = None) -> bytes:
        return self._array.raw[: self.size if size is None else min(size, self.size)]

    def before_zero(self) -> bytes:
        return self._array.value


class Log:
    """Memory for what the verifier says. `true_size` is what it wanted to say (0: the kernel is older than 6.4)."""

    def __init__(self, level: int = 1, size: int = 1 << 20) -> None:
        self.level = level
        self.size = size
        self.true_size = 0
        self._memory = _Memory(size)

    @property
    def address(self) -> int:
        return self._memory.address

    @property
    def text(self) -> str:
        return self._memory.before_zero().decode("utf-8", "replace")


def object_name(name: str) -> bytes:
    """A name as the kernel takes it: letters, digits, `_` and `.` only, at most 15 bytes."""
    allowed = "".join(c if c.isascii() and (c.isalnum() or c in "_.") else "_" for c in name)
    return allowed.encode()[: BPF_OBJ_NAME_LEN - 1]


# --- maps -----------------------------------------------------------------------------------------------------------


@functools.cache
def possible_cpus() -> int:
    """How many slots a value of a per-CPU map has: up to the last CPU of a list such as `0-3` or `0,2-3`."""
    with open(_POSSIBLE_CPUS, encoding="ascii") as file:
        last = file.read().strip().replace(",", "-").rsplit("-", 1)[-1]
    return int(last) + 1


def user_value_size(map_type: int, value_size: int) -> int:
    """Bytes of one value as map commands carry it: for per-CPU maps, all CPUs' slots."""
    if map_type in PER_CPU_MAP_TYPES:
        return (value_size + 7) // 8 * 8 * possible_cpus()
    return value_size


def map_create(
    map_type: int,
    *,
    key_size: int,
    value_size: int,
    max_entries: int,
    map_flags: int = 0,
    map_name: str = "",
    inner_map_fd: AnyFd = 0,
    btf_fd: AnyFd = 0,
    btf_key_type_id: int = 0,
    btf_value_type_id: int = 0,
) -> Fd:
    """A new map. Sizes in bytes; all zero where the type has none (ring buffer)."""
    attr = MapCreateAttr(
        map_type=map_type,
        key_size=key_size,
        value_size=value_size,
        max_entries=max_entries,
        map_flags=map_flags,
        map_name=object_name(map_name),
        inner_map_fd=_number(inner_map_fd),
        btf_fd=_number(btf_fd),
        btf_key_type_id=btf_key_type_id,
        btf_value_type_id=btf_value_type_id,
    )
    return Fd(syscall(Cmd.BPF_MAP_CREATE, attr))


def _elem(cmd: Cmd, map_fd: AnyFd, key: _Memory | None, value: _Memory | None, flags: int = 0) -> bool:
    """False where the kernel says that there is no such entry."""
    attr = MapElemAttr(
        map_fd=_number(map_fd), key=key.address if key else 0, value=value.address if value else 0, flags=flags
    )
    try:
        syscall(cmd, attr)
    except SyscallFailed as failure:
        if failure.errno == errno.ENOENT:
            return False
        raise
    return True


def map_lookup_elem(map_fd: AnyFd, key: bytes, value_size: int, flags: int = 0) -> bytes | None:
    """The value under `key`, or None. `value_size` is `user_value_size()`; prog arrays and map-in-maps give ids."""
    value = _Memory(value_size)
    return value.read() if _elem(Cmd.BPF_MAP_LOOKUP_ELEM, map_fd, _Memory(key), value, flags) else None


def map_lookup_and_delete_elem(map_fd: AnyFd, key: bytes, value_size: int) -> bytes | None:
    """Takes the entry out; None where there is none."""
    value = _Memory(value_size)
    return value.read() if _elem(Cmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM, map_fd, _Memory(key), value) else None


def map_update_elem(map_fd: AnyFd, key: bytes, value: bytes, flags: int = 0) -> None:
    """Writes an entry. Prog arrays and map-in-maps take a file descriptor as their four bytes."""
    if not _elem(Cmd.BPF_MAP_UPDATE_ELEM, map_fd, _Memory(key), _Memory(value), flags):
        raise SyscallFailed(errno.ENOENT, Cmd.BPF_MAP_UPDATE_ELEM.name)


def map_delete_elem(map_fd: AnyFd, key: bytes) -> bool:
    """Deletes an entry; False where there is none."""
    return _elem(Cmd.BPF_MAP_DELETE_ELEM, map_fd, _Memory(key), None)


def map_get_next_key(map_fd: AnyFd, key: bytes | None, key_size: int) -> bytes | None:
    """The key after `key` (the first for None); None at the end. A key that is gone starts over."""
    next_key = _Memory(key_size)
    previous = None if key is None else _Memory(key)
    return next_key.read() if _elem(Cmd.BPF_MAP_GET_NEXT_KEY, map_fd, previous, next_key) else None


def map_freeze(map_fd: AnyFd) -> None:
    """From now on no system call changes the map."""
    syscall(Cmd.BPF_MAP_FREEZE, MapElemAttr(map_fd=_number(map_fd)))


def map_update_batch(map_fd: AnyFd, keys: Sequence[bytes], values: Sequence[bytes], elem_flags: int = 0) -> None:
    """Writes entries, with one call for all where the map's type can do that."""
    done = _batch(Cmd.BPF_MAP_UPDATE_BATCH, map_fd, keys, values, elem_flags)
    for key, value in zip(keys[done:], values[done:], strict=True):
        map_update_elem(map_fd, key, value, elem_flags)


def map_delete_batch(map_fd: AnyFd, keys: Sequence[bytes]) -> None:
    """Deletes entries, passing over those that are not there."""
    done = _batch(Cmd.BPF_MAP_DELETE_BATCH, map_fd, keys, (), 0)
    for key in keys[done:]:
        map_delete_elem(map_fd, key)


def _batch(cmd: Cmd, map_fd: AnyFd, keys: Sequence[bytes], values: Sequence[bytes], elem_flags: int) -> int:
    """How many entries are done; the rest, if any, is to be done one by one, which names the entry that fails."""
    if not keys:
        return 0
    key_memory, value_memory = _Memory(b"".join(keys)), _Memory(b"".join(values))
    attr = MapBatchAttr(
        keys=key_memory.address,
        values=value_memory.address if values else 0,
        count=len(keys),
        map_fd=_number(map_fd),
        elem_flags=elem_flags,
    )
    try:
        syscall(cmd, attr)
    except SyscallFailed as failure:
        if failure.errno in (errno.EINVAL, errno.EOPNOTSUPP, BPF_ENOTSUPP):
            return 0
        # An early refusal leaves `count` as it was, and all of them cannot be done where one is refused.
        return int(attr.count) if attr.count < len(keys) and failure.errno != errno.EFAULT else 0
    return len(keys)


def map_entries(map_fd: AnyFd, key_size: int, value_size: int) -> Iterator[tuple[bytes, bytes]]:
    """All entries, in batches where the map's type can do that. `value_size` is `user_value_size()`."""
    try:
        yield from _entries_in_batches(map_fd, key_size, value_size)
    except _NoBatches:
        yield from _entries_one_by_one(map_fd, key_size, value_size)


class _NoBatches(Exception):
    """The map's type has no batch commands."""


def _entries_one_by_one(map_fd: AnyFd, key_size: int, value_size: int) -> Iterator[tuple[bytes, bytes]]:
    key = map_get_next_key(map_fd, None, key_size)
    while key is not None:
        value = map_lookup_elem(map_fd, key, value_size)
        if value is not None:
            yield key, value
        key = map_get_next_key(map_fd, key, key_size)


def _entries_in_batches(map_fd: AnyFd, key_size: int, value_size: int) -> Iterator[tuple[bytes, bytes]]:
    count, position = _BATCH_ENTRIES, None
    first = True
    while True:
        keys, values = _Memory(key_size * count), _Memory(value_size * count)
        out_batch = _Memory(max(key_size, 4))
        attr = MapBatchAttr(
            in_batch=position.address if position else 0,
            out_batch=out_batch.address,
            keys=keys.address,
            values=values.address,
            count=count,
            map_fd=_number(map_fd),
        )
        answer = 0
        try:
            syscall(Cmd.BPF_MAP_LOOKUP_BATCH, attr)
        except SyscallFailed as failure:
            answer = failure.errno
            if answer == errno.ENOSPC and not attr.count:  # a hash bucket holds more than `count` entries
                count *= 2
                continue
            if first and answer in (errno.EINVAL, errno.EOPNOTSUPP, BPF_ENOTSUPP):
                raise _NoBatches from failure
            # ENOENT is the end. EINTR is an entry that vanished meanwhile: what was read before it counts.
            if answer not in (errno.ENOENT, errno.ENOSPC, errno.EINTR) or (answer == errno.EINTR and not attr.count):
                raise
        key_bytes, value_bytes = keys.read(key_size * attr.count), values.read(value_size * attr.count)
        for index in range(attr.count):
            yield (
                key_bytes[index * key_size : (index + 1) * key_size],
                value_bytes[index * value_size : (index + 1) * value_size],
            )
        if answer == errno.ENOENT:
            return
        first, position = False, out_batch


# --- programs and BTF -----------------------------------------------------------------------------------------------


def prog_load(
    prog_type: int,
    insns: bytes,
    *,
    license: str,
    prog_name: str = "",
    expected_attach_type: int = 0,
    prog_flags: int = 0,
    prog_btf_fd: AnyFd = 0,
    func_info: bytes = b"",
    func_info_rec_size: int = 0,
    line_info: bytes = b"",
    line_info_rec_size: int = 0,
    log: Log | None = None,
) -> Fd:
    """Verifies and loads a program; `log` receives the verifier's words, also when it refuses."""
    memory = [_Memory(insns), _Memory(license.encode() + b"\0"), _Memory(func_info), _Memory(line_info)]
    attr = ProgLoadAttr(
        prog_type=prog_type,
        insn_cnt=len(insns) // 8,
        insns=memory[0].address,
        license=memory[1].address,
        log_level=log.level if log else 0,
        log_size=log.size if log else 0,
        log_buf=log.address if log else 0,
        prog_flags=prog_flags,
        prog_name=object_name(prog_name),
        expected_attach_type=expected_attach_type,
        prog_btf_fd=_number(prog_btf_fd),
    )
    if func_info:
        attr.func_info, attr.func_info_rec_size = memory[2].address, func_info_rec_size
        attr.func_info_cnt = len(func_info) // func_info_rec_size
    if line_info:
        attr.line_info, attr.line_info_rec_size = memory[3].address, line_info_rec_size
        attr.line_info_cnt = len(line_info) // line_info_rec_size
    try:
        return Fd(_patiently(Cmd.BPF_PROG_LOAD, attr))
    finally:
        if log:
            log.true_size = attr.log_true_size


def _patiently(cmd: Cmd, attr: ctypes.Structure) -> int:
    """The verifier gives up with EAGAIN when a signal arrives (kernel commit c3494801cd17, 5.0): once more, then."""
    for _ in range(_PROG_LOAD_ATTEMPTS - 1):
        try:
            return syscall(cmd, attr)
        except SyscallFailed as failure:
            if failure.errno != errno.EAGAIN:
                raise
    return syscall(cmd, attr)


def btf_load(btf: bytes, log: Log | None = None) -> Fd:
    """Loads type information for programs and maps to refer to."""
    memory = _Memory(btf)
    attr = BtfLoadAttr(btf=memory.address, btf_size=len(btf))
    if log:
        attr.btf_log_buf, attr.btf_log_size, attr.btf_log_level = log.address, log.size, log.level
    try:
        return Fd(syscall(Cmd.BPF_BTF_LOAD, attr))
    finally:
        if log:
            log.true_size = attr.btf_log_true_size


class TestRun(Struct, frozen=True):
    """What a program did with one frame: its return value, the frame and context after it, mean nanoseconds a run."""

    __test__ = False  # pytest: not a test class

    retval: int
    data: bytes
    ctx: bytes
    duration_ns: int


_TEST_RUN_HEADROOM = 512
"""How much a program may lengthen the frame of a test run."""


def prog_test_run(
    prog_fd: AnyFd,
    data: bytes,
    *,
    ctx: bytes = b"",
    repeat: int = 1,
    flags: int = 0,
    cpu: int = 0,
    batch_size: int = 0,
) -> TestRun:
    """Runs a program on a frame, `repeat` times on the same buffer. With live frames nothing comes back."""
    live = bool(flags & 2)  # TestRunFlag.BPF_F_TEST_XDP_LIVE_FRAMES: the kernel refuses output buffers
    data_in, ctx_in = _Memory(data), _Memory(ctx)
    data_out, ctx_out = _Memory(0 if live else len(data) + _TEST_RUN_HEADROOM), _Memory(0 if live else len(ctx))
    attr = TestRunAttr(
        prog_fd=_number(prog_fd),
        data_size_in=len(data),
        data_size_out=data_out.size,
        data_in=data_in.address,
        data_out=data_out.address if data_out.size else 0,
        repeat=repeat,
        ctx_size_in=len(ctx),
        ctx_size_out=ctx_out.size,
        ctx_in=ctx_in.address if ctx else 0,
        ctx_out=ctx_out.address if ctx_out.size else 0,
        flags=flags,
        cpu=cpu,
        batch_size=batch_size,
    )
    syscall(Cmd.BPF_PROG_TEST_RUN, attr)
    return TestRun(attr.retval, data_out.read(attr.data_size_out), ctx_out.read(attr.ctx_size_out), attr.duration)


def prog_bind_map(prog_fd: AnyFd, map_fd: AnyFd) -> None:
    """Lets a map live as long as a program that does not refer to it."""
    syscall(Cmd.BPF_PROG_BIND_MAP, BindMapAttr(prog_fd=_number(prog_fd), map_fd=_number(map_fd)))


def enable_stats() -> Fd:
    """Counts run time and runs of all programs for as long as the descriptor is open."""
    return Fd(syscall(Cmd.BPF_ENABLE_STATS, EnableStatsAttr(type=BPF_STATS_RUN_TIME)))


# --- pins and links -------------------------------------------------------------------------------------------------


def obj_pin(fd: AnyFd, pathname: str | os.PathLike[str]) -> None:
    """Gives a program, map or link a name in bpffs, and with it a life of its own."""
    path = _Memory(os.fsencode(pathname) + b"\0")
    try:
        syscall(Cmd.BPF_OBJ_PIN, ObjAttr(pathname=path.address, bpf_fd=_number(fd)))
    except SyscallFailed as failure:
        raise SyscallFailed(failure.errno, failure.call, os.fspath(pathname)) from None


def obj_get(pathname: str | os.PathLike[str], file_flags: int = 0) -> Fd:
    """Opens a pin. Raises `SyscallFailed` with ENOENT where there is none."""
    path = _Memory(os.fsencode(pathname) + b"\0")
    try:
        return Fd(syscall(Cmd.BPF_OBJ_GET, ObjAttr(pathname=path.address, file_flags=file_flags)))
    except SyscallFailed as failure:
        raise SyscallFailed(failure.errno, failure.call, os.fspath(pathname)) from None


def link_create(
    prog_fd: AnyFd,
    target_ifindex: int,
    attach_type: int,
    flags: int = 0,
    *,
    relative_fd: AnyFd = 0,
    expected_revision: int = 0,
) -> Fd:
    """Attaches a program to a device; it stays for as long as the link is open or pinned."""
    attr = LinkCreateAttr(
        prog_fd=_number(prog_fd),
        target_ifindex=target_ifindex,
        attach_type=attach_type,
        flags=flags,
        relative_fd=_number(relative_fd),
        expected_revision=expected_revision,
    )
    return Fd(syscall(Cmd.BPF_LINK_CREATE, attr))


def link_update(link_fd: AnyFd, new_prog_fd: AnyFd, old_prog_fd: AnyFd | None = None) -> None:
    """Replaces the program behind a link, one atomic pointer swap; with `old_prog_fd` only if that one is there now."""
    attr = LinkUpdateAttr(link_fd=_number(link_fd), new_prog_fd=_number(new_prog_fd))
    if old_prog_fd is not None:
        attr.flags, attr.old_prog_fd = AttachFlag.BPF_F_REPLACE, _number(old_prog_fd)
    syscall(Cmd.BPF_LINK_UPDATE, attr)


def link_detach(link_fd: AnyFd) -> None:
    """Detaches now, whoever else holds the link; the link itself stays as an empty shell."""
    attr = LinkUpdateAttr(link_fd=_number(link_fd))
    syscall(Cmd.BPF_LINK_DETACH, attr)


def prog_attach(target_ifindex: int, prog_fd: AnyFd, attach_type: int) -> None:
    """Puts a program on a TCX hook without a link, as the last one: it stays until it is detached."""
    attr = ProgAttachAttr(target_ifindex=target_ifindex, attach_bpf_fd=_number(prog_fd), attach_type=attach_type)
    syscall(Cmd.BPF_PROG_ATTACH, attr)


def prog_detach(target_ifindex: int, prog_fd: AnyFd, attach_type: int) -> None:
    """Takes this program off a TCX hook. Raises `SyscallFailed` with ENOENT where it is not, or a link holds it."""
    attr = ProgAttachAttr(target_ifindex=target_ifindex, attach_bpf_fd=_number(prog_fd), attach_type=attach_type)
    syscall(Cmd.BPF_PROG_DETACH, attr)


class Attached(Struct, frozen=True):
    """Programs on a TCX hook in their order; `link_ids` has 0 where a program is attached without a link."""

    prog_ids: tuple[int, ...]
    link_ids: tuple[int, ...]
    revision: int


_QUERY_LIMIT = 64
"""Programs on one TCX hook (BPF_MPROG_MAX in the kernel)."""


def prog_query(target_ifindex: int, attach_type: int) -> Attached:
    """What hangs on a TCX hook of a device (XDP answers by netlink only)."""
    prog_ids, link_ids = _Memory(4 * _QUERY_LIMIT), _Memory(4 * _QUERY_LIMIT)
    attr = ProgQueryAttr(
        target_ifindex=target_ifindex,
        attach_type=attach_type,
        prog_ids=prog_ids.address,
        link_ids=link_ids.address,
        count=_QUERY_LIMIT,
    )
    syscall(Cmd.BPF_PROG_QUERY, attr)
    return Attached(_u32s(prog_ids.read(4 * attr.count)), _u32s(link_ids.read(4 * attr.count)), attr.revision)


def _u32s(content: bytes) -> tuple[int, ...]:
    return tuple(memoryview(content).cast("I"))


# --- what is there: ids and info (runtime/info.py reads the structures) ---------------------------------------------


def ids(cmd: Cmd) -> Iterator[int]:
    """All ids that a BPF_*_GET_NEXT_ID command goes through."""
    attr = IdAttr()
    while True:
        try:
            syscall(cmd, attr)
        except SyscallFailed as failure:
            if failure.errno == errno.ENOENT:
                return
            raise
        yield attr.next_id
        attr = IdAttr(start_id=attr.next_id)


def fd_by_id(cmd: Cmd, id: int) -> Fd:
    """Opens an object by a BPF_*_GET_FD_BY_ID command; `SyscallFailed` with ENOENT if it has gone meanwhile."""
    return Fd(syscall(cmd, IdAttr(start_id=id)))


class InfoArray(Struct, frozen=True):
    """An array that an info structure points to: where in the structure its pointer, count and entry size stand."""

    pointer_at: int
    count_at: int
    count: int
    entry_size: int
    entry_size_at: int | None = None


def obj_get_info_by_fd(fd: AnyFd, size: int, arrays: Sequence[InfoArray] = ()) -> tuple[bytes, ...]:
    """`size` bytes of the object's info structure, zeros where this kernel's is shorter, then each array asked for."""
    info = _Memory(size)
    contents = [_Memory(array.count * array.entry_size) for array in arrays]
    for array, content in zip(arrays, contents, strict=True):
        poke(info.address + array.pointer_at, content.address.to_bytes(8, "little"))
        poke(info.address + array.count_at, array.count.to_bytes(4, "little"))
        if array.entry_size_at is not None:
            poke(info.address + array.entry_size_at, array.entry_size.to_bytes(4, "little"))
    syscall(Cmd.BPF_OBJ_GET_INFO_BY_FD, InfoAttr(bpf_fd=_number(fd), info_len=size, info=info.address))
    return (info.read(), *(content.read() for content in contents))


# --- frames ---------------------------------------------------------------------------------------------------------


class MessageBatch:
    """Memory for sendmmsg(2): up to `LIMIT` messages with one call."""

    LIMIT = 64

    def __init__(self) -> None:
        self._vectors = (ctypes.c_uint64 * (2 * self.LIMIT))()  # struct iovec: base, length
        first = ctypes.addressof(self._vectors)
        # struct mmsghdr: name, its length, vectors, their number, control, its length, flags, bytes sent.
        headers = [word for n in range(self.LIMIT) for word in (0, 0, first + 16 * n, 1, 0, 0, 0, 0)]
        self._headers = (ctypes.c_uint64 * len(headers))(*headers)

    def send(self, fd: int, messages: Sequence[bytes]) -> int:
        """How many of up to `LIMIT` messages were taken, from the first one on. Raises `SyscallFailed` if none was."""
        joined = b"".join(messages)
        at = ctypes.cast(ctypes.c_char_p(joined), ctypes.c_void_p).value or 0
        words: list[ctypes.c_uint64 | int] = []
        for message in messages:
            words += (at, len(message))
            at += len(message)
        self._vectors[: len(words)] = words
        headers = ctypes.byref(self._headers)
        taken: int = _libc().sendmmsg(ctypes.c_int(fd), headers, ctypes.c_uint(len(messages)), ctypes.c_int(0))
        if taken < 0:
            raise SyscallFailed(ctypes.get_errno(), "sendmmsg")
        return taken


class ReceiveBatch:
    """Memory for recvmmsg(2): up to `LIMIT` messages of up to `LARGEST` bytes with one call."""

    LIMIT = 256
    LARGEST = 1 << 16
    _STRIDE = LARGEST + 192  # were it a power of two, all messages would contend for the same few lines of the caches

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, self.LIMIT * self._STRIDE)
        first = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        vectors = [word for n in range(self.LIMIT) for word in (first + n * self._STRIDE, self.LARGEST)]
        self._vectors = (ctypes.c_uint64 * len(vectors))(*vectors)  # struct iovec: base, length
        at = ctypes.addressof(self._vectors)
        # struct mmsghdr: name, its length, vectors, their number, control, its length, flags, bytes received.
        headers = [word for n in range(self.LIMIT) for word in (0, 0, at + 16 * n, 1, 0, 0, 0, 0)]
        self._headers = (ctypes.c_uint64 * len(headers))(*headers)

    def receive(self, fd: int) -> list[bytes]:
        """What waits at a socket, up to `LIMIT` messages, at once. Raises `SyscallFailed`: EAGAIN if there is nothing.

        EMSGSIZE, if one of them was longer than `LARGEST`.
        """
        arguments = ctypes.c_uint(self.LIMIT), ctypes.c_int(socket.MSG_DONTWAIT), None
        count: int = _libc().recvmmsg(ctypes.c_int(fd), ctypes.byref(self._headers), *arguments)
        if count < 0:
            raise SyscallFailed(ctypes.get_errno(), "recvmmsg")
        if any(flags & socket.MSG_TRUNC for flags in self._headers[6 : 8 * count : 8]):
            raise SyscallFailed(errno.EMSGSIZE, "recvmmsg")
        starts = range(0, count * self._STRIDE, self._STRIDE)
        lengths = self._headers[7 : 8 * count : 8]
        return [self._memory[start : start + length] for start, length in zip(starts, lengths, strict=True)]


# --- namespaces and mounts ------------------------------------------------------------------------------------------

CLONE_NEWNET = 0x40000000


def setns(fd: AnyFd, nstype: int = CLONE_NEWNET) -> None:
    """Moves the calling thread, and only it, into a namespace."""
    if _libc().setns(ctypes.c_int(_number(fd)), ctypes.c_int(nstype)) < 0:
        raise SyscallFailed(ctypes.get_errno(), "setns")


def mount(source: str, target: str, filesystem: str, flags: int = 0, *, options: str = "") -> None:
    """mount(2); `mount("bpf", "/sys/fs/bpf", "bpf")` is bpffs."""
    names = (os.fsencode(source), os.fsencode(target), os.fsencode(filesystem))
    if _libc().mount(*names, ctypes.c_ulong(flags), os.fsencode(options) or None) < 0:
        raise SyscallFailed(ctypes.get_errno(), "mount", target)


def umount(target: str) -> None:
    """umount(2)."""
    if _libc().umount(os.fsencode(target)) < 0:
        raise SyscallFailed(ctypes.get_errno(), "umount", target)
