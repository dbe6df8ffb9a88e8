"""What can stand between generator and sink: each a description that sets a lane's machine up."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import yaml

from compiler.build import build
from runtime import features, veth
from runtime import sys as kernel
from runtime.generation import Generation, prepare
from runtime.netns import entered
from runtime.uapi import AttachType, XdpFlag
from runtime.veth import veth_pairs
from schemas.compiled import CompiledChain
from schemas.manifest import Hook, Manifest, Mode
from tests.rig.lab import Device, Namespace

from .rig import Lane, Program, attach_xdp
from .unit import compile_unit

MTU = 1500
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
        bare = Program(compile_unit("redirect"), stack, {"out_ifindex": ifindex})
        with entered(lane.dut.name):
            kernel.map_update_elem(bare.maps["tx"], bytes(4), struct.pack("<Ii", ifindex, 0))
        program = bare.programs["redirect_tc" if self.mode == Mode.TC else "redirect_xdp"]
        stack.enter_context(attach(program, lane.entry.port, Mode(self.mode)))
        return Standing(lane.station, (program,))


State = Callable[[Lane], Mapping[str, Mapping[bytes, bytes]]]


def _no_state(_: Lane) -> Mapping[str, Mapping[bytes, bytes]]:
    return {}


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain of ours between interfaces `in` and `out`: `services` and `links` are what the chain file has.

    Frames are for the sink's station; with `to_device` for the device `in` itself, as a router wants them; or for the
    MAC address `to`. `state` gives what control planes would write: entries of maps, by their names in the manifest.
    """

    service: str
    services: Mapping[str, Mapping[str, Any]]
    links: Sequence[tuple[str, str]]
    mode: str = Mode.NATIVE
    name: str = "bpfchain"
    to_device: bool = False
    to: str | None = None
    state: State = _no_state

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
        make_internal_links(compiled, lane.dut)
        generation = stack.enter_context(loaded(compiled, lane.dut))
        programs = generation.programs
        for name, entries in self.state(lane).items():
            for key, value in entries.items():
                kernel.map_update_elem(generation.maps[name], key, value)
        entry = ""
        for attached in compiled.manifest.attach:
            device = lane.entry.port if attached.interface == "in" else lane.exit.port
            stack.enter_context(attach(programs[attached.program], device, Mode(self.mode)))
            if attached.interface == "in":
                entry = attached.program
        destination = lane.entry.port.mac_bytes if self.to_device else lane.station
        if self.to:
            destination = bytes.fromhex(self.to.replace(":", ""))
        return Standing(destination, tuple(programs[name] for name in path(compiled.manifest, entry)))


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


@contextmanager
def loaded(compiled: CompiledChain, machine: Namespace) -> Iterator[Generation]:
    """A compiled chain in the kernel, filled and linked, attached to nothing."""
    with entered(machine.name):
        generation = prepare(compiled)
    try:
        yield generation
    finally:
        generation.close()


def make_internal_links(compiled: CompiledChain, machine: Namespace) -> None:
    """The devices that a chain's floods take to the next service. They go with the machine.

    Nothing is attached to them: traffic here is for a known station.
    """
    with entered(machine.name):
        for pair in veth_pairs(compiled.manifest):
            veth.create(pair, MTU)


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
    """A service as it would be without a compiler: bpf/generic_KIND.c, all settings and tables in maps.

    `settings` are the words of its `struct settings`, None for the host's HZ. `tables` are entries of other maps.
    """

    service: str
    settings: tuple[int | None, ...]
    tables: Mapping[str, Mapping[bytes, bytes]] = field(default_factory=dict, hash=False)
    mode: str = Mode.NATIVE
    name: str = "generic build"

    def set_up(self, lane: Lane, stack: ExitStack) -> Standing:
        mode = Mode(self.mode)
        generic = Program(compile_unit(f"generic_{self.service}", {"AT_TC": int(mode.hook is Hook.TC)}), stack)
        words = [features.hz() if word is None else word for word in self.settings]
        kernel.map_update_elem(generic.maps["settings"], bytes(4), struct.pack(f"<{len(words)}I", *words))
        for name, entries in self.tables.items():
            for key, value in entries.items():
                kernel.map_update_elem(generic.maps[name], key, value)
        program = generic.programs[f"generic_{self.service}"]
        for number, device in enumerate((lane.entry.port, lane.exit.port)):
            index, place = number.to_bytes(4, "little"), device.ifindex.to_bytes(4, "little")
            kernel.map_update_elem(generic.maps["port_of_device"], place, index)
            kernel.map_update_elem(generic.maps["device_of_port"], index, place)
            with entered(lane.dut.name):
                for devmap in generic.maps.keys() & {"tx", "flood"}:
                    kernel.map_update_elem(generic.maps[devmap], index, struct.pack("<Ii", device.ifindex, 0))
            stack.enter_context(attach(program, device, mode))
        return Standing(lane.station, (program,))
