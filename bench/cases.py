"""The list of what is measured: a later service adds its chain and its traffic here, and nothing elsewhere.

To add rows, describe what stands between the generator and the sink, and list it in `cases()` with its traffic:

    def small_bridge(mode: Mode) -> Chain:
        bridge = {"kind": "bridge", "fdb": {"size": 64}, "ports": {"a": {}, "b": {}}}
        return Chain("small bridge", {"br0": bridge}, [("in", "br0.a"), ("br0.b", "out")], mode)
    ...
    *(Case(small_bridge(mode), (ONE_FLOW,)) for mode in Mode),

A chain has the interfaces `in` and `out`. Frames come from as many stations as the traffic has flows, each with an
address of its own (traffic.py), and are for 192.168.0.2; on Ethernet for the sink's station, or with `to_device` for
the device that they come in by. What a control plane would have written into maps by then is the chain's `state`: see
`router` below. Frames must arrive complete, in order and unchanged but for what a router or NAT may
change (bpf/sink.c), or nothing is measured. What is no chain is a `Contender` (contenders.py, kernel.py): a name, a
service, a mode, and `set_up`. `quick` cases are in `make bench QUICK=1` as well, so that what gets slower is seen
there: keep them few.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from schemas.manifest import Mode
from schemas.services.router import NEIGHBOUR

from . import tables
from .contenders import BareRedirect, Chain, Contender, Generic, TailCalls
from .kernel import IpForward, LinuxBridge, NftFilter, NftMasquerade
from .rig import Lane
from .tables import MANY_DESTINATIONS, ONE_DESTINATION
from .traffic import SOURCES, Traffic

ONE_FLOW = Traffic("1 flow")
FEW_FLOWS = Traffic("1k flows", flows=1024)
ZIPF_FLOWS = Traffic("64k Zipf", flows=65536, zipf=True)
STATIONS = Traffic("8 stations", flows=8)
MANY_FLOWS = Traffic("64k flows", flows=65536)
TAGGED = Traffic("1 flow, VLAN 10", frame_bytes=64, vlan=10)
QUICK_TRAFFIC = (ONE_FLOW, MANY_FLOWS)


@dataclass(frozen=True, slots=True)
class Case:
    """A contender and the traffic that it is measured with; `quick` ones are in `make bench QUICK=1` too."""

    contender: Contender
    traffic: Sequence[Traffic]
    quick: bool = False


_PORT_FORWARDING, _PORT_STATES_BYTES = 2, 264  # enum port_state, struct port_states in config.h


def _blocked(count: int) -> list[str]:
    """Addresses all over the Internet, but for the network that the bench's traffic comes from."""
    generator = random.Random(count)  # noqa: S311  # the same list each time
    unicast = range(1 << 24, 224 << 24)
    chosen = (ipaddress.IPv4Address(number) for number in generator.sample(unicast, 2 * count))
    return [str(address) for address in chosen if address not in SOURCES][:count]


_GATEWAY_MAC = "02:42:ff:00:00:01"
_GUARD = {"kind": "ddos", "block": {"sources": _blocked(100)}}
_BRIDGE: dict[str, Any] = {"kind": "bridge", "fdb": {"size": 65536}, "ports": {"a": {}, "b": {}}}


def ddos(mode: Mode) -> Chain:
    """100 blocked sources, none of which sends."""
    return Chain("ddos", {"guard": _GUARD}, [("in", "guard.outside"), ("guard.inside", "out")], mode)


def bridge(mode: Mode) -> Chain:
    """Two ports, and room for all stations."""
    return Chain("bridge", {"br0": _BRIDGE}, [("in", "br0.a"), ("br0.b", "out")], mode)


def vlan_bridge(mode: Mode) -> Chain:
    """The same with VLANs: both ports are access ports of one (the paper's figure 3a)."""
    ports = {name: {"vlan": {"access": 10}} for name in ("a", "b")}
    links = [("in", "br0.a"), ("br0.b", "out")]
    return Chain("bridge, VLANs", {"br0": {**_BRIDGE, "ports": ports}}, links, mode)


def trunk_bridge(mode: Mode) -> Chain:
    """Between trunks, with a spanning tree: frames stay tagged."""
    ports = {name: {"vlan": {"trunk": [10, 20, "100-199"]}} for name in ("a", "b")}
    services = {"br0": {**_BRIDGE, "ports": ports, "stp": {}}}
    return Chain("bridge, trunks, STP", services, [("in", "br0.a"), ("br0.b", "out")], mode, state=_forwarding)


def stp_bridge(mode: Mode) -> Chain:
    """VLANs and a spanning tree, both ports forwarding: the paper's figure 3a with everything on."""
    ports = {name: {"vlan": {"access": 10}} for name in ("a", "b")}
    services = {"br0": {**_BRIDGE, "ports": ports, "stp": {}}}
    links = [("in", "br0.a"), ("br0.b", "out")]
    return Chain("bridge, VLANs, STP", services, links, mode, state=_forwarding)


def _forwarding(_: Lane) -> Mapping[str, Mapping[bytes, bytes]]:
    return {"br0__states": {bytes(4): bytes([_PORT_FORWARDING] * 2).ljust(_PORT_STATES_BYTES, b"\0")}}


def router(mode: Mode) -> Chain:
    """Two subnets, and a neighbour that is known."""
    ports = {"a": {"address": "10.0.0.1/8"}, "b": {"address": "192.168.0.1/24"}}
    links = [("in", "gw.a"), ("gw.b", "out")]
    return Chain("router", {"gw": {"kind": "router", "ports": ports}}, links, mode, to_device=True, state=_neighbour)


def _neighbour(lane: Lane) -> Mapping[str, Mapping[bytes, bytes]]:
    """The entry for 192.168.0.2 on the second port, `b`, of the router: compiler/services/router/config.h."""
    key = ipaddress.IPv4Address("192.168.0.2").packed + (1).to_bytes(4, "little")
    return {"gw__neighbours4": {key: lane.station.ljust(NEIGHBOUR.size, b"\0")}}


def guarded_bridge(mode: Mode) -> Chain:
    """The two in a row."""
    links = [("in", "guard.outside"), ("guard.inside", "br0.a"), ("br0.b", "out")]
    return Chain("ddos, bridge", {"guard": _GUARD, "br0": _BRIDGE}, links, mode)


def guarded_network(mode: Mode) -> Chain:
    """The three in a row; where the router is, the bridge knows from the chain file."""
    bridge = {**_BRIDGE, "fdb": {"size": 65536, "static": [{"mac": _GATEWAY_MAC, "port": "b"}]}}
    ports = {"lan": {"address": "10.0.0.1/8", "mac": _GATEWAY_MAC}, "b": {"address": "192.168.0.1/24"}}
    services = {"guard": _GUARD, "br0": bridge, "gw": {"kind": "router", "ports": ports}}
    links = [("in", "guard.outside"), ("guard.inside", "br0.a"), ("br0.b", "gw.lan"), ("gw.b", "out")]
    return Chain("ddos, bridge, router", services, links, mode, to=_GATEWAY_MAC, state=_neighbour)


def static_bridge(traffic: Traffic) -> Chain:
    """A bridge whose stations are known beforehand: its table is code (the paper's figure 3b)."""
    stations = [f"02:42:{identity.to_bytes(4, 'little').hex(':')}" for identity in traffic.identities()]
    static = [{"mac": mac, "port": "a"} for mac in stations]
    services = {"br0": {**_BRIDGE, "fdb": {"size": 65536, "static": static}}}
    return Chain("bridge", services, [("in", "br0.a"), ("br0.b", "out")], name="bpfchain, static")


def generic_ddos(mode: Mode) -> Generic:
    """The same 100 sources, in an LPM trie."""
    sources = {
        (32).to_bytes(4, "little") + ipaddress.IPv4Address(address).packed: (number + 1).to_bytes(4, "little")
        for number, address in enumerate(_blocked(100))
    }
    return Generic("ddos", (1, 0, 0, 0), {"sources4": sources}, mode)


def generic_bridge(mode: Mode) -> Generic:
    """The same ageing, room for as many stations; VLAN filtering and spanning tree are in the code, and off."""
    return Generic("bridge", (300, None, 0, 0), mode=mode)


LIMIT = BareRedirect()
"""What every figure is a ratio to."""

_ALL = (ONE_FLOW, FEW_FLOWS, MANY_FLOWS, ZIPF_FLOWS)
_ENDS = (ONE_FLOW, MANY_FLOWS)
_DESTINATIONS = (ONE_DESTINATION, MANY_DESTINATIONS)
_OTHER_HOOKS = (Mode.GENERIC, Mode.TC)
_CHAINS = (ddos, bridge, guarded_bridge, router, guarded_network)


def cases() -> tuple[Case, ...]:
    """All of them, the limit first."""
    return (
        Case(LIMIT, (*_ALL, STATIONS, TAGGED, *_DESTINATIONS), quick=True),
        Case(ddos(Mode.NATIVE), _ALL, quick=True),
        Case(bridge(Mode.NATIVE), (*_ALL, STATIONS), quick=True),
        Case(vlan_bridge(Mode.NATIVE), _ENDS),
        Case(stp_bridge(Mode.NATIVE), _ENDS),
        Case(trunk_bridge(Mode.NATIVE), (TAGGED,)),
        Case(router(Mode.NATIVE), _ENDS, quick=True),
        Case(guarded_bridge(Mode.NATIVE), _ALL, quick=True),
        Case(guarded_network(Mode.NATIVE), _ENDS, quick=True),
        *(Case(generic(Mode.NATIVE), _ENDS, quick=True) for generic in (generic_ddos, generic_bridge)),
        *(Case(BareRedirect(mode), (ONE_FLOW,)) for mode in _OTHER_HOOKS),
        *(Case(chain(mode), (ONE_FLOW,)) for chain in _CHAINS for mode in _OTHER_HOOKS),
        *(Case(generic(mode), (ONE_FLOW,)) for generic in (generic_ddos, generic_bridge) for mode in _OTHER_HOOKS),
        Case(static_bridge(STATIONS), (STATIONS,)),
        Case(LinuxBridge(), _ENDS, quick=True),
        Case(IpForward(), _ENDS),
        *(Case(each(size), _DESTINATIONS) for size in tables.SIZES for each in (tables.router, IpForward)),
        *(Case(NftFilter(rules), (ONE_FLOW,)) for rules in (10, 100, 1000)),
        Case(NftMasquerade(), (ONE_FLOW, FEW_FLOWS)),
        *(Case(TailCalls(calls), (ONE_FLOW,)) for calls in (0, 1, 2, 4, 8, 16, 32)),
    )


def chains() -> tuple[Chain, ...]:
    """What is compiled and injected for table I."""
    return ddos(Mode.NATIVE), bridge(Mode.NATIVE), guarded_bridge(Mode.NATIVE)
