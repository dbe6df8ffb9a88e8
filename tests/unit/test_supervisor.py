"""Control planes at work: what one of them raises ends it, its timers and watches with it, and starts it anew."""

from __future__ import annotations

import asyncio
import io
import socket
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from runtime.control import ControlPlane, NoControlPlane, Packet, Port, control_plane, find_control_plane
from runtime.control_maps import ControlMap, Layout
from runtime.log import Log
from runtime.supervisor import Instance, State
from schemas.manifest import Hook, HostFact
from tests.rig.waiting import turned_until

LEFT = Port("left", 0, "interface wan")
PACKET = Packet(LEFT, "unknown", bytes(60), 0, 0, 60, Hook.XDP)


@dataclass
class FakeWay:
    """Remembers what is sent."""

    sent: list[tuple[str, ...]]
    name: tuple[str, ...]

    def send(self, frame: bytes) -> bool:
        self.sent.append(self.name)
        return True

    def send_many(self, frames: Sequence[bytes]) -> int:
        self.sent += [self.name] * len(frames)
        return len(frames)


class FakePlace:
    """A service in a generation that sends nowhere and has no maps."""

    def __init__(self, **config: Any) -> None:
        self.chain, self.service = "edge", "gw"
        self.netns: str | None = None
        self.config: Mapping[str, Any] = config
        self.ports: Mapping[str, Port] = {"left": LEFT}
        self.sent: list[tuple[str, ...]] = []

    def loaded(self, fact: HostFact, interface: str) -> bytes | None:
        return None

    def open_map(self, name: str, key: Layout | None, value: Layout | None) -> ControlMap:
        raise LookupError(name)

    def out_of(self, port: str) -> FakeWay:
        return FakeWay(self.sent, ("out", port))

    def into(self, service: str, port: str, hook: Hook | None) -> FakeWay:
        return FakeWay(self.sent, ("in", service, port))


def instance(place: FakePlace, log: io.StringIO | None = None, **functions: Any) -> Instance:
    plane = control_plane("toy", SimpleNamespace(**functions))
    return Instance("toy", lambda _: plane, place, Log(to=log or io.StringIO()))


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


def test_packets_are_handed_over_one_by_one_or_all_together() -> None:
    async def test() -> None:
        one, many = [], []
        first = instance(FakePlace(), on_packet=lambda _, packet: one.append(packet))
        second = instance(FakePlace(), on_packets=lambda _, packets: many.append(len(packets)))
        for each in (first, second):
            assert not each.deliver([PACKET])
            each.start()
            assert each.deliver([PACKET] * 3)
            each.stop()
        assert (len(one), many) == (3, [3])

    run(test)


def test_ways_down_are_named_as_people_do() -> None:
    async def test() -> None:
        place = FakePlace()
        contexts: list[Any] = []
        made = instance(place, start=contexts.append)
        made.start()
        (context,) = contexts
        context.send("left", b"")
        context.send(LEFT, b"")
        context.inject(LEFT, b"")
        context.inject("guard.outside", b"")
        assert place.sent == [("out", "left"), ("out", "left"), ("in", "gw", "left"), ("in", "guard", "outside")]
        place.sent.clear()
        assert context.send_many(LEFT, [b""] * 2) == 2
        assert context.inject_many("guard.outside", [b""]) == 1
        assert place.sent == [("out", "left"), ("out", "left"), ("in", "guard", "outside")]
        made.stop()

    run(test)


def test_a_failure_ends_timers_watches_and_tasks_and_is_logged() -> None:
    async def test() -> None:
        fired: list[str] = []
        near, far = socket.socketpair()
        log = io.StringIO()

        async def forever() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                fired.append("task ended")

        def start(context: Any) -> None:
            fired.append("start")
            context.every(0.001, lambda: fired.append("tick"))
            context.watch(near, lambda: fired.append("readable"))
            context.spawn(forever())

        def on_packet(context: Any, packet: Packet) -> None:
            context.after(0.01, lambda: fired.append("too late"))
            raise RuntimeError("a defect")

        made = instance(FakePlace(), log, start=start, on_packet=on_packet)
        made.start()
        await turned_until(lambda: fired.count("tick") >= 2)
        fired.clear()
        made.deliver([PACKET] * 5)
        assert (made.state, made.failures) == (State.FAILED, 1)
        far.send(b"x")
        await asyncio.sleep(0.06)
        until_started_again = fired[: fired.index("start")] if "start" in fired else fired
        assert until_started_again == ["task ended"]
        made.stop()
        for each in (near, far):
            each.close()
        failed = log.getvalue().splitlines()[1]
        assert 'level=error event="control plane failed" again_in=0.1s error="RuntimeError: a defect"' in failed
        assert "on_packet" in failed

    run(test)


@pytest.mark.parametrize("where", ["start", "task", "timer"])
def test_whatever_fails_is_started_again_after_longer_and_longer(where: str) -> None:
    async def test() -> None:
        log = io.StringIO()

        def fail(_: Any = None) -> None:
            raise RuntimeError("again")

        async def failing() -> None:
            fail()

        def start(context: Any) -> None:
            match where:
                case "start":
                    fail()
                case "task":
                    context.spawn(failing())
                case _:
                    context.after(0, fail)

        made = instance(FakePlace(), log, start=start)
        made.start()
        await turned_until(lambda: made.failures >= 3)
        made.stop()
        failures = made.failures
        await asyncio.sleep(0.5)
        assert made.failures == failures
        pauses = [line.split("again_in=")[1].split()[0] for line in log.getvalue().splitlines() if "again_in" in line]
        assert pauses[:3] == ["0.1s", "0.2s", "0.4s"]

    run(test)


def test_a_reload_keeps_what_it_has() -> None:
    async def test() -> None:
        told: list[object] = []
        contexts: list[Any] = []

        def start(context: Any) -> None:
            contexts.append(context)
            context.state = "kept"
            context.every(0.001, lambda: told.append("tick"))

        made = instance(
            FakePlace(limit=1),
            start=start,
            reload=lambda context: told.append((context.state, context.config)),
            stop=lambda _: told.append("stopped"),
        )
        made.start()
        made.move(FakePlace(limit=2))
        assert told == [("kept", {"limit": 2})]
        await turned_until(lambda: "tick" in told)
        made.stop()
        assert told[-1] == "stopped"
        assert len(contexts) == 1

    run(test)


def test_without_reload_it_is_stopped_and_started() -> None:
    async def test() -> None:
        told: list[str] = []
        made = instance(
            FakePlace(),
            start=lambda context: told.append(f"start {context.config}"),
            stop=lambda _: told.append("stop"),
        )
        made.start()
        made.move(FakePlace(limit=2))
        made.stop()
        assert told == ["start {}", "stop", "start {'limit': 2}", "stop"]

    run(test)


def test_ticks_come_as_often_as_the_module_says() -> None:
    async def test() -> None:
        ticks: list[object] = []
        made = instance(FakePlace(), tick=ticks.append, TICK_SECONDS=0.01)
        started = time.monotonic()
        made.start()
        await turned_until(lambda: len(ticks) >= 10)
        made.stop()
        assert len(ticks) <= 1 + (time.monotonic() - started) / 0.01

    run(test)


def test_a_control_plane_that_is_not_there_is_looked_for_again() -> None:
    async def test() -> None:
        log = io.StringIO()
        found: list[str] = []

        def find(kind: str) -> ControlPlane:
            if len(found) < 2:
                found.append(kind)
                raise NoControlPlane("not installed")
            return control_plane(kind, SimpleNamespace(start=lambda _: None))

        made = Instance("toy", find, FakePlace(), Log(to=log))
        made.start()
        assert made.state is State.FAILED
        await turned_until(lambda: made.state is State.RUNNING)
        made.stop()

    run(test)


def test_what_is_no_control_plane() -> None:
    with pytest.raises(NoControlPlane, match="no control plane of kind `nothing-such` is installed"):
        find_control_plane("nothing-such")
    with pytest.raises(NoControlPlane, match="has none of start, on_packet, on_packets, tick"):
        control_plane("toy", SimpleNamespace())


def test_a_log_record_is_one_line_whatever_is_in_it() -> None:
    written = io.StringIO()
    Log({"chain": "edge"}, written).bound(service="gw").info(
        "it happens", mac="02:00:00:00:00:01", text='a "b"\nc', none=""
    )
    (line,) = written.getvalue().splitlines()
    assert line.startswith("time=2")
    assert line.partition(" ")[2] == (
        'level=info event="it happens" chain=edge service=gw mac=02:00:00:00:00:01 text="a \\"b\\"\\nc" none=""'
    )
