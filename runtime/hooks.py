"""A loaded generation and what runs now in, the steps that put the one in the place of the other out, hook by hook."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from schemas.diagnostic import LoadFailed
from schemas.manifest import Manifest

from . import attach, sys
from .attach import AttachPoint, Owner
from .devices import find_device, require_device
from .info import link_info, prog_info
from .pin import GenerationPins
from .plan import excludes
from .state import LiveAttachment, LiveChain, attach_points
from .steps import Step

if TYPE_CHECKING:
    from .generation import Generation


@dataclass(slots=True)
class Hooks:
    """The hooks of one chain while a new generation takes them over."""

    chain: str
    live: LiveChain | None
    points: Mapping[str, tuple[AttachPoint, str]]
    opened: contextlib.ExitStack
    made: dict[str, sys.Fd | None] = field(default_factory=dict)
    evicted: list[LiveAttachment] = field(default_factory=list)

    def check_free(self) -> None:
        """Raises `LoadFailed` (A102) that names every foreign program where a hook is to be taken anew."""
        from .foreign import describe

        found = [
            describe(point, occupant)
            for point, _ in self.points.values()
            if self.attached(point) is None and self._excluded(point) is None
            for occupant in attach.occupants(point, _ifindex(point))
            if not (occupant.owner and occupant.owner.chain == self.chain)
        ]
        if found:
            raise LoadFailed(*found)

    def steps(self, generation: Generation, pins: GenerationPins) -> Iterator[Step]:
        """One step for each hook; the only ones that touch traffic."""
        for point, program in self.points.values():
            running = self.attached(point)
            if running:
                yield self._swap(point, running, generation, program, pins)
            else:
                yield self._attach(point, generation, program, pins)

    def attached(self, point: AttachPoint) -> LiveAttachment | None:
        """What of this chain runs on the hook, if its device is still the same."""
        here = [found for found in (self.live.attachments if self.live else ()) if found.point.place == point.place]
        device = find_device(point.device, point.netns) if here else None
        return next((found for found in here if device and found.ifindex == device.ifindex), None)

    def stale(self) -> tuple[LiveAttachment, ...]:
        """What of this chain runs on hooks that it no longer needs."""
        places = {point.place for point, _ in self.points.values()}
        attached = self.live.attachments if self.live else ()
        return tuple(found for found in attached if found.point.place not in places and found not in self.evicted)

    def _excluded(self, point: AttachPoint) -> LiveAttachment | None:
        """What of this chain has to leave the device first: native and generic XDP exclude each other."""
        return next((found for found in self.stale() if found.ifindex and excludes(found.point, point)), None)

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
            if program_on(point, running) == prog_info(generation.programs[program]).id:
                with running.open_program() as old:
                    replace(old, generation.programs[program])

        return Step(f"swap the program on {point}", do, undo)

    def _attach(self, point: AttachPoint, generation: Generation, program: str, pins: GenerationPins) -> Step:
        def do() -> None:
            excluded = self._excluded(point)
            if excluded:
                self._evict(excluded)
            new = generation.programs[program]
            link = attach.attach(point, _ifindex(point), new, Owner(self.chain, point.name, prog_info(new).id))
            self.made[point.name] = link
            if link:
                self.opened.enter_context(link)
                sys.obj_pin(link, pins.link(point.name))

        def undo() -> None:
            if point.name in self.made:
                attach.detach(point, _ifindex(point), self.made.pop(point.name), generation.programs[program])
            for found in [found for found in self.evicted if excludes(found.point, point)]:
                self._restore(found)

        return Step(f"attach to {point}", do, undo)

    def _evict(self, excluded: LiveAttachment) -> None:
        with excluded.open_program() as old:
            self.opened.enter_context(old.duplicate())
            remove(excluded)
        self.evicted.append(excluded)

    def _restore(self, excluded: LiveAttachment) -> None:
        """Attaches again what had to leave; a detached link cannot be attached again, so it gets a new one."""
        self.evicted.remove(excluded)
        with excluded.open_program() as old:
            owner = Owner(self.chain, excluded.point.name, excluded.prog_id)
            link = attach.attach(excluded.point, excluded.ifindex, old, owner)
        if link and excluded.link:
            with link:
                excluded.link.unlink(missing_ok=True)
                sys.obj_pin(link, excluded.link)


def hooks_of(manifest: Manifest, live: LiveChain | None, opened: contextlib.ExitStack) -> Hooks:
    """The hooks that a chain is to take over; descriptors that must live until the end go into `opened`."""
    return Hooks(manifest.chain, live, attach_points(manifest), opened)


def program_on(point: AttachPoint, running: LiveAttachment) -> int:
    """The id of the program that one of our attachments has now."""
    if running.link:
        with sys.obj_get(running.link) as link:
            return link_info(link).prog_id
    found = attach.occupants(point, running.ifindex)
    return found[0].prog_id if found else 0


def remove(attachment: LiveAttachment) -> None:
    """Takes one of our programs off its hook; nothing is done where its device is gone."""
    if not attachment.ifindex:
        return
    with contextlib.ExitStack() as stack:
        link = stack.enter_context(sys.obj_get(attachment.link)) if attachment.link else None
        old = None if link else stack.enter_context(attachment.open_program())
        attach.detach(attachment.point, attachment.ifindex, link, old)


def _ifindex(point: AttachPoint) -> int:
    return require_device(point.device, point.netns).ifindex
