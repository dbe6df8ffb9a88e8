"""The manifest that is wanted and what runs in, a `Plan` out: every difference, why it is one, and what it costs.

Pure: the same manifest, live state and host give the same plan, and nothing is touched to make it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from enum import StrEnum
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from schemas.diagnostic import Diagnostic, LoadFailed
from schemas.manifest import Manifest, MapRecord, ProgramRecord, Role

from .attach import AttachPoint
from .compare import contents, refilled, same_entries, same_shape, stays
from .host import Host, host_facts
from .reasons import (
    brief,
    entry_reason,
    fact_reasons,
    link_reason,
    map_reason,
    map_reasons,
    place_of,
    program_reasons,
    slot_reasons,
)
from .state import LiveAttachment, LiveChain, LiveGeneration, attach_points

if TYPE_CHECKING:
    from .foreign import Stranger


class Action(StrEnum):
    """What becomes of one thing."""

    ADD = "add"
    CHANGE = "change"
    REMOVE = "remove"


class Kind(StrEnum):
    """What it is that changes."""

    PROGRAM = "program"
    MAP = "map"
    ENTRY = "entry"
    CONTROL = "control plane"
    SLOTS = "slots"
    ATTACH = "attach point"
    VETH = "internal link"
    HOST = "host"
    LEFTOVER = "leftover"


class Effect(StrEnum):
    """What traffic notices."""

    IN_PLACE = "in place"
    SWAP = "atomic swap"
    INTERRUPTS = "interrupts"
    NONE = "no effect on traffic"


class Fate(StrEnum):
    """What becomes of what was learned or counted."""

    KEPT = "kept"
    CARRIED = "carried over"
    MIGRATED = "migrated"
    FILLED = "filled anew"  # its service writes it again, from the chain file and the host, before it is used
    REMOVED = "removed"  # with what it was for: nothing that the chain still does could have used it
    LOST = "lost"


class Way(StrEnum):
    """How a plan is carried out."""

    NOTHING = "nothing to do"
    IN_PLACE = "in place"
    GENERATION = "new generation"


class Change(Struct, frozen=True):
    """One difference. `reasons` are worded for people; `state` is set where there was something to keep or lose."""

    action: Action
    kind: Kind
    name: str
    reasons: tuple[str, ...]
    effect: Effect
    state: Fate | None = None


class Plan(Struct, frozen=True):
    """How to get from what runs to `manifest`. `running` and `following` are numbers of generations."""

    manifest: Manifest
    way: Way
    changes: tuple[Change, ...]
    running: int | None
    following: int
    kept: tuple[str, ...]
    facts: Mapping[str, bytes]
    taken: tuple[Stranger, ...] = ()
    """Programs of others on hooks that are to be taken anew: `apply` refuses them unless `--replace` names them."""

    def __bool__(self) -> bool:
        """Whether there is something to do."""
        return self.way is not Way.NOTHING or bool(self.changes)

    def __str__(self) -> str:
        from .plan_text import plan_text

        return plan_text(self)

    @property
    def lost(self) -> tuple[str, ...]:
        """Maps whose content will be lost."""
        return tuple(change.name for change in self.changes if change.state is Fate.LOST)

    def granting(self, replaced: Collection[tuple[str, int]]) -> Plan:
        """The same without the programs of others, as (device, program id), that are to be replaced."""
        left = [each for each in self.taken if (each.point.device, each.occupant.prog_id) not in replaced]
        return replace(self, taken=tuple(left))

    @property
    def interrupts(self) -> bool:
        return any(change.effect is Effect.INTERRUPTS for change in self.changes)


def make_plan(manifest: Manifest, live: LiveChain | None, host: Host) -> Plan:
    """Every difference between `manifest` and what runs, on a host as it is. Raises `LoadFailed` (A112)."""
    facts = host_facts(manifest, host)
    current = live.current if live else None
    if current and current.record is None:
        help_text = f"`bpfchain detach {manifest.chain}` removes the chain"
        raise LoadFailed(Diagnostic("A112", f"what runs cannot be compared: {current.problem}", help=help_text))
    if live is None or current is None or current.record is None:
        changes = tuple(_first(manifest)) + (_leftovers(live) if live else ())
        return Plan(manifest, Way.GENERATION, changes, None, live.next_number if live else 1, (), facts)
    running = current.record.manifest
    structural = (
        *_interfaces(manifest, running, live, current, host),
        *_veths(manifest, running, host),
        *_programs(manifest.programs, running.programs, _versions(running, manifest)),
        *_maps(manifest, running, current),
        *_slots(manifest, running, current),
        *_facts(manifest, running, current.record.facts, facts),
    )
    entries = tuple(_entries(manifest, [running, *([current.pending] if current.pending else [])]))
    entries += tuple(_control(manifest, running))
    way = Way.GENERATION if structural else Way.IN_PLACE if entries or current.pending else Way.NOTHING
    if structural:
        entries = tuple(replace(c, effect=Effect.SWAP) if c.kind is Kind.ENTRY else c for c in entries)
    kept = _kept(manifest, running, structural)
    changes = (*structural, *entries, *_interrupted(current), *_leftovers(live))
    return Plan(manifest, way, changes, current.number, live.next_number, kept, facts)


def _interrupted(current: LiveGeneration) -> Iterator[Change]:
    """An update in place that somebody did not come to the end of; what it wrote is known from its pending record."""
    if current.pending:
        reason = "an apply was interrupted while it wrote entries"
        yield Change(Action.CHANGE, Kind.LEFTOVER, "update in place", (reason,), Effect.IN_PLACE)


def _versions(running: Manifest, wanted: Manifest) -> str:
    return "" if running.version == wanted.version else f"compiled by {wanted.version}, before by {running.version}"


# --- nothing runs yet -----------------------------------------------------------------------------------------------


def _first(manifest: Manifest) -> Iterator[Change]:
    def added(kind: Kind, name: str, *reasons: str) -> Change:
        return Change(Action.ADD, kind, name, reasons, Effect.SWAP)

    for link in manifest.internal_links:
        yield added(Kind.VETH, link.name, link_reason(link))
    for record in manifest.maps:
        yield added(Kind.MAP, record.name, *map_reasons(record))
    for program in manifest.programs:
        yield added(Kind.PROGRAM, program.name, place_of(program))
    for point, receiver in attach_points(manifest).values():
        yield added(Kind.ATTACH, point.name, f"{point}: {receiver}")


def _leftovers(live: LiveChain) -> tuple[Change, ...]:
    reason = ("an interrupted apply or detach left it",)
    return tuple(
        Change(Action.REMOVE, Kind.LEFTOVER, found.pins.path.name, reason, Effect.NONE) for found in live.abandoned
    )


# --- where packets enter --------------------------------------------------------------------------------------------


def _interfaces(
    manifest: Manifest, running: Manifest, live: LiveChain, current: LiveGeneration, host: Host
) -> Iterator[Change]:
    wanted, before = attach_points(manifest), attach_points(running, current.home)
    for name, (point, program) in wanted.items():
        attached = live.attachment(name)
        if name not in before:
            yield Change(Action.ADD, Kind.ATTACH, name, (f"{point}: {program}",), Effect.SWAP)
        elif before[name][0].place != point.place:
            effect = Effect.INTERRUPTS if excludes(before[name][0], point) else Effect.SWAP
            yield Change(Action.CHANGE, Kind.ATTACH, name, (f"{before[name][0]} → {point}",), effect)
        elif reason := _broken(attached, current.programs.get(before[name][1]), _ifindex(host, manifest, name)):
            yield Change(Action.CHANGE, Kind.ATTACH, name, (reason,), Effect.SWAP)
        elif before[name][1] != program:
            yield Change(Action.CHANGE, Kind.ATTACH, name, (f"{before[name][1]} → {program}",), Effect.SWAP)
    for name in (name for name in before if name not in wanted):
        yield Change(Action.REMOVE, Kind.ATTACH, name, (f"{before[name][0]}",), Effect.SWAP)


def excludes(before: AttachPoint, wanted: AttachPoint) -> bool:
    """Whether the old attachment has to go before the new one can come: one device has one XDP program."""
    same_device = before.place[:2] == wanted.place[:2]
    return same_device and before.mode.hook is wanted.mode.hook


def _ifindex(host: Host, manifest: Manifest, name: str) -> int | None:
    """The device's present ifindex; None where that says nothing (internal links: their far end is not looked at)."""
    if all(interface.name != name for interface in manifest.interfaces):
        return None
    device = host.devices.get(name)
    return device.ifindex if device else 0


def _broken(attached: LiveAttachment | None, program_id: int | None, ifindex: int | None) -> str:
    """What is wrong with an attachment that should be there, or nothing."""
    if attached is None:
        return "nothing is attached there any more"
    if attached.ifindex == 0:
        return f"the device was removed; {'it is back' if ifindex else 'it is still missing'}"
    if attached.trouble:
        return attached.trouble
    if ifindex and attached.ifindex != ifindex:
        return f"the device was made anew: ifindex {attached.ifindex} → {ifindex}"
    if attached.prog_id != program_id:
        return "another generation's program is there: an apply was interrupted"
    return ""


def _veths(manifest: Manifest, running: Manifest, host: Host) -> Iterator[Change]:
    wanted = {link.name: link for link in manifest.internal_links}
    before = {link.name: link for link in running.internal_links}
    for name in wanted:
        if name not in before:
            yield Change(Action.ADD, Kind.VETH, name, (link_reason(wanted[name]),), Effect.SWAP)
        elif name not in host.devices:
            yield Change(Action.CHANGE, Kind.VETH, name, ("its veth pair is gone",), Effect.SWAP)
    for name in (name for name in before if name not in wanted):
        yield Change(Action.REMOVE, Kind.VETH, name, ("nothing is sent through it any more",), Effect.SWAP)


# --- programs and maps ----------------------------------------------------------------------------------------------


def _programs(wanted: Sequence[ProgramRecord], running: Sequence[ProgramRecord], versions: str) -> Iterator[Change]:
    before = {program.name: program for program in running}
    for program in wanted:
        old = before.pop(program.name, None)
        if old is None:
            yield Change(Action.ADD, Kind.PROGRAM, program.name, (place_of(program),), Effect.SWAP)
        elif _code(old) != _code(program):
            reasons = tuple(program_reasons(old, program, versions))
            yield Change(Action.CHANGE, Kind.PROGRAM, program.name, reasons, Effect.SWAP)
    for program in before.values():
        reason = "no packet can arrive there any more"
        yield Change(Action.REMOVE, Kind.PROGRAM, program.name, (reason,), Effect.SWAP)


def _code(program: ProgramRecord) -> object:
    """What runs: the object, and what the loader writes into its instructions."""
    return program.object, program.function, program.hook, program.values


def _maps(manifest: Manifest, running: Manifest, current: LiveGeneration) -> Iterator[Change]:
    """Maps that cannot stay; entries of those that can are the business of `_entries`."""
    before = {record.name: record for record in running.maps}
    anew = refilled(manifest, running, current.maps)
    for record in manifest.maps:
        old = before.pop(record.name, None)
        if old is None:
            yield Change(Action.ADD, Kind.MAP, record.name, map_reasons(record), Effect.SWAP)
        elif record.filled and record.service in anew:
            reason = map_reason(record, old) if record.name in current.maps else "its pin is gone"
            yield Change(Action.CHANGE, Kind.MAP, record.name, (reason,), Effect.SWAP, Fate.FILLED)
        elif record.name not in current.maps:
            fate = Fate.LOST if record.role in (Role.STATE, Role.COUNTERS) or record.counts else None
            yield Change(Action.CHANGE, Kind.MAP, record.name, ("its pin is gone",), Effect.SWAP, fate)
        elif not same_shape(old, record) or old.role is not record.role or _labels(old) != _labels(record):
            reasons = (map_reason(record, old),)
            yield Change(
                Action.CHANGE, Kind.MAP, record.name, reasons, Effect.SWAP, _fate(running, old, manifest, record)
            )
    kinds = {service.name: service.kind for service in running.services}
    stay = {service.name for service in manifest.services if kinds.get(service.name) == service.kind}
    for old in before.values():
        reasons = ("no program uses it any more",)
        yield Change(Action.REMOVE, Kind.MAP, old.name, reasons, Effect.SWAP, _fate_of_removed(old, stay))


def _labels(record: MapRecord) -> object:
    return contents(record) if record.role is Role.COUNTERS else None


def _fate(running: Manifest, old: MapRecord, wanted: Manifest, new: MapRecord) -> Fate | None:
    """What becomes of the content of a map that is made anew. Counts go on under their names, wherever they lie."""
    if old.role is Role.STATE:
        from .migrate import Succession  # rarely needed

        migrates = new.role is Role.STATE and Succession(running, old, wanted, new).migration()
        return Fate.MIGRATED if migrates else Fate.LOST
    return Fate.CARRIED if old.counts or old.role is Role.COUNTERS else None


def _fate_of_removed(old: MapRecord, services_that_stay: Set[str]) -> Fate | None:
    """State of a service that goes may be missed (was it only renamed?); that of a feature that goes may not."""
    if old.role is Role.STATE and old.service not in services_that_stay:
        return Fate.LOST
    return Fate.REMOVED if old.counts or old.role in (Role.STATE, Role.COUNTERS) else None


def _kept(manifest: Manifest, running: Manifest, structural: Sequence[Change]) -> tuple[str, ...]:
    """Maps with learned or counted content that go on as they are."""
    changed = {change.name for change in structural if change.kind is Kind.MAP}
    before = {record.name: record for record in running.maps}
    return tuple(
        record.name
        for record in manifest.maps
        if record.role in (Role.STATE, Role.COUNTERS)
        and record.name not in changed
        and stays(before[record.name], record)
    )


def _entries(manifest: Manifest, running: Sequence[Manifest]) -> Iterator[Change]:
    """Entries of configured maps; where an update was interrupted, against both what was and what was to be."""
    for record in manifest.maps:
        if record.role is not Role.CONFIG:
            continue
        wanted = {entry.key: entry for entry in record.entries}
        for old in _same_map(record, running[:1]):
            before = {entry.key: entry for entry in old.entries}
            for key in dict.fromkeys((*wanted, *before)):
                new_entry, old_entry = wanted.get(key), before.get(key)
                if new_entry and old_entry and new_entry.value == old_entry.value:
                    continue
                entry = new_entry or old_entry
                assert entry is not None
                action = Action.CHANGE if new_entry and old_entry else Action.ADD if new_entry else Action.REMOVE
                name = f"{record.name}[{entry.path}]"
                yield Change(action, Kind.ENTRY, name, entry_reason(new_entry, old_entry), Effect.IN_PLACE)


def _control(manifest: Manifest, running: Manifest) -> Iterator[Change]:
    """Control planes that are told other things than before."""
    before = {service.name: service.control for service in running.services}
    for service in manifest.services:
        if service.control is not None and before.get(service.name, service.control) != service.control:
            reason = f"its configuration is another one, {brief(service.span)}"
            yield Change(Action.CHANGE, Kind.CONTROL, service.name, (reason,), Effect.IN_PLACE)


def _same_map(record: MapRecord, manifests: Sequence[Manifest]) -> Iterator[MapRecord]:
    for manifest in manifests:
        yield from (old for old in manifest.maps if old.name == record.name and same_entries(old, record))


def entry_updates(record: MapRecord, running: Sequence[Manifest]) -> tuple[dict[bytes, bytes], set[bytes]]:
    """(entries to write, keys to delete) that bring a running map to `record`, from whichever of `running` it has.

    What every one of them has the same is not written: programs may count in it.
    """
    wanted = {entry.key: entry.value for entry in record.entries}
    befores = [{entry.key: entry.value for entry in old.entries} for old in _same_map(record, running)]
    writes = {key: value for key, value in wanted.items() if any(b.get(key) != value for b in befores)}
    return writes, {key for before in befores for key in before} - wanted.keys()


# --- what links them ------------------------------------------------------------------------------------------------


def _slots(manifest: Manifest, running: Manifest, current: LiveGeneration) -> Iterator[Change]:
    names = [*(slot.map for slot in manifest.tail_slots), *(slot.map for slot in manifest.device_slots)]
    for name in dict.fromkeys(names):
        reasons = (*slot_reasons(name, running, manifest), *_left(name, current))
        if reasons and any(record.name == name for record in running.maps):
            yield Change(Action.CHANGE, Kind.SLOTS, name, reasons, Effect.SWAP)


def _left(name: str, current: LiveGeneration) -> Iterator[str]:
    for device, devmap in current.empty_slots.items():
        if devmap == name:
            yield f"`{device}` has left it: its device was removed or moved"


def _facts(
    manifest: Manifest, running: Manifest, before: Mapping[str, bytes], now: Mapping[str, bytes]
) -> Iterator[Change]:
    known = {symbol.symbol for symbol in running.host_symbols}
    for symbol in manifest.host_symbols:
        value = now.get(symbol.symbol)
        if symbol.symbol in known and value is not None and value != before.get(symbol.symbol):
            reasons = fact_reasons(symbol, before.get(symbol.symbol), value)
            yield Change(Action.CHANGE, Kind.HOST, symbol.symbol, reasons, Effect.SWAP)
