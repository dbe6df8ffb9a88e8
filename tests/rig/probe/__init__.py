"""The probe service, made as a third party would: a tube that sends marked frames up to its control plane."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources.abc import Traversable
from pathlib import Path
from unittest import mock

from compiler.ir import Constant, Inlined, LoweredPort
from compiler.model import Port, ServiceInstance
from compiler.service import Service, registry
from compiler.source import Report, Value
from schemas.manifest import Hook

HERE: Traversable = Path(__file__).parent
UP, COPY = b"\x88\xb6", b"\x88\xb7"
"""EtherTypes of frames that go up, and of those that a copy of goes up."""

REASONS = ("calm", "flood")


def resolve(value: Value, _ports: tuple[Port, ...], _report: Report) -> int | None:
    """The note with which all IPv4 goes up."""
    found = value.get("all")
    return found.data if found else None


def lower(instance: ServiceInstance, port: Port, _hook: Hook) -> LoweredPort:
    """Both directions are alike."""
    out = next(other for other in instance.ports if other != port)
    home = Inlined("out", str(out.index))
    constants = [Constant(str(port), out.name, "port to leave by", home, instance.span)]
    if instance.config is not None:
        constants += [
            Constant(f"{port}.all", "yes", "IPv4 goes up", Inlined("all", "true"), instance.span),
            Constant(
                f"{port}.note", str(instance.config), "its note", Inlined("note", str(instance.config)), instance.span
            ),
        ]
    return LoweredPort(constants=tuple(constants))


SERVICE = Service(
    kind="probe",
    summary="Sends marked frames up",
    schema=HERE / "probe.schema.json",
    header=HERE / "probe.bpf.h",
    resolve=resolve,
    lower=lower,
    drop_reasons=((0, "truncated"),),
    ports=("outside", "inside"),
    transparent=True,
    control=lambda instance: {"name": instance.name},
    injects=True,
    slow_path_reasons=tuple(enumerate(REASONS)),
    origin="tests",
)


@contextmanager
def installed() -> Iterator[None]:
    """The registry holds the probe beside all other kinds."""
    known = {**registry(), SERVICE.kind: SERVICE}
    with (
        mock.patch("compiler.validate.registry", return_value=known),
        mock.patch("compiler.resolve.registry", return_value=known),
    ):
        yield
