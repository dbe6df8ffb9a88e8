"""A program on a hook that is not ours in, a diagnostic that tells whose it is out."""

from __future__ import annotations

import errno
import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

from schemas.diagnostic import Diagnostic
from schemas.manifest import Mode
from schemas.trust import user

from . import sys
from .attach import AttachPoint, Occupant
from .info import ProgInfo, prog_by_id, prog_info
from .pin import BPFFS

_PINS_LOOKED_AT = 4096


def describe(point: AttachPoint, occupant: Occupant) -> Diagnostic:
    """The finding (A102): nothing of it is ever touched."""
    hook = "TC ingress" if point.mode is Mode.TC else "XDP"
    message = f"{hook} of device `{point.device}` is taken by {_name(occupant)}"
    return Diagnostic(
        "A102",
        message,
        notes=(f"attached as {occupant.how}", *_provenance(occupant.prog_id)),
        help="take it off with the tool that put it there, or give the chain another device or `mode`",
    )


def _name(occupant: Occupant) -> str:
    if occupant.owner:
        return f"chain `{occupant.owner.chain}`"
    found = _info(occupant.prog_id)
    if found:
        return f"program {found.id} `{found.name}`"
    return f"program {occupant.prog_id}" if occupant.prog_id else "a program of someone else"


def _provenance(prog_id: int) -> Iterator[str]:
    """Who loaded it, when, and where it is pinned, as far as the kernel tells."""
    found = _info(prog_id)
    if found is None:
        return
    yield f"loaded {_age(found)} ago by {user(found.created_by_uid)}"
    paths = list(itertools.islice(pins_of(prog_id), 3))
    if paths:
        yield f"pinned at {', '.join(paths)}"


def _info(prog_id: int) -> ProgInfo | None:
    if not prog_id:
        return None
    try:
        with prog_by_id(prog_id) as fd:
            return prog_info(fd)
    except sys.SyscallFailed as failure:
        if failure.errno in (errno.ENOENT, errno.EPERM):  # gone, or to be opened by CAP_SYS_ADMIN only
            return None
        raise


def _age(found: ProgInfo) -> str:
    seconds = max(0, time.clock_gettime_ns(time.CLOCK_BOOTTIME) - found.load_time_ns) // 1_000_000_000
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def pins_of(prog_id: int, root: Path = BPFFS) -> Iterator[str]:
    """Paths in bpffs that hold a program, or a link to it."""
    paths = (Path(folder, name) for folder, _, names in os.walk(root) for name in names)
    for path in itertools.islice(paths, _PINS_LOOKED_AT):
        try:
            with sys.obj_get(path) as fd:
                shown = Path(f"/proc/self/fdinfo/{fd.fileno()}").read_text()
        except OSError:  # gone by now, or nothing that we may open: then it is not named
            continue
        if f"prog_id:\t{prog_id}\n" in shown:
            yield str(path)
