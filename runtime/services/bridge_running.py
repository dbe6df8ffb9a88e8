"""A bridge of a running chain, by the names that people give."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from schemas.diagnostic import Diagnostic, LoadFailed
from schemas.manifest import Manifest, ServiceRecord

from .. import features, sys
from ..bpffs import bpffs_root
from ..control_maps import ControlMap, service_map
from ..state import LiveGeneration, not_running, read

KIND = "bridge"


class RunningBridge(Struct, frozen=True):
    """The generation that runs, and what its manifest says of the bridge."""

    generation: LiveGeneration
    manifest: Manifest
    service: ServiceRecord

    def open_map(self, name: str) -> ControlMap:
        """A map of it by its name without the service's. Raises LookupError where it has none of that name."""
        record = service_map(self.manifest, self.service.name, name)
        return ControlMap(sys.obj_get(self.generation.pins.map(record.name, record.layout)), record)


def running_bridge(chain: str, bridge: str, bpffs: str | Path | None) -> RunningBridge:
    """Raises `LoadFailed`: A109 where the chain does not run, B101 where it has no such bridge."""
    features.require_privilege()
    root = bpffs_root(bpffs)
    live = read(root, chain)
    if live is None or live.current is None or live.current.record is None:
        raise not_running(chain, root)
    manifest = live.current.record.manifest
    service = next((s for s in manifest.services if s.name == bridge and s.kind == KIND), None)
    if service is None:
        bridges = tuple(s.name for s in manifest.services if s.kind == KIND)
        raise unknown(f"chain `{chain}` has no bridge `{bridge}`", "bridges", bridges)
    return RunningBridge(live.current, manifest, service)


def unknown(message: str, what: str, known: tuple[str, ...]) -> LoadFailed:
    """B101, with the names that there are."""
    listed = ", ".join(f"`{name}`" for name in known) or "none"
    return LoadFailed(Diagnostic("B101", message, notes=(f"{what} here: {listed}",)))
