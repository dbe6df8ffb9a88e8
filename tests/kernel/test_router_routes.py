"""A router that follows the kernel's routes: changed by hand and by a routing daemon, seen on the wire."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

import bpfchain
from runtime.devices import find_device
from runtime.netns import entered
from runtime.plan import Kind
from runtime.routing.tables import ports_by_ifindex
from schemas.manifest import Mode
from tests.kernel.test_router import HERE, HERE6, HOST, LEFT, RIGHT, SERVER, THERE, THERE6, Served, chain, served
from tests.rig.frames import Wire, collect
from tests.rig.lab import Lab
from tests.services.router_frames import ARP, IPV4, IPV6, advertisement, arp, ethernet, icmp6, ipv4, ipv6, option, ports

pytestmark = [pytest.mark.kernel]
PATIENCE = 60.0
"""Seconds that a change may take on a machine that is busy with other things."""

FOLLOWS = {"kernel-routes": {"table": "main", "size": 1000}}
SOURCE = "192.0.2.1"
STATIONS = {"left": (HOST, HERE, LEFT, "10.7.1.1"), "right": (SERVER, THERE, RIGHT, "10.7.2.1")}


@contextlib.contextmanager
def following(folder: Path, mode: Mode = Mode.NATIVE, **more: Any) -> Iterator[tuple[Served, Any]]:
    """A router that follows the main table of its namespace, where the ports' devices have the router's addresses."""
    with served(chain(mode, **{**FOLLOWS, **more}), folder) as router, router.net.dut.netlink() as netlink:
        settle(router.net)
        router.introduce()
        yield router, netlink


def settle(net: Any) -> None:
    """The kernel's own addresses, without which it takes no route to a gateway."""
    for port, addresses in {"left": ("10.7.1.1/24", "fd00:1::1/64"), "right": ("10.7.2.1/24", "fd00:2::1/64")}.items():
        with net.dut.netlink() as netlink:
            (index,) = netlink.link_lookup(ifname=port)
            for address in addresses:
                text, length = address.split("/")
                if ":" in text:
                    net.dut.sysctl(f"net/ipv6/conf/{port}/disable_ipv6", "0")
                netlink.addr("add", index=index, address=text, prefixlen=int(length))


def way(router: Served, destination: str) -> str | None:
    """The port that a packet from the right leaves by; None if it does not."""
    version6 = ":" in destination
    packet = ipv6(THERE6, destination) if version6 else ipv4(SOURCE, destination, ports(1, 9))
    router.net.send("right", ethernet(SERVER, RIGHT, IPV6 if version6 else IPV4, packet))
    marks = {LEFT: "left", RIGHT: "right"}
    found: list[str] = []

    def arrived() -> bool:
        for at, frames in router.net.arrivals().items():
            answer(router, at, frames)
            found.extend(port for frame in frames for mac, port in marks.items() if is_forwarded(frame, mac, packet))
        return bool(found)

    wait_for(arrived, 0.3)
    return found[0] if found else None


def answer(router: Served, port: str, frames: list[bytes]) -> None:
    """What the neighbour is asked from time to time: whether it is still there."""
    mac, address, own_mac, own = STATIONS[port]
    for frame in frames:
        if frame[12:14] == b"\x08\x06" and frame[21] == 1:
            reply = arp(2, (mac, address), (own_mac, own))
            router.net.send(port, ethernet(mac, own_mac, ARP, reply))


def is_forwarded(frame: bytes, mac: str, packet: bytes) -> bool:
    """Whether it is this packet, from the port with this MAC: same destination and one less of TTL or hop limit."""
    if frame[6:12] != bytes.fromhex(mac.replace(":", "")):
        return False
    destination, ttl = (slice(24, 40), 7) if packet[0] >> 4 == 6 else (slice(16, 20), 8)
    inner = frame[14:]
    return inner[destination] == packet[destination] and inner[ttl] == packet[ttl] - 1


def wait_for(condition: Callable[[], bool], seconds: float = PATIENCE) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def becomes(router: Served, destination: str, expected: str | None) -> None:
    assert wait_for(lambda: way(router, destination) == expected), f"{destination} does not go {expected}"


def test_routes_of_the_kernel_are_the_routers(tmp_path: Path) -> None:
    with following(tmp_path) as (router, netlink):
        netlink.route("add", dst="10.64.0.0/16", gateway=HERE)
        becomes(router, "10.64.1.1", "left")
        netlink.route("add", dst="10.64.1.0/24", gateway=THERE)
        becomes(router, "10.64.1.1", "right")
        assert way(router, "10.64.2.1") == "left"
        netlink.route("add", dst="10.64.1.1/32", type="blackhole")
        becomes(router, "10.64.1.1", None)
        assert way(router, "10.64.1.2") == "right"
        netlink.route("del", dst="10.64.1.1/32", type="blackhole")
        netlink.route("replace", dst="10.64.1.0/24", gateway=HERE)
        becomes(router, "10.64.1.1", "left")
        netlink.route("del", dst="10.64.1.0/24")
        netlink.route("del", dst="10.64.0.0/16")
        becomes(router, "10.64.1.1", None)
        assert way(router, HERE) == "left", "what is connected stays"


def test_ipv6_routes_of_the_kernel_are_the_routers(tmp_path: Path) -> None:
    with following(tmp_path) as (router, netlink):
        introduce6(router)
        netlink.route("add", family=10, dst="fd64::/32", gateway=HERE6)
        becomes(router, "fd64::1", "left")
        netlink.route("add", family=10, dst="fd64:0:1::/48", gateway=THERE6)
        becomes(router, "fd64:0:1::1", "right")
        assert way(router, "fd64:0:2::1") == "left"
        netlink.route("del", family=10, dst="fd64:0:1::/48")
        becomes(router, "fd64:0:1::1", "left")


def introduce6(router: Served) -> None:
    """As `introduce`, with solicitations that are answered."""
    for port, mac, host, address, own, far, far_mac, there in (
        ("left", LEFT, HOST, HERE6, "fd00:2::1", "right", RIGHT, (SERVER, THERE6)),
        ("right", RIGHT, SERVER, THERE6, "fd00:1::1", "left", LEFT, (HOST, HERE6)),
    ):
        router.net.send(port, ethernet(host, mac, IPV6, ipv6(address, there[1])))
        router.heard(**{far: 1})
        answer = icmp6(there[1], own, advertisement(there[1], option(2, there[0]), 0x60))
        router.net.send(far, ethernet(there[0], far_mac, IPV6, answer))
        router.heard(**{far: 1})


def test_the_chain_files_routes_come_first(tmp_path: Path) -> None:
    with following(tmp_path, routes=[{"to": "10.64.0.0/16", "via": HERE}]) as (router, netlink):
        becomes(router, "10.64.1.1", "left")
        netlink.route("add", dst="10.64.0.0/16", gateway=THERE)
        netlink.route("add", dst="10.65.0.0/16", gateway=THERE)
        becomes(router, "10.65.1.1", "right")
        assert way(router, "10.64.1.1") == "left"


def test_equal_cost_paths_share_flows(tmp_path: Path) -> None:
    with following(tmp_path) as (router, netlink):
        netlink.route("add", dst="10.64.0.0/16", multipath=[{"gateway": HERE}, {"gateway": THERE}])
        assert wait_for(lambda: {way(router, f"10.64.1.{host}") for host in range(16)} == {"left", "right"})
        assert {way(router, "10.64.1.7") for _ in range(4)} in ({"left"}, {"right"}), "a flow takes one way"


def test_routes_outlive_the_daemon(tmp_path: Path) -> None:
    with following(tmp_path) as (router, netlink):
        netlink.route("add", dst="10.64.0.0/16", gateway=HERE)
        netlink.route("add", dst="10.65.0.0/16", gateway=HERE)
        becomes(router, "10.65.1.1", "left")
        router.process.kill()
        assert way(router, "10.64.1.1") == "left"
        netlink.route("replace", dst="10.64.0.0/16", gateway=THERE)
        netlink.route("del", dst="10.65.0.0/16")
        assert way(router, "10.64.1.1") == "left"
        router.process.start()
        becomes(router, "10.64.1.1", "right")
        becomes(router, "10.65.1.1", None)


def test_routes_outlive_a_reload(tmp_path: Path) -> None:
    """Another generation has the same tables and next hops, and its control plane goes on from there."""
    with following(tmp_path) as (router, netlink):
        netlink.route("add", dst="10.64.0.0/16", gateway=HERE)
        becomes(router, "10.64.1.1", "left")
        described = {
            **chain(Mode.NATIVE, **FOLLOWS, routes=[{"to": "10.66.0.0/16", "via": HERE}]),
            "chain": router.name,
        }
        file = tmp_path / "again.yaml"
        file.write_text(yaml.safe_dump(described, sort_keys=False))
        with entered(router.net.dut.name):
            bpfchain.apply(bpfchain.compile(file, tmp_path / "again"))
        assert way(router, "10.64.1.1") == "left"
        becomes(router, "10.66.1.1", "left")
        netlink.route("replace", dst="10.64.0.0/16", gateway=THERE)
        becomes(router, "10.64.1.1", "right")
        assert not router.process.failures(router.name, "gw")


def test_neighbours_of_the_kernel_are_the_routers(tmp_path: Path) -> None:
    """Packets to a permanent one leave without a question, until it is deleted; a daemon that starts finds it too."""
    with following(tmp_path) as (router, netlink):
        (index,) = netlink.link_lookup(ifname="left")
        netlink.neigh("add", ifindex=index, dst="10.7.1.77", lladdr="52:54:00:00:00:77", state="permanent")
        assert wait_for(lambda: sent_to(router, "10.7.1.77") == "525400000077")
        router.process.kill()
        netlink.neigh("add", ifindex=index, dst="10.7.1.78", lladdr="52:54:00:00:00:78", state="permanent")
        router.process.start()
        assert wait_for(lambda: sent_to(router, "10.7.1.78") == "525400000078")
        netlink.neigh("del", ifindex=index, dst="10.7.1.77")
        assert wait_for(lambda: sent_to(router, "10.7.1.77") is None)


def sent_to(router: Served, destination: str) -> str | None:
    """The MAC that a packet from the right leaves for, on the left; None if it does not."""
    packet = ipv4(SOURCE, destination, ports(1, 9))
    router.net.send("right", ethernet(SERVER, RIGHT, IPV4, packet))
    time.sleep(0.1)
    frames = router.net.arrivals().get("left", [])
    return next((frame[:6].hex() for frame in frames if is_forwarded(frame, LEFT, packet)), None)


def test_an_ifindex_is_that_of_the_tables_namespace() -> None:
    with Lab("routes") as lab:
        here, there, far = (lab.namespace(name) for name in ("here", "there", "far"))
        for number, namespace in enumerate((here, there)):
            lab.cable((namespace, "eth0"), (far, f"far{number}"))
        records: list[dict[str, str | None]] = [
            {"device": "eth0", "netns": None},
            {"device": "eth0", "netns": there.name},
        ]
        found = [find_device("eth0", namespace.name) for namespace in (here, there)]
        indices = [device.ifindex for device in found if device]
        assert indices[0] == indices[1], "or this shows nothing"
        assert ports_by_ifindex(records, here.name, here.name) == {indices[0]: 0}
        assert ports_by_ifindex(records, there.name, here.name) == {indices[0]: 1}


# --- many routes in the chain file -----------------------------------------------------------------------------------


def static(routes: Mapping[str, str]) -> dict[str, Any]:
    return {"routes": [{"to": f"{prefix}/24", "via": gateway} for prefix, gateway in routes.items()]}


def test_routes_of_the_chain_file_that_are_too_many_for_code_are_in_tables(tmp_path: Path) -> None:
    """Each goes right, and one more, one fewer or another gateway compiles nothing; also while there is no daemon."""
    routes = fed_routes(2000)
    first, last = next(iter(routes)), [*routes][-1]
    with served(chain(Mode.NATIVE, **static({**routes, "10.64.1.0": HERE})), tmp_path) as router:
        router.introduce()
        becomes(router, "10.64.1.1", "left")
        all_go_right(router, routes, [*routes])
        changed = {**routes, first: THERE, "99.0.0.0": HERE, "10.64.1.0": HERE}
        del changed[last]
        described = {**chain(Mode.NATIVE, **static(changed)), "chain": router.name}
        file = tmp_path / "changed.yaml"
        file.write_text(yaml.safe_dump(described, sort_keys=False))
        with entered(router.net.dut.name):
            compiled = bpfchain.compile(file, tmp_path / "changed")
            assert not [change for change in bpfchain.plan(compiled).changes if change.kind is Kind.PROGRAM]
            bpfchain.apply(compiled)
        becomes(router, "99.0.0.7", "left")
        all_go_right(router, changed, [*routes, "99.0.0.0"])
        router.process.kill()
        all_go_right(router, changed, [*routes, "99.0.0.0"])


# --- a routing daemon ------------------------------------------------------------------------------------------------

FED = 50_000


def fed_routes(count: int) -> Mapping[str, str]:
    """Gateways by prefix: /24s, every other one to the left."""
    return {
        f"{20 + (number >> 16)}.{number >> 8 & 255}.{number & 255}.0": (HERE, THERE)[number & 1]
        for number in range(count)
    }


class Bird:
    """BIRD in the machine's namespace, with static routes that it exports to the kernel."""

    def __init__(self, router: Served, folder: Path) -> None:
        found = shutil.which("bird", path="/usr/sbin:/usr/local/sbin:/usr/bin")
        assert found, "this needs BIRD: apt-get install bird2"
        self._config, self._control = folder / "bird.conf", folder / "bird.ctl"
        self._birdc = str(Path(found).with_name("birdc"))
        self.configure({})
        with entered(router.net.dut.name):
            self._process = subprocess.Popen([found, "-f", "-c", str(self._config), "-s", str(self._control)])
        assert wait_for(self._control.exists)

    def __enter__(self) -> Bird:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()

    def configure(self, routes: Mapping[str, str]) -> None:
        lines = "".join(f"  route {prefix}/24 via {gateway};\n" for prefix, gateway in routes.items())
        self._config.write_text(
            "router id 10.7.1.1;\nprotocol device {}\n"
            "protocol kernel { ipv4 { export all; import none; }; scan time 3600; }\n"
            f"protocol static fed {{\n  ipv4;\n{lines}}}\n"
        )

    def feed(self, routes: Mapping[str, str]) -> None:
        self.configure(routes)
        subprocess.run([self._birdc, "-s", str(self._control), "configure"], check=True, capture_output=True)


def test_a_routing_daemon_feeds_a_full_table(tmp_path: Path) -> None:
    """While it does, packets of a flow go on; then a packet for every route goes right, and again when half is gone."""
    follows: dict[str, Any] = {"kernel-routes": {"table": "main", "size": FED}}
    with following(tmp_path, **follows) as (router, netlink), Bird(router, tmp_path) as bird:
        netlink.route("add", dst="10.64.0.0/16", gateway=HERE)
        becomes(router, "10.64.1.1", "left")
        routes = fed_routes(FED)
        last = [*routes][-1]
        bird.feed(routes)
        assert wait_for(lambda: passes(router) and goes_right(router, last, routes), PATIENCE)
        all_go_right(router, routes, [*routes])
        kept = dict([*routes.items()][: FED // 2])
        bird.feed(kept)
        assert wait_for(lambda: passes(router) and goes_right(router, last, kept), PATIENCE)
        all_go_right(router, kept, [*routes])


def goes_right(router: Served, prefix: str, routes: Mapping[str, str]) -> bool:
    return way(router, address_in(prefix)) == PORT_BY_GATEWAY[routes.get(prefix)]


PORT_BY_GATEWAY = {HERE: "left", THERE: "right", None: None}


def address_in(prefix: str) -> str:
    return prefix.removesuffix(".0") + ".7"


def all_go_right(router: Served, routes: Mapping[str, str], prefixes: Sequence[str]) -> None:
    """A packet for each prefix comes out where its route leads, and nowhere without one; the flow goes on in between.

    What a busy machine has lost, or was sent before its route was there, is sent again.
    """
    deadline = time.monotonic() + PATIENCE
    with contextlib.ExitStack() as stack:
        wires = {
            port: stack.enter_context(Wire(cable.station, buffer=64 << 20)) for port, cable in router.net.cables.items()
        }
        left = prefixes
        while left:
            assert time.monotonic() < deadline, f"{len(left)} go wrong: {left[:5]}"
            astray: list[str] = []
            for at in range(0, len(left), TOGETHER):
                assert passes(router)
                astray += gone_astray(router, wires, routes, left[at : at + TOGETHER])
            left = astray


TOGETHER = 2000


def gone_astray(
    router: Served, wires: Mapping[str, Wire], routes: Mapping[str, str], prefixes: Sequence[str]
) -> list[str]:
    """Those of the prefixes whose packet has not come out where it should, or has where it should not."""
    by_destination = {socket.inet_aton(address_in(prefix)): prefix for prefix in prefixes}
    wanted = {prefix: PORT_BY_GATEWAY[routes.get(prefix)] for prefix in prefixes}
    packets = (ipv4(SOURCE, address_in(prefix), ports(1, 9)) for prefix in prefixes)
    wires["right"].send(*(ethernet(SERVER, RIGHT, IPV4, packet) for packet in packets))
    found: dict[str, str] = {}
    for port, frames in collect(wires, Counter(port for port in wanted.values() if port), timeout=5).items():
        answer(router, port, frames)
        mac = bytes.fromhex({"left": LEFT, "right": RIGHT}[port].replace(":", ""))
        for frame in frames:
            prefix = by_destination.get(frame[30:34]) if frame[6:12] == mac and frame[12:14] == b"\x08\0" else None
            if prefix is not None:
                found[prefix] = port
    for wire in (*wires.values(), *router.net.wires.values()):
        wire.drain()
    return [prefix for prefix, port in wanted.items() if found.get(prefix) != port]


def passes(router: Served) -> bool:
    """The flow that has nothing to do with what changes."""
    assert way(router, "10.64.1.1") == "left"
    return True
