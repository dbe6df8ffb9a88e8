"""Two versions of one thing in, the reasons for its change out, as people read them in a plan."""

from __future__ import annotations

from collections.abc import Iterator

from schemas.manifest import (
    ConstantRecord,
    DeviceSlotRecord,
    EntryRecord,
    HostFact,
    HostSymbolRecord,
    InternalLinkRecord,
    Manifest,
    MapRecord,
    ProgramRecord,
)
from schemas.slow_path import INJECT_LINK

_SHOWN = 4  # of many constants of one program, so many are told


def brief(span: str) -> str:
    """`chains/edge.yaml:14:3` as `edge.yaml:14`."""
    parts = span.rsplit("/", 1)[-1].split(":")
    return ":".join(parts[:2])


def program_reasons(old: ProgramRecord, new: ProgramRecord, versions: str) -> Iterator[str]:
    """Why a program is another one than before."""
    reasons = list(_constants(old.constants, new.constants))
    yield from reasons[:_SHOWN]
    if len(reasons) > _SHOWN:
        yield f"and {len(reasons) - _SHOWN} more inlined constants"
    if versions:
        yield versions
    elif not reasons:
        yield f"its connections or its code are others, {brief(new.span)}"


def _constants(old: tuple[ConstantRecord, ...], new: tuple[ConstantRecord, ...]) -> Iterator[str]:
    """Values by path; a list has several of one path."""
    before, after = _by_path(old), _by_path(new)
    for path, found in after.items():
        values = [constant.value for constant in found]
        was = [constant.value for constant in before.get(path, [])]
        if values != was:
            change = f" {', '.join(was)} → {', '.join(values)}" if was else _told(path, values)
            yield f"{'' if was else 'new '}inlined constant `{path}`{change}, {brief(found[0].span)}"
    for path, found in before.items():
        if path not in after:
            yield f"no more inlined constant `{path}`{_told(path, [constant.value for constant in found])}"


def _told(path: str, values: list[str]) -> str:
    """The values; nothing where the path says them already (`guard.block.sources 198.51.100.0/24`)."""
    return "" if all(path.endswith(f" {value}") for value in values) else f" {', '.join(values)}"


def _by_path(constants: tuple[ConstantRecord, ...]) -> dict[str, list[ConstantRecord]]:
    found: dict[str, list[ConstantRecord]] = {}
    for constant in constants:
        same = found.setdefault(constant.path, [])
        if all(constant.value != other.value for other in same):
            same.append(constant)
    return found


def place_of(program: ProgramRecord) -> str:
    """Where a program stands in the chain."""
    what = f"{program.service}.{program.port}" if program.service else "frames of control planes"
    return f"{what}, {brief(program.span)}"


def link_reason(link: InternalLinkRecord) -> str:
    """What an internal link is for."""
    if link.name.startswith(INJECT_LINK):
        return "control planes send frames into the chain by it"
    return "floods into another service need a device"


def map_reason(record: MapRecord, old: MapRecord | None = None) -> str:
    """What a map is, or in what it is another one than `old`."""
    type_name = record.type.removeprefix("BPF_MAP_TYPE_").lower()
    if old is None:
        return f"{record.role}, {type_name} of {record.max_entries}, {brief(record.span)}"
    if old.type != record.type:
        return f"{old.type.removeprefix('BPF_MAP_TYPE_').lower()} → {type_name}, {brief(record.span)}"
    if old.max_entries != record.max_entries and old.layout == record.layout:
        return f"size {old.max_entries} → {record.max_entries}, {brief(record.span)}"
    if old.layout == record.layout and record.filled:
        same = old.filled == record.filled
        what = "a map that is filled together with it is made anew" if same else "what fills it is different"
        return f"{what}, {brief(record.span)}"
    if record.entries and {entry.path for entry in old.entries} != {entry.path for entry in record.entries}:
        return f"it counts other entries than before, {brief(record.span)}"
    return f"its entries have another meaning, {brief(record.span)}"


def map_reasons(record: MapRecord) -> tuple[str, ...]:
    """What a new map is, and whether it is empty when it is first used."""
    return (map_reason(record), *(["filled before it is used"] if record.filled else []))


def entry_reason(new: EntryRecord | None, old: EntryRecord | None) -> tuple[str, ...]:
    """Where an entry comes from, or came from."""
    if new is None:
        return (f"was at {brief(old.span)}",) if old else ()
    return (brief(new.span),)


def slot_reasons(name: str, old: Manifest, new: Manifest) -> Iterator[str]:
    """Slots of one prog array or devmap that lead elsewhere."""
    before, after = _slots(name, old), _slots(name, new)
    for index in sorted(before.keys() | after.keys()):
        was, now = before.get(index), after.get(index)
        if was != now:
            yield f"slot {index}: {was or 'empty'} → {now or 'empty'}"


def _slots(name: str, manifest: Manifest) -> dict[int, str]:
    tails = {slot.index: slot.program for slot in manifest.tail_slots if slot.map == name}
    return tails | {slot.index: _device_slot(slot) for slot in manifest.device_slots if slot.map == name}


def _device_slot(slot: DeviceSlotRecord) -> str:
    return f"{slot.device} by {slot.program}" if slot.program else slot.device


def fact_reasons(symbol: HostSymbolRecord, before: bytes | None, now: bytes) -> tuple[str, ...]:
    """What the host says otherwise than when the chain was applied."""
    of = f" of {symbol.device}" if symbol.device else ""
    was = f"{_fact(symbol.fact, before)} → " if before else ""
    return (f"{symbol.fact}{of}: {was}{_fact(symbol.fact, now)}",)


def _fact(fact: HostFact, value: bytes) -> str:
    return value.hex(":") if fact is HostFact.MAC else str(int.from_bytes(value, "little"))
