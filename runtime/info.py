"""Ids and descriptors of kernel objects in, frozen records of what the kernel says about them out."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Iterator
from typing import TypeVar

from msgspec import Struct

from . import sys
from .uapi import Cmd, LinkType

# struct bpf_prog_info up to verified_insns, bpf_map_info, the common head of bpf_link_info, bpf_btf_info.
_PROG = struct.Struct("<II8sIIQQQIIQ16sIIQQIIQQIIQIIQQIIIIQQQQI4x")
_MAP = struct.Struct("<IIIIII16sIIQQIIII")
_LINK = struct.Struct("<IIIxxxxII")
_BTF = struct.Struct("<QIIQII")
_MAP_IDS_AT, _NR_MAP_IDS_AT = 56, 52
_LINE_INFO_AT, _NR_LINE_INFO_AT, _LINE_INFO_REC_SIZE_AT = 152, 148, 172
_LINE_INFO_SIZE = 16

_Info = TypeVar("_Info")


class ProgInfo(Struct, frozen=True):
    """A loaded program. `load_time_ns` counts from boot; run time and count are kept while statistics are enabled."""

    type: int
    id: int
    name: str
    tag: str
    map_ids: tuple[int, ...]
    load_time_ns: int
    created_by_uid: int
    btf_id: int
    gpl_compatible: bool
    jited_size: int
    xlated_size: int
    verified_insns: int
    func_info_count: int
    line_info_count: int
    run_time_ns: int
    run_count: int


class MapInfo(Struct, frozen=True):
    """A map. Sizes in bytes; `value_size` is one CPU's (`sys.user_value_size` for all)."""

    type: int
    id: int
    name: str
    key_size: int
    value_size: int
    max_entries: int
    map_flags: int
    btf_id: int
    btf_key_type_id: int
    btf_value_type_id: int


class LinkInfo(Struct, frozen=True):
    """A link. `ifindex` is 0 where its kind has none, or the device is gone; `attach_type` is None for XDP."""

    type: int
    id: int
    prog_id: int
    ifindex: int
    attach_type: int | None


class BtfInfo(Struct, frozen=True):
    """Loaded type information."""

    id: int
    size: int
    kernel_btf: bool


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "replace")


def prog_info(fd: sys.AnyFd) -> ProgInfo:
    """What the kernel knows of a program, with the maps that it refers to."""
    (raw,) = sys.obj_get_info_by_fd(fd, _PROG.size)
    map_ids: tuple[int, ...] = ()
    map_count = struct.unpack_from("<I", raw, _NR_MAP_IDS_AT)[0]
    if map_count:
        wanted = sys.InfoArray(_MAP_IDS_AT, _NR_MAP_IDS_AT, map_count, entry_size=4)
        raw, array = sys.obj_get_info_by_fd(fd, _PROG.size, [wanted])
        map_ids = struct.unpack(f"<{map_count}I", array)
    fields = _PROG.unpack(raw)
    return ProgInfo(
        type=fields[0],
        id=fields[1],
        name=_text(fields[11]),
        tag=fields[2].hex(),
        map_ids=map_ids,
        load_time_ns=fields[7],
        created_by_uid=fields[8],
        btf_id=fields[20],
        gpl_compatible=bool(fields[13] & 1),
        jited_size=fields[3],
        xlated_size=fields[4],
        verified_insns=fields[35],
        func_info_count=fields[23],
        line_info_count=fields[24],
        run_time_ns=fields[32],
        run_count=fields[33],
    )


def prog_line_info(fd: sys.AnyFd) -> bytes:
    """The program's `struct bpf_line_info` records, 16 bytes each: instruction, file name, text, line and column."""
    count = prog_info(fd).line_info_count
    if not count:
        return b""
    wanted = sys.InfoArray(_LINE_INFO_AT, _NR_LINE_INFO_AT, count, _LINE_INFO_SIZE, _LINE_INFO_REC_SIZE_AT)
    _, lines = sys.obj_get_info_by_fd(fd, _PROG.size, [wanted])
    return lines


def map_info(fd: sys.AnyFd) -> MapInfo:
    """What the kernel knows of a map."""
    (raw,) = sys.obj_get_info_by_fd(fd, _MAP.size)
    fields = _MAP.unpack(raw)
    return MapInfo(
        type=fields[0],
        id=fields[1],
        key_size=fields[2],
        value_size=fields[3],
        max_entries=fields[4],
        map_flags=fields[5],
        name=_text(fields[6]),
        btf_id=fields[11],
        btf_key_type_id=fields[12],
        btf_value_type_id=fields[13],
    )


def link_info(fd: sys.AnyFd) -> LinkInfo:
    """What the kernel knows of a link."""
    (raw,) = sys.obj_get_info_by_fd(fd, _LINK.size)
    link_type, link_id, prog_id, ifindex, attach_type = _LINK.unpack(raw)
    match link_type:
        case LinkType.BPF_LINK_TYPE_XDP:
            return LinkInfo(link_type, link_id, prog_id, ifindex, None)
        case LinkType.BPF_LINK_TYPE_TCX:
            return LinkInfo(link_type, link_id, prog_id, ifindex, attach_type)
        case _:
            return LinkInfo(link_type, link_id, prog_id, 0, None)


def btf_info(fd: sys.AnyFd) -> BtfInfo:
    """What the kernel knows of loaded type information."""
    (raw,) = sys.obj_get_info_by_fd(fd, _BTF.size)
    _, size, btf_id, _, _, kernel_btf = _BTF.unpack(raw)
    return BtfInfo(btf_id, size, bool(kernel_btf))


def prog_by_id(id: int) -> sys.Fd:
    """Opens a program; `SyscallFailed` with ENOENT if it has gone."""
    return sys.fd_by_id(Cmd.BPF_PROG_GET_FD_BY_ID, id)


def map_by_id(id: int) -> sys.Fd:
    """Opens a map; `SyscallFailed` with ENOENT if it has gone."""
    return sys.fd_by_id(Cmd.BPF_MAP_GET_FD_BY_ID, id)


def link_by_id(id: int) -> sys.Fd:
    """Opens a link; `SyscallFailed` with ENOENT if it has gone."""
    return sys.fd_by_id(Cmd.BPF_LINK_GET_FD_BY_ID, id)


def btf_by_id(id: int) -> sys.Fd:
    """Opens type information; `SyscallFailed` with ENOENT if it has gone."""
    return sys.fd_by_id(Cmd.BPF_BTF_GET_FD_BY_ID, id)


def links() -> Iterator[LinkInfo]:
    """Every link of this machine; those that go while this looks are left out."""
    return _each(sys.ids(Cmd.BPF_LINK_GET_NEXT_ID), link_by_id, link_info)


def progs() -> Iterator[ProgInfo]:
    """Every program of this machine; those that go while this looks are left out."""
    return _each(sys.ids(Cmd.BPF_PROG_GET_NEXT_ID), prog_by_id, prog_info)


def maps() -> Iterator[MapInfo]:
    """Every map of this machine; those that go while this looks are left out."""
    return _each(sys.ids(Cmd.BPF_MAP_GET_NEXT_ID), map_by_id, map_info)


def btfs() -> Iterator[BtfInfo]:
    """All type information of this machine, the kernel's own too."""
    return _each(sys.ids(Cmd.BPF_BTF_GET_NEXT_ID), btf_by_id, btf_info)


def _each(ids: Iterator[int], by_id: Callable[[int], sys.Fd], info: Callable[[sys.Fd], _Info]) -> Iterator[_Info]:
    for object_id in ids:
        try:
            with by_id(object_id) as fd:
                record = info(fd)
        except sys.SyscallFailed as failure:
            # EAGAIN: a link that is just being made has an id and is not to be had yet (bpf_link_by_id).
            if failure.errno not in (errno.ENOENT, errno.EAGAIN):
                raise
        else:
            yield record
