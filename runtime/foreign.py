"""A program on a hook that is not ours in, whose it is out: as a record for plans, as the diagnostic of a refusal."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from msgspec import Struct

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


class Stranger(Struct, frozen=True):
    """Somebody else's program on a hook that a chain wants; what the kernel does not tell of it is None.

    `age_seconds` is how long ago it was loaded, by the user `uid`.
    """

    point: AttachPoint
    occupant: Occupant
    name: str | None = None
    uid: int | None = None
    age_seconds: int | None = None

    @property
    def title(self) -> str:
        """What to call it."""
        if self.occupant.owner:
            return f"chain `{self.occupant.owner.chain}`"
        prog_id = self.occupant.prog_id
        if self.name is not None:
            return f"program {prog_id} `{self.name}`"
        return f"program {prog_id}" if prog_id else "a program of someone else"

    @property
    def loaded(self) -> str:
        """When and by whom it was loaded, as far as that is known."""
        if self.age_seconds is None or self.uid is None:
            return ""
        return f"loaded {_span(self.age_seconds)} ago by {user(self.uid)}"

    @property
    def is_replaceable(self) -> bool:
        """Whether `--replace` may name it."""
        return bool(self.occupant.prog_id) and not self.occupant.owner

    @property
    def interrupts(self) -> bool:
        """Whether traffic notices that it is replaced: a device has one XDP program, in one mode."""
        return self.point.mode is not Mode.TC and self.occupant.mode is not self.point.mode


def stranger(point: AttachPoint, occupant: Occupant) -> Stranger:
    """What the kernel tells of a program that is on a hook."""
    found = _info(occupant.prog_id)
    if found is None:
        return Stranger(point, occupant)
    age = max(0, time.clock_gettime_ns(time.CLOCK_BOOTTIME) - found.load_time_ns) // 1_000_000_000
    return Stranger(point, occupant, found.name, found.created_by_uid, age)


def describe(found: Stranger, replace: Collection[Replace] = ()) -> Diagnostic:
    """The finding (A102) that a hook is taken by something that `replace` does not name."""
    point = found.point
    hook = "TC ingress" if point.mode is Mode.TC else "XDP"
    others = [str(prog_id) for device, prog_id in replace if device == point.device]
    mistaken = f"`--replace` names program {', '.join(others)} there"
    return Diagnostic(
        "A102",
        f"{hook} of device `{point.device}` is taken by {found.title}",
        notes=(
            f"attached as {found.occupant.how}",
            *([found.loaded] if found.loaded else []),
            *_kept_by(found.occupant.prog_id),
            *_price(found),
            *([mistaken] if others else []),
        ),
        help=_ways_on(found),
    )


def _ways_on(found: Stranger) -> str:
    if found.occupant.owner:
        return f"`bpfchain detach {found.occupant.owner.chain}` frees it; or give the chain another device or `mode`"
    free = "take it off with the tool that put it there"
    if not found.is_replaceable:
        return f"{free}, or give the chain another device or `mode`"
    return f"{free}, or have it replaced: `bpfchain apply {replace_option(found)}`"


def replace_option(found: Stranger) -> str:
    """The option of `apply` and `try` that takes its hook over."""
    return f"--replace {found.point.device}={found.occupant.prog_id}"


def _price(found: Stranger) -> Iterator[str]:
    """What traffic notices of a replacement."""
    if found.interrupts:
        yield f"replacing it interrupts traffic: it is {found.occupant.mode} XDP, and a device has one mode at a time"


def _kept_by(prog_id: int) -> Iterator[str]:
    """Who holds it now, as far as the kernel tells."""
    if _info(prog_id) is None:
        return
    paths = list(itertools.islice(pins_of(prog_id), _NAMED))
    if paths:
        yield f"pinned at {', '.join(paths)}"
    processes = list(itertools.islice(holders_of(prog_id), _NAMED))
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


def _span(seconds: int) -> str:
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
