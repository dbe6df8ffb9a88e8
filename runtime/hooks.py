"""A loaded generation and what runs now in, the steps that put the one in the place of the other out, hook by hook."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING

from msgspec import Struct, field

from schemas.diagnostic import Diagnostic, LoadFailed
from schemas.manifest import Manifest, Mode

from . import attach, sys
from .attach import AttachPoint, Occupant, Owner
from .devices import find_device, require_device
from .info import link_info, prog_info
from .pin import GenerationPins
from .plan import excludes
from .standby import stood_in
from .state import LiveAttachment, LiveChain, attach_points
from .steps import Step
from .takeover import Takeover, mode_change

if TYPE_CHECKING:
    from .foreign import Replace, Stranger
    from .generation import Generation


class Hooks(Struct):
    """The hooks of one chain while a new generation takes them over."""

    chain: str
    live: LiveChain | None
    points: Mapping[str, tuple[AttachPoint, str]]
    opened: contextlib.ExitStack
    replace: Collection[Replace] = ()
    foreign: dict[str, tuple[Occupant, ...]] = field(default_factory=dict)
    made: dict[str, sys.Fd | None] = field(default_factory=dict)
    evicted: list[LiveAttachment] = field(default_factory=list)

    def check_free(self) -> None:
        """Looks at every hook that is to be taken anew, and keeps in mind which foreign programs are to be replaced.

        Raises `LoadFailed` that names all others (A102), and devices in `replace` that the chain does not have (A113).
        """
        from .foreign import describe, stranger

        found = []
        for point, _ in self.points.values():
            others = self._others(point)
            refused = [each for each in others if not each.prog_id or (point.device, each.prog_id) not in self.replace]
            found += [describe(stranger(point, each), self.replace) for each in refused]
            self.foreign[point.name] = others
        found += self._unknown_devices()
        if found:
            raise LoadFailed(*found)

    def _others(self, point: AttachPoint) -> tuple[Occupant, ...]:
        """What of somebody else is on a hook that is to be taken anew."""
        if self.attached(point) or self._excluded(point):
            return ()
        return tuple(each for each in attach.occupants(point, _ifindex(point)) if not self._is_ours(each))

    def strangers(self) -> Iterator[Stranger]:
        """Who would be in the way of taking the hooks now; hooks whose devices are yet to be made are free."""
        from .foreign import stranger

        for point, _ in self.points.values():
            if find_device(point.device, point.netns):
                yield from (stranger(point, each) for each in self._others(point))

    def leave_out_taken(self) -> None:
        """Does without hooks that somebody else is on."""
        self.points = {name: found for name, found in self.points.items() if not self._others(found[0])}

    def _is_ours(self, found: Occupant) -> bool:
        return found.owner is not None and found.owner.chain == self.chain

    def _unknown_devices(self) -> Iterator[Diagnostic]:
        devices = {point.device for point, _ in self.points.values()}
        for device, prog_id in self.replace:
            if device not in devices:
                message = f"`--replace {device}={prog_id}`: the chain has no interface on device `{device}`"
                yield Diagnostic("A113", message, notes=(f"devices of the chain: {', '.join(sorted(devices))}",))

    def steps(self, generation: Generation, pins: GenerationPins) -> Iterator[Step]:
        """One step for each hook; the only ones that touch traffic."""
        for point, program in self.points.values():
            running = self.attached(point)
            if running:
                yield self._swap(point, running, generation, program, pins)
            elif point.mode is not Mode.TC and any(device == point.device for device, _ in self.replace):
                yield self._take_over(point, generation, program, pins)
            else:
                yield self._attach(point, generation, program, pins)

    def leave_stale(self) -> Iterator[Step]:
        """What of this chain is not needed any more, or had to leave already, and the links that say it is there."""
        for found in (*self.stale(), *self.evicted):
            yield Step(f"leave {found.point}", functools.partial(leave, found))

    def evictions(self) -> Iterator[Step]:
        """Foreign programs at TC, once ours stands before them: until then nothing happened to them."""
        for point, _ in self.points.values():
            for found in self.foreign.get(point.name, ()) if point.mode is Mode.TC else ():
                yield eviction(point, found)

    def attached(self, point: AttachPoint) -> LiveAttachment | None:
        """What of this chain runs on the hook, whatever its device was called before."""
        here = [found for found in self._live() if found.at and found.at.mode is point.mode]
        here = [found for found in here if found.at and found.at.netns == point.netns]
        device = find_device(point.device, point.netns) if here else None
        return next((found for found in here if device and found.ifindex == device.ifindex), None)

    def stale(self) -> tuple[LiveAttachment, ...]:
        """What of this chain runs on hooks that it no longer needs."""
        needed = {_hook(found) for point, _ in self.points.values() if (found := self.attached(point))}
        left = [found for found in self._live() if found not in self.evicted]
        return tuple(found for found in left if found.at is None or _hook(found) not in needed)

    def _live(self) -> tuple[LiveAttachment, ...]:
        return self.live.attachments if self.live else ()

    def _excluded(self, point: AttachPoint) -> LiveAttachment | None:
        """What of this chain has to leave the device first: native and generic XDP exclude each other."""
        return next((found for found in self.stale() if found.at and excludes(found.at, point)), None)

    def _swap(
        self, point: AttachPoint, running: LiveAttachment, generation: Generation, program: str, pins: GenerationPins
    ) -> Step:
        def replace(new: sys.Fd, old: sys.Fd) -> None:
            with contextlib.ExitStack() as stack:
                link = stack.enter_context(sys.obj_get(running.link)) if running.link else None
                owner = Owner(self.chain, point.name, prog_info(new).id)
                attach.replace(point, running.ifindex, link, new, old, owner)

        def do() -> None:
            if running.link:
                with sys.obj_get(running.link) as link:
                    sys.obj_pin(link, pins.link(point.name))
            with running.open_program() as old:
                self.opened.enter_context(old.duplicate())  # it lives until it is certain that it will not be needed
                replace(generation.programs[program], old)

        def undo() -> None:
            if is_on(point, running, prog_info(generation.programs[program]).id):
                with running.open_program() as old:
                    replace(old, generation.programs[program])

        return Step(f"swap the program on {point}", do, undo)

    def _attach(self, point: AttachPoint, generation: Generation, program: str, pins: GenerationPins) -> Step:
        def do() -> None:
            excluded, ifindex, new = self._excluded(point), _ifindex(point), generation.programs[program]
            owner, pin = Owner(self.chain, point.name, prog_info(new).id), pins.link(point.name)
            with contextlib.ExitStack() as meanwhile:
                if excluded:
                    before = excluded.prog_id
                    back = functools.partial(give_back, excluded)
                    meanwhile.enter_context(
                        mode_change(point, ifindex, before=before, new=new, owner=owner, pin=pin, back=back)
                    )
                    self._evict(excluded)  # from here to the next line the hook is empty
                link = attach.attach(point, ifindex, new, owner)
                self.made[point.name] = link
                if link:
                    self.opened.enter_context(link)
                    sys.obj_pin(link, pin)

        def leave_again() -> None:
            new, ifindex = generation.programs[program], _ifindex(point)
            if point.name in self.made and prog_info(new).id in _programs(point, ifindex):
                attach.detach(point, ifindex, self.made[point.name], new)
            self.made.pop(point.name, None)

        def give_back(before: LiveAttachment) -> None:
            leave_again()
            if not is_attached(before):
                attach_again(before, self.chain)
            if before in self.evicted:
                self.evicted.remove(before)

        def undo() -> None:
            before = next((found for found in self.evicted if excludes(found.point, point)), None)
            if before is None:
                leave_again()
                return
            back = functools.partial(give_back, before)
            with stood_in(lambda: is_attached(before), back):
                back()

        return Step(f"attach to {point}", do, undo)

    def _take_over(self, point: AttachPoint, generation: Generation, program: str, pins: GenerationPins) -> Step:
        """In the place of `_attach` where a foreign XDP program may be replaced; the same as that if there is none."""
        plain = self._attach(point, generation, program, pins)
        taken: list[Takeover] = []

        def do() -> None:
            found = self.foreign.get(point.name)
            if not found:
                plain.do()
                return
            new = generation.programs[program]
            owner = Owner(self.chain, point.name, prog_info(new).id)
            taken.append(Takeover(point, _ifindex(point), found[0], new, owner, pins.link(point.name), self.opened))
            taken[0].do()

        def undo() -> Diagnostic | None:
            if taken:
                return taken[0].undo()
            return plain.undo() if plain.undo else None

        return Step(f"take over {point}", do, undo)

    def _evict(self, excluded: LiveAttachment) -> None:
        with excluded.open_program() as old:
            self.opened.enter_context(old.duplicate())
            remove(excluded)
        self.evicted.append(excluded)


def hooks_of(
    manifest: Manifest, live: LiveChain | None, opened: contextlib.ExitStack, replace: Collection[Replace] = ()
) -> Hooks:
    """The hooks that a chain is to take over; descriptors that must live until the end go into `opened`."""
    return Hooks(manifest.chain, live, attach_points(manifest), opened, replace)


def hooks_again(
    manifest: Manifest,
    home: str | None,
    live: LiveChain,
    opened: contextlib.ExitStack,
    but_not: Collection[AttachPoint],
) -> Hooks:
    """The hooks of a chain that was applied in `home`, as far as their devices are there and nobody took them."""
    points = attach_points(manifest, home)
    others = {point.place for point in but_not}
    there = {name: found for name, found in points.items() if find_device(found[0].device, found[0].netns)}
    there = {name: found for name, found in there.items() if found[0].place not in others}
    found = Hooks(manifest.chain, live, there, opened)
    found.leave_out_taken()
    return found


def _hook(found: LiveAttachment) -> object:
    """The same for two attachments of one hook: an interrupted apply may have known it by another name."""
    return found.at and (found.at.netns, found.at.mode, found.ifindex)


def is_on(point: AttachPoint, running: LiveAttachment, prog_id: int) -> bool:
    """Whether one of our attachments has this program now. Without a link, others may be on the hook as well."""
    if running.link:
        with sys.obj_get(running.link) as link:
            return link_info(link).prog_id == prog_id
    return prog_id in _programs(point, running.ifindex)


def is_attached(attachment: LiveAttachment) -> bool:
    """Whether what was found attached is so now, by its link if it has one: a detached link is on no device."""
    if attachment.link is None:
        return attachment.prog_id in _programs(attachment.point, attachment.ifindex)
    if not attachment.link.exists():
        return False
    with sys.obj_get(attachment.link) as link:
        return link_info(link).ifindex == attachment.ifindex


def _programs(point: AttachPoint, ifindex: int) -> set[int]:
    return {found.prog_id for found in attach.occupants(point, ifindex)}


def remove(attachment: LiveAttachment) -> None:
    """Takes one of our programs off its hook; nothing is done where its device is gone."""
    if not attachment.ifindex:
        return
    with contextlib.ExitStack() as stack:
        link = stack.enter_context(sys.obj_get(attachment.link)) if attachment.link else None
        old = None if link else stack.enter_context(attachment.open_program())
        attach.detach(attachment.point, attachment.ifindex, link, old)


def leave(attachment: LiveAttachment) -> None:
    """The same, and its link is forgotten."""
    remove(attachment)
    if attachment.link:
        attachment.link.unlink(missing_ok=True)


def attach_again(attachment: LiveAttachment, chain: str) -> None:
    """Puts on its hook what had to leave; a detached link cannot be attached again, so it gets a new one."""
    with attachment.open_program() as old:
        owner = Owner(chain, attachment.point.name, attachment.prog_id)
        link = attach.attach(attachment.point, attachment.ifindex, old, owner)
    if link and attachment.link:
        with link:
            attachment.link.unlink(missing_ok=True)
            sys.obj_pin(link, attachment.link)


def eviction(point: AttachPoint, found: Occupant) -> Step:
    """Takes a program of somebody else off a hook at TC, where the chain's own is before it."""
    return Step(f"take program {found.prog_id} off {point}", lambda: attach.evict(point, _ifindex(point), found))


def _ifindex(point: AttachPoint) -> int:
    return require_device(point.device, point.netns).ifindex
