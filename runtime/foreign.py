"""A program on a hook that is not ours in, a diagnostic that tells whose it is out."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from schemas.diagnostic import Diagnostic
from schemas.manifest import Mode
from schemas.trust import user

from . import sys
from .attach import AttachPoint, Occupant
from .bpffs import BPFFS
from .info import ProgInfo, prog_by_id, prog_info

_PINS_LOOKED_AT = 4096
_BPF_FILES = ("anon_inode:bpf-prog", "anon_inode:bpf_link")
_NAMED = 3  # of many pins or processes, so many are told

Replace = tuple[str, int]
"""A device, and the id of the foreign program on it that may be taken off."""


def describe(point: AttachPoint, occupant: Occupant, replace: Collection[Replace] = ()) -> Diagnostic:
    """The finding (A102) that a hook is taken by something that `replace` does not name."""
    hook = "TC ingress" if point.mode is Mode.TC else "XDP"
    message = f"{hook} of device `{point.device}` is taken by {_name(occupant)}"
    others = [str(prog_id) for device, prog_id in replace if device == point.device]
    mistaken = f"`--replace` names program {', '.join(others)} there"
    return Diagnostic(
        "A102",
        message,
        notes=(
            f"attached as {occupant.how}",
            *_provenance(occupant),
            *_price(point, occupant),
            *([mistaken] if others else []),
        ),
        help=_ways_on(point, occupant),
    )


def _ways_on(point: AttachPoint, occupant: Occupant) -> str:
    if occupant.owner:
        return f"`bpfchain detach {occupant.owner.chain}` frees it; or give the chain another device or `mode`"
    free = "take it off with the tool that put it there"
    if not occupant.prog_id:
        return f"{free}, or give the chain another device or `mode`"
    return f"{free}, or have it replaced: `bpfchain apply --replace {point.device}={occupant.prog_id}`"


def _price(point: AttachPoint, occupant: Occupant) -> Iterator[str]:
    """What traffic notices of a replacement."""
    if point.mode is not Mode.TC and occupant.mode is not point.mode:
        yield f"replacing it interrupts traffic: it is {occupant.mode} XDP, and a device has one mode at a time"


def _name(occupant: Occupant) -> str:
    if occupant.owner:
        return f"chain `{occupant.owner.chain}`"
    found = _info(occupant.prog_id)
    if found:
        return f"program {found.id} `{found.name}`"
    return f"program {occupant.prog_id}" if occupant.prog_id else "a program of someone else"


def _provenance(occupant: Occupant) -> Iterator[str]:
    """Who loaded it, when, and who holds it now, as far as the kernel tells."""
    found = _info(occupant.prog_id)
    if found is None:
        return
    yield f"loaded {_age(found)} ago by {user(found.created_by_uid)}"
    paths = list(itertools.islice(pins_of(found.id), _NAMED))
    if paths:
        yield f"pinned at {', '.join(paths)}"
    processes = list(itertools.islice(holders_of(found.id), _NAMED))
    if processes:
        yield f"held open by {', '.join(processes)}"


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
                refers = _refers(Path(f"/proc/self/fdinfo/{fd.fileno()}"), prog_id)
        except OSError:  # gone by now, or nothing that we may open: then it is not named
            continue
        if refers:
            yield str(path)


def holders_of(prog_id: int) -> Iterator[str]:
    """Processes other than this one that have a program, or a link to it, open: `agent` (pid 17)."""
    for process in Path("/proc").glob("[0-9]*"):
        if process.name != str(os.getpid()) and _holds(process, prog_id):
            with contextlib.suppress(OSError):  # gone by now
                yield f"`{(process / 'comm').read_text().strip()}` (pid {process.name})"


def _holds(process: Path, prog_id: int) -> bool:
    """False also for processes that have gone, or that we may not look into."""
    try:
        for fd in (process / "fd").iterdir():
            if os.readlink(fd) in _BPF_FILES and _refers(process / "fdinfo" / fd.name, prog_id):
                return True
    except OSError:
        return False
    return False


def _refers(fdinfo: Path, prog_id: int) -> bool:
    return f"prog_id:\t{prog_id}\n" in fdinfo.read_text()
