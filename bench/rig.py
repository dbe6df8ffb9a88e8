"""Three sorts of namespaces on one CPU: a generator, a machine under test for each contender, a sink.

Each contender has a lane of its own: a veth from the generator to its machine's `in`, and one from the machine's `out`
to the sink. All lanes are up at the same time, so that a round can visit one after the other within milliseconds, and
what disturbs the machine disturbs all of them alike.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from time import perf_counter_ns

from runtime import sys as kernel
from runtime.load import create_maps, load_object
from runtime.netns import entered
from runtime.spec import ObjectSpec
from runtime.uapi import AttachType, TestRunFlag, XdpFlag
from tests.rig.frames import Wire
from tests.rig.lab import Cable, Device, Lab, Namespace

from .traffic import Traffic
from .unit import compile_unit

BATCH = 64  # frames; as many as a driver hands to XDP in one NAPI poll
_LANE = struct.Struct("<I6sHIQ")  # struct lane in bpf/frame.h
_ARRIVED = struct.Struct("<4Q")
LATENCY_STEP_NS = 16
_LATENCY_BUCKETS = 4096
_FIRST = bytes(4)


@dataclass(frozen=True, slots=True)
class Lane:
    """One contender's way: `entry` is the cable into its machine, `exit` the one out of it."""

    number: int
    dut: Namespace
    entry: Cable
    exit: Cable

    @property
    def station(self) -> bytes:
        """MAC address of the station that all traffic is for."""
        return self.exit.station.mac_bytes


@dataclass(frozen=True, slots=True)
class Arrived:
    """What the sink counted."""

    packets: int
    bytes: int
    out_of_order: int
    damaged: int


@dataclass(frozen=True, slots=True)
class Sent:
    """One stretch of traffic through a lane."""

    frames: int
    arrived: Arrived
    ns: int


class Program:
    """An object of the bench in the kernel, its maps with it."""

    def __init__(self, spec: ObjectSpec, stack: ExitStack, values: dict[str, int] | None = None) -> None:
        self.maps = {name: stack.enter_context(fd) for name, fd in create_maps(spec).items()}
        loaded = load_object(spec, maps=self.maps, values=values)
        self.programs = stack.enter_context(loaded).programs


class Rig:
    """The generator and the sink; `lane()` adds a machine between them."""

    def __init__(self) -> None:
        with ExitStack() as stack:
            self._lab = stack.enter_context(Lab("bench"))
            self._generator_space = self._lab.namespace("generator")
            self._sink_space = self._lab.namespace("sink")
            self._sink = Program(compile_unit("sink"), stack)
            self._open = stack.pop_all()
        self._lanes = self._generators = 0
        self._sink_links: dict[int, kernel.Fd] = {}

    def __enter__(self) -> Rig:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def lane(self) -> Lane:
        """A new machine with its devices `in` and `out`, nothing on it, and the sink at its far end."""
        number = self._lanes
        self._lanes += 1
        dut = self._lab.namespace(f"dut{number}")
        entry = self._lab.cable((dut, "in"), (self._generator_space, f"g{number}"))
        leave = self._lab.cable((dut, "out"), (self._sink_space, f"s{number}"))
        link = attach_xdp(self._sink.programs["sink_count"], leave.station)
        self._sink_links[number] = self._open.enter_context(link)
        return Lane(number, dut, entry, leave)

    @contextmanager
    def generator(self, traffic: Traffic, *, stamped: bool = False) -> Iterator[Generator]:
        """The source of one kind of traffic, for as long as the block runs."""
        with ExitStack() as stack:
            program = Program(compile_unit("generator", traffic.defines(stamped=stamped)), stack)
            order = traffic.order()
            indices = [index.to_bytes(4, "little") for index in range(len(order))]
            kernel.map_update_batch(program.maps["order"], indices, [flow.to_bytes(4, "little") for flow in order])
            stack.enter_context(attach_xdp(program.programs["generate"], self._spare_device()))
            yield Generator(self, traffic, program)

    def _spare_device(self) -> Device:
        """Where a generator is attached, though nothing arrives there.

        The kernel's XDP dispatcher has all attached programs; a test run of one that is not in it takes 24 ms more, for
        two synchronize_rcu().
        """
        number = self._generators
        self._generators += 1
        return self._lab.cable((self._generator_space, f"p{number}"), (self._sink_space, f"q{number}")).port

    def arrived(self) -> Arrived:
        """All that the sink has counted so far."""
        size = kernel.possible_cpus() * _ARRIVED.size
        content = kernel.map_lookup_elem(self._sink.maps["arrivals"], _FIRST, size)
        assert content is not None
        return Arrived(*(sum(column) for column in zip(*_ARRIVED.iter_unpack(content), strict=True)))

    @contextmanager
    def sink_runs(self, name: str, lane: Lane) -> Iterator[None]:
        """Another program of bpf/sink.c at the end of a lane, for as long as the block runs."""
        link = self._sink_links[lane.number]
        kernel.link_update(link, self._sink.programs[name])
        try:
            yield
        finally:
            kernel.link_update(link, self._sink.programs["sink_count"])

    def flows(self) -> dict[int, int]:
        """Packets of each flow that `sink_check` has seen; forgets them."""
        flows = self._sink.maps["flows"]
        seen = {key: int.from_bytes(value[:8], "little") for key, value in kernel.map_entries(flows, 4, 16)}
        kernel.map_delete_batch(flows, list(seen))
        return {int.from_bytes(key, "little"): packets for key, packets in seen.items()}

    def latencies(self) -> list[int]:
        """How many frames took how long, in steps of 16 ns; forgets them."""
        latencies, size = self._sink.maps["latencies"], kernel.possible_cpus() * 8
        counts = [0] * _LATENCY_BUCKETS
        for key, value in kernel.map_entries(latencies, 4, size):
            counts[int.from_bytes(key, "little")] = sum(memoryview(value).cast("Q"))
        used = [index.to_bytes(4, "little") for index, count in enumerate(counts) if count]
        kernel.map_update_batch(latencies, used, [bytes(size)] * len(used))
        return counts

    def announce(self, lane: Lane, vlan: int | None = None) -> None:
        """One frame from the sink's station, tagged if there is a VLAN, so that bridges know where it is."""
        tag = b"" if vlan is None else b"\x81\x00" + vlan.to_bytes(2)
        frame = lane.entry.station.mac_bytes + lane.station + tag + b"\x88\xb5" + bytes(46)
        with Wire(lane.exit.station) as wire:
            wire.send(frame)


class Generator:
    """Sends one kind of traffic into any lane."""

    def __init__(self, rig: Rig, traffic: Traffic, program: Program) -> None:
        self.traffic = traffic
        self._rig = rig
        self._program = program
        self._frame = bytes(traffic.frame_bytes)
        self._sequence = 0

    def send(self, lane: Lane, frames: int, destination: bytes, *, batch: int = BATCH) -> Sent:
        """Sends and waits until all has arrived that will; `destination` is the frames' MAC address."""
        setting = _LANE.pack(lane.entry.station.ifindex, destination, 0, 0, self._sequence)
        kernel.map_update_elem(self._program.maps["lane"], _FIRST, setting)
        self._sequence += frames
        before = self._rig.arrived()
        with entered(lane.entry.station.namespace.name):
            started = perf_counter_ns()
            kernel.prog_test_run(
                self._program.programs["generate"],
                self._frame,
                repeat=frames,
                flags=TestRunFlag.BPF_F_TEST_XDP_LIVE_FRAMES,
                batch_size=batch,
            )
            took = perf_counter_ns() - started
        after = self._rig.arrived()
        arrived = Arrived(*(getattr(after, name) - getattr(before, name) for name in Arrived.__slots__))
        return Sent(frames, arrived, took)


def attach_xdp(program: kernel.Fd, device: Device, flags: XdpFlag = XdpFlag.XDP_FLAGS_DRV_MODE) -> kernel.Fd:
    """The link that holds a program on a device."""
    with entered(device.namespace.name):
        return kernel.link_create(program, device.ifindex, AttachType.BPF_XDP, flags)


_NICENESS = -10
"""Nine tenths of the CPU where another process wants it too: what runs in between takes the caches with it."""


def take_one_cpu() -> int:
    """This thread, and with it all softirqs that it causes, on the last CPU that it may run on, before others there."""
    cpu = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cpu})
    os.setpriority(os.PRIO_PROCESS, 0, _NICENESS)
    return cpu
