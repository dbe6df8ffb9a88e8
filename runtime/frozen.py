"""Bytes in bpffs: the one element of a frozen map, which is put in its place in one step, or not at all."""

from __future__ import annotations

import errno
from pathlib import Path

from schemas.diagnostic import Diagnostic, LoadFailed

from . import sys
from .info import map_info
from .uapi import MapFlag, MapType

_INDEX = bytes(4)
_MAX_BYTES = 16 << 20


def write_frozen(path: Path, content: bytes) -> None:
    """Puts a frozen map with this content at a path, in the place of what is there, in one step."""
    new = fresh(path)
    new.unlink(missing_ok=True)
    with _frozen(content) as fd:
        sys.obj_pin(fd, new)
    try:
        new.rename(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def forget_frozen(path: Path) -> None:
    """Removes what `write_frozen` put there, also where it was killed before that was done."""
    fresh(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)  # last: as long as it is there, somebody comes back for the rest


def fresh(path: Path) -> Path:
    """Where it is pinned before it is put in its place."""
    return path.with_name(f"{path.name}-fresh")


def read_frozen(path: Path) -> bytes | None:
    """What `write_frozen` put there, or None where there is nothing. Raises `LoadFailed` (A112)."""
    try:
        fd = sys.obj_get(path)
    except sys.SyscallFailed as failure:
        if failure.errno == errno.ENOENT:
            return None
        raise
    with fd:
        found = map_info(fd)
        if found.type != MapType.BPF_MAP_TYPE_ARRAY or found.value_size > _MAX_BYTES:
            raise unreadable(path.parent, "it is another map")
        return sys.map_lookup_elem(fd, _INDEX, found.value_size) or b""


def unreadable(path: Path, reason: str) -> LoadFailed:
    """The refusal (A112) of a record that this version cannot read."""
    message = f"cannot read the record of the running generation at `{path}`: {reason}"
    help_text = f"`bpfchain detach {path.parent.name}` removes the chain"
    return LoadFailed(Diagnostic("A112", message, help=help_text))


def _frozen(content: bytes) -> sys.Fd:
    fd = sys.map_create(
        MapType.BPF_MAP_TYPE_ARRAY,
        key_size=len(_INDEX),
        value_size=len(content),
        max_entries=1,
        map_flags=MapFlag.BPF_F_RDONLY_PROG,
        map_name="bpfchain_record",
    )
    try:
        sys.map_update_elem(fd, _INDEX, content)
        sys.map_freeze(fd)
    except BaseException:
        fd.close()
        raise
    return fd
