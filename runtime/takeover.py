"""A foreign XDP program that may be replaced in, ours on its hook out, and the way back.

In the same mode that is one atomic step, and so is taking it back: netlink replaces the program that it is told to
expect, and a link, whoever made it, is updated from the program that it is told to expect. A link that was taken over
so stays with its maker too, who can still detach it. In another mode the old program has to leave first, because a
device takes one mode at a time: the hook is empty for a moment.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from msgspec import Struct

from schemas.diagnostic import Diagnostic

from . import attach, sys
from .attach import AttachPoint, Holder, Occupant, Owner
from .info import link_by_id, prog_by_id, prog_info
from .standby import stood_in


@contextlib.contextmanager
def mode_change(
    point: AttachPoint,
    ifindex: int,
    *,
    before: int,
    new: sys.Fd,
    owner: Owner,
    pin: Path,
    back: Callable[[], object],
) -> Iterator[None]:
    """While an XDP hook goes from program `before` to `new` in another mode: a kill does not leave it empty.

    `back` takes what there is of the new program off and puts the old one on, unless it is there.
    """

    def is_done() -> bool:
        here = {found.prog_id for found in attach.occupants(point, ifindex)}
        return before in here or (pin.exists() if attach.has_link(point.mode) else bool(here))

    def fill() -> None:
        link = attach.attach(point, ifindex, new, owner)
        if link:
            sys.obj_pin(link, pin)

    with stood_in(is_done, fill, back):
        yield


class Takeover(Struct):
    """One hook while it changes hands. `pin` is where the link belongs; `opened` holds what must live until the end."""

    point: AttachPoint
    ifindex: int
    found: Occupant
    new: sys.Fd
    owner: Owner
    pin: Path
    opened: contextlib.ExitStack
    made: sys.Fd | None = None
    evicted: sys.Fd | None = None

    def do(self) -> None:
        """Raises `LoadFailed` (A104) where another program is there by now."""
        with prog_by_id(self.found.prog_id) as old:
            kept = self.opened.enter_context(old.duplicate())  # it lives until it will not be needed again
        if self.found.mode is self.point.mode:
            self._replace(self.new, kept, pin=True)
            return
        self.evicted = kept
        with mode_change(
            self.point,
            self.ifindex,
            before=self.found.prog_id,
            new=self.new,
            owner=self.owner,
            pin=self.pin,
            back=self._give_back,
        ):
            attach.evict(self.point, self.ifindex, self.found)
            self.made = attach.attach(self.point, self.ifindex, self.new, self.owner)
            if self.made:
                self.opened.enter_context(self.made)
                sys.obj_pin(self.made, self.pin)

    def undo(self) -> Diagnostic | None:
        """What to tell (A108) where the program is back, but not by the link that it had."""
        if self.evicted is None:
            if self._is_ours():
                with prog_by_id(self.found.prog_id) as old:
                    self._replace(old, self.new, pin=False)
            return None
        with stood_in(self._is_theirs, self._give_back):
            self._give_back()
        if self.found.holder is not Holder.XDP_LINK or self.found in attach.occupants(self.point, self.ifindex):
            return None
        device = self.point.device
        message = f"program {self.found.prog_id} is on `{device}` again, by netlink: its link cannot be restored"
        return Diagnostic("A108", message)

    def _give_back(self) -> None:
        assert self.evicted
        if self._is_theirs():
            return
        if self._is_ours():
            attach.detach(self.point, self.ifindex, self.made, self.new)
        attach.put_back(self.point, self.ifindex, self.found, self.evicted)

    def _is_ours(self) -> bool:
        return prog_info(self.new).id in self._programs()

    def _is_theirs(self) -> bool:
        return self.found.prog_id in self._programs()

    def _programs(self) -> set[int]:
        return {found.prog_id for found in attach.occupants(self.point, self.ifindex)}

    def _replace(self, new: sys.Fd, old: sys.Fd, *, pin: bool) -> None:
        if self.found.holder is not Holder.XDP_LINK:
            attach.replace(self.point, self.ifindex, None, new, old, self.owner)
            return
        with link_by_id(self.found.link_id) as link:
            if pin:
                sys.obj_pin(link, self.pin)  # before the update: from then on it must not go with its maker
            attach.replace(self.point, self.ifindex, link, new, old, self.owner)
