"""A try that took hooks over from others in, the steps that give them back, or that make it final, out.

Where taking a hook over was one atomic step, so is giving it back. At TC nobody has left yet: a try only stands before
the others, who are taken off when it is confirmed.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator

from msgspec import Struct
from msgspec.structs import replace

from schemas.manifest import Mode

from . import attach, hooks, sys
from .attach import AttachPoint, Holder, Occupant, Owner
from .devices import find_device
from .pin import ChainPins
from .standby import stood_in
from .state import LiveAttachment, LiveChain, attach_points
from .steps import Step
from .trial import replaced_pin


class HandBack(Struct, frozen=True):
    """An XDP hook, the program of somebody else that was on it, and what of the chain is on it now."""

    chain: str
    point: AttachPoint
    found: Occupant
    open_theirs: Callable[[], sys.Fd]
    ours: LiveAttachment | None

    def step(self) -> Step:
        return Step(f"give {self.point} back", self._do, self._undo)

    def _do(self) -> None:
        if self.ours and self._same_mode:
            with self.open_theirs() as theirs, self.ours.open_program() as ours:
                self._replace(self.ours, theirs, ours)
        elif self.ours or self._is_left_empty():
            with self.open_theirs() as theirs:
                put_back = functools.partial(attach.put_back, self.point, self._ifindex, self.found, theirs)
                take_back = functools.partial(self._take_back, self.ours) if self.ours else None
                with stood_in(lambda: bool(self._occupants()), put_back, take_back):
                    if self.ours:
                        hooks.remove(self.ours)  # from here to the next line the hook is empty
                    put_back()

    def _undo(self) -> None:
        """The chain's program is on the hook again, if theirs got there, or ours has left for it."""
        ours = self.ours
        if ours is None:
            return
        if not self._same_mode:
            take_back = functools.partial(self._take_back, ours)
            with stood_in(lambda: hooks.is_attached(ours), take_back):
                take_back()
        elif self.found.prog_id in self._occupants():
            with self.open_theirs() as theirs, ours.open_program() as old:
                self._replace(ours, old, theirs)

    def _take_back(self, ours: LiveAttachment) -> None:
        if self.found.prog_id in self._occupants():
            attach.evict(self.point, self._ifindex, Occupant(self.found.prog_id, Holder.XDP_NETLINK, self.found.mode))
        if not hooks.is_attached(ours):
            hooks.attach_again(ours, self.chain)

    def _replace(self, here: LiveAttachment, new: sys.Fd, old: sys.Fd) -> None:
        owner = Owner(self.chain, self.point.name, here.prog_id)
        with contextlib.ExitStack() as stack:
            link = stack.enter_context(sys.obj_get(here.link)) if here.link else None
            attach.replace(self.point, here.ifindex, link, new, old, owner)

    def _is_left_empty(self) -> bool:
        """Whether somebody was killed where the one program had left, and the other was not there yet."""
        return bool(not self._same_mode and self._ifindex and not self._occupants())

    @property
    def _same_mode(self) -> bool:
        return self.found.mode is self.point.mode

    @property
    def _ifindex(self) -> int:
        device = find_device(self.point.device, self.point.netns)
        return device.ifindex if device else 0

    def _occupants(self) -> set[int]:
        return {found.prog_id for found in attach.occupants(self.point, self._ifindex)}


def hand_backs(live: LiveChain, pins: ChainPins) -> tuple[HandBack, ...]:
    """The hooks that go back to others when what is tried is taken back."""
    return tuple(_hand_back(live, pins, point, found) for point, found in _replaced(live) if point.mode is not Mode.TC)


def _hand_back(live: LiveChain, pins: ChainPins, point: AttachPoint, found: Occupant) -> HandBack:
    pin = replaced_pin(pins, point.name)
    ours = next((each for each in live.attachments if each.point.place == point.place and each.ifindex), None)
    return HandBack(live.chain, point, found, lambda: sys.obj_get(pin), ours)


def without(live: LiveChain, hands: tuple[HandBack, ...]) -> LiveChain:
    """The chain but for the hooks that go back to others."""
    given = [hand.ours for hand in hands]
    return replace(live, attachments=tuple(found for found in live.attachments if found not in given))


def evictions(live: LiveChain) -> Iterator[Step]:
    """Takes the programs of others off that a try stands before at TC, once it is kept."""
    return (hooks.eviction(point, found) for point, found in _replaced(live) if point.mode is Mode.TC)


def _replaced(live: LiveChain) -> Iterator[tuple[AttachPoint, Occupant]]:
    trial = live.recorded
    tried = next((each for each in live.generations if trial and each.number == trial.number), None)
    if trial is None or tried is None or tried.record is None:
        return
    points = attach_points(tried.record.manifest, tried.home)
    for name, found in trial.replaced:
        yield points[name][0], found
