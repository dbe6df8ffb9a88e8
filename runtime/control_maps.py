"""A service's maps for its control plane: entries as bytes, or as the fields of the struct that they are in C."""

from __future__ import annotations

import contextlib
import mmap
import re
import struct
from collections import namedtuple
from collections.abc import Iterable, Iterator
from typing import Any

from msgspec import Struct

from schemas.manifest import Manifest, MapRecord

from . import sys
from .uapi import ElemFlag, MapFlag, MapType

_FIELD = re.compile(r"(?:(\w+):)?([0-9]*[xcbB?hHiIqQs])")


class Layout(Struct, frozen=True):
    """A C struct: `Layout.of("Neighbour", "mac:6s 2x used:I")`, fields with the letters of `struct`, padding spelled.

    Numbers are in the host's order; what is on the wire in network order is best read as bytes (`4s`).
    """

    struct: struct.Struct
    fields: type[Any]

    @classmethod
    def of(cls, name: str, fields: str) -> Layout:
        parts = [_FIELD.fullmatch(part) for part in fields.split()]
        if not all(parts):
            raise ValueError(f"not a layout: {fields!r}")
        found = [(part[1], part[2]) for part in parts if part]
        names = [field for field, letters in found if not letters.endswith("x")]
        return cls(struct.Struct("<" + "".join(letters for _, letters in found)), namedtuple(name, names))

    @property
    def size(self) -> int:
        return self.struct.size

    def __call__(self, *values: Any, **named: Any) -> Any:
        """A value, a named tuple of the fields."""
        return self.fields(*values, **named)

    def pack(self, value: Any) -> bytes:
        return self.struct.pack(*value)

    def unpack(self, content: bytes | memoryview) -> Any:
        return self.fields._make(self.struct.unpack(content))


def service_map(manifest: Manifest, service: str, name: str) -> MapRecord:
    """A map of a service by its name without the service's (`fdb`). Raises LookupError where there is none."""
    for record in manifest.maps:
        if record.service == service and record.name.partition("__")[2] == name:
            return record
    raise LookupError(f"service `{service}` has no map `{name}`")


class ControlMap:
    """One map. With layouts, keys and values are named tuples; without, bytes. Of per-CPU maps, all CPUs' slots."""

    def __init__(self, fd: sys.Fd, record: MapRecord, key: Layout | None = None, value: Layout | None = None) -> None:
        """Takes `fd` over. Raises ValueError where a layout has not the size that the map has."""
        self.record = record
        self._fd = fd
        self._value_size = sys.user_value_size(MapType[record.type], record.value_size)
        self._key, self._value = key, value
        self._memory: tuple[mmap.mmap, memoryview] | None = None
        for layout, size, what in ((key, record.key_size, "key"), (value, record.value_size, "value")):
            if layout and layout.size != size:
                raise ValueError(f"map `{record.name}` has a {what} of {size} bytes, its layout has {layout.size}")

    def __getitem__(self, key: Any) -> Any:
        """The value. Raises KeyError where there is none."""
        found = self.get(key)
        if found is None:
            raise KeyError(key)
        return found

    def get(self, key: Any) -> Any:
        """The value, or None where there is none."""
        found = sys.map_lookup_elem(self._fd, self._packed_key(key), self._value_size)
        return None if found is None else self._unpacked(found)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.set(key, value)

    def set(self, key: Any, value: Any, flags: ElemFlag = ElemFlag.BPF_ANY) -> None:
        """Writes an entry. Raises `SyscallFailed`: EEXIST, ENOENT by `flags`, E2BIG where the map is full."""
        sys.map_update_elem(self._fd, self._packed_key(key), self._packed_value(value), flags)

    def delete(self, key: Any) -> bool:
        """Whether there was such an entry."""
        return sys.map_delete_elem(self._fd, self._packed_key(key))

    def take(self, key: Any) -> Any:
        """Takes an entry out of a hash map, as it was at that very moment; None where there is none."""
        found = sys.map_lookup_and_delete_elem(self._fd, self._packed_key(key), self._value_size)
        return None if found is None else self._unpacked(found)

    def set_many(self, entries: Iterable[tuple[Any, Any]]) -> None:
        """Writes entries, in batches where the map can do that."""
        pairs = [(self._packed_key(key), self._packed_value(value)) for key, value in entries]
        sys.map_update_batch(self._fd, [key for key, _ in pairs], [value for _, value in pairs])

    def delete_many(self, keys: Iterable[Any]) -> None:
        """Deletes entries, in batches where the map can do that; those that are not there are passed over."""
        sys.map_delete_batch(self._fd, [self._packed_key(key) for key in keys])

    def items(self) -> Iterator[tuple[Any, Any]]:
        """All entries. Every entry that is there all the while is met once or more, also when others come and go."""
        for key, value in sys.map_entries(self._fd, self.record.key_size, self._value_size):
            yield (self._key.unpack(key) if self._key else key), self._unpacked(value)

    def memory(self) -> memoryview:
        """The values of an array that has BPF_F_MMAPABLE, one after the other: read and written without a call.

        Each takes its size rounded up to 8 bytes. What programs write at the same time is seen as it changes.
        """
        if not self.record.flags & MapFlag.BPF_F_MMAPABLE:
            raise ValueError(f"map `{self.record.name}` is not one that can be mapped into memory")
        if self._memory is None:
            used = (self.record.value_size + 7) // 8 * 8 * self.record.max_entries
            size = -(-used // mmap.PAGESIZE) * mmap.PAGESIZE
            pages = mmap.mmap(self._fd.fileno(), size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
            self._memory = pages, memoryview(pages)[:used]
        return self._memory[1]

    def close(self) -> None:
        if self._memory:
            pages, view = self._memory
            view.release()
            with contextlib.suppress(BufferError):  # others have views of it: the pages go with the last of them
                pages.close()
            self._memory = None
        self._fd.close()

    def _packed_key(self, key: Any) -> bytes:
        packed: bytes = self._key.pack(key) if self._key else key
        if len(packed) != self.record.key_size:
            raise ValueError(f"map `{self.record.name}` has a key of {self.record.key_size} bytes, not {len(packed)}")
        return packed

    def _packed_value(self, value: Any) -> bytes:
        packed: bytes = self._value.pack(value) if self._value else value
        if len(packed) != self._value_size:
            raise ValueError(f"map `{self.record.name}` has a value of {self._value_size} bytes, not {len(packed)}")
        return packed

    def _unpacked(self, content: bytes) -> Any:
        return self._value.unpack(content) if self._value else content
