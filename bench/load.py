"""A machine that forwards at full speed while something is done to it, and every frame accounted for afterwards.

Frames come from the generator, which runs on a CPU of its own, and end in the sink, which knows each one's flow and
place in it: what is lost, there twice, out of order or changed is seen.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.rig.frames import Wire
from tests.rig.lab import Lab

from .rig import Generator, Lane, Rig
from .traffic import ORDER_LENGTH, Traffic

STRETCH = 2 * ORDER_LENGTH
"""Frames that are sent at a time: some 20 ms."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of the frames that were sent. `flows` are those of which more or fewer arrived than were sent."""

    sent: int
    arrived: int
    out_of_order: int
    damaged: int
    flows: int
    misdelivered: int
    mpps: float

    @property
    def whole(self) -> bool:
        """Every frame arrived once, where it should, as it was, and in the order of its flow."""
        wrong = (self.out_of_order, self.damaged, self.flows, self.misdelivered)
        return self.arrived == self.sent and not any(wrong)


@dataclass(slots=True)
class Load:
    """Traffic from device `in` to device `out` of a machine; frames that leave by its device `aside` are astray."""

    rig: Rig
    lane: Lane
    generator: Generator
    astray: Wire
    sent: int = 0
    _ns: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)
    _failure: BaseException | None = None

    def announce(self) -> None:
        """Shows the chain where frames go to."""
        self.rig.announce(self.lane)
        while self.astray.receive(0.1) is not None:
            pass

    @contextlib.contextmanager
    def running(self, at_least: int = 0) -> Iterator[None]:
        """Sends for as long as the block runs, and until `at_least` frames are sent."""
        before = self.sent
        self._stop.clear()
        thread = threading.Thread(target=self._send, args=(at_least,))
        thread.start()
        try:
            while self.sent == before and thread.is_alive():
                time.sleep(0.001)
            yield
        finally:
            self._stop.set()
            thread.join()
        if self._failure:
            raise self._failure

    def _send(self, at_least: int) -> None:
        try:
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # this thread, and the softirqs that it causes
            while not self._stop.is_set() or self.sent < at_least:
                stretch = self.generator.send(self.lane, STRETCH, self.lane.station)
                self.sent += stretch.frames
                self._ns += stretch.ns
        except BaseException as failure:
            self._failure = failure

    def delivery(self) -> Delivery:
        """The account of everything that was sent."""
        found, flows = self.rig.arrived(), self.rig.flows()
        order = Counter(self.generator.traffic.order())
        rounds = self.sent // ORDER_LENGTH
        wrong = [flow for flow in order.keys() | flows.keys() if flows.get(flow, 0) != order[flow] * rounds]
        misdelivered = 0
        while self.astray.receive(0.05) is not None:
            misdelivered += 1
        return Delivery(
            sent=self.sent,
            arrived=found.packets,
            out_of_order=found.out_of_order,
            damaged=found.damaged,
            flows=len(wrong),
            misdelivered=misdelivered,
            mpps=self.sent * 1000 / max(self._ns, 1),
        )


@contextlib.contextmanager
def load(traffic: Traffic) -> Iterator[Load]:
    """A machine with devices `in`, `out` and `aside`, a source of `traffic` before it and the sink behind it."""
    with Rig() as rig, Lab("load") as lab, rig.generator(traffic) as generator:
        lane = rig.lane()
        aside = lab.cable((lane.dut, "aside"), (lab.namespace("astray"), "astray"))
        with Wire(aside.station) as astray, rig.sink_runs("sink_check", lane):
            yield Load(rig, lane, generator, astray)
