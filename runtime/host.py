"""A manifest in, what this host says about its devices out; from that, the values of its host-bound symbols."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from schemas.manifest import HostFact, Manifest

from . import features
from .devices import Device, DeviceFinder, find_device, require_device
from .veth import veth_pairs


class Host(Struct, frozen=True):
    """What the host says about a chain's devices, by the chain's names for them; what is missing is left out.

    An internal link is known by the end that frames are sent into; `receivers` are the other ends.
    """

    devices: Mapping[str, Device]
    hz: int
    receivers: Mapping[str, Device] = {}


def look(manifest: Manifest, find: DeviceFinder = find_device) -> Host:
    """The host as it is now, as far as this chain is concerned."""
    pairs = veth_pairs(manifest)
    wanted = {interface.name: (interface.device, interface.netns) for interface in manifest.interfaces}
    wanted |= {pair.link: (pair.a, pair.netns) for pair in pairs}
    receivers = {pair.link: (pair.b, pair.netns) for pair in pairs}
    return Host(_found(wanted, find), features.hz(), _found(receivers, find))


def _found(wanted: Mapping[str, tuple[str, str | None]], find: DeviceFinder) -> dict[str, Device]:
    found = {name: find(device, netns) for name, (device, netns) in wanted.items()}
    return {name: device for name, device in found.items() if device}


def require_interfaces(manifest: Manifest) -> None:
    """Raises `LoadFailed` (A101) where an interface's device does not exist."""
    for interface in manifest.interfaces:
        require_device(interface.device, interface.netns, interface.span)


def host_facts(manifest: Manifest, host: Host) -> dict[str, bytes]:
    """The value of every host-bound symbol, as programs read it; left out where its device is missing."""
    facts = {}
    for symbol in manifest.host_symbols:
        known = host.receivers if symbol.fact is HostFact.RECEIVER else host.devices
        device = known.get(symbol.device) if symbol.device else None
        if symbol.fact is HostFact.HZ:
            facts[symbol.symbol] = host.hz.to_bytes(4, "little")
        elif device:
            facts[symbol.symbol] = _fact(symbol.fact, device)
    return facts


def _fact(fact: HostFact, device: Device) -> bytes:
    match fact:
        case HostFact.MAC:
            return device.mac
        case HostFact.MTU:
            return device.mtu.to_bytes(4, "little")
        case _:
            return device.ifindex.to_bytes(4, "little")
