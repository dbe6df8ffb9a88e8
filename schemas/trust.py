"""What the system says of a file or directory in, who beside root and the caller could have written it out.

What is loaded into the kernel is decided by whoever can write it, so that must be somebody who may do that anyway.
"""

from __future__ import annotations

import os
import pwd
import stat

from msgspec import Struct

ROOT = 0
_GROUP_OR_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class Distrust(Struct, frozen=True):
    """Why a file is not trusted, and the command that mends it when the file's name is appended."""

    reason: str
    mend: str


def distrust(found: os.stat_result) -> Distrust | None:
    """What speaks against a file: it belongs to a stranger, or others than its owner can write to it."""
    if found.st_uid not in trusted_uids():
        owner = user(found.st_uid)
        return Distrust(f"it belongs to {owner}, who is neither root nor the caller", f"chown {os.geteuid()}")
    if found.st_mode & _GROUP_OR_OTHERS:
        mode = stat.S_IMODE(found.st_mode)
        return Distrust(f"others than its owner can write to it (mode {mode:04o})", "chmod go-w")
    return None


def trusted_uids() -> frozenset[int]:
    """Root, the caller, and who called sudo: that user's word is why this runs as root at all."""
    caller = os.geteuid()
    behind_sudo = os.environ.get("SUDO_UID", "") if caller == ROOT else ""
    return frozenset({ROOT, caller, *([int(behind_sudo)] if behind_sudo.isdecimal() else [])})


def user(uid: int) -> str:
    """`user NAME`, or the number where it has no name."""
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"
