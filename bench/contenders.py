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
class TailCalls:
    """The bare redirect behind a row of tail calls (the paper's figure 4)."""

    calls: int
    service: str = "tail calls"
    mode: str = Mode.NATIVE

    @property
    def name(self) -> str:
        return str(self.calls)

    def set_up(self, lane: Lane, stack: ExitStack) -> Standing:
        row = Program(compile_unit("tail_calls"), stack)
        with entered(lane.dut.name):
            kernel.map_update_elem(row.maps["tx"], bytes(4), struct.pack("<Ii", lane.exit.port.ifindex, 0))
        stages = [row.programs[f"stage{number}"] for number in range(self.calls, -1, -1)]
        for number in range(self.calls):
            target = row.programs[f"stage{number}"].fileno().to_bytes(4, "little")
            kernel.map_update_elem(row.maps["stages"], number.to_bytes(4, "little"), target)
        stack.enter_context(attach_xdp(stages[0], lane.entry.port))
        return Standing(lane.station, tuple(stages))


@dataclass(frozen=True, slots=True)
class Generic:
    """A service of ours as it would be without a compiler: bpf/generic_KIND.c, all settings and tables in maps.

    `settings` are the words of its `struct settings`, None for the host's HZ. `tables` are entries of other maps.
    """

    service: str
    settings: tuple[int | None, ...]
    tables: Mapping[str, Mapping[bytes, bytes]] = field(default_factory=dict, hash=False)
    mode: str = Mode.NATIVE
    name: str = "generic build"

    def set_up(self, lane: Lane, stack: ExitStack) -> Standing:
        generic = Program(compile_unit(f"generic_{self.service}"), stack)
        words = [features.hz() if word is None else word for word in self.settings]
        kernel.map_update_elem(generic.maps["settings"], bytes(4), struct.pack(f"<{len(words)}I", *words))
        for name, entries in self.tables.items():
            kernel.map_update_batch(generic.maps[name], list(entries), list(entries.values()))
        program = generic.programs[f"generic_{self.service}"]
        for number, device in enumerate((lane.entry.port, lane.exit.port)):
            index, place = number.to_bytes(4, "little"), device.ifindex.to_bytes(4, "little")
            kernel.map_update_elem(generic.maps["port_of_device"], place, index)
            with entered(lane.dut.name):
                for devmap in generic.maps.keys() & {"tx", "flood"}:
                    kernel.map_update_elem(generic.maps[devmap], index, struct.pack("<Ii", device.ifindex, 0))
            stack.enter_context(attach_xdp(program, device))
        return Standing(lane.station, (program,))
