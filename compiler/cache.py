"""Where compiling keeps what it would otherwise do again: objects, facts about compilers, parsed templates."""

from __future__ import annotations

import functools
import os
import tempfile
from pathlib import Path


def cache_folder() -> Path:
    """BPFCHAIN_CACHE, else `bpfchain` in the user's cache folder, or where that cannot be, in the temporary one."""
    chosen = os.environ.get("BPFCHAIN_CACHE")
    return Path(chosen) if chosen else _default()


@functools.cache
def _default() -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "bpfchain"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        writable = False
    else:
        writable = os.access(folder, os.W_OK)
    return folder if writable else Path(tempfile.gettempdir()) / f"bpfchain-{os.getuid()}"


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that no reader ever sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as temporary:
        temporary.write(content)
    os.replace(temporary.name, path)
