"""Three kinds of service that exist only for tests of the language: a tube, a hub and a gate that ends loops."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any
from unittest import mock

from compiler.addresses import (
    check_overlaps,
    parse_address,
    parse_duration,
    parse_interface_address,
    parse_mac,
    parse_prefix,
)
from compiler.model import Port
from compiler.service import Service
from compiler.source import Report, Value

SCHEMAS = Path(__file__).parent / "toy_schemas"


@dataclass(frozen=True, slots=True)
class ToyConfig:
    """Everything that a toy was told."""

    prefixes: tuple[object, ...]


def _resolve(value: Value, _ports: tuple[Port, ...], report: Report) -> ToyConfig:
    prefixes = value.get("prefixes")
    found = [(item, parse_prefix(item, report)) for item in prefixes.elements()] if prefixes else []
    sound = [(item, prefix) for item, prefix in found if prefix is not None]
    check_overlaps(sound, report)
    parsers: dict[str, Callable[[Value, Report], object]] = {
        "mac": parse_mac,
        "aging": parse_duration,
        "gateway": parse_address,
        "address": parse_interface_address,
    }
    for key, parse in parsers.items():
        item = value.get(key)
        if item is not None:
            parse(item, report)
    return ToyConfig(tuple(prefix for _, prefix in sound))


def _lower(*_: object) -> Any:
    raise AssertionError("toys are never lowered")


def _toy(kind: str, **how: Any) -> Service:
    schema: Traversable = SCHEMAS / f"{kind}.schema.json"
    return Service(
        kind, f"a toy {kind}", schema=schema, header=schema, resolve=_resolve, lower=_lower, drop_reasons=(), **how
    )


@functools.cache
def toys() -> Mapping[str, Service]:
    return {
        "tube": _toy("tube", ports=("outside", "inside"), transparent=True),
        "hub": _toy("hub", floods=True),
        "gate": _toy("gate", ports=("left", "right"), breaks_loops=True),
    }


@contextmanager
def toys_only() -> Iterator[None]:
    """The registry holds the toys and nothing else."""
    with mock.patch("compiler.validate.registry", toys), mock.patch("compiler.resolve.registry", toys):
        yield


def chain(services: Mapping[str, Any], links: list[list[str]], **more: Any) -> str:
    """The text of a chain (JSON is YAML) with two interfaces, `wan` and `lan`."""
    interfaces = {"wan": {"device": "eth0"}, "lan": {"device": "eth1"}}
    return json.dumps({"chain": "edge", "interfaces": interfaces, "services": services, "links": links, **more})
