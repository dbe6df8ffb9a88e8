"""A state map that cannot stay in, its content in the map that comes after it out, entry by entry.

The new map is filled while nothing uses it yet. What the old generation learns after that is brought over by a second
sweep, once no packet is in the old programs any more. By then new programs work on the new map: nothing that they have
changed is overwritten.

A service says how in the function `migration(old: Table, new: Table) -> Migration | None` of its run-time side,
`runtime/services/KIND.py`; a third party's is an entry point of the group `bpfchain.control_planes`.
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from schemas.diagnostic import Diagnostic, LoadFailed
from schemas.manifest import Manifest, MapRecord

from . import sys
from .compare import same_entries
from .control import runtime_side
from .exchange import WordExchange
from .uapi import ElemFlag, MapType

Entries = Mapping[bytes, bytes]

_HASHES = frozenset(
    {
        "BPF_MAP_TYPE_HASH",
        "BPF_MAP_TYPE_LRU_HASH",
        "BPF_MAP_TYPE_PERCPU_HASH",
        "BPF_MAP_TYPE_LRU_PERCPU_HASH",
    }
)
"""Types whose entries can stand in a map of another size as they are."""


class Table(Struct, frozen=True):
    """A state map as a generation has it, and the names of its service's ports in their order."""

    record: MapRecord
    ports: tuple[str, ...]


class Moved(Struct, frozen=True):
    """The content of the new map; `left_out` counts what had to stay behind because there is no room for it."""

    entries: Entries
    left_out: int = 0


class Exchange(Protocol):
    """(element, byte offset, expected word, desired word) → whether the word was the expected one, and is exchanged."""

    def __call__(self, element: int, offset: int, expected: int, desired: int) -> bool: ...


class Migration(Struct, frozen=True):
    """How a service brings a map's entries into another layout, size, or order of its ports.

    `content`: the old map's entries → the new map's. `late`, for arrays: (the old map's entries then, the same now,
    what `content` made of them then, exchange) brings over what changed in between, word by word. Entries of hashes are
    brought over one by one, as `content` makes them now.
    """

    content: Callable[[Entries], Moved]
    late: Callable[[Entries, Entries, Entries, Exchange], None] | None = None


class Succession(Struct, frozen=True):
    """A state map that cannot stay, and the one that comes after it, each with the manifest that it is of."""

    running: Manifest
    old: MapRecord
    wanted: Manifest
    new: MapRecord

    def migration(self) -> Migration | None:
        """What the service says, where it says something, or else what its type allows."""
        kind = _kind(self.wanted, self.new)
        if kind is None or kind != _kind(self.running, self.old):
            return None
        find: Callable[[Table, Table], Migration | None] | None = getattr(runtime_side(kind), "migration", None)
        found = find(_table(self.running, self.old), _table(self.wanted, self.new)) if find else None
        if found is None and self.new.type in _HASHES and same_entries(self.old, self.new):
            return Migration(lambda entries: _as_they_are(entries, self.new))
        return found


class Migrated(Struct, frozen=True):
    """A map between its two sweeps: the old map's entries then, and what was made of them."""

    succession: Succession
    migration: Migration
    first: Entries
    moved: Moved

    def catch_up(self, old_fd: sys.Fd, new_fd: sys.Fd) -> None:
        """The second sweep: what the old generation changed after the first one, as far as the new one has not."""
        now = _content(self.succession.old, old_fd)
        if now == self.first:
            return
        if self.succession.new.type in _HASHES:
            _catch_up_entries(self, now, new_fd)
        elif self.migration.late:
            with WordExchange(new_fd, self.succession.new.value_size) as exchange:
                self.migration.late(self.first, now, self.moved.entries, exchange)


def migrate(succession: Succession, old_fd: sys.Fd, new_fd: sys.Fd) -> Migrated | None:
    """The first sweep: fills the new map; None where there is no way from the one to the other."""
    migration = succession.migration()
    if migration is None:
        return None
    first = _content(succession.old, old_fd)
    moved = migration.content(first)
    sys.map_update_batch(new_fd, list(moved.entries), list(moved.entries.values()))
    return Migrated(succession, migration, first, moved)


def no_room(migrated: Sequence[Migrated]) -> LoadFailed:
    """The refusal (A151) to leave entries behind."""
    notes = tuple(f"`{each.succession.new.name}`: {each.moved.left_out} entries" for each in migrated)
    help_text = "leave the sizes as they are, or apply with `--accept-state-loss`"
    message = "there is no room for everything that was learned"
    return LoadFailed(Diagnostic("A151", message, notes=notes, help=help_text))


def _kind(manifest: Manifest, record: MapRecord) -> str | None:
    return next((service.kind for service in manifest.services if service.name == record.service), None)


def _table(manifest: Manifest, record: MapRecord) -> Table:
    return Table(record, next(service.ports for service in manifest.services if service.name == record.service))


def _content(record: MapRecord, fd: sys.Fd) -> Entries:
    size = sys.user_value_size(MapType[record.type], record.value_size)
    return dict(sys.map_entries(fd, record.key_size, size))


def _as_they_are(entries: Entries, new: MapRecord) -> Moved:
    fitting = dict(itertools.islice(entries.items(), new.max_entries))
    return Moved(fitting, len(entries) - len(fitting))


def _catch_up_entries(migrated: Migrated, now: Entries, new_fd: sys.Fd) -> None:
    """An entry is written or deleted where the new map still has what the first sweep put there, or nothing."""
    new, placed = migrated.succession.new, migrated.moved.entries
    size = sys.user_value_size(MapType[new.type], new.value_size)
    wanted = migrated.migration.content(now).entries
    for key in placed.keys() | wanted.keys():
        then, later = placed.get(key), wanted.get(key)
        if then == later or sys.map_lookup_elem(new_fd, key, size) != then:
            continue
        if later is None:
            sys.map_delete_elem(new_fd, key)
        else:
            _update(new_fd, key, later, ElemFlag.BPF_NOEXIST if then is None else ElemFlag.BPF_EXIST)


_OVERTAKEN = (errno.EEXIST, errno.ENOENT, errno.E2BIG)
"""A program has added or deleted the entry in the last microsecond, or taken the last place."""


def _update(fd: sys.Fd, key: bytes, value: bytes, flag: ElemFlag) -> None:
    try:
        sys.map_update_elem(fd, key, value, flag)
    except sys.SyscallFailed as failure:
        if failure.errno not in _OVERTAKEN:
            raise
