"""An attachment in, where its device is by now out: under its name, under another one, in another namespace, or gone.

A link stays with its device wherever that goes; only the removal of the device ends it.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

from msgspec import Struct
from msgspec.structs import replace

from schemas.diagnostic import LoadFailed

from . import attach
from .attach import AttachPoint, Occupant
from .devices import DeviceFinder
from .home import is_reachable
from .netns import NETNS_DIRECTORY, entered


class Whereabouts(Struct, frozen=True):
    """The hook as it is called by now: None where its device was removed, or is in no namespace that has a name.

    `present` is the ifindex of the device that has the name now, 0 where there is none.
    """

    at: AttachPoint | None
    present: int


def locate(point: AttachPoint, ifindex: int, prog_id: int, find: DeviceFinder) -> Whereabouts:
    """Where the device with `ifindex` (0: removed) is that `prog_id` was attached to as `point`."""
    if not is_reachable(point.netns):
        return Whereabouts(point if ifindex else None, ifindex)
    device = find(point.device, point.netns)
    present = device.ifindex if device else 0
    if not ifindex or ifindex == present:
        return Whereabouts(point if ifindex else None, present)
    return Whereabouts(next(_places(point, ifindex, prog_id), None), present)


def moved(point: AttachPoint, ifindex: int, found: Whereabouts) -> str:
    """What happened to the device, for people; nothing if it is where it was."""
    name = f"device `{point.device}`"
    if not ifindex:
        back = f"was removed, and is there again with ifindex {found.present}: apply again"
        return f"{name} {back}" if found.present else f"{name} is gone"
    if found.at is None:
        return f"{name} was moved to a network namespace that has no name here"
    other = f"; another device has its name, with ifindex {found.present}" if found.present else ""
    if found.at.netns != point.netns:
        where = f"network namespace `{found.at.netns}`" if found.at.netns else "this network namespace"
        return f"{name} was moved to {where}, where it is `{found.at.device}`{other}"
    if found.at.device != point.device:
        return f"{name} was renamed to `{found.at.device}`{other}"
    return ""


def _places(point: AttachPoint, ifindex: int, prog_id: int) -> Iterator[AttachPoint]:
    """Devices with this ifindex that have the program; the number alone says nothing, each namespace has its own."""
    elsewhere = sorted(path.name for path in NETNS_DIRECTORY.glob("*"))
    for netns in dict.fromkeys((point.netns, None, *elsewhere)):
        place = _place(point, ifindex, netns)
        if place and any(found.prog_id == prog_id for found in _occupants(place, ifindex)):
            yield place


def _place(point: AttachPoint, ifindex: int, netns: str | None) -> AttachPoint | None:
    try:
        with entered(netns):
            return replace(point, device=socket.if_indextoname(ifindex), netns=netns)
    except (OSError, LoadFailed):  # no such device there; or the namespace goes just now, or is closed to us
        return None


def _occupants(place: AttachPoint, ifindex: int) -> tuple[Occupant, ...]:
    try:
        return attach.occupants(place, ifindex)
    except (OSError, LoadFailed):  # the device or its namespace goes just now
        return ()
