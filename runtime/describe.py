"""A service of a running generation in, what its run-time side has to say of it out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from schemas.manifest import ServiceRecord

from . import sys
from .control import NoControlPlane, OpenMap, find_control_plane, runtime_side
from .control_maps import ControlMap, service_map
from .state import LiveGeneration


@dataclass(frozen=True, slots=True)
class Findings:
    """What the maps of a service say, with or without a daemon.

    `facts` are for programs, plain JSON data; `lines` the same for people, `notes` that of ports by name; `problems`
    are what somebody should look at.
    """

    facts: Mapping[str, Any] = field(default_factory=dict)
    lines: tuple[str, ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


NOTHING = Findings()


@dataclass(frozen=True, slots=True)
class Inspected:
    """A service as `inspect(service)` of its run-time side gets it.

    `constants` are the values of all its programs by their paths; `open_map` raises LookupError.
    """

    name: str
    ports: tuple[str, ...]
    constants: Mapping[str, str]
    open_map: OpenMap


def describe_ports(current: LiveGeneration, service: ServiceRecord) -> Mapping[str, str]:
    """A few words on each port by its name; nothing where its kind has none to say. Raises what its module raises."""
    if service.control is None:
        return {}
    try:
        plane = find_control_plane(service.kind)
    except NoControlPlane:
        return {}
    if plane.describe is None:
        return {}
    with _maps_of(current, service) as open_map:
        return plane.describe(service.control, service.ports, open_map)


def inspect(current: LiveGeneration, service: ServiceRecord) -> Findings:
    """What its maps say; nothing where its kind looks at none. Raises what its module raises."""
    look: Callable[[Inspected], Findings] | None = getattr(runtime_side(service.kind), "inspect", None)
    if look is None:
        return NOTHING
    with _maps_of(current, service) as open_map:
        return look(Inspected(service.name, service.ports, _constants(current, service), open_map))


def _constants(current: LiveGeneration, service: ServiceRecord) -> Mapping[str, str]:
    assert current.record
    programs = current.record.manifest.programs
    return {c.path: c.value for program in programs if program.service == service.name for c in program.constants}


@contextlib.contextmanager
def _maps_of(current: LiveGeneration, service: ServiceRecord) -> Iterator[OpenMap]:
    """Opens maps of a service by their names without the service's, and closes them at the end."""
    assert current.record
    manifest = current.record.manifest
    with contextlib.ExitStack() as opened:

        def open_map(name: str) -> ControlMap:
            record = service_map(manifest, service.name, name)
            found = ControlMap(sys.obj_get(current.pins.map(record.name, record.layout)), record)
            opened.callback(found.close)
            return found

        yield open_map
