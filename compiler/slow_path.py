"""A service that sends packets up to its control plane in, the maps that this takes out (compiler/bpf/slow_path.h)."""

from __future__ import annotations

from collections.abc import Iterator

from schemas.counters import COUNTER_SIZE
from schemas.diagnostic import Span
from schemas.manifest import Role, Scope
from schemas.slow_path import FATES, FRAME_BYTES, RECORD

from .ir import Constant, InMap, LoadTime, MapDef
from .maps import array, map_name
from .model import ServiceInstance, SlowPath

RING = "chain_slow_path"
SCRATCH = "chain_scratch"
RING_BYTES = 4 << 20
"""Room for 2,700 frames of 1500 bytes; a power of two, and whole pages."""

SLOW_PATH_RATE, SLOW_PATH_BURST = "slow-path.rate", "slow-path.burst"
_UPCALLS, _BUCKETS = "upcalls", "buckets"
_BUCKET_BYTES = 24  # struct slow_path_bucket


def upcalls_map(service: str) -> str:
    """The per-CPU array that counts what a service sent up: a counter for each reason and fate."""
    return map_name(service, _UPCALLS)


def buckets_map(service: str) -> str:
    """The per-CPU array of what each of a service's reasons may still send up, from each of its ports."""
    return map_name(service, _BUCKETS)


def slow_path_constants(limit: SlowPath) -> tuple[Constant, ...]:
    """What the chain says of its slow path, as every program that has one holds it."""
    span = limit.span
    return (
        Constant(
            SLOW_PATH_RATE, f"{limit.rate}/s", "of one reason from a port on a CPU", LoadTime("", limit.rate), span
        ),
        Constant(SLOW_PATH_BURST, str(limit.burst), "at once", LoadTime("", limit.burst), span),
    )


def slow_path_maps(service: ServiceInstance) -> Iterator[MapDef]:
    """The maps of one service with reasons to send packets up."""
    reasons = max(number for number, _ in service.slow_path_reasons) + 1
    yield array(
        service,
        _UPCALLS,
        "struct counter",
        COUNTER_SIZE,
        reasons * len(FATES),
        role=Role.COUNTERS,
        layout="upcalls/1",
        span=service.span,
        per_cpu=True,
        counts=True,
        entries=tuple(_labels(service)),
    )
    yield array(
        service,
        _BUCKETS,
        "struct slow_path_bucket",
        _BUCKET_BYTES,
        reasons * len(service.ports),
        role=Role.SCRATCH,
        layout="buckets/2",
        span=service.span,
        per_cpu=True,
    )


def _labels(service: ServiceInstance) -> Iterator[Constant]:
    for number, name in service.slow_path_reasons:
        for fate, meaning in enumerate(FATES):
            key = (number * len(FATES) + fate).to_bytes(4, "little")
            path = f"{service.name}.slow-path {name} {meaning}"
            home = InMap(upcalls_map(service.name), key, b"")
            yield Constant(path, meaning, "packets for the control plane", home, service.span)


def shared_slow_path_maps(span: Span) -> Iterator[MapDef]:
    """The maps that all services of a chain share; `span` is of the first that needs them."""
    yield MapDef(
        name=RING,
        type="BPF_MAP_TYPE_RINGBUF",
        key_type="",
        key_size=0,
        value_type="",
        value_size=0,
        max_entries=RING_BYTES,
        scope=Scope.CHAIN,
        role=Role.SCRATCH,
        layout="slow path/1",
        span=span,
    )
    yield MapDef(
        name=SCRATCH,
        type="BPF_MAP_TYPE_PERCPU_ARRAY",
        key_type="__u32",
        key_size=4,
        value_type="struct slow_path_scratch",
        value_size=RECORD.size + FRAME_BYTES,
        max_entries=1,
        scope=Scope.CHAIN,
        role=Role.SCRATCH,
        layout="slow path/1",
        span=span,
    )
