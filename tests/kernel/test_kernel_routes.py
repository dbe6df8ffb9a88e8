"""Routes of a real kernel, changed in all ways that `ip route` knows, and the view that a follower has of them."""

from __future__ import annotations

import random
import select
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any

import pyroute2
import pytest

from runtime import kernel_routes, rtnetlink
from runtime.kernel_routes import Dump, Follower
from runtime.rtnetlink import (
    RTN_BLACKHOLE,
    RTN_PROHIBIT,
    RTN_UNICAST,
    RTN_UNREACHABLE,
    Change,
    NeighbourChange,
    Path,
    Prefix,
    RouteChange,
)
from tests.rig.lab import Cable, Lab, Namespace

pytestmark = pytest.mark.kernel

FAMILIES = pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
GATEWAYS: dict[int, list[str]] = {
    socket.AF_INET: ["10.1.0.2", "10.1.0.3", "10.2.0.2", "10.2.0.3"],
    socket.AF_INET6: ["fd01::2", "fd01::3", "fd02::2", "fd02::3"],
}


class Net:
    """A namespace with two links, and what a follower has told of its routes."""

    def __init__(self, lab: Lab) -> None:
        self.namespace: Namespace = lab.namespace("dut")
        far = lab.namespace("far")
        self.cables: list[Cable] = [lab.cable((self.namespace, f"d{n}"), (far, f"f{n}")) for n in (1, 2)]
        for number, cable in enumerate(self.cables, start=1):
            lab.address(cable.port, f"10.{number}.0.1/24")
            lab.address(cable.port, f"fd0{number}::1/64")
        self.told: dict[Prefix, Path] = {}
        self.updates: list[Mapping[Prefix, Path | None]] = []
        self.neighbours: list[NeighbourChange] = []

    def take(self, changes: Mapping[Prefix, Path | None]) -> None:
        self.updates.append(dict(changes))
        self.told.update({prefix: route for prefix, route in changes.items() if route is not None})
        for prefix in [prefix for prefix, route in changes.items() if route is None]:
            self.told.pop(prefix, None)

    def follower(self, **settings: Any) -> Follower:
        follower = Follower(self.namespace.name, self.take, on_neighbour=self.neighbours.append, **settings)
        resync(follower)
        return follower


@contextmanager
def net() -> Iterator[tuple[Net, Any]]:
    with Lab("routes") as lab:
        made = Net(lab)
        with made.namespace.netlink() as netlink:
            yield made, netlink


def follow(follower: Follower) -> None:
    """Takes all that has come."""
    while select.select([follower], [], [], 0)[0]:
        if not follower.read():
            resync(follower)


def resync(follower: Follower) -> None:
    while True:
        for _ in follower.resync():
            pass
        if follower.whole:
            return


def as_dumped(made: Net) -> dict[Prefix, Path]:
    """The routes in force by a dump that knows nothing of the past."""
    fresh: dict[Prefix, Path | None] = {}
    follower = Follower(made.namespace.name, fresh.update)
    try:
        resync(follower)
    finally:
        follower.close()
    return {prefix: route for prefix, route in fresh.items() if route is not None}


def change(netlink: Any, random_: random.Random, family: int, ifindexes: list[int]) -> None:
    """One command such as people give, which may be refused."""
    gateways = GATEWAYS[family]
    stem = "10.64.{}.0/{}" if family == socket.AF_INET else "fd64:{}::/{}"
    lengths = (20, 22, 24) if family == socket.AF_INET else (28, 30, 32)
    request: dict[str, Any] = {
        "family": family,
        "dst": stem.format(random_.choice((0, 16, 32)), random_.choice(lengths)),
        "priority": random_.choice((10, 20, 20)),
    }
    command = random_.choice(("add", "add", "append", "replace", "replace", "prepend", "del", "del"))
    kind = random_.choice(("unicast", "unicast", "multipath", "blackhole", "unreachable", "prohibit", "onlink"))
    if family == socket.AF_INET6:
        # The kernel's own dump passes over a route that stands between the ways of another one with its metric.
        request["priority"] = 20 if kind in ("unicast", "multipath") else 10
    if command == "del" and random_.random() < 0.7:
        kind, request["type"] = "first", 0  # whichever is first of those with this metric
    if kind == "first":
        pass
    elif kind == "unicast":
        request["gateway"] = random_.choice(gateways)
    elif kind == "multipath":
        request["multipath"] = [{"gateway": gateway} for gateway in random_.sample(gateways, 2)]
    elif kind == "onlink":
        request["oif"] = random_.choice(ifindexes)
    else:
        request["type"] = kind
    flags = {"prepend": pyroute2.netlink.NLM_F_CREATE}.get(command)
    try:
        if flags is None:
            netlink.route(command, **request)
        else:
            netlink.route("append" if family == socket.AF_INET6 else "add", **request)
    except pyroute2.NetlinkError:
        pass


@FAMILIES
@pytest.mark.parametrize("seed", range(2))
def test_the_view_is_the_kernels_after_every_command(family: int, seed: int) -> None:
    random_ = random.Random(seed)
    with net() as (made, netlink):
        follower = made.follower()
        ifindexes = [cable.port.ifindex for cable in made.cables]
        for _ in range(60):
            for _ in range(random_.choice((1, 1, 4))):
                change(netlink, random_, family, ifindexes)
            follow(follower)
            assert made.told == as_dumped(made)
        follower.close()
    assert family == socket.AF_INET6 or follower.resyncs == 1, "messages alone were enough"


@FAMILIES
def test_the_view_gives_the_way_that_the_kernel_takes(family: int) -> None:
    random_ = random.Random(4)
    with net() as (made, netlink):
        follower = made.follower()
        for _ in range(80):
            change(netlink, random_, family, [cable.port.ifindex for cable in made.cables])
        follow(follower)
        follower.close()
        for _ in range(60):
            last = random_.getrandbits(12)
            text = f"10.64.{last >> 6}.{last & 63 | 1}" if family == socket.AF_INET else f"fd64:{last >> 6}::{last:x}"
            assert kernel_way(netlink, text) in view_ways(made.told, text), text


def view_ways(told: Mapping[Prefix, Path], text: str) -> list[tuple[Any, ...]]:
    """The ways to an address by the longest prefix that was told of: device and gateway, or the error."""
    address = ip_address(text)
    family, bits = (socket.AF_INET, 32) if address.version == 4 else (socket.AF_INET6, 128)
    for length in range(bits, -1, -1):
        route = told.get((family, int(address) >> bits - length << bits - length, length))
        if route is not None and route.type == RTN_UNICAST:
            return [(hop.ifindex, hop.gateway) for hop in route.hops]
        if route is not None:
            return [(route.type,)]
    return [(RTN_UNREACHABLE,)]


def kernel_way(netlink: Any, text: str) -> tuple[Any, ...]:
    """What `ip route get` says."""
    try:
        (found,) = netlink.route("get", dst=text)
    except pyroute2.NetlinkError as refusal:
        errors = {101: RTN_UNREACHABLE, 113: RTN_UNREACHABLE, 22: RTN_BLACKHOLE, 13: RTN_PROHIBIT}
        return (errors[refusal.code],)
    if found["type"] != RTN_UNICAST:
        return (found["type"],)
    gateway = found.get_attr("RTA_GATEWAY")
    return found.get_attr("RTA_OIF"), ip_address(gateway).packed if gateway else b""


def ways(told: Mapping[Prefix, Path]) -> set[int]:
    """The devices that routes lead to."""
    return {hop.ifindex for route in told.values() for hop in route.hops}


def test_a_link_that_goes_down_takes_its_routes_along() -> None:
    """IPv4 says nothing of them."""
    with net() as (made, netlink):
        for number in range(20):
            netlink.route("add", dst=f"10.64.{number}.0/24", gateway=f"10.{1 + number % 2}.0.2")
        netlink.route("add", dst="10.65.0.0/16", multipath=[{"gateway": "10.1.0.2"}, {"gateway": "10.2.0.2"}])
        follower = made.follower()
        netlink.link("set", index=made.cables[0].port.ifindex, state="down")
        follow(follower)
        assert made.told == as_dumped(made)
        assert ways(made.told) == {made.cables[1].port.ifindex}
        assert len([prefix for prefix in made.told if prefix[2] == 24]) == 11
        follower.close()


def test_the_first_word_of_a_link_is_that_it_is_down() -> None:
    """Without IPv6, whose addresses would go and tell."""
    with net() as (made, netlink):
        made.namespace.sysctl("net/ipv6/conf/all/disable_ipv6", "1")
        netlink.route("add", dst="10.64.0.0/16", gateway="10.1.0.2", priority=5)
        netlink.route("add", dst="10.64.0.0/16", gateway="10.2.0.2", priority=9)
        netlink.route("add", dst="10.65.0.0/16", gateway="10.1.0.2")
        follower = made.follower()
        netlink.link("set", index=made.cables[0].port.ifindex, state="down")
        follow(follower)
        assert made.told == as_dumped(made)
        follower.close()


def test_a_link_that_comes_up_brings_its_ways_back() -> None:
    """Of those that are dead when the table is first read; IPv4 says nothing of them."""
    with net() as (made, netlink):
        netlink.route("add", dst="10.65.0.0/16", multipath=[{"gateway": "10.1.0.2"}, {"gateway": "10.2.0.2"}])
        made.namespace.sysctl("net/ipv6/conf/all/disable_ipv6", "1")
        index = made.cables[0].port.ifindex
        netlink.link("set", index=index, state="down")
        follower = made.follower()
        netlink.link("set", index=index, state="up")
        deadline = time.monotonic() + 20
        while index not in ways(made.told):
            assert time.monotonic() < deadline
            follow(follower)
        assert made.told == as_dumped(made)
        follower.close()


def test_an_address_that_goes_takes_its_routes_along() -> None:
    with net() as (made, netlink):
        netlink.route("add", dst="10.64.0.0/16", gateway="10.1.0.2")
        follower = made.follower()
        assert (socket.AF_INET, 0x0A400000, 16) in made.told
        netlink.addr("del", index=made.cables[0].port.ifindex, address="10.1.0.1", prefixlen=24)
        follow(follower)
        assert made.told == as_dumped(made)
        follower.close()


@FAMILIES
def test_after_an_overrun_only_the_difference_is_told(family: int) -> None:
    with net() as (made, netlink):
        follower = made.follower(buffer=1)  # the kernel makes it as small as it can: a few messages
        stem = ("10.70.{}.0/24" if family == socket.AF_INET else "fd70:{}::/32").format
        gateway = GATEWAYS[family][0]
        for number in range(100):
            netlink.route("add", family=family, dst=stem(number), gateway=gateway)
        follow(follower)
        assert follower.resyncs > 1
        assert made.told == as_dumped(made)
        made.updates.clear()
        for number in range(50):
            netlink.route("del", family=family, dst=stem(number), gateway=gateway)
        for number in range(100, 150):
            netlink.route("add", family=family, dst=stem(number), gateway=gateway)
        follow(follower)
        assert made.told == as_dumped(made)
        touched = [prefix for update in made.updates for prefix in update]
        assert len(touched) == len(set(touched)) == 100, "nothing that stayed was taken away in between"
        follower.close()


def test_what_changes_while_a_table_is_read_after_an_overrun_is_not_missed() -> None:
    """The kernel says nothing more, and not that it does not, until what came before has been read."""
    with net() as (made, netlink):
        follower = made.follower(buffer=1)
        for number in range(100):
            netlink.route("add", dst=f"10.70.{number}.0/24", gateway="10.1.0.2")
        assert not follower.read()
        steps = follower.resync()
        next(steps)
        netlink.route("add", dst="10.64.0.0/16", gateway="10.2.0.2")
        netlink.route("del", dst="10.70.0.0/24", gateway="10.1.0.2")
        for _ in steps:
            pass
        assert made.told == as_dumped(made)
        follower.close()


def test_what_can_be_told_is_told_although_links_do_not_hold_still() -> None:
    with net() as (made, netlink):
        netlink.route("add", dst="10.64.0.0/16", gateway="10.1.0.2")
        follower = made.follower()
        netlink.route("replace", dst="10.64.0.0/16", gateway="10.2.0.2")
        for step, _ in zip(range(50), follower.resync(), strict=False):
            for how in ("add", "del"):
                netlink.addr(how, index=made.cables[1].port.ifindex, address="10.9.0.1", prefixlen=24)
            assert step < 49, "it ends"
        follower.close()
    assert [hop.gateway for hop in made.told[socket.AF_INET, 0x0A400000, 16].hops] == [bytes((10, 2, 0, 2))]
    assert not follower.whole


def test_changes_that_keep_coming_are_told_of_together_and_then_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_routes, "STEP", 1000)
    with net() as (made, netlink):
        follower = made.follower()
        made.updates.clear()
        for number in range(3000):
            netlink.route("add", dst=f"10.{70 + (number >> 8)}.{number & 255}.0/24", gateway="10.1.0.2")
        reads = 0
        while select.select([follower], [], [], 0)[0]:
            assert follower.read()
            reads += 1
        assert 2 <= reads <= 3, "one read does not take all, so that others get their turn"
        assert sum(len(update) for update in made.updates) == 3000
        assert made.told == as_dumped(made)
        netlink.route("add", dst="10.64.0.0/16", gateway="10.1.0.2")
        assert follower.read()
        assert list(made.updates[-1]) == [(socket.AF_INET, 0x0A400000, 16)]
        follower.close()


def test_other_tables_are_not_followed() -> None:
    with net() as (made, netlink):
        follower = made.follower(table=4242)
        assert made.told == {}
        netlink.route("add", dst="10.64.0.0/16", gateway="10.1.0.2")
        netlink.route("add", dst="10.65.0.0/16", gateway="10.1.0.2", table=4242)
        follow(follower)
        assert list(made.told) == [(socket.AF_INET, 0x0A410000, 16)]
        follower.close()


def test_neighbours_are_told_of() -> None:
    with net() as (made, netlink):
        follower = made.follower()
        port = made.cables[0].port
        netlink.neigh("add", ifindex=port.ifindex, dst="10.1.0.9", lladdr="02:00:00:00:00:09", state="permanent")
        follow(follower)
        found = [each for each in made.neighbours if each.address == bytes((10, 1, 0, 9))]
        assert [(each.ifindex, each.mac.hex(), each.gone) for each in found] == [(port.ifindex, "020000000009", False)]
        netlink.neigh("del", ifindex=port.ifindex, dst="10.1.0.9")
        follow(follower)
        assert any(each.gone or not each.mac for each in made.neighbours if each.address == bytes((10, 1, 0, 9)))
        follower.close()


def test_neighbours_from_before_are_told_of_and_those_that_went_unseen() -> None:
    with net() as (made, netlink):
        index, him = made.cables[0].port.ifindex, bytes((10, 1, 0, 9))
        netlink.neigh("add", ifindex=index, dst="10.1.0.9", lladdr="02:00:00:00:00:09", state="permanent")
        follower = made.follower(buffer=1)
        assert [(each.ifindex, each.gone) for each in made.neighbours if each.address == him] == [(index, False)]
        made.neighbours.clear()
        for number in range(100):
            netlink.route("add", dst=f"10.70.{number}.0/24", gateway="10.1.0.2")
        netlink.neigh("del", ifindex=index, dst="10.1.0.9")
        follow(follower)
        assert [(each.ifindex, each.gone) for each in made.neighbours if each.address == him] == [(index, True)]
        follower.close()


def test_a_route_that_is_not_followed_takes_none_along_when_it_goes() -> None:
    with net() as (made, netlink):
        follower = made.follower()
        netlink.route("add", dst="10.99.0.0/16", gateway="10.1.0.2")
        netlink.route("add", dst="10.99.0.0/16", gateway="10.2.0.2", tos=0x10)
        netlink.route("del", dst="10.99.0.0/16", gateway="10.2.0.2", tos=0x10)
        follow(follower)
        assert (socket.AF_INET, 0x0A630000, 16) in made.told
        assert made.told == as_dumped(made)
        assert follower.resyncs == 1, "messages alone were enough"
        follower.close()


def test_a_route_that_goes_and_was_never_seen_lets_the_table_be_read_anew() -> None:
    prefix = socket.AF_INET, 0x0A630000, 16
    with net() as (made, netlink):
        netlink.route("add", dst="10.99.0.0/16", gateway="10.1.0.2")
        follower = made.follower()
        stranger = made.told[prefix]._replace(hops=())
        assert not follower._apply([RouteChange(prefix, stranger, gone=True, flags=0)], follower.routes, set())
        assert follower.routes.best(prefix) == made.told[prefix]
        follower.close()


def test_what_goes_before_it_is_dumped_takes_nothing_else_along(monkeypatch: pytest.MonkeyPatch) -> None:
    with net() as (made, netlink):
        netlink.route("add", dst="10.99.0.0/16", gateway="10.1.0.2")
        netlink.route("add", dst="10.200.0.0/16", gateway="10.1.0.2")  # or a piece of the dump would end there
        follower = made.follower()

        def late(netns: str | None, family: int, table: int) -> Iterator[list[RouteChange]]:
            if family == socket.AF_INET:
                netlink.route("append", dst="10.99.0.0/16", gateway="10.2.0.2")
                netlink.route("del", dst="10.99.0.0/16", gateway="10.1.0.2")
            return rtnetlink.routes(netns, family, table)

        monkeypatch.setattr(kernel_routes, "routes", late)
        for _ in follower.resync():
            pass
        monkeypatch.undo()
        assert follower.whole
        assert [hop.gateway for hop in made.told[socket.AF_INET, 0x0A630000, 16].hops] == [bytes((10, 2, 0, 2))]
        assert made.told == as_dumped(made)
        follower.close()


def interleaved(monkeypatch: pytest.MonkeyPatch, between: Callable[[int], None]) -> None:
    """Calls `between` before each piece of a dump of routes, and after the last one, with the family."""

    def routes(netns: str | None, family: int, table: int) -> Iterator[list[RouteChange]]:
        between(family)
        for piece in rtnetlink.routes(netns, family, table):
            yield piece
            between(family)

    monkeypatch.setattr(kernel_routes, "routes", routes)


@FAMILIES
@pytest.mark.parametrize("seed", range(4))
def test_changes_between_the_pieces_of_a_dump_end_as_the_kernel_has_them(
    family: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever a follower says that it knows all, it does; and it says so often enough, and always in the end."""
    random_ = random.Random(seed)
    with net() as (made, netlink):
        ifindexes = [cable.port.ifindex for cable in made.cables]
        netlink.route("add", dst="10.200.0.0/16", gateway="10.1.0.2")
        follower = made.follower()

        def between(_family: int) -> None:
            for _ in range(random_.choice((0, 1, 3))):
                change(netlink, random_, family, ifindexes)

        certain = 0
        for _ in range(25):
            for _ in range(3):
                change(netlink, random_, family, ifindexes)
            interleaved(monkeypatch, between)
            for _ in follower.resync():
                pass
            monkeypatch.undo()
            certain += follower.whole
            if not follower.whole:
                resync(follower)
            follow(follower)
            assert made.told == as_dumped(made)
        follower.close()
        assert family == socket.AF_INET6 or certain > 12


def test_one_route_of_a_prefix_is_certain_whatever_takes_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """As routing daemons have them."""
    random_ = random.Random(1)
    with net() as (made, netlink):
        netlink.route("add", dst="10.200.0.0/16", gateway="10.1.0.2")
        follower = made.follower()

        def between(family: int) -> None:
            for _ in range(4 if family == socket.AF_INET else 0):
                prefix = f"10.64.{random_.randrange(4)}.0/24"
                netlink.route("replace", dst=prefix, gateway=random_.choice(GATEWAYS[socket.AF_INET]))

        for _ in range(20):
            interleaved(monkeypatch, between)
            for _ in follower.resync():
                pass
            monkeypatch.undo()
            assert follower.whole
            assert made.told == as_dumped(made)
        follower.close()


def test_what_a_dump_of_ipv6_passes_over_is_kept_until_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some that it has told of go, one comes: it begins anew, and passes as many over as it had told of."""
    with net() as (made, netlink):
        for number in range(1000):
            netlink.route("add", family=socket.AF_INET6, dst=f"fd70:{number:x}::/32", gateway="fd01::2")
        follower = made.follower()
        before = dict(made.told)
        pieces = 0

        def between(family: int) -> None:
            nonlocal pieces
            pieces += family == socket.AF_INET6
            if pieces == 3:
                for number in range(10):
                    netlink.route("del", family=socket.AF_INET6, dst=f"fd70:{number:x}::/32", gateway="fd01::2")
                netlink.route("add", family=socket.AF_INET6, dst="fd7f::/32", gateway="fd01::2")

        interleaved(monkeypatch, between)
        for _ in follower.resync():
            pass
        monkeypatch.undo()
        assert pieces > 4, "or it was told of in one piece"
        assert (follower.whole, follower.has_gaps) == (False, True)
        gone = {(socket.AF_INET6, 0xFD70 << 112 | number << 96, 32) for number in range(10)}
        assert made.told.keys() == before.keys() - gone | {(socket.AF_INET6, 0xFD7F << 112, 32)}
        netlink.route("del", family=socket.AF_INET6, dst="fd70:64::/32", gateway="fd01::2")
        assert follower.read(), "it goes on meanwhile"
        resync(follower)
        assert made.told == as_dumped(made)
        follower.close()


def test_what_goes_where_a_piece_of_a_dump_ends_lets_the_table_be_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel goes on with the number of the route that comes next, and another one has that number now."""
    with net() as (made, netlink):
        for metric in range(1000):
            netlink.route("add", dst="10.70.0.0/16", gateway="10.1.0.2", priority=100 + metric)
        netlink.route("add", dst="10.200.0.0/16", gateway="10.1.0.2")
        follower = made.follower()
        pieces = 0

        def between(family: int) -> None:
            nonlocal pieces
            pieces += family == socket.AF_INET
            if pieces == 2:
                netlink.route("del", dst="10.70.0.0/16", gateway="10.1.0.2", priority=100)

        interleaved(monkeypatch, between)
        for _ in follower.resync():
            pass
        monkeypatch.undo()
        assert pieces > 3
        assert follower.has_gaps
        resync(follower)
        for metric in range(1, 1000):
            netlink.route("del", dst="10.70.0.0/16", gateway="10.1.0.2", priority=100 + metric)
        follow(follower)
        assert made.told == as_dumped(made)
        follower.close()


def test_catching_up_goes_on_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    applied: list[int] = []
    replay = Follower._replay

    def counted(self: Follower, changes: list[Change], dump: Dump) -> bool:
        applied.append(len(changes))
        return replay(self, changes, dump)

    monkeypatch.setattr(Follower, "_replay", counted)
    monkeypatch.setattr(kernel_routes, "STEP", 1000)
    with net() as (made, netlink):
        follower = made.follower()
        work = follower.resync()
        next(work)
        for number in range(3 * kernel_routes.STEP):
            netlink.route("add", dst=f"10.{70 + (number >> 8)}.{number & 255}.0/24", gateway="10.1.0.2")
        applied.clear()
        most, before = 0, 0
        for _ in work:
            most, before = max(most, len(applied) - before), len(applied)
        assert sum(applied) >= 3 * kernel_routes.STEP
        assert most == 1
        assert follower.whole
        assert made.told == as_dumped(made)
        follower.close()


def test_what_is_uncertain_is_not_told_before_the_table_is_read_anew() -> None:
    with net() as (made, netlink):
        follower = made.follower()
        netlink.route("add", family=socket.AF_INET6, dst="fd99::/32", gateway="fd01::2", priority=20)
        follow(follower)
        made.updates.clear()
        index = made.cables[1].port.ifindex
        netlink.route("append", family=socket.AF_INET6, dst="fd99::/32", oif=index, priority=20)
        netlink.route("del", family=socket.AF_INET6, dst="fd99::/32", gateway="fd01::2", priority=20)
        assert not follower.read()
        assert not made.updates
        resync(follower)
        assert [hop.ifindex for hop in made.told[socket.AF_INET6, 0xFD99 << 112, 32].hops] == [index]
        follower.close()
