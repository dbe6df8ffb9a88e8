"""What can stand between generator and sink: each a description that sets a lane's machine up."""

from __future__ import annotations

import socket
import struct
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import yaml

from compiler.build import build
from runtime import features
from runtime import sys as kernel
from runtime.load import create_map, load_object
from runtime.netns import entered
from runtime.object import read_object
from runtime.uapi import AttachType, XdpFlag
from schemas.compiled import CompiledChain
from schemas.manifest import Hook, HostFact, Manifest, Mode, Role
from tests.rig.lab import Device

from .rig import Lane, Program, attach_xdp
from .unit import compile_unit

_DEVICES = ("in", "out")


@dataclass(frozen=True, slots=True)
class Standing:
    """A contender in place. `programs` are those that a packet runs through, the attached one first."""

    destination: bytes
    programs: tuple[kernel.Fd, ...] = ()


class Contender(Protocol):
    """Stands on a lane until the stack is closed. `service` is what it does, `mode` where it is hooked in."""

    @property
    def name(self) -> str: ...

    @property
    def service(self) -> str: ...

    @property
    def mode(self) -> str: ...

    def set_up(self, lane: Lane, stack: ExitStack) -> Standing: ...


@dataclass(frozen=True, slots=True)
class BareRedirect:
    """The limit of a hook: a program that only says where to."""

    mode: str = Mode.NATIVE
    name: str = "bare redirect"
    service: str = "redirect"

    def set_up(self, lane: Lane, stack: ExitStack) -> Standing:
        ifindex = lane.exit.port.ifindex
        bare = Program(compile_unit("redirect"), stack, {"out_ifindex": ifindex.to_bytes(4, "little")})
        with entered(lane.dut.name):
            kernel.map_update_elem(bare.maps["tx"], bytes(4), struct.pack("<Ii", ifindex, 0))
        program = bare.programs["redirect_tc" if self.mode == Mode.TC else "redirect_xdp"]
        stack.enter_context(attach(program, lane.entry.port, Mode(self.mode)))
        return Standing(lane.station, (program,))


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain of ours between interfaces `in` and `out`: `services` and `links` are what the chain file has."""

    service: str
    services: Mapping[str, Mapping[str, Any]]
    links: Sequence[tuple[str, str]]
    mode: str = Mode.NATIVE
    name: str = "bpfchain"

    def source(self) -> dict[str, Any]:
        """The chain file's data."""
        return {
            "chain": "bench",
            "mode": str(self.mode),
            "interfaces": {device: {"device": device} for device in _DEVICES},
            "services": {name: dict(config) for name, config in self.services.items()},
            "links": [list(link) for link in self.links],
        }

    def set_up(self, lane: Lane, stack: ExitStack) -> Standing:
        with tempfile.TemporaryDirectory(prefix="bpfchain-bench-") as folder:
            file = Path(folder, "chain.yaml")
            file.write_text(yaml.safe_dump(self.source(), sort_keys=False))
            compiled = build(file).chain
        with entered(lane.dut.name):
            loaded = stack.enter_context(Loaded(compiled))
        entry = ""
        for attached in compiled.manifest.attach:
            device = lane.entry.port if attached.interface == "in" else lane.exit.port
            stack.enter_context(attach(loaded.programs[attached.program], device, Mode(self.mode)))
            if attached.interface == "in":
                entry = attached.program
        return Standing(lane.station, tuple(loaded.programs[name] for name in path(compiled.manifest, entry)))


def path(manifest: Manifest, entry: str) -> tuple[str, ...]:
    """The programs that can be reached from `entry`, itself first."""
    services = {program.name: program.service for program in manifest.programs}
    reached, waiting = [entry], [entry]
    while waiting:
        service = services[waiting.pop()]
        for edge in manifest.edges:
            target = edge.target.removeprefix("program ")
            if edge.service == service and target in services and target not in reached:
                reached.append(target)
                waiting.append(target)
    return tuple(reached)


@dataclass(slots=True)
class Loaded:
    """A compiled chain in the kernel, filled and linked, attached to nothing; made in the machine's namespace.

    Internal links are left out: they carry copies of floods only, and traffic here is for a known station.
    """

    compiled: CompiledChain
    programs: dict[str, kernel.Fd] = field(default_factory=dict)
    _open: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Loaded:
        maps = self._make_maps()
        facts = {symbol.symbol: self._fact(symbol.fact, symbol.device) for symbol in self._manifest.host_symbols}
        for content in self.compiled.objects.values():
            loaded = self._open.enter_context(load_object(read_object(content), maps=maps, host_symbols=facts))
            self.programs.update(loaded.programs)
        for slot in self._manifest.tail_slots:
            self._link(maps[slot.map], slot.index, struct.pack("<I", self.programs[slot.program].fileno()))
        for device in self._manifest.device_slots:
            if (ifindex := self._ifindex(device.device)) is not None:
                self._link(maps[device.map], device.index, struct.pack("<Ii", ifindex, 0))
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @property
    def _manifest(self) -> Manifest:
        return self.compiled.manifest

    def _make_maps(self) -> dict[str, kernel.Fd]:
        maps = {}
        for record in self._manifest.maps:
            maps[record.name] = self._open.enter_context(
                create_map(
                    name=record.name,
                    type=record.type,
                    key_size=record.key_size,
                    value_size=record.value_size,
                    max_entries=record.max_entries,
                    flags=record.flags,
                )
            )
            if record.role is Role.CONFIG and record.entries:
                keys, values = zip(*((entry.key, entry.value) for entry in record.entries), strict=True)
                kernel.map_update_batch(maps[record.name], keys, values)
        return maps

    @staticmethod
    def _link(map_fd: kernel.Fd, index: int, value: bytes) -> None:
        kernel.map_update_elem(map_fd, index.to_bytes(4, "little"), value)

    def _ifindex(self, name: str) -> int | None:
        return socket.if_nametoindex(name) if name in _DEVICES else None

    def _fact(self, fact: HostFact, device: str | None) -> bytes:
        match fact:
            case HostFact.HZ:
                return features.hz().to_bytes(4, "little")
            case HostFact.IFINDEX:
                return (self._ifindex(device or "") or 0).to_bytes(4, "little")
            case _:
                raise NotImplementedError(f"the bench does not fill in {fact}")


_XDP_FLAGS = {Mode.NATIVE: XdpFlag.XDP_FLAGS_DRV_MODE, Mode.GENERIC: XdpFlag.XDP_FLAGS_SKB_MODE}


def attach(program: kernel.Fd, device: Device, mode: Mode) -> kernel.Fd:
    """The link that holds a program on a device."""
    if mode.hook is Hook.XDP:
        return attach_xdp(program, device, _XDP_FLAGS[mode])
    with entered(device.namespace.name):
        return kernel.link_create(program, device.ifindex, AttachType.BPF_TCX_INGRESS)


@dataclass(frozen=True, slots=True)
class LinuxBridge:
    """The kernel's own bridge over both devices."""

    name: str = "Linux bridge"
    service: str = "bridge"
    mode: str = "kernel"

    def set_up(self, lane: Lane, stack: ExitStack) -> Standing:
        with lane.dut.netlink() as netlink:
            # With snooping the bridge would join a group of its own, and announce that into the traffic.
            netlink.link("add", ifname="br0", kind="bridge", br_mcast_snooping=0)
            (bridge,) = netlink.link_lookup(ifname="br0")
            netlink.link("set", index=bridge, state="up")
            for device in (lane.entry.port, lane.exit.port):
                netlink.link("set", index=device.ifindex, master=bridge)
        return Standing(lane.station)
