"""The words of a unit in, a digest of all that can make a difference to its code out: same essence, same object.

So an object that is there already is found without writing any C. Left out are places in the chain file and remarks,
which only get into comments. What turns words into C is this program itself: its files are part of every essence.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
import pickle
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from schemas.diagnostic import Span

from .emit import CUnit
from .templates import Remark

_COMPILER = Path(__file__).parent
_PROTOCOL = 5


def essence(unit: CUnit) -> bytes | None:
    """None for a service of another distribution, as nothing is known of the code that its templates may call."""
    if not all(folder.is_relative_to(_COMPILER) for folder in unit.headers):
        return None
    content = io.BytesIO(_tool())
    content.seek(0, io.SEEK_END)
    _Pickler(content).dump((unit.template, unit.headers, unit.words))
    return hashlib.sha256(content.getbuffer()).digest()


class _Pickler(pickle.Pickler):
    """Writes values whole, but for what does not matter. Equal values that are not one object are written alike."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, _PROTOCOL)
        self.fast = True

    def reducer_override(self, value: Any) -> Any:
        return (type(value), ()) if isinstance(value, Span | Remark) else NotImplemented


@functools.cache
def _tool() -> bytes:
    """A digest of the files of the compiler, headers and templates among them, and of jinja2's, as they are now."""
    jinja = find_spec("jinja2")
    files = (*sorted(_files(_COMPILER)), _state(jinja.origin) if jinja and jinja.origin else None)
    return hashlib.sha256(repr(files).encode()).digest()


def _files(folder: str | os.PathLike[str]) -> Iterator[tuple[str, int, int]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _files(entry.path) if entry.name != "__pycache__" else ()
            else:
                yield _state(entry.path)


def _state(file: str) -> tuple[str, int, int]:
    found = os.stat(file)
    return file, found.st_size, found.st_mtime_ns
