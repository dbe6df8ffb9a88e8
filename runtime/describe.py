"""A service of a running generation in, what its run-time side has to say of it out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct, field

from schemas.manifest import Manifest, ServiceRecord

from . import sys
from .control import NoControlPlane, OpenMap, find_control_plane, function_of
from .control_maps import ControlMap, service_map
from .pin import GenerationPins


class Findings(Struct, frozen=True):
    """What the maps of a service say, with or without a daemon.

    `facts` are for programs, plain JSON data; `lines` the same for people, `notes` that of ports by name; `problems`
    are what somebody should look at, worded for people, each by a key that stays as long as it is the same problem.
    """

    facts: Mapping[str, Any] = field(default_factory=dict)
    lines: tuple[str, ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)


NOTHING = Findings()


class Inspected(Struct, frozen=True):
    """A service as `inspect(service)` of its run-time side gets it.

    `constants` are the values of all its programs by their paths; `open_map` raises LookupError.
    """

    name: str
    ports: tuple[str, ...]
    constants: Mapping[str, str]
    open_map: OpenMap


def describe_ports(pins: GenerationPins, manifest: Manifest, service: ServiceRecord) -> Mapping[str, str]:
    """A few words on each port by its name; nothing where its kind has none to say. Raises what its module raises."""
    if service.control is None:
        return {}
    try:
        plane = find_control_plane(service.kind)
    except NoControlPlane:
        return {}
    if plane.describe is None:
        return {}
    with _maps_of(pins, manifest, service) as open_map:
        return plane.describe(service.control, service.ports, open_map)


def inspect(pins: GenerationPins, manifest: Manifest, service: ServiceRecord) -> Findings:
    """What its maps say; nothing where its kind looks at none. Raises what its module raises."""
    look = function_of(service.kind, "inspect")
    if look is None:
        return NOTHING
    with _maps_of(pins, manifest, service) as open_map:
        findings: Findings = look(Inspected(service.name, service.ports, _constants(manifest, service), open_map))
        return findings


def _constants(manifest: Manifest, service: ServiceRecord) -> Mapping[str, str]:
    programs = (program for program in manifest.programs if program.service == service.name)
    return {constant.path: constant.value for program in programs for constant in program.constants}


@contextlib.contextmanager
def _maps_of(pins: GenerationPins, manifest: Manifest, service: ServiceRecord) -> Iterator[OpenMap]:
    """Opens maps of a service by their names without the service's, and closes them at the end."""
    with contextlib.ExitStack() as opened:

        def open_map(name: str) -> ControlMap:
            record = service_map(manifest, service.name, name)
            found = ControlMap(sys.obj_get(pins.map(record.name, record.layout)), record)
            opened.callback(found.close)
            return found

        yield open_map
