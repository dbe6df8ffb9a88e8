"""Where compiling keeps what it would otherwise do again: objects, facts about compilers, parsed templates."""

from __future__ import annotations

import functools
import os
from pathlib import Path

from schemas.diagnostic import CompileFailed, Diagnostic
from schemas.trust import distrust, trusted_uids

_PRIVATE = 0o700


def cache_folder() -> Path:
    """BPFCHAIN_CACHE, else `bpfchain` in the user's cache folder, or where that cannot be, in the temporary one.

    What is in it is loaded into the kernel, so nobody else may write to it: raises `CompileFailed` (K105).
    """
    chosen = os.environ.get("BPFCHAIN_CACHE")
    return _private(Path(chosen)) if chosen else _default()


@functools.cache
def _default() -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "bpfchain"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=_PRIVATE, exist_ok=True)
        usable = os.access(folder, os.W_OK) and folder.stat().st_uid in trusted_uids()
    except OSError:
        usable = False
    return _private(folder if usable else _temporary())


def _temporary() -> Path:
    import tempfile

    return Path(tempfile.gettempdir()) / f"bpfchain-{os.getuid()}"


@functools.cache
def _private(folder: Path) -> Path:
    """The folder, made if need be; where it is ours, it is closed to everybody else."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=_PRIVATE, exist_ok=True)
    if folder.stat().st_uid == os.geteuid():
        folder.chmod(_PRIVATE)
    doubt = distrust(folder.stat())
    if doubt:
        message = f"the cache `{folder}` is not trusted: {doubt.reason}"
        help_text = "set BPFCHAIN_CACHE to a folder of your own"
        raise CompileFailed(Diagnostic("K105", message, help=help_text))
    return folder


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that no reader ever sees half of it."""
    import tempfile  # slow to import, and most commands find all that they need

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as temporary:
        temporary.write(content)
    os.replace(temporary.name, path)
