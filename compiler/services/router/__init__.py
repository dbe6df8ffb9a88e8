"""The router service: forwards IPv4 and IPv6 between its ports' subnets and beyond (docs/services/router.md)."""

from __future__ import annotations

from pathlib import Path

from schemas import SCHEMAS
from schemas.drop import named
from schemas.services.router import Reason

from ...service import Service
from .lowering import control, lower
from .model import check, resolve

_HERE = Path(__file__).parent

SERVICE = Service(
    kind="router",
    summary="Routes IPv4 and IPv6 between its ports' subnets and beyond (RFC 1812, RFC 8200)",
    schema=SCHEMAS / "services" / "router.schema.json",
    header=_HERE / "router.bpf.h",
    resolve=resolve,
    check=check,
    lower=lower,
    drop_reasons=named(0, 1, 5, 24, 25, 26, 27, 28, 29, 30),
    slow_path_reasons=tuple((reason.value, reason.name.lower().replace("_", "-")) for reason in Reason),
    control=control,
    injects=True,
    breaks_loops=True,
    hairpin=True,
    templates=_HERE / "templates",
)
