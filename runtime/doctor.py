"""A manifest and this host in, whatever would keep the chain from working out, each finding with what mends it.

A finding is a `Diagnostic` whose `help` is a command that can be run as it stands, where there is one. An error will
not work, a warning may. Devices lose frames in ways that no counter of ours can show, because they never see them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from schemas.diagnostic import ChainError, Diagnostic, LoadFailed, Severity
from schemas.manifest import Hook, HostFact, InterfaceRecord, Manifest, Mode
from schemas.trust import distrust

from . import features
from .bpffs import bpffs_root, is_bpffs, mount_command, not_writable
from .netdev import VETH, Netdev, XdpFeature, read_far_end, read_netdev

WANTED_ANYWHERE = (
    "program:xdp",
    "program:sched_cls",
    "map:BPF_MAP_TYPE_HASH",
    "map:BPF_MAP_TYPE_LRU_HASH",
    "map:BPF_MAP_TYPE_LPM_TRIE",
    "map:BPF_MAP_TYPE_DEVMAP",
    "map:BPF_MAP_TYPE_PROG_ARRAY",
    "map:BPF_MAP_TYPE_RINGBUF",
    "redirect:broadcast",
    "link:xdp",
    "link:tcx",
)
"""What is probed where no chain says what it needs."""

SILENT = frozenset({"H105", "H106", "H107", "H110", "H112", "H114"})
"""Findings that mean frames which vanish without a trace: `apply` tells them as well."""

_MOST_MTU_OF_NATIVE_VETH = 3498
"""A frame has to fit one page with its headroom (veth_xdp_set, drivers/net/veth.c)."""

_UNFILTERED = frozenset({VETH, "tun"})
"""Kinds that receive what is for other stations' addresses without being told to."""

_CHECKSUMS = frozenset({"tx-checksum-ip-generic", "tx-checksum-ipv4", "tx-checksum-ipv6"})
_SEGMENTATION = frozenset({"tx-generic-segmentation", "tx-tcp-segmentation", "tx-tcp6-segmentation"})
_MERGING = {"rx-lro": "lro", "rx-gro-hw": "rx-gro-hw"}

CompilerCheck = Callable[[], object]
"""Raises `ChainError` where nothing here can compile; the runtime itself knows no compiler."""


class Port(Struct, frozen=True):
    """An interface of a chain, its device, and what is known of a veth's other end."""

    interface: InterfaceRecord
    device: Netdev
    far: Netdev | None

    @property
    def is_veth(self) -> bool:
        return self.device.kind == VETH

    @property
    def mode(self) -> Mode:
        return self.interface.mode


def examine(
    manifest: Manifest | None = None, *, bpffs: str | Path | None = None, compiler: CompilerCheck | None = None
) -> tuple[Diagnostic, ...]:
    """Everything that stands against running the chain here, or any chain where none is given."""
    return (
        *_privileges(),
        *_kernel(manifest),
        *_bpffs(bpffs_root(bpffs)),
        *_compiler(compiler),
        *(examine_devices(manifest) if manifest else ()),
    )


def examine_devices(manifest: Manifest) -> tuple[Diagnostic, ...]:
    """What stands against a chain in the devices of its interfaces, in the order of the interfaces."""
    findings: list[Diagnostic] = []
    ports: list[Port] = []
    for interface in _whole_devices(manifest):
        try:
            device = read_netdev(interface.device, interface.netns)
            far = read_far_end(device) if device else None
        except LoadFailed as refusal:  # its namespace cannot be entered
            findings += refusal.diagnostics
            continue
        if device is None:
            findings.append(_missing(interface))
        else:
            ports.append(Port(interface, device, far))
    for port in ports:
        findings += judge(port, manifest)
    return (*findings, *unequal_mtus(ports, manifest))


def _whole_devices(manifest: Manifest) -> Iterator[InterfaceRecord]:
    """Interfaces that are a VLAN share the device of another one, and its state."""
    return (interface for interface in manifest.interfaces if interface.vlan is None)


def _shares(interface: InterfaceRecord, manifest: Manifest) -> list[str]:
    """Names of the interfaces that are VLANs of this one's device."""
    place = interface.device, interface.netns
    return [each.name for each in manifest.interfaces if each.vlan is not None and (each.device, each.netns) == place]


def silent_losses(manifest: Manifest) -> tuple[Diagnostic, ...]:
    """Of the findings on devices, those that lose frames without a trace, as warnings."""
    found = (finding for finding in examine_devices(manifest) if finding.code in SILENT)
    return tuple(replace(finding, severity=Severity.WARNING) for finding in found)


# --- the host -------------------------------------------------------------------------------------------------------


def _privileges() -> Iterator[Diagnostic]:
    try:
        features.require_privilege()
    except ChainError as refusal:
        yield from refusal.diagnostics


def _kernel(manifest: Manifest | None) -> Iterator[Diagnostic]:
    if features.missing_privileges():  # the kernel answers no questions then
        return
    for feature in manifest.features if manifest else WANTED_ANYWHERE:
        try:
            there = features.has(feature)
        except ChainError as refusal:
            yield from refusal.diagnostics
            return
        if not there and manifest:
            yield Diagnostic("L140", f"this kernel has no `{feature}`")
        elif not there:
            message = f"this kernel has no `{feature}`, which some chains need"
            yield Diagnostic("H120", message, severity=Severity.WARNING)


def _bpffs(root: Path) -> Iterator[Diagnostic]:
    """`apply` mounts it by itself where it may."""
    if not root.is_dir() or not is_bpffs(root):
        message = f"there is no bpffs at `{root}`"
        notes = ("`apply` mounts it, if it is allowed to",)
        yield Diagnostic("H121", message, notes=notes, help=mount_command(root), severity=Severity.WARNING)
        return
    home = root / "bpfchain"
    place = home if os.access(root, os.X_OK) and home.is_dir() else root
    doubt = distrust(place.stat()) if place is home else None
    if doubt:
        message = f"`{home}` is not trusted: {doubt.reason}"
        yield Diagnostic("A130", message, help=f"{doubt.mend} {home}")
    elif not os.access(place, os.R_OK | os.W_OK | os.X_OK):
        yield from not_writable(home).diagnostics


def _compiler(check: CompilerCheck | None) -> Iterator[Diagnostic]:
    if check is None:
        return
    try:
        check()
    except ChainError as refusal:
        note = "only compiling needs one: what was compiled elsewhere runs here"
        for found in refusal.diagnostics:
            yield replace(found, notes=(*found.notes, note), severity=Severity.WARNING)


# --- a device -------------------------------------------------------------------------------------------------------


def judge(port: Port, manifest: Manifest) -> Iterator[Diagnostic]:
    """All findings on one device. Pure."""
    yield from _link_state(port)
    if port.mode.hook is not Hook.XDP:
        return
    if port.mode is Mode.NATIVE:
        yield from _native(port)
    if _is_target(port, manifest):
        yield from _target(port)
    yield from _stack_behind(port)
    yield from _merging(port)
    yield from _vlan_tags(port, _shares(port.interface, manifest))
    if _forwards(port, manifest):
        yield from _promiscuity(port)


def _missing(interface: InterfaceRecord) -> Diagnostic:
    where = f" in network namespace `{interface.netns}`" if interface.netns else ""
    asker = (f"the chain file asks for it at {interface.span}",)
    return Diagnostic(
        "H101", f"interface `{interface.name}`: there is no device `{interface.device}`{where}", notes=asker
    )


def _link_state(port: Port) -> Iterator[Diagnostic]:
    device, far = port.device, port.far
    if not device.up:
        yield _finding("H102", port, "is down", _ip_link(device, "up"))
    elif not device.sends:
        if far and not far.up:
            yield _finding("H103", port, f"has no carrier: its far end {_called(far)} is down", _ip_link(far, "up"))
        else:
            yield _finding("H103", port, f"does not send: its state is {device.operstate}", "")


def _native(port: Port) -> Iterator[Diagnostic]:
    device, far = port.device, port.far
    if device.xdp is not None and XdpFeature.BASIC not in device.xdp:
        what = f"cannot do native XDP{f' (a {device.kind} cannot)' if device.kind else ''}"
        yield _finding("H104", port, what, f"set `mode: generic` or `mode: tc` for interface `{port.interface.name}`")
    for end in (device, far) if port.is_veth else ():
        if end and end.mtu > _MOST_MTU_OF_NATIVE_VETH:
            whose = "" if end is device else f", at its far end {_called(end)}"
            what = f"has an MTU of {end.mtu}{whose}: native XDP on a veth takes {_MOST_MTU_OF_NATIVE_VETH} at most"
            yield _finding("H109", port, what, _ip_link(end, f"mtu {_MOST_MTU_OF_NATIVE_VETH}"))


def _is_target(port: Port, manifest: Manifest) -> bool:
    """Whether a native program sends to the device. Generic XDP sends like the stack does, to any device."""
    slots = {slot.device for slot in manifest.device_slots}
    return port.interface.name in slots and any(other.mode is Mode.NATIVE for other in manifest.interfaces)


def _target(port: Port) -> Iterator[Diagnostic]:
    """What `ndo_xdp_xmit` does not take is lost without a word; a veth has it while its far end polls."""
    device, far = port.device, port.far
    if device.xdp is None or XdpFeature.NDO_XMIT in device.xdp:
        return
    vanish = "takes no frames from native XDP: what a program sends to it vanishes"
    if not port.is_veth:
        help_text = "set `mode: generic` or `mode: tc` for all interfaces of the chain"
        yield _finding("H105", port, vanish, help_text)
    elif far is None:
        notes = (f"in the namespace of its far end: {_far_commands('DEVICE')}",)
        yield _finding("H105", port, f"{vanish} (GRO is off at its far end)", "", notes=notes)
    elif "rx-gro" not in far.offloads:
        yield _finding("H105", port, f"{vanish} (GRO is off at its far end {_called(far)})", _ethtool(far, "gro on"))
    else:
        what = f"{vanish} (GRO was on at its far end {_called(far)} before both were up)"
        yield _finding("H105", port, what, f"{_ethtool(far, 'gro off')} && {_ethtool(far, 'gro on')}")


def _stack_behind(port: Port) -> Iterator[Diagnostic]:
    """A stack at the far end of a veth leaves work to the device that nobody does before XDP sees the frame."""
    if not port.is_veth:
        return
    far = port.far
    if far is None:
        named = port.device.far and port.device.far.netns
        where = f"`{named}`, which takes CAP_SYS_ADMIN to enter" if named else "a namespace that has no name here"
        what = f"has its far end in {where}, so it was not looked at"
        notes = (f"where a network stack sends from there: {_far_commands('DEVICE')}",)
        yield _finding("H113", port, what, "", notes=notes, severity=Severity.WARNING)
    elif port.mode is Mode.NATIVE and far.offloads & _CHECKSUMS:
        what = f"gets frames with unfinished checksums from {_called(far)}: redirected, they are wrong for good"
        yield _finding("H106", port, what, _ethtool(far, "tx off"))
    elif port.mode is Mode.GENERIC and far.offloads & _SEGMENTATION:
        what = f"gets frames longer than its MTU from {_called(far)}: generic XDP loses them"
        yield _finding("H107", port, what, _ethtool(far, "tso off gso off"))


def _merging(port: Port) -> Iterator[Diagnostic]:
    on = [short for name, short in _MERGING.items() if name in port.device.offloads]
    if on:
        what = f"joins frames before XDP sees them ({', '.join(on)})"
        yield _finding("H108", port, what, _ethtool(port.device, " ".join(f"{short} off" for short in on)))


def _vlan_tags(port: Port, vlans: list[str]) -> Iterator[Diagnostic]:
    """A tag that the hardware, or the stack behind a veth, keeps beside the frame is not in what XDP sees."""
    device, far = port.device, port.far
    if port.is_veth and far and "tx-vlan-hw-insert" in far.offloads:
        what, mend = f"gets VLAN tags beside the frame from {_called(far)}", _ethtool(far, "txvlan off")
    elif not port.is_veth and "rx-vlan-hw-parse" in device.offloads:
        what, mend = "takes VLAN tags out of frames", _ethtool(device, "rxvlan off")
    else:
        return
    if vlans:
        yield _finding("H114", port, f"{what}, by which {_listed(vlans)} are told apart", mend)
    else:
        yield _finding("H111", port, f"{what}: XDP does not see them", mend, severity=Severity.WARNING)


def _forwards(port: Port, manifest: Manifest) -> bool:
    """Whether frames for other stations come in here: a port that is addressed itself has its MAC in programs."""
    addressed = {symbol.device for symbol in manifest.host_symbols if symbol.fact is HostFact.MAC}
    used = _shares(port.interface, manifest) or [port.interface.name]
    return len(manifest.interfaces) > 1 and any(name not in addressed for name in used)


def _promiscuity(port: Port) -> Iterator[Diagnostic]:
    device = port.device
    if device.kind not in _UNFILTERED and not device.promiscuous:
        what = "lets in no frames for other stations (it is not promiscuous)"
        yield _finding("H112", port, what, _ip_link(device, "promisc on"))


def unequal_mtus(ports: list[Port], manifest: Manifest) -> Iterator[Diagnostic]:
    """A frame that is longer than the device's MTU is not sent there, and nobody is told. Pure."""
    forwarding = [port for port in ports if _forwards(port, manifest)]
    most = max((port.device.mtu for port in forwarding), default=0)
    for port in forwarding:
        if port.device.mtu < most:
            other = next(other for other in forwarding if other.device.mtu == most)
            what = f"has MTU {port.device.mtu}, `{other.device.name}` has {most}: longer frames vanish on the way to it"
            finding = _finding("H110", port, what, _ip_link(port.device, f"mtu {most}"), severity=Severity.WARNING)
            yield finding


# --- words ----------------------------------------------------------------------------------------------------------


def _finding(
    code: str,
    port: Port,
    what: str,
    command: str,
    *,
    notes: tuple[str, ...] = (),
    severity: Severity = Severity.ERROR,
) -> Diagnostic:
    message = f"interface `{port.interface.name}`: {_called(port.device)} {what}"
    return Diagnostic(code, message, notes=notes, help=command, severity=severity)


def _called(device: Netdev) -> str:
    return f"`{device.name}`{f' in `{device.netns}`' if device.netns else ''}"


def _listed(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _ip_link(device: Netdev, change: str) -> str:
    return f"ip {f'-n {device.netns} ' if device.netns else ''}link set dev {device.name} {change}"


def _ethtool(device: Netdev, change: str) -> str:
    """`ip netns exec` hides bpffs, which ethtool does not need."""
    return f"{f'ip netns exec {device.netns} ' if device.netns else ''}ethtool -K {device.name} {change}"


def _far_commands(name: str) -> str:
    return f"`ethtool -K {name} gro on` (with both ends up) and `ethtool -K {name} tx off`"
