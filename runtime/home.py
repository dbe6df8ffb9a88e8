"""The network namespace that a chain was applied in, told by number, so that it is found again from another one."""

from __future__ import annotations

import os
from pathlib import Path

from .netns import NETNS_DIRECTORY


def here() -> int:
    """The inode number of the calling thread's network namespace."""
    return os.stat("/proc/thread-self/ns/net").st_ino


def name_of(inode: int) -> str | None:
    """How to enter a network namespace from here: None if we are in it, its name, or `net:[INODE]`, which no name is.

    The last one is a namespace that has gone, or that has no name (a container's): nothing in it can be reached.
    """
    if inode == here():
        return None
    for path in sorted(NETNS_DIRECTORY.glob("*")):
        if _inode(path) == inode:
            return path.name
    return f"net:[{inode}]"


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except FileNotFoundError:  # removed while we look
        return 0


def is_reachable(netns: str | None) -> bool:
    """Whether the namespace can be entered."""
    return netns is None or (NETNS_DIRECTORY / netns).exists()
