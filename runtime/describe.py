"""A service of a running generation in, what its control plane's module has to say of each port out."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from schemas.manifest import ServiceRecord

from . import sys
from .control import NoControlPlane, find_control_plane
from .control_maps import ControlMap, service_map
from .state import LiveGeneration


def describe_ports(current: LiveGeneration, service: ServiceRecord) -> Mapping[str, str]:
    """A few words on each port by its name; nothing where its kind has none to say. Raises what its module raises."""
    assert current.record
    manifest = current.record.manifest
    if service.control is None:
        return {}
    try:
        plane = find_control_plane(service.kind)
    except NoControlPlane:
        return {}
    if plane.describe is None:
        return {}
    with contextlib.ExitStack() as opened:

        def open_map(name: str) -> ControlMap:
            record = service_map(manifest, service.name, name)
            found = ControlMap(sys.obj_get(current.pins.map(record.name, record.layout)), record)
            opened.callback(found.close)
            return found

        return plane.describe(service.control, service.ports, open_map)
