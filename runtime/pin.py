"""Where a running chain is found: the layout of bpffs, and the record of each generation in it.

    /sys/fs/bpf/bpfchain/CHAIN/trial                    what is being tried, and what to go back to (trial.py)
    /sys/fs/bpf/bpfchain/CHAIN/generation-3/            -unfinished is appended until every hook runs it
        record                                          what was applied (record.py): a frozen map (frozen.py)
        counted                                         what was counted before, in maps that are gone: another one
        programs/NAME    maps/NAME-LAYOUT    links/NAME

A generation pins everything that it uses, also what it took over from the one before it: what is pinned twice lives
until the second pin goes. So a generation is dropped by removing its directory, and nothing else knows what is shared.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from pathlib import Path

from msgspec import Struct

from .frozen import fresh, read_frozen, write_frozen
from .record import Counted, Record, counted_bytes, counted_in, record_bytes, record_in

_UNFINISHED = "-unfinished"
_GENERATION = re.compile(rf"generation-([0-9]{{1,9}})({_UNFINISHED})?")
_RECORD, _PENDING, _COUNTED = "record", "record-pending", "counted"


def pin_name(point: str) -> str:
    """A file for an attach point: names of internal links have dots, which bpffs does not take."""
    return point.replace(".", "__")


class GenerationPins(Struct, frozen=True):
    """The directory of one generation."""

    path: Path
    number: int
    finished: bool

    def program(self, name: str) -> Path:
        return self.path / "programs" / name

    def map(self, name: str, layout: str) -> Path:
        return self.path / "maps" / f"{name}-{layout}"

    def link(self, name: str) -> Path:
        return self.path / "links" / pin_name(name)

    def pinned(self, folder: str) -> tuple[Path, ...]:
        try:
            return tuple(sorted((self.path / folder).iterdir()))
        except FileNotFoundError:
            return ()

    def make(self) -> None:
        self.path.parent.mkdir(mode=0o700, exist_ok=True)
        self.path.mkdir(mode=0o700)
        for folder in ("programs", "maps", "links"):
            (self.path / folder).mkdir(mode=0o700)

    def write_record(self, record: Record, *, pending: bool = False) -> None:
        """Puts a record in place in one step; a pending one says what an update in place is about to make true."""
        self._write(_PENDING if pending else _RECORD, record_bytes(record))

    def read_record(self, *, pending: bool = False) -> Record | None:
        """The record, or None where there is none. Raises `LoadFailed` (A112)."""
        content = self._read(_PENDING if pending else _RECORD)
        return None if content is None else record_in(self.path, content)

    def write_counted(self, counted: Counted) -> None:
        """Puts what was counted before in place, in one step."""
        self._write(_COUNTED, counted_bytes(counted))

    def read_counted(self) -> Counted | None:
        """What was counted before, or None where nobody has said yet. Raises `LoadFailed` (A112)."""
        content = self._read(_COUNTED)
        return None if content is None else counted_in(self.path, content)

    def _write(self, name: str, content: bytes) -> None:
        write_frozen(self.path / name, content)

    def tidy(self) -> None:
        """Removes what was about to be put in place when somebody was interrupted."""
        for name in (_RECORD, _PENDING, _COUNTED):
            fresh(self.path / name).unlink(missing_ok=True)

    def _read(self, name: str) -> bytes | None:
        return read_frozen(self.path / name)

    def keep_pending(self) -> None:
        """The pending record becomes the record, in one step."""
        (self.path / _PENDING).rename(self.path / _RECORD)

    def forget_pending(self) -> None:
        (self.path / _PENDING).unlink(missing_ok=True)

    def finish(self) -> GenerationPins:
        """From now on this is the generation that runs."""
        final = self.path.with_name(f"generation-{self.number}")
        self.path.rename(final)
        return GenerationPins(final, self.number, finished=True)

    def remove(self) -> None:
        """Unpins everything; what nothing else holds is gone then. Half of it is no finished generation any more."""
        path = self.path.with_name(f"generation-{self.number}{_UNFINISHED}")
        if self.finished:
            self.path.rename(path)
        _remove_tree(path)


class ChainPins(Struct, frozen=True):
    """The directory of one chain."""

    path: Path

    @property
    def chain(self) -> str:
        return self.path.name

    def generations(self) -> tuple[GenerationPins, ...]:
        """All generations, finished or not, in their order."""
        found = []
        for path in self._paths():
            match = _GENERATION.fullmatch(path.name)
            if match:
                found.append(GenerationPins(path, int(match[1]), not match[2]))
        return tuple(sorted(found, key=lambda generation: (generation.number, generation.finished)))

    def _paths(self) -> tuple[Path, ...]:
        try:
            return tuple(self.path.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return ()

    def unfinished(self, number: int) -> GenerationPins:
        """Where generation `number` is built."""
        return GenerationPins(self.path / f"generation-{number}{_UNFINISHED}", number, finished=False)

    def finished(self, number: int) -> GenerationPins:
        """Where generation `number` is once it runs."""
        return GenerationPins(self.path / f"generation-{number}", number, finished=True)

    def remove_if_empty(self) -> None:
        try:
            self.path.rmdir()
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY):
                raise


def chain_pins(root: Path, chain: str) -> ChainPins:
    """The place of a chain, whether it runs or not."""
    return ChainPins(root / "bpfchain" / chain)


def chains(root: Path) -> tuple[str, ...]:
    """Names of all chains that have pins."""
    home = root / "bpfchain"
    try:
        return tuple(sorted(path.name for path in home.iterdir()))
    except (FileNotFoundError, NotADirectoryError):  # whoever takes the last chain away removes it
        return ()


def _remove_tree(path: Path) -> None:
    """Depth first; what is gone already is no error."""
    for folder, folders, files in os.walk(path, topdown=False):
        for name in files:
            Path(folder, name).unlink(missing_ok=True)
        for name in folders:
            with contextlib.suppress(FileNotFoundError):
                Path(folder, name).rmdir()
    with contextlib.suppress(FileNotFoundError):
        path.rmdir()
