"""Maps that no program uses yet in, their first content in them: what a service's run-time side knows to write.

A service says what in the function `fill(unused: Unused)` of its run-time side, and in its manifest which maps it fills
(`MapRecord.filled`): all of them are made anew together, and filled before any hook has a program that uses them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct

from schemas.diagnostic import Diagnostic, LoadFailed
from schemas.manifest import Manifest, ServiceRecord

from . import sys
from .control import OpenMap, function_of
from .control_maps import ControlMap, service_map


class Unused(Struct, frozen=True):
    """A service of a generation that does not run yet.

    `config` is what the compiler's half of the service says (`Service.control`); `netns` the network namespace of the
    chain, None for the caller's; `open_map` opens maps of the service by their names without the service's.
    """

    config: Mapping[str, Any]
    netns: str | None
    open_map: OpenMap


def fill(manifest: Manifest, maps: Mapping[str, sys.Fd], kept: set[str]) -> None:
    """Fills what is to be filled and is not `kept`. Raises `LoadFailed` (A152), and what the service's own raises."""
    anew = {record.service for record in manifest.maps if record.filled and record.name not in kept}
    for service in manifest.services:
        if service.name in anew:
            _fill(manifest, service, maps)


def _fill(manifest: Manifest, service: ServiceRecord, maps: Mapping[str, sys.Fd]) -> None:
    function = function_of(service.kind, "fill")
    if function is None:
        message = f"nothing here fills the maps of service `{service.name}`, of kind `{service.kind}`"
        help_text = "install the version of the service that the chain was compiled with"
        raise LoadFailed(Diagnostic("A152", message, help=help_text))
    with _opened(manifest, service, maps) as open_map:
        function(Unused(service.control or {}, None, open_map))


@contextlib.contextmanager
def _opened(manifest: Manifest, service: ServiceRecord, maps: Mapping[str, sys.Fd]) -> Iterator[OpenMap]:
    """Maps of a service that are open already, by their names without the service's."""
    with contextlib.ExitStack() as opened:

        def open_map(name: str) -> ControlMap:
            record = service_map(manifest, service.name, name)
            found = ControlMap(maps[record.name].duplicate(), record)
            opened.callback(found.close)
            return found

        yield open_map
