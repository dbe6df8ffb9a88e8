"""bpffs and the kernel in, what runs of a chain out: the only source of truth, read and never written here."""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TypeVar

from msgspec import Struct, field
from msgspec.structs import replace

from schemas.diagnostic import Diagnostic, LoadFailed
from schemas.manifest import Manifest, Mode

from . import attach, sys
from .attach import AttachPoint
from .devices import DeviceFinder, find_device
from .home import name_of
from .info import MapInfo, link_info, map_info, prog_by_id, prog_info
from .link import device_slot
from .pin import ChainPins, GenerationPins, chain_pins, chains
from .record import Counted, Record
from .trial import Trial, read_trial
from .veth import veth_pairs
from .whereabouts import Whereabouts, locate, moved

_ATTEMPTS = 10
_T = TypeVar("_T")


class LiveAttachment(Struct, frozen=True):
    """What runs at an attach point. `ifindex` is 0 if the device is gone; `link` is the pin, None without a link.

    `point` is what was asked for, `found` where its device is by now. `program` is where the program is pinned: to open
    one by its id takes CAP_SYS_ADMIN.
    """

    point: AttachPoint
    prog_id: int
    ifindex: int
    link: Path | None
    found: Whereabouts
    program: Path | None = None

    @property
    def at(self) -> AttachPoint | None:
        """The hook as it is called now, None where it is gone or cannot be entered."""
        return self.found.at

    @property
    def trouble(self) -> str:
        """What happened to the device, nothing if it is where it was."""
        return moved(self.point, self.ifindex, self.found)

    def open_program(self) -> sys.Fd:
        """The program, whose pin a kill may have taken away already."""
        return sys.obj_get(self.program) if self.program else prog_by_id(self.prog_id)


class LiveGeneration(Struct, frozen=True):
    """A generation as bpffs has it. `record` is None if it cannot be read, and `problem` says why then.

    `counted` is what was counted before its own maps; None until it is known.
    """

    pins: GenerationPins
    record: Record | None
    pending: Manifest | None
    programs: Mapping[str, int]
    maps: Mapping[str, MapInfo]
    problem: str = ""
    counted: Counted | None = None
    empty_slots: Mapping[str, str] = field(default_factory=dict)
    """Devices, by the chain's names, that have left a devmap, and the devmap: the kernel empties a slot when its device
    goes, also to another namespace, and does not fill it again when it comes back."""

    @property
    def number(self) -> int:
        return self.pins.number

    @property
    def home(self) -> str | None:
        """The network namespace that it was applied in, as it is entered from here."""
        return name_of(self.record.home) if self.record else None


class LiveChain(Struct, frozen=True):
    """Everything that there is of a chain: `current` is the newest finished generation, the rest are leftovers.

    `recorded` is a try whose record is there, `trial` the same as long as it is not over; `unreadable` says why one
    cannot be read.
    """

    chain: str
    generations: tuple[LiveGeneration, ...]
    attachments: tuple[LiveAttachment, ...]
    recorded: Trial | None = None
    unreadable: str = ""

    @property
    def current(self) -> LiveGeneration | None:
        return max((g for g in self.generations if g.pins.finished), key=lambda g: g.number, default=None)

    @property
    def leftovers(self) -> tuple[LiveGeneration, ...]:
        return tuple(generation for generation in self.generations if generation is not self.current)

    @property
    def trial(self) -> Trial | None:
        """What is being tried: over when it is kept, or a later generation runs, whoever is killed before the end."""
        tried = self.recorded
        if tried is None or tried.kept or any(g.pins.finished and g.number > tried.number for g in self.generations):
            return None
        return tried

    @property
    def abandoned(self) -> tuple[LiveGeneration, ...]:
        """Leftovers that nobody needs: not those of a try."""
        needed = {self.trial.number, self.trial.back} if self.trial else set()
        return tuple(generation for generation in self.leftovers if generation.number not in needed)

    @property
    def next_number(self) -> int:
        return max((generation.number for generation in self.generations), default=0) + 1

    def attachment(self, name: str) -> LiveAttachment | None:
        """What runs at the attach point of this name: the newest, if an interrupted apply left several."""
        return next((found for found in self.attachments if found.point.name == name), None)


def attach_points(manifest: Manifest, home: str | None = None) -> dict[str, tuple[AttachPoint, str]]:
    """Every hook that a chain needs, by name, with the program that belongs there, in the order of attaching.

    Internal links come first: what floods into one must find its far end at work.

    `home` is the namespace that the chain was applied in; None is that of the caller.
    """
    interfaces = {interface.name: interface for interface in manifest.interfaces}
    points = {}
    for link, pair in zip(manifest.internal_links, veth_pairs(manifest, home), strict=True):
        points[link.name] = (pair.attach_point, link.program)
    for record in manifest.attach:
        interface = interfaces[record.interface]
        point = AttachPoint(interface.name, interface.device, interface.netns or home, interface.mode)
        points[point.name] = (point, record.program)
    return points


def read(root: Path, chain: str, find: DeviceFinder = find_device) -> LiveChain | None:
    """What runs of a chain; None if nothing does."""
    pins = chain_pins(root, chain).generations()
    if not pins:
        return None
    generations = tuple(read_generation(generation) for generation in pins)
    pinned = {prog_id: found.pins.program(name) for found in generations for name, prog_id in found.programs.items()}
    attachments: dict[object, LiveAttachment] = {}
    for generation in reversed(generations):
        for found in _attachments(generation, pinned.keys(), find):
            found = replace(found, program=pinned[found.prog_id])
            attachments.setdefault((found.point.name, found.point.place, found.prog_id), found)
    recorded, unreadable = _recorded_trial(chain_pins(root, chain))
    return LiveChain(chain, generations, tuple(attachments.values()), recorded, unreadable)


def _recorded_trial(pins: ChainPins) -> tuple[Trial | None, str]:
    """The record of a try, and why it cannot be read: whoever takes the chain down need not know what it says."""
    try:
        return read_trial(pins), ""
    except LoadFailed as error:
        return None, error.diagnostics[0].message


def read_steadily(root: Path, chain: str) -> LiveChain | None:
    """The same, for whoever has not the lock."""
    return steadily(chain_pins(root, chain), lambda: read(root, chain))


def steadily(pins: ChainPins, look: Callable[[], _T]) -> _T:
    """What `look` finds of a chain. If generations came or went meanwhile, it looks once more."""
    for attempt in range(_ATTEMPTS):
        before = pins.generations()
        try:
            found = look()
        except OSError as error:
            if error.errno != errno.ENOENT or attempt == _ATTEMPTS - 1:
                raise
        else:
            if pins.generations() == before:
                break
    return found


def read_generation(pins: GenerationPins) -> LiveGeneration:
    """One generation, finished or not."""
    record = pending = counted = None
    problem = ""
    try:
        record = pins.read_record()
        waiting = pins.read_record(pending=True)
        pending = waiting.manifest if waiting else None
        counted = pins.read_counted()
    except LoadFailed as error:
        problem = error.diagnostics[0].message
    if record is None and not problem:
        problem = "it has no record: whoever built it was interrupted"
    programs = {path.name: _id_of(path) for path in pins.pinned("programs")}
    maps = {path.name.rpartition("-")[0]: _map_of(path) for path in pins.pinned("maps")}
    empty = _empty_slots(pins, record.manifest, maps) if record and pins.finished else {}
    return LiveGeneration(pins, record, pending, programs, maps, problem, counted, empty)


def _empty_slots(pins: GenerationPins, manifest: Manifest, maps: Mapping[str, MapInfo]) -> dict[str, str]:
    layouts = {record.name: record.layout for record in manifest.maps if record.name in maps}
    found: dict[str, str] = {}
    for name in dict.fromkeys(slot.map for slot in manifest.device_slots if slot.map in layouts):
        with sys.obj_get(pins.map(name, layouts[name])) as devmap:
            slots = [slot for slot in manifest.device_slots if slot.map == name]
            found |= {slot.device: name for slot in slots if not device_slot(devmap, slot.index)}
    return found


def _id_of(path: Path) -> int:
    with sys.obj_get(path) as fd:
        return prog_info(fd).id


def _map_of(path: Path) -> MapInfo:
    with sys.obj_get(path) as fd:
        return map_info(fd)


def _attachments(generation: LiveGeneration, ours: Collection[int], find: DeviceFinder) -> list[LiveAttachment]:
    """Hooks that a program of this chain (`ours`: their ids) is on; a link that runs another one is no longer ours."""
    if generation.record is None:
        return []
    found = []
    for point, _ in attach_points(generation.record.manifest, generation.home).values():
        path = generation.pins.link(point.name)
        attachment = _linked(point, path, find) if path.exists() else _linkless(point, ours, find)
        if attachment and attachment.prog_id in ours:
            found.append(attachment)
    return found


def _linked(point: AttachPoint, path: Path, find: DeviceFinder) -> LiveAttachment | None:
    try:
        with sys.obj_get(path) as fd:
            link = link_info(fd)
    except sys.SyscallFailed as failure:
        if failure.errno == errno.ENOENT:
            return None
        raise
    return LiveAttachment(point, link.prog_id, link.ifindex, path, locate(point, link.ifindex, link.prog_id, find))


def _linkless(point: AttachPoint, ours: Collection[int], find: DeviceFinder) -> LiveAttachment | None:
    """A program that the device itself holds: on kernels without links, and where it replaced somebody else's."""
    if point.mode is Mode.TC and attach.has_link(point.mode):
        return None
    device = find(point.device, point.netns)
    if device is None:
        return None
    for occupant in attach.occupants(point, device.ifindex):
        if occupant.prog_id in ours and not occupant.link_id and occupant.mode is point.mode:
            return LiveAttachment(point, occupant.prog_id, device.ifindex, None, Whereabouts(point, device.ifindex))
    return None


def not_running(chain: str, root: Path) -> LoadFailed:
    """The refusal (A109) to look for a chain that is not there."""
    running = ", ".join(f"`{name}`" for name in chains(root)) or "none"
    return LoadFailed(Diagnostic("A109", f"chain `{chain}` does not run here", notes=(f"running chains: {running}",)))
