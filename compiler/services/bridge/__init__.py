"""The bridge service: learns where stations are and forwards to them (docs/services/bridge.md)."""

from __future__ import annotations

from pathlib import Path

from schemas import SCHEMAS
from schemas.drop import named

from ...service import Service
from .lowering import control, lower, reasons_of
from .model import resolve

_HERE = Path(__file__).parent

SERVICE = Service(
    kind="bridge",
    summary="Learns on which port a station is (IEEE 802.1D), forwards to it, and floods what it does not know",
    schema=SCHEMAS / "services" / "bridge.schema.json",
    header=_HERE / "bridge.bpf.h",
    resolve=resolve,
    lower=lower,
    drop_reasons=named(5, 6, 7, 40, 42, 43, 44, 45),
    slow_path_reasons=((0, "bpdu"), (1, "multicast")),
    reasons_of=reasons_of,
    control=control,
    floods=True,
    templates=_HERE / "templates",
)
