"""Changes of devices are told at once, in whatever namespace has the name now."""

from __future__ import annotations

import select
from collections.abc import Callable

import pyroute2
import pytest

from runtime.link_watch import LinkWatch
from runtime.rtnetlink import Subscription
from tests.rig.lab import Lab
from tests.rig.waiting import PATIENCE_SECONDS

pytestmark = [pytest.mark.kernel]


class Loop:
    """What waits for files to be readable, by hand."""

    def __init__(self) -> None:
        self.watched: dict[Subscription, Callable[[], None]] = {}

    def watch(self, file: Subscription, call: Callable[[], None]) -> Callable[[], object]:
        self.watched[file] = call
        return lambda: self.watched.pop(file)

    def turn(self, seconds: float) -> None:
        for file in select.select(list(self.watched), (), (), seconds)[0]:
            self.watched[file]()


def test_a_change_is_told_once() -> None:
    loop, told = Loop(), []
    with Lab("links") as lab:
        space, far = lab.namespace("space"), lab.namespace("far")
        cable = lab.cable((space, "p1"), (far, "q1"))
        links = LinkWatch(space.name, loop.watch, lambda: told.append(links.devices.has_carrier("p1")))
        assert not links.renew()
        assert links.renew()
        loop.turn(0)
        assert told == []
        with far.netlink() as netlink:
            netlink.link("set", index=cable.station.ifindex, state="down")
        while told[-1:] != [False]:
            before = len(told)
            loop.turn(PATIENCE_SECONDS)
            assert len(told) == before + 1, "nothing was told"
        loop.turn(0)
        assert told[-1] is False
        links.close()
        assert loop.watched == {}


def test_another_namespace_of_the_same_name_is_watched_instead() -> None:
    loop, told = Loop(), []
    with Lab("links") as lab:
        space = lab.namespace("space")
        links = LinkWatch(space.name, loop.watch, lambda: told.append("changed"))
        links.renew()
        pyroute2.netns.remove(space.name)
        assert not links.renew()
        assert loop.watched == {}, "it would keep the namespace alive"
        pyroute2.netns.create(space.name)
        assert not links.renew()
        assert links.renew()
        with space.netlink() as netlink:
            netlink.link("set", index=1, state="up")
        loop.turn(PATIENCE_SECONDS)
        assert told == ["changed"]
        links.close()
