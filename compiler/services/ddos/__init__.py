"""The ddos service: drops what block lists name and what one source sends too fast (docs/services/ddos.md)."""

from __future__ import annotations

from pathlib import Path

from schemas import SCHEMAS
from schemas.drop import named

from ...service import Service
from .lowering import lower
from .model import resolve

_HERE = Path(__file__).parent

SERVICE = Service(
    kind="ddos",
    summary="Drops packets by block lists of addresses, protocols and ports, and above a rate for each source",
    schema=SCHEMAS / "services" / "ddos.schema.json",
    header=_HERE / "ddos.bpf.h",
    resolve=resolve,
    lower=lower,
    drop_reasons=named(0, 1, 2, 9, 10, 11, 12, 13),
    ports=("outside", "inside"),
    transparent=True,
    templates=_HERE / "templates",
)
