"""Packet tables: a frame and the port that it comes in by are given, the verdict and the frame that goes out observed.

The service is alone in its chain, each port on a veth, loaded at one hook. A table is a tuple of scenes, `SCENES` in
tests/services/test_KIND.py; test_tables.py runs each at every hook and through the kind's plain-Python model. Native
and generic XDP run the same object under BPF_PROG_TEST_RUN, so they are one hook here (tests/kernel/test_end_to_end.py
attaches in all three modes). At TC a test run differs from real life in one thing: a VLAN tag stays in the frame, where
a received packet has it in the skb's metadata.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import yaml
from msgspec.structs import replace

from compiler.build import build
from runtime import sys as kernel
from runtime import veth
from runtime.control_maps import ControlMap, service_map
from runtime.generation import prepare
from runtime.netns import entered
from runtime.ringbuf import RingBuffer
from runtime.uapi import AttachType, XdpFlag
from runtime.upcalls import Upcall, read_upcalls
from runtime.veth import veth_pairs
from schemas.counters import CounterLayout
from schemas.manifest import Hook, ServiceRecord
from schemas.slow_path import INJECT_LINK, LABEL, LABEL_ETHERTYPE, LABEL_HEADER, LABEL_MAGIC
from tests.rig.lab import Lab

RING = "chain_slow_path"
SERVICE = "tested"
"""Name of the service in the chains made here."""

XDP_DROP, XDP_PASS, XDP_REDIRECT = 1, 2, 4
TC_ACT_OK, TC_ACT_SHOT, TC_ACT_REDIRECT = 0, 2, 7

# What the program may return for each sort of verdict. At TC a flood sends clones; the original ends, or is one more.
RETURNED = {
    Hook.XDP: {
        "out": {XDP_REDIRECT},
        "flood": {XDP_REDIRECT},
        "drop": {XDP_DROP},
        "host": {XDP_PASS},
        "slow-path": {XDP_DROP},
    },
    Hook.TC: {
        "out": {TC_ACT_REDIRECT},
        "flood": {TC_ACT_SHOT, TC_ACT_REDIRECT},
        "drop": {TC_ACT_SHOT},
        "host": {TC_ACT_OK},
        "slow-path": {TC_ACT_SHOT},
    },
}


@dataclass(frozen=True, slots=True)
class Row:
    """A frame on a port and what must come of it: `out PORT`, `flood`, `host`, `slow-path REASON` or `drop REASON`.

    `out` is the frame after the service; None: the one that came in. `copies`: why copies of it go up besides.
    `injected`: not the port's device, but the service's control plane has sent it there.
    """

    name: str
    port: str
    frame: bytes
    verdict: str
    out: bytes | None = None
    copies: tuple[str, ...] = ()
    injected: bool = False


class Model(Protocol):
    """A service in plain Python."""

    def receive(self, port: str, frame: bytes) -> str: ...


class InjectedModel(Model, Protocol):
    """One whose table has rows with frames from the control plane."""

    def inject(self, port: str, frame: bytes) -> str: ...


@dataclass(frozen=True, slots=True)
class Scene:
    """Rows that one service sees in this order; `config` is what the chain file has under its name.

    `entries` are put into the service's maps, which go by their names, before the first row.
    """

    name: str
    config: Mapping[str, Any]
    ports: Sequence[str]
    model: Callable[[], Model]
    rows: Sequence[Row]
    entries: Mapping[str, Mapping[bytes, bytes]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a program did with one frame; `copies`: the reasons of copies that it sent up besides."""

    verdict: str
    frame: bytes
    copies: tuple[str, ...] = ()


class Bench:
    """One service with every port linked to a veth of its own, loaded for one hook and attached to nothing."""

    def __init__(
        self,
        config: Mapping[str, Any],
        ports: Sequence[str],
        hook: Hook,
        folder: Path,
        entries: Mapping[str, Mapping[bytes, bytes]] | None = None,
    ) -> None:
        self.hook = hook
        with ExitStack() as stack:
            self._lab = stack.enter_context(Lab("bench"))
            self._namespace = self._lab.namespace("dut")
            for number in range(len(ports)):
                self._lab.cable((self._namespace, f"dut{number}"), (self._namespace, f"far{number}"))
            file = folder / f"chain-{hook}.yaml"
            file.write_text(yaml.safe_dump(_chain(config, ports, hook), sort_keys=False))
            compiled = build(file).chain
            pairs = veth_pairs(compiled.manifest)
            with entered(self._namespace.name):
                for pair in pairs:  # they go with the namespace
                    veth.create(pair, mtu=1500)
                self._generation = stack.enter_context(prepare(compiled))
                self._injected_by = self._open_injection(pairs, stack)
            self._manifest = compiled.manifest
            self._record = next(service for service in compiled.manifest.services if service.name == SERVICE)
            self._programs = {p.port: p.name for p in compiled.manifest.programs if not p.egress}
            ring = self._generation.maps.get(RING)
            self._ring = stack.enter_context(RingBuffer(ring.duplicate())) if ring else None
            for name, content in (entries or {}).items():
                kernel.map_update_batch(self._generation.maps[name], list(content), list(content.values()))
            self._open = stack.pop_all()

    def __enter__(self) -> Bench:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open.close()

    def receive(self, port: str, frame: bytes, *, injected: bool = False) -> Outcome:
        """Runs the program of `port` on a frame, or that of the way in first.

        Fails unless it is counted exactly once, and at its verdict. What went up must be whole; it is the outcome's
        frame then.
        """
        before = self.counters(port)
        run = self._inject(port, frame) if injected else self.run_program(port, frame)
        changes = _changes(before, self.counters(port))
        assert list(changes.values()) == [(1, len(frame))], f"{frame.hex()} on {port} was counted as {changes}"
        (verdict,) = changes
        assert run.retval in RETURNED[self.hook][verdict.split()[0]], f"{verdict}, but returned {run.retval}"
        upcalls, reasons = self.upcalls(), dict(self._record.slow_path_reasons)
        for upcall in upcalls:
            assert (self._record.ports[upcall.port], upcall.length) == (port, len(upcall.frame))
        if verdict != "slow-path":
            return Outcome(verdict, run.data, tuple(reasons[upcall.reason] for upcall in upcalls))
        *copies, last = upcalls
        return Outcome(
            f"{verdict} {reasons[last.reason]}", last.frame, tuple(reasons[upcall.reason] for upcall in copies)
        )

    def upcalls(self) -> list[Upcall]:
        """What was sent up since this was last asked."""
        return list(read_upcalls(self._ring, 1 << 20)) if self._ring else []

    def run_program(self, port: str, frame: bytes, *, repeat: int = 1) -> kernel.TestRun:
        """Runs the program of `port`, with no look at what it counts."""
        with entered(self._namespace.name):  # a TC test run looks its devices up in the caller's namespace
            return kernel.prog_test_run(self._generation.programs[self._programs[port]], frame, repeat=repeat)

    def _open_injection(self, pairs: Sequence[veth.VethPair], stack: ExitStack) -> int:
        """The device that injected frames come by. One with an XDP program on it can be that of a test run."""
        injector = self._generation.programs.get(f"inject_{self.hook}")
        if injector is None:
            return 0
        (ifindex,) = (socket.if_nametoindex(pair.b) for pair in pairs if pair.link.startswith(INJECT_LINK))
        if self.hook is Hook.XDP:
            native = XdpFlag.XDP_FLAGS_DRV_MODE
            stack.enter_context(kernel.link_create(injector, ifindex, AttachType.BPF_XDP, native))
        return ifindex

    def _arrival(self, length: int) -> bytes:
        """The context of a test run whose frame comes by the injection link: a `struct xdp_md` or `__sk_buff`."""
        if self.hook is Hook.XDP:
            return struct.pack("=6I", 0, length, 0, self._injected_by, 0, 0)
        return struct.pack("=36xI152x", self._injected_by)

    def _inject(self, port: str, frame: bytes) -> kernel.TestRun:
        """Runs the program that takes the label off, and goes to that of `port` (runtime/downcalls.py)."""
        slots = (slot for slot in self._manifest.tail_slots if slot.program == self._programs[port])
        slot = next(found for found in slots if found.map == f"inject_{self.hook}_ports")
        label = LABEL.pack(LABEL_MAGIC, slot.index)
        labelled = LABEL_HEADER.pack(label, LABEL_ETHERTYPE) + frame if self.hook is Hook.XDP else frame + label
        with entered(self._namespace.name):
            run = kernel.prog_test_run(
                self._generation.programs[f"inject_{self.hook}"], labelled, ctx=self._arrival(len(labelled))
            )
        # A test run puts XDP's metadata, which is the mark, before the frame.
        return replace(run, data=run.data[4:]) if self.hook is Hook.XDP else run

    def table(self, name: str, value_size: int) -> dict[int, bytes]:
        """What an array map has, by index."""
        entries = kernel.map_entries(self._generation.maps[name], 4, value_size)
        return {int.from_bytes(key, "little"): value for key, value in entries}

    def control_map(self, name: str) -> ControlMap:
        """One of the service's maps as its control plane has it; the caller closes it."""
        record = service_map(self._manifest, SERVICE, name)
        return ControlMap(self._generation.maps[record.name].duplicate(), record)

    def clear(self, name: str, value_size: int) -> None:
        """Writes zeros into all of an array map."""
        for index in self.table(name, value_size):
            kernel.map_update_elem(self._generation.maps[name], index.to_bytes(4, "little"), bytes(value_size))

    def feed(self, port: str, frames: Iterable[bytes]) -> None:
        """Runs the program of `port` on many frames, whatever becomes of them."""
        program = self._generation.programs[self._programs[port]]
        with entered(self._namespace.name):
            for frame in frames:
                kernel.prog_test_run(program, frame)

    def counters(self, port: str) -> dict[str, tuple[int, int]]:
        """Packets and bytes by verdict of what arrived on `port`; those that are zero are left out."""
        layout = CounterLayout(len(self._record.ports))
        key = self._record.ports.index(port).to_bytes(4, "little")
        size = layout.size * kernel.possible_cpus()
        content = kernel.map_lookup_elem(self._generation.maps[self._record.counters], key, size)
        assert content is not None
        rows = [struct.unpack_from(f"<{2 * layout.entries}Q", content, at) for at in range(0, size, layout.size)]
        totals = [sum(column) for column in zip(*rows, strict=True)]
        cells = {index: (totals[2 * index], totals[2 * index + 1]) for index in range(layout.entries)}
        return {_verdict(self._record, layout, index): cell for index, cell in cells.items() if any(cell)}


def _chain(config: Mapping[str, Any], ports: Sequence[str], hook: Hook) -> dict[str, Any]:
    """A chain file's data: port number N is linked to interface `ifN`, device `dutN`."""
    return {
        "chain": "bench",
        "mode": "tc" if hook is Hook.TC else "native",
        "slow-path": {"rate": 10_000_000},
        "interfaces": {f"if{number}": {"device": f"dut{number}"} for number in range(len(ports))},
        "services": {SERVICE: dict(config)},
        "links": [[f"if{number}", f"{SERVICE}.{port}"] for number, port in enumerate(ports)],
    }


def _verdict(service: ServiceRecord, layout: CounterLayout, index: int) -> str:
    """What a packet met that was counted at `index` of its row."""
    if index < layout.ports:
        return f"out {service.ports[index]}"
    reasons = {layout.drop(number): f"drop {name}" for number, name in service.drop_reasons}
    return {layout.flood: "flood", layout.host: "host", layout.slow_path: "slow-path", **reasons}.get(
        index, f"unknown verdict {index}"
    )


def _changes(before: Mapping[str, tuple[int, int]], after: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """How much each counter has grown."""
    grown = {}
    for verdict, (packets, size) in after.items():
        packets_before, size_before = before.get(verdict, (0, 0))
        if (packets, size) != (packets_before, size_before):
            grown[verdict] = (packets - packets_before, size - size_before)
    return grown
