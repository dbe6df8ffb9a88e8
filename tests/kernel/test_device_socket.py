"""Devices are asked for without entering their namespace each time, and without keeping a removed one alive."""

from __future__ import annotations

import pyroute2
import pytest

from runtime.devices import DeviceSocket, find_device
from tests.rig.lab import Lab

pytestmark = [pytest.mark.kernel]


def test_it_sees_what_is_there_now() -> None:
    with Lab("devices") as lab, DeviceSocket(None) as here:
        space, far = lab.namespace("space"), lab.namespace("far")
        with DeviceSocket(space.name) as asker:
            assert asker.find("p1") is None
            assert not asker.has_carrier("p1")
            cable = lab.cable((space, "p1"), (far, "q1"))
            assert asker.find("p1") == find_device("p1", space.name)
            assert asker.has_carrier("p1")
            with far.netlink() as netlink:
                netlink.link("set", index=cable.station.ifindex, state="down")
            assert not asker.has_carrier("p1"), "the kernel's link watch would take its time"
            assert asker.is_there
        loopback = here.find("lo")
        assert loopback is not None
        assert loopback.ifindex == 1


def test_another_namespace_of_the_same_name_is_another_one() -> None:
    with Lab("devices") as lab:
        space, far = lab.namespace("space"), lab.namespace("far")
        lab.cable((space, "p1"), (far, "q1"))
        with DeviceSocket(space.name) as asker:
            assert asker.find("p1") is not None
            pyroute2.netns.remove(space.name)
            assert not asker.is_there
            assert asker.find("p1") is None
            pyroute2.netns.create(space.name)
            assert asker.find("p1") is None
            loopback = asker.find("lo")
            assert loopback is not None
            assert asker.is_there
