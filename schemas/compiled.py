"""A compiled chain as a directory: `manifest.json`, and `objects/SHA256.o` for each object that it lists.

The manifest names the digest of every object, and begins with its own. Whoever could write any of the files could have
programs loaded, so a directory is read only where that is root or the caller.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from .diagnostic import Diagnostic, LoadFailed
from .manifest import Manifest
from .manifest_json import MAX_BYTES, check_schema, from_data, parse, to_json
from .trust import distrust

MANIFEST_FILE = "manifest.json"
MAX_OBJECT_BYTES = 16 << 20
_DIGEST = "digest"
_SEAL = re.compile(rb'\{\n "digest": "([0-9a-f]{64})",\n')
_DIRECTORY_MODE, _FILE_MODE = 0o755, 0o644


class CompiledChain(Struct, frozen=True):
    """A manifest, and the bytes of every object that it lists by `ObjectRecord.file`."""

    manifest: Manifest
    objects: Mapping[str, bytes]


def object_file(content: bytes) -> str:
    """Where an object lies, relative to its manifest."""
    return f"objects/{hashlib.sha256(content).hexdigest()}.o"


def load(path: str | os.PathLike[str]) -> CompiledChain:
    """A compiled chain from its directory, or from the path of its manifest.

    Raises `LoadFailed`: M101 (a file cannot be read), M102 to M105 (the manifest), M106 and M108 (an object or the
    manifest is not the one that was compiled), M109 (others could have written it).
    """
    directory = Path(path)
    if directory.name == MANIFEST_FILE and not directory.is_dir():
        directory = directory.parent
    for folder in (directory, directory / "objects"):
        _require_trusted_folder(folder)
    manifest = _manifest(directory)
    objects = {record.file: _object(directory, record.file, record.sha256) for record in manifest.objects}
    return CompiledChain(manifest, objects)


def save(chain: CompiledChain, directory: str | os.PathLike[str]) -> None:
    """Writes a compiled chain; objects that are no longer listed are removed.

    A reader at any moment finds the old chain or the new one: objects are there before the manifest that names them,
    and leave after it.
    """
    root = Path(directory)
    root.parent.mkdir(parents=True, exist_ok=True)
    for folder in (root, root / "objects"):
        folder.mkdir(mode=_DIRECTORY_MODE, exist_ok=True)
    for file, content in chain.objects.items():
        if not _holds(root / file, content):
            _write(root / file, content)
    _write(root / MANIFEST_FILE, sealed(chain.manifest))
    for stale in set((root / "objects").glob("[0-9a-f]" * 64 + ".o")) - {root / file for file in chain.objects}:
        stale.unlink(missing_ok=True)


def sealed(manifest: Manifest) -> bytes:
    """The text of a manifest as a file: its JSON, with the SHA-256 of that JSON as the first key."""
    text = to_json(manifest).encode()
    return f'{{\n "{_DIGEST}": "{hashlib.sha256(text).hexdigest()}",\n'.encode() + text.removeprefix(b"{\n")


def _manifest(directory: Path) -> Manifest:
    """The manifest; what is wrong with it as such is said before that its digest differs."""
    path = directory / MANIFEST_FILE
    content = _read(path, MAX_BYTES)
    data = parse(content)
    if isinstance(data, dict):
        data.pop(_DIGEST, None)
    manifest = _from_data(data)
    seal = _SEAL.match(content)
    text = b"{\n" + content[seal.end() :] if seal else content
    found = hashlib.sha256(text).hexdigest()
    if not seal or seal[1].decode() != found:
        said = f"says SHA-256 {seal[1].decode()} of itself, and has {found}" if seal else "does not begin with a digest"
        message = f"manifest `{path}` is not the one that was compiled"
        raise LoadFailed(Diagnostic("M108", message, notes=(f"it {said}",), help="compile the chain again"))
    return manifest


def _from_data(data: Any) -> Manifest:
    """The records are stricter than the schema, and 0.15 s faster; the schema says better what is wrong."""
    try:
        return from_data(data)
    except LoadFailed:
        check_schema(data)
        raise


def _object(directory: Path, file: str, sha256: str) -> bytes:
    content = _read(directory / file, MAX_OBJECT_BYTES)
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        message = f"object `{directory / file}` is not the one that was compiled"
        notes = (f"the manifest says SHA-256 {sha256}", f"the file has {found}")
        raise LoadFailed(Diagnostic("M106", message, notes=notes, help="compile the chain again"))
    return content


def _read(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            _require_trusted(path, os.fstat(file.fileno()))
            content = file.read(limit + 1)
    except OSError as error:
        message = f"cannot read `{path}`: {error.strerror}"
        help_text = "a compiled chain is the directory that `bpfchain compile` writes"
        raise LoadFailed(Diagnostic("M101", message, help=help_text)) from error
    if len(content) > limit:
        raise LoadFailed(Diagnostic("M101", f"`{path}` is longer than {limit >> 20} MiB"))
    return content


def _require_trusted_folder(path: Path) -> None:
    """Whoever can write to a directory can put other files into the place of those that are there."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # what is missing is told when it is read
        _require_trusted(path, path.stat())


def _require_trusted(path: Path, found: os.stat_result) -> None:
    doubt = distrust(found)
    if doubt:
        message = f"`{path}` is not trusted: {doubt.reason}"
        notes = ("what it says would be loaded into the kernel",)
        raise LoadFailed(Diagnostic("M109", message, notes=notes, help=f"compile it again, or `{doubt.mend} {path}`"))


def _holds(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except OSError:
        return False


def _write(path: Path, content: bytes) -> None:
    """Puts a file in place in one step, so that no reader ever sees half of it."""
    import tempfile  # slow to import, and most commands write nothing

    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
        os.chmod(name, _FILE_MODE)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
