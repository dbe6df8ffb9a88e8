"""What a kind of service is to the compiler: one record, found by its kind in the registry.

A built-in kind is the package `compiler/services/KIND/` whose `SERVICE` is this record; a third party's is an entry
point of the group `bpfchain.services` that names such a record. No other file of the compiler knows a kind by name.
"""

from __future__ import annotations

import functools
import importlib
import json
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from schemas.diagnostic import CompileFailed, Diagnostic

from .installed import ENTRY_POINT_GROUP, installed

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint
    from importlib.resources.abc import Traversable

    from schemas.manifest import Hook

    from .ir import LoweredPort
    from .model import Port, ServiceInstance
    from .source import Report, Value


class Service(Struct, frozen=True):
    """A kind of service.

    `schema`: JSON Schema file of one instance (an object schema with `kind` as a const). It and `resolve` are None for
    a kind that the compiler itself puts into chains.
    `header`: the C logic, `KIND.bpf.h`; it defines `struct KIND_config` and
    `__u32 KIND_receive(struct packet *, const struct KIND_config *)`, which returns a verdict (compiler/bpf/verdict.h).
    `ports`: names of the two (or more) fixed ports, or None where the user names them under `ports:`.
    `transparent`: packets that enter at one port leave, if at all, at the other.
    `breaks_loops`: a packet cannot circle through it for ever (a router decrements TTL).
    `resolve`: (the instance's `Value`, ports, report) → the kind's frozen model; the schema has excluded shape errors.
    `check`: (instance, report); reports what is wrong with it for the interfaces that its ports lead to, not known to
    `resolve`. Only instances without a mistake of shape come here.
    `lower`: (instance, incoming port, hook) → what is special about the program for that port.
    `floods`: the verdict FLOOD may be returned. Where the lowered port says `transmits`, the C also defines
    `bool KIND_transmit(struct packet *, const struct KIND_config *, __u32 port)`: it makes a copy what leaves by
    `port`, or refuses it. At XDP it runs in a program of its own, whose configuration is that of `port`.
    `hairpin`: a packet may leave by the port that it came in by.
    `star`: packets pass between the first port and each of the others only.
    `drop_reasons`: every reason its C returns, as (number, name) pairs: from `compiler/bpf/drop.h`, or its own from
    `DROP_SERVICE_FIRST` on.
    `control`: what its control plane has to know of an instance, plain JSON data; None where the kind has none. It may
    return None for an instance that needs none: that one has no slow path either.
    `injects`: the control plane lets frames arrive at ports. (To send them out of ports it need not say so.)
    `slow_path_reasons`: why its C sends packets up to its control plane, as (number, name) pairs, numbers from 0 on.
    `reasons_of`: the names of those that an instance can have; None: it can have all of them.
    `templates`: folder of its `.j2` files, where it has any.
    """

    kind: str
    summary: str
    schema: Traversable | None
    header: Traversable
    resolve: Callable[[Value, tuple[Port, ...], Report], object] | None
    lower: Callable[[ServiceInstance, Port, Hook], LoweredPort]
    drop_reasons: tuple[tuple[int, str], ...]
    ports: tuple[str, ...] | None = None
    transparent: bool = False
    breaks_loops: bool = False
    floods: bool = False
    hairpin: bool = False
    star: bool = False
    slow_path_reasons: tuple[tuple[int, str], ...] = ()
    reasons_of: Callable[[ServiceInstance], frozenset[str]] | None = None
    control: Callable[[ServiceInstance], Mapping[str, Any] | None] | None = None
    injects: bool = False
    templates: Traversable | None = None
    check: Callable[[ServiceInstance, Report], None] | None = None
    origin: str = "bpfchain"

    @property
    def constant_verdicts(self) -> bool:
        """Whether few ports of it are ways out of one program, so that each verdict is one that clang knows."""
        return self.transparent or self.star

    @property
    def headers(self) -> Path:
        """The folder that its header lies in; clang includes from it."""
        return Path(str(self.header)).parent

    def json_schema(self) -> Mapping[str, Any]:
        assert self.schema, "a kind that is in the registry has one"
        schema: Mapping[str, Any] = json.loads(self.schema.read_text(encoding="utf-8"))
        return schema


@functools.cache
def registry() -> Mapping[str, Service]:
    """Every known kind of service, built-in ones first, by its kind; those are imported when they are asked for."""
    package = importlib.import_module("compiler.services")
    known = _Services({module.name: None for module in pkgutil.iter_modules(package.__path__) if module.ispkg})
    for point in _points():
        service = _load(point)
        if service.kind in known:
            raise _unfit(point, f"its kind `{service.kind}` is taken by {known[service.kind].origin}")
        known.add(service)
    return known


class _Services(Mapping[str, Service]):
    """Services by kind. A chain has few of them, and all that they import would be half of what lowering it takes."""

    def __init__(self, kinds: Mapping[str, Service | None]) -> None:
        self._found = dict(kinds)

    def __getitem__(self, kind: str) -> Service:
        service = self._found[kind]
        if service is None:
            service = self._found[kind] = importlib.import_module(f"compiler.services.{kind}").SERVICE
        return service

    def __contains__(self, kind: object) -> bool:
        return kind in self._found

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def add(self, service: Service) -> None:
        self._found[service.kind] = service


def _points() -> Iterable[EntryPoint]:
    """The entry points of other distributions."""
    if not installed().services:
        return ()
    from importlib.metadata import entry_points

    return entry_points(group=ENTRY_POINT_GROUP)


def _load(point: EntryPoint) -> Service:
    """The record that an entry point names. Raises CompileFailed (K104): whatever goes wrong there is not ours."""
    try:
        service = point.load()
    except Exception as error:
        raise _unfit(point, f"{type(error).__name__}: {error}") from error
    if not isinstance(service, Service):
        raise _unfit(point, "it is no `compiler.service.Service`")
    return service


def _unfit(point: EntryPoint, reason: str) -> CompileFailed:
    distribution = point.dist.name if point.dist else "an unknown distribution"
    return CompileFailed(
        Diagnostic(
            "K104",
            f"service `{point.name}` of {distribution} cannot be used: {reason}",
            notes=(f"entry point `{point.name} = {point.value}` of group `{ENTRY_POINT_GROUP}`",),
            help=f"pip uninstall {distribution}",
        )
    )
