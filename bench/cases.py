"""The list of what is measured: a later service adds its chain and its traffic here, and nothing elsewhere."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from schemas.manifest import Mode

from .contenders import BareRedirect, Chain, Contender, LinuxBridge
from .traffic import Traffic

ONE_FLOW = Traffic("1 flow")
MANY_FLOWS = Traffic("64k flows", flows=65536)


@dataclass(frozen=True, slots=True)
class Case:
    """A contender and the traffic that it is measured with; `quick` ones are in `make bench QUICK=1` too."""

    contender: Contender
    traffic: Sequence[Traffic]
    quick: bool = False


def _blocked(count: int) -> list[str]:
    """Addresses that no traffic of the bench comes from (198.18.0.0/15, RFC 2544)."""
    generator = random.Random(count)  # noqa: S311  # the same list each time
    return [f"198.{18 + (n >> 16)}.{n >> 8 & 255}.{n & 255}" for n in generator.sample(range(1 << 17), count)]


_GUARD = {"kind": "ddos", "block": {"sources": _blocked(100)}}
_BRIDGE: dict[str, Any] = {"kind": "bridge", "fdb": {"size": 65536}, "ports": {"a": {}, "b": {}}}


def ddos(mode: Mode) -> Chain:
    """100 blocked sources, none of which sends."""
    return Chain("ddos", {"guard": _GUARD}, [("in", "guard.outside"), ("guard.inside", "out")], mode)


def bridge(mode: Mode) -> Chain:
    """Two ports, and room for all stations."""
    return Chain("bridge", {"br0": _BRIDGE}, [("in", "br0.a"), ("br0.b", "out")], mode)


def guarded_bridge(mode: Mode) -> Chain:
    """The two in a row."""
    links = [("in", "guard.outside"), ("guard.inside", "br0.a"), ("br0.b", "out")]
    return Chain("ddos, bridge", {"guard": _GUARD, "br0": _BRIDGE}, links, mode)


LIMIT = BareRedirect()
"""What every figure is a ratio to."""


def cases() -> tuple[Case, ...]:
    """All of them, the limit first."""
    both = (ONE_FLOW, MANY_FLOWS)
    return (
        Case(LIMIT, both, quick=True),
        Case(ddos(Mode.NATIVE), both, quick=True),
        Case(bridge(Mode.NATIVE), both, quick=True),
        Case(guarded_bridge(Mode.NATIVE), both, quick=True),
        Case(LinuxBridge(), both, quick=True),
    )
