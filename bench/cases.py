"""The list of what is measured: a later service adds its chain and its traffic here, and nothing elsewhere."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from schemas.manifest import Mode

from .contenders import BareRedirect, Chain, Contender, Generic, TailCalls
from .kernel import IpForward, LinuxBridge, NftFilter, NftMasquerade
from .traffic import Traffic

ONE_FLOW = Traffic("1 flow")
FEW_FLOWS = Traffic("1k flows", flows=1024)
ZIPF_FLOWS = Traffic("64k Zipf", flows=65536, zipf=True)
STATIONS = Traffic("8 stations", flows=8)
MANY_FLOWS = Traffic("64k flows", flows=65536)
QUICK_TRAFFIC = (ONE_FLOW, MANY_FLOWS)


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


def static_bridge(traffic: Traffic) -> Chain:
    """A bridge whose stations are known beforehand: its table is code (the paper's figure 3b)."""
    stations = [f"02:42:{identity.to_bytes(4, 'little').hex(':')}" for identity in traffic.identities()]
    static = [{"mac": mac, "port": "a"} for mac in stations]
    services = {"br0": {**_BRIDGE, "fdb": {"size": 65536, "static": static}}}
    return Chain("bridge", services, [("in", "br0.a"), ("br0.b", "out")], name="bpfchain, static")


def generic_ddos() -> Generic:
    """The same 100 sources, in a hash."""
    sources = {
        int(ipaddress.IPv4Address(address)).to_bytes(4, "little"): (number + 1).to_bytes(4, "little")
        for number, address in enumerate(_blocked(100))
    }
    return Generic("ddos", (1, 0, 0, 0), {"sources4": sources})


def generic_bridge() -> Generic:
    """The same table, no static entries."""
    return Generic("bridge", (300, None, 0, 14))


LIMIT = BareRedirect()
"""What every figure is a ratio to."""

_ALL = (ONE_FLOW, FEW_FLOWS, MANY_FLOWS, ZIPF_FLOWS)
_ENDS = (ONE_FLOW, MANY_FLOWS)
_OTHER_HOOKS = (Mode.GENERIC, Mode.TC)


def cases() -> tuple[Case, ...]:
    """All of them, the limit first."""
    return (
        Case(LIMIT, (*_ALL, STATIONS), quick=True),
        Case(ddos(Mode.NATIVE), _ALL, quick=True),
        Case(bridge(Mode.NATIVE), (*_ALL, STATIONS), quick=True),
        Case(guarded_bridge(Mode.NATIVE), _ALL, quick=True),
        Case(generic_ddos(), _ENDS, quick=True),
        Case(generic_bridge(), _ENDS, quick=True),
        *(Case(BareRedirect(mode), (ONE_FLOW,)) for mode in _OTHER_HOOKS),
        *(Case(chain(mode), (ONE_FLOW,)) for chain in (ddos, bridge, guarded_bridge) for mode in _OTHER_HOOKS),
        Case(static_bridge(STATIONS), (STATIONS,)),
        Case(LinuxBridge(), _ENDS, quick=True),
        Case(IpForward(), _ENDS),
        *(Case(NftFilter(rules), (ONE_FLOW,)) for rules in (10, 100, 1000)),
        Case(NftMasquerade(), (ONE_FLOW, FEW_FLOWS)),
        *(Case(TailCalls(calls), (ONE_FLOW,)) for calls in (0, 1, 2, 4, 8, 16, 32)),
    )


def chains() -> tuple[Chain, ...]:
    """What is compiled and injected for table I."""
    return ddos(Mode.NATIVE), bridge(Mode.NATIVE), guarded_bridge(Mode.NATIVE)
