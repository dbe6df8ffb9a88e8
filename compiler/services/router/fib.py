"""The maps of a router with routes in tables, the kernel's or many: tables and next hops, and what fills them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from schemas.fib.layout import RANGES4_PER_ROUTE, RANGES6_PER_ROUTE, ROOTS_SIZE, capacity
from schemas.manifest import Role
from schemas.services.router import FOLLOWED_ORDER, NEXTHOP

from ...ir import Constant, Inlined, MapDef
from ...lower import c_name
from ...maps import BPF_F_MMAPABLE, array, port_order
from ...model import ServiceInstance
from .model import RouterModel

_PLACE = {4: ("__u32", 4, RANGES4_PER_ROUTE), 6: ("__u64", 8, RANGES6_PER_ROUTE)}


def nexthop_maps(instance: ServiceInstance, model: RouterModel) -> Constant:
    """The configuration's `struct nexthop_maps`."""
    described = f".described = &{c_name(instance.name)}__nexthops"
    followed = f", .followed = &{c_name(instance.name)}__followed" if model.table_size else ""
    literal = f"{{{described}{followed}}}"
    return Constant(f"{instance.name}.nexthops", "maps", "next hops", Inlined("nexthops", literal), instance.span)


def fib_literal(instance: ServiceInstance, model: RouterModel, version: int) -> str:
    """The initialisers of `struct fib_config` for one IP version."""
    name = c_name(instance.name)
    maps = f".roots{version} = &{name}__roots{version}, .ranges{version} = &{name}__ranges{version}"
    return f"{maps}, .mask{version} = {_places(model, version) - 1}"


def followed_maps(instance: ServiceInstance, model: RouterModel) -> Iterator[MapDef]:
    """Next hops and tables; all of them start anew where ports are numbered differently, or what fills them changes."""
    if not model.table_size:
        return
    yield _map(instance, model, "followed", "struct nexthop", NEXTHOP.size, 1 << FOLLOWED_ORDER)
    for version in (4, 6):
        if any(port.has(version) for port in model.ports):
            places, (word, size, _) = _places(model, version), _PLACE[version]
            yield _map(instance, model, f"roots{version}", "struct fib_roots", ROOTS_SIZE)
            yield _map(instance, model, f"ranges{version}", f"{word}[{places}]", size * places)


def follow(instance: ServiceInstance, model: RouterModel) -> Mapping[str, Any] | None:
    """For the control plane: the table and where it is."""
    if model.kernel_routes is None:
        return None
    return {"table": model.kernel_routes.table, "netns": model.kernel_routes.netns}


@lru_cache(maxsize=4)
def _filling(model: RouterModel) -> str:
    """A digest of the routes that tables are filled with: those of the chain file, and where the kernel's are from."""
    digest = hashlib.sha256()
    for route in model.routes:
        digest.update(f"{route.prefix} {', '.join(way.text for way in route.nexthops)}\n".encode())
    if model.kernel_routes:
        digest.update(f"table {model.kernel_routes.table} {model.kernel_routes.netns}\n".encode())
    return digest.hexdigest()[:16]


def _places(model: RouterModel, version: int) -> int:
    return capacity(model.table_size, _PLACE[version][2])


def _map(
    instance: ServiceInstance, model: RouterModel, name: str, value_type: str, value_size: int, max_entries: int = 1
) -> MapDef:
    return array(
        instance,
        name,
        value_type,
        value_size,
        max_entries,
        role=Role.STATE,
        layout=f"router {name}/1 {model.table_size} {port_order(instance)}",
        span=model.kernel_routes.span if model.kernel_routes else instance.span,
        flags=BPF_F_MMAPABLE,
        filled=_filling(model),
    )
