"""A bridge `br0` with a neighbour on each port, and the frames that stations behind it send."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from schemas.manifest import Mode
from tests.rig.network import Network, network, running

every_mode = pytest.mark.parametrize("mode", [mode.value for mode in Mode])

BROADCAST = b"\xff" * 6


def mac(number: int) -> bytes:
    return b"\x02\xfd" + number.to_bytes(4, "big")


def frame(source: bytes, destination: bytes = BROADCAST, vlan: int = 0) -> bytes:
    tag = b"\x81\x00" + vlan.to_bytes(2, "big") if vlan else b""
    return destination + source + tag + b"\x88\xb5" + bytes(46)


def chain_of(mode: str = "native", ports: dict[str, Any] | None = None, **fdb: Any) -> dict[str, Any]:
    """What a chain file says; port NAME is linked to device NAME, by default there are a, b and c."""
    ports = ports or {"a": {}, "b": {}, "c": {}}
    return {
        "mode": mode,
        "interfaces": {port: {"device": port} for port in ports},
        "services": {"br0": {"kind": "bridge", "fdb": fdb, "ports": ports}},
        "links": [[f"br0.{port}", port] for port in ports],
    }


@contextmanager
def bridge(
    folder: Path, mode: str = "native", ports: dict[str, Any] | None = None, **fdb: Any
) -> Iterator[tuple[Network, str]]:
    """It runs for the length of the block; the name of its chain comes with it."""
    chain = chain_of(mode, ports, **fdb)
    with network(*chain["interfaces"]) as net, running(net.dut, chain, folder) as compiled:
        yield net, compiled.chain.manifest.chain
