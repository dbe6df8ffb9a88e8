"""A compiled chain in, its programs and maps in the kernel out, filled and linked, attached to nothing."""

from __future__ import annotations

import socket
import struct
from contextlib import ExitStack
from dataclasses import dataclass

from runtime import features
from runtime import sys as kernel
from runtime.load import create_map, load_object
from runtime.object import read_object
from schemas.compiled import CompiledChain
from schemas.manifest import HostFact, Manifest, Role


@dataclass(slots=True)
class Generation:
    """Descriptors by the manifest's names."""

    programs: dict[str, kernel.Fd]
    maps: dict[str, kernel.Fd]
    _open: ExitStack

    def __enter__(self) -> Generation:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()


def prepare(compiled: CompiledChain) -> Generation:
    manifest = compiled.manifest
    with ExitStack() as stack:
        maps = {}
        for m in manifest.maps:
            maps[m.name] = stack.enter_context(
                create_map(
                    name=m.name,
                    type=m.type,
                    key_size=m.key_size,
                    value_size=m.value_size,
                    max_entries=m.max_entries,
                    flags=m.flags,
                )
            )
            if m.role is Role.CONFIG:
                for entry in m.entries:
                    kernel.map_update_elem(maps[m.name], entry.key, entry.value)
        programs: dict[str, kernel.Fd] = {}
        for content in compiled.objects.values():
            loaded = stack.enter_context(load_object(read_object(content), maps=maps, host_symbols=_facts(manifest)))
            programs.update(loaded.programs)
        for slot in manifest.tail_slots:
            kernel.map_update_elem(
                maps[slot.map], slot.index.to_bytes(4, "little"), programs[slot.program].fileno().to_bytes(4, "little")
            )
        for device in manifest.device_slots:
            kernel.map_update_elem(
                maps[device.map],
                device.index.to_bytes(4, "little"),
                struct.pack("<Ii", _ifindex(manifest, device.device), 0),
            )
        return Generation(programs, maps, stack.pop_all())


def _ifindex(manifest: Manifest, name: str) -> int:
    return socket.if_nametoindex(next(i.device for i in manifest.interfaces if i.name == name))


def _facts(manifest: Manifest) -> dict[str, bytes]:
    facts = {}
    for symbol in manifest.host_symbols:
        if symbol.fact is HostFact.IFINDEX:
            assert symbol.device
            facts[symbol.symbol] = _ifindex(manifest, symbol.device).to_bytes(4, "little")
        elif symbol.fact is HostFact.HZ:
            facts[symbol.symbol] = features.hz().to_bytes(4, "little")
        else:
            raise NotImplementedError(symbol.fact)
    return facts
