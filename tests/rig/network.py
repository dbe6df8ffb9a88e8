"""A machine under test with a neighbour on each of its ports, and the chains that it runs for the length of a block."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import bpfchain
from compiler.build import Compiled
from runtime.netns import entered

from .frames import MLD_REPORTS, Wire, collect
from .lab import Cable, Lab, Namespace, unique_name


@dataclass(frozen=True, slots=True)
class Network:
    """`dut` is the machine; under each port's name there is the cable to its neighbour, and a tap at the far end."""

    dut: Namespace
    cables: Mapping[str, Cable]
    wires: Mapping[str, Wire]

    def send(self, port: str, *frames: bytes) -> None:
        """Frames from the neighbour of `port`."""
        self.wires[port].send(*frames)

    def arrivals(self, **expected: int) -> dict[str, list[bytes]]:
        """What came to which neighbour, once as many as expected have; neighbours with nothing are left out."""
        arrived = collect(self.wires, expected)
        return {port: frames for port, frames in arrived.items() if frames}


@contextlib.contextmanager
def running(dut: Namespace, chain: Mapping[str, Any], folder: Path) -> Iterator[Compiled]:
    """Compiles a chain, under a name of its own, and applies it on a machine; takes it away again."""
    named = {"chain": unique_name("test"), **chain}
    file = folder / f"{named['chain']}.yaml"
    file.write_text(yaml.safe_dump(named, sort_keys=False))
    compiled = bpfchain.compile(file, folder / named["chain"])
    with entered(dut.name):
        bpfchain.apply(compiled)
    try:
        yield compiled
    finally:
        bpfchain.detach(named["chain"])


@contextlib.contextmanager
def network(*ports: str) -> Iterator[Network]:
    """A machine with these ports, each a veth whose far end has no stack that would speak unasked."""
    with Lab() as lab, contextlib.ExitStack() as wires:
        dut, far = lab.namespace("dut"), lab.namespace("far")
        cables = {port: lab.cable((dut, port), (far, f"to-{port}")) for port in ports}
        yield Network(
            dut,
            cables,
            {port: wires.enter_context(Wire(cables[port].station, passed_over=(MLD_REPORTS,))) for port in ports},
        )
