"""What is installed here: the version of bpfchain, and whether other distributions bring services.

importlib.metadata knows, and takes longer to import than a chain to lower. So what it said is kept for as long as no
folder that Python imports from changes: installing, updating and removing a distribution do change one.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import sys

from msgspec import Struct
from msgspec.structs import asdict

from .cache import cache_folder, write_whole

ENTRY_POINT_GROUP = "bpfchain.services"


class Installed(Struct, frozen=True):
    """`services`: whether the group `bpfchain.services` has entry points."""

    version: str
    services: bool


@functools.cache
def installed() -> Installed:
    """What is installed where this process imports from."""
    kept = cache_folder() / "installed" / _digest()
    with contextlib.suppress(OSError, ValueError, TypeError):  # not there yet, or not whole
        return Installed(**json.loads(kept.read_bytes()))
    found = _look()
    with contextlib.suppress(OSError):  # a cache that cannot be written is none
        write_whole(kept, json.dumps(asdict(found)).encode())
    return found


def _digest() -> str:
    """Of the folders that Python imports from, as they are now, and of the Python."""
    folders = [(os.path.abspath(folder), _changed(folder or ".")) for folder in sys.path]
    return hashlib.sha256(repr((sys.version, folders)).encode()).hexdigest()


def _changed(folder: str) -> int | None:
    """When something in it was made or removed, in ns; None where it is not there."""
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return None


def _look() -> Installed:
    from importlib.metadata import PackageNotFoundError, entry_points, version

    try:
        found = version("bpfchain")
    except PackageNotFoundError:
        found = "0+source"
    return Installed(found, bool(entry_points(group=ENTRY_POINT_GROUP)))
