"""Maps as most services want them: arrays of one service, and maps that the loader fills with links.

Hashes and tries differ in all but their scope; services write them as `ir.MapDef`s.
"""

from __future__ import annotations

from schemas.diagnostic import Span
from schemas.manifest import Role, Scope

from .ir import Constant, MapDef
from .model import ServiceInstance
from .names import c_name

BPF_F_NO_PREALLOC = 1
"""Memory for entries as they come; a trie cannot be made without it (trie_alloc(), kernel/bpf/lpm_trie.c)."""
BPF_F_MMAPABLE = 1 << 10
"""User space reads and writes the values of an array without a system call."""


def map_name(service: str, name: str) -> str:
    """How a service's map is called: `br0__fdb`. C code and pins know it by this."""
    return f"{c_name(service)}__{name}"


def port_order(service: ServiceInstance) -> str:
    """The ports by their index: a part of the layout of every map whose entries know ports by it."""
    return " ".join(port.name for port in service.ports)


def with_headroom(entries: int) -> int:
    """A power of two, at least twice the entries: they come and go in place for a while."""
    return 1 << (2 * entries - 1).bit_length()


def array(
    service: ServiceInstance,
    name: str,
    value_type: str,
    value_size: int,
    max_entries: int = 1,
    *,
    role: Role,
    layout: str,
    span: Span,
    per_cpu: bool = False,
    flags: int = 0,
    field: str = "",
    counts: bool = False,
    filled: str = "",
    entries: tuple[Constant, ...] = (),
) -> MapDef:
    """An array of a service, named by `map_name`; per CPU, where CPUs must not wait for each other."""
    return MapDef(
        name=map_name(service.name, name),
        type="BPF_MAP_TYPE_PERCPU_ARRAY" if per_cpu else "BPF_MAP_TYPE_ARRAY",
        key_type="__u32",
        key_size=4,
        value_type=value_type,
        value_size=value_size,
        max_entries=max_entries,
        scope=Scope.SERVICE,
        role=role,
        layout=layout,
        span=span,
        flags=flags,
        field=field,
        service=service.name,
        counts=counts,
        filled=filled,
        entries=entries,
    )


def links_map(
    name: str, type: str, value_type: str, value_size: int, slots: int, span: Span, service: str | None = None
) -> MapDef:
    """A prog array or a devmap; of the whole chain, unless a service's."""
    return MapDef(
        name=name,
        type=type,
        key_type="__u32",
        key_size=4,
        value_type=value_type,
        value_size=value_size,
        max_entries=slots,
        scope=Scope.CHAIN if service is None else Scope.SERVICE,
        role=Role.LINKS,
        layout="links/1",
        span=span,
        service=service,
    )
