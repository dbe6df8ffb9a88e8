"""What control planes miss of the kernel's notifications they are told that they miss."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Sequence
from types import SimpleNamespace

import pyroute2
import pytest

from runtime.control import Context, Port, control_plane
from runtime.log import Log
from runtime.netlink_watch import NetlinkWatch
from runtime.rtnetlink import Change, LinkChange, Lost
from runtime.supervisor import Instance
from tests.rig.lab import Lab
from tests.rig.waiting import PATIENCE_SECONDS
from tests.unit.test_supervisor import FakePlace

pytestmark = [pytest.mark.kernel]


def test_another_namespace_of_the_same_name_is_listened_to_and_what_came_meanwhile_is_lost() -> None:
    async def test(space: str) -> None:
        told: asyncio.Queue[tuple[str | None, Sequence[Change]]] = asyncio.Queue()

        def on_netlink(_: Context, netns: str | None, changes: Sequence[Change]) -> None:
            told.put_nowait((netns, changes))

        place = FakePlace()
        place.ports = {"left": Port("left", 0, "interface wan", device="eth0", netns=space)}
        plane = control_plane("toy", SimpleNamespace(on_netlink=on_netlink))
        instance = Instance("toy", lambda _: plane, place, Log(to=io.StringIO()))
        instance.start()
        await asyncio.to_thread(pyroute2.netns.remove, space)
        instance.namespaces_changed()
        assert told.get_nowait() == (space, [Lost()])
        await asyncio.to_thread(pyroute2.netns.create, space)
        instance.namespaces_changed()
        assert told.get_nowait() == (space, [Lost()])
        await asyncio.to_thread(flap, space, 1)
        seen: list[Change] = []
        while LinkChange(1, running=True, gone=False) not in seen:
            netns, changes = await asyncio.wait_for(told.get(), PATIENCE_SECONDS)
            assert netns == space
            seen += changes
        instance.stop()
        assert instance.failures == 0

    with Lab("netlink") as lab:
        asyncio.run(test(lab.namespace("space").name))


def test_where_no_port_has_a_device_what_the_chains_own_namespace_said_is_lost() -> None:
    async def test(space: str) -> None:
        told: list[tuple[str | None, Sequence[Change]]] = []
        place = FakePlace()
        place.netns = space
        place.ports = {"left": Port("left", 0, "other.port")}
        plane = control_plane("toy", SimpleNamespace(on_netlink=lambda _, *what: told.append(what)))
        instance = Instance("toy", lambda _: plane, place, Log(to=io.StringIO()))
        instance.start()
        instance.namespaces_changed()
        instance.stop()
        assert told == [(space, [Lost()])]

    with Lab("netlink") as lab:
        asyncio.run(test(lab.namespace("space").name))


def test_changes_that_came_too_fast_are_told_of_as_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(space: str) -> None:
        told: list[Change] = []
        watch = NetlinkWatch([space], lambda _, changes: told.extend(changes))
        await asyncio.to_thread(flap, space, 100)
        for _ in range(100):
            await asyncio.sleep(0.01)
            if Lost() in told:
                break
        watch.close()
        assert Lost() in told

    monkeypatch.setattr("runtime.netlink_watch.BUFFER", 1)
    with Lab("netlink") as lab:
        asyncio.run(test(lab.namespace("space").name))


def flap(space: str, times: int) -> None:
    """Sets the loopback down and up; pyroute2 has a loop of its own, so not in the test's thread."""
    with pyroute2.NetNS(space) as netlink:
        for _ in range(times):
            for state in ("down", "up"):
                netlink.link("set", index=1, state=state)
