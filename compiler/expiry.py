"""A map whose entries programs refresh and user space removes in, the map of keys that are about to go out."""

from __future__ import annotations

from schemas.manifest import Role

from .ir import MapDef

CONDEMNED_AT_ONCE = 1024


def condemned_map(entries: MapDef, field: str = "condemned") -> MapDef:
    """`NAME__condemned`, for compiler/bpf/expiry.h in programs and runtime/expiry.py in the control plane.

    The configuration's field `field` points to it. It is kept like state: a new generation's programs heed what an old
    one's control plane has begun.
    """
    return MapDef(
        name=f"{entries.name}__condemned",
        type="BPF_MAP_TYPE_HASH",
        key_type=entries.key_type,
        key_size=entries.key_size,
        value_type="__u64",
        value_size=8,
        max_entries=CONDEMNED_AT_ONCE,
        scope=entries.scope,
        role=Role.STATE,
        layout=f"condemned/1 {entries.layout}",
        span=entries.span,
        field=field,
        service=entries.service,
    )
