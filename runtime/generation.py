"""A compiled chain and the host's facts in, a generation in the kernel out: loaded and linked, attached nowhere."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from msgspec import Struct, field

from schemas.compiled import CompiledChain
from schemas.diagnostic import Diagnostic, LoadFailed
from schemas.manifest import Manifest, MapRecord, ObjectRecord, ProgramRecord, Role
from schemas.threads import in_threads

from . import link, sys
from .compare import refilled, stays
from .devices import Device
from .host import Host, host_facts, look
from .load import OnVerified, create_map, load_object
from .object import read_object
from .pin import GenerationPins
from .spec import ObjectSpec

if TYPE_CHECKING:
    from .migrate import Migrated


class Generation(Struct):
    """Maps and programs by name, for as long as this is open; `kept` are the maps taken over from a running one."""

    manifest: Manifest
    facts: Mapping[str, bytes]
    devices: Mapping[str, Device]
    maps: dict[str, sys.Fd] = field(default_factory=dict)
    programs: dict[str, sys.Fd] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)
    migrated: list[Migrated] = field(default_factory=list)

    def close(self) -> None:
        for fd in (*self.programs.values(), *self.maps.values()):
            fd.close()

    def __enter__(self) -> Generation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Predecessor(Struct, frozen=True):
    """The generation that runs: where its maps are pinned, what they mean, and which of them are still there."""

    pins: GenerationPins
    manifest: Manifest
    pinned: frozenset[str]

    def map(self, name: str) -> MapRecord | None:
        return next((found for found in self.manifest.maps if found.name == name and name in self.pinned), None)

    def open(self, record: MapRecord) -> sys.Fd:
        return sys.obj_get(self.pins.map(record.name, record.layout))


def prepare(
    chain: CompiledChain,
    host: Host | None = None,
    before: Predecessor | None = None,
    *,
    log_directory: Path | None = None,
) -> Generation:
    """Makes or takes over every map, loads every program, fills every slot.

    The devices of interfaces and internal links must exist. Raises `LoadFailed`, `VerifierRejected`, `NotSupported`;
    nothing is left then.
    """
    manifest = chain.manifest
    found = host or look(manifest)
    generation = Generation(manifest, host_facts(manifest, found), found.devices)
    with contextlib.ExitStack() as on_failure:
        on_failure.callback(generation.close)
        make_maps(generation, before)
        fill_maps(generation)
        load_programs(generation, chain.objects, log_directory)
        link.fill(manifest, generation.maps, generation.programs, generation.devices)
        on_failure.pop_all()
    return generation


def make_maps(generation: Generation, before: Predecessor | None) -> None:
    """Every map of the manifest: the running one where it can stay, otherwise a new one, whose counters begin at 0."""
    anew = refilled(generation.manifest, before.manifest, before.pinned) if before else frozenset()
    for record in generation.manifest.maps:
        running = before.map(record.name) if before else None
        if before and running and stays(running, record) and not (record.filled and record.service in anew):
            generation.maps[record.name] = before.open(running)
            generation.kept.add(record.name)
        else:
            generation.maps[record.name] = _new_map(record)
            if record.role is Role.CONFIG:
                entries = {entry.key: entry.value for entry in record.entries}
                sys.map_update_batch(generation.maps[record.name], list(entries), list(entries.values()))
            elif before and running and not record.filled and record.role is Role.STATE is running.role:
                _migrate(generation, before, running, record)


def fill_maps(generation: Generation) -> None:
    """Fills those that services fill, unless they are taken over. Raises `LoadFailed` (A152), OSError."""
    if any(record.filled and record.name not in generation.kept for record in generation.manifest.maps):
        from .filling import fill  # rarely needed

        fill(generation.manifest, generation.maps, generation.kept)


def _migrate(generation: Generation, before: Predecessor, old: MapRecord, new: MapRecord) -> None:
    from .migrate import Succession, migrate  # rarely needed

    with before.open(old) as fd:
        migrated = migrate(Succession(before.manifest, old, generation.manifest, new), fd, generation.maps[new.name])
    if migrated:
        generation.migrated.append(migrated)


def _new_map(record: MapRecord) -> sys.Fd:
    return create_map(
        name=record.name,
        type=record.type,
        key_size=record.key_size,
        value_size=record.value_size,
        max_entries=record.max_entries,
        flags=record.flags,
    )


def load_programs(
    generation: Generation,
    objects: Mapping[str, bytes],
    log_directory: Path | None = None,
    on_verified: OnVerified | None = None,
) -> None:
    """Loads every object, and keeps the programs that the manifest names.

    Several at a time: the verifier takes half of the time, and runs outside of the interpreter's lock.
    """

    def load(record: ObjectRecord) -> Mapping[str, sys.Fd]:
        return _load(generation, record, objects[record.file], log_directory, on_verified)

    largest_first = sorted(generation.manifest.objects, key=lambda record: -len(objects[record.file]))
    loads = in_threads(load, largest_first)
    for loaded in loads:
        if not isinstance(loaded, BaseException):
            generation.programs.update(loaded)
    for failed in loads:
        if isinstance(failed, BaseException):
            raise failed


def _values(generation: Generation, programs: Sequence[ProgramRecord]) -> Mapping[str, int]:
    """What the programs of one object get for the symbols that they load: facts of the host, and the manifest's values.

    Facts of a device that is missing are left out; the loader says which it would need.
    """
    facts = {symbol: int.from_bytes(fact, "little") for symbol, fact in generation.facts.items()}
    return facts | {value.symbol: value.value for program in programs for value in program.values}


def _require_places(spec: ObjectSpec, programs: Sequence[ProgramRecord]) -> None:
    """Raises `LoadFailed` (M110) where the manifest has a value that would go nowhere: then the object is another's."""
    loaded = {reference.symbol for program in spec.programs for reference in program.values}
    for program in programs:
        for value in program.values:
            if value.symbol not in loaded:
                message = f"no instruction of program `{program.name}` loads `{value.symbol}`, which has a value"
                raise LoadFailed(Diagnostic("M110", message, help="compile the chain again"))


def object_spec(manifest: Manifest, record: ObjectRecord, content: bytes) -> ObjectSpec:
    """What an object is, under the name of its first program. Raises `LoadFailed` (L101 to L106)."""
    programs = [program.name for program in manifest.programs if program.object == record.file]
    return read_object(content, programs[0] if programs else record.file)


def _load(
    generation: Generation,
    record: ObjectRecord,
    content: bytes,
    log_directory: Path | None,
    on_verified: OnVerified | None,
) -> Mapping[str, sys.Fd]:
    """The programs of one object, by the manifest's names."""
    programs = [program for program in generation.manifest.programs if program.object == record.file]
    spec = object_spec(generation.manifest, record, content)
    _require_places(spec, programs)
    loaded = load_object(
        spec,
        maps=generation.maps,
        values=_values(generation, programs),
        records={program.function: program for program in programs},
        log_directory=log_directory,
        on_verified=on_verified,
    )
    with contextlib.ExitStack() as dropped:
        for fd in loaded.data.values():  # the programs hold them
            dropped.enter_context(fd)
        found = dict(loaded.programs)
        kept = {program.name: found.pop(program.function) for program in programs if program.function in found}
        for fd in found.values():
            dropped.enter_context(fd)
        missing = next((program for program in programs if program.name not in kept), None)
        if missing:
            for fd in kept.values():
                dropped.enter_context(fd)
            message = f"object `{record.file}` has no function `{missing.function}`"
            raise LoadFailed(Diagnostic("M107", message, help="compile the chain again"))
    return kept
