"""A router's part of a chain file: what becomes of it, and every mistake of meaning as it is printed."""

from __future__ import annotations

import ipaddress
import re
from importlib.resources import files
from pathlib import Path

import pytest

from compiler.resolve import resolve
from compiler.services.router.lowering import control, local_mac, lower
from compiler.services.router.model import MOST_IN_CODE, MOST_STATIC, RouterModel
from compiler.services.router.nexthops import number
from compiler.source import read
from schemas.manifest import Hook
from schemas.services.router import Kind, NextHopRecord
from tests.unit import refused

CASES = sorted((Path(__file__).parent / "router_diagnostics").glob("*.yaml"))

CHAIN = """\
chain: edge
interfaces: {{wan: {{device: eth0}}, lan: {{device: eth1, netns: inside}}}}
services:
  guard: {{kind: ddos}}
  br: {{kind: bridge, ports: {{a: {{}}, b: {{}}}}}}
  gw:
    kind: router
    ports:
      up: {{address: 203.0.113.2/24}}
      down: {{address: [10.0.0.1/24, "fd00:1::1/64"]{down}}}
    routes: {routes}
links:
  - [wan, guard.outside]
  - [guard.inside, gw.up]
  - [gw.down, br.a]
  - [br.b, lan]
"""


def chain(routes: str = "[]", down: str = "") -> str:
    return CHAIN.format(routes=routes, down=down)


def model(routes: str = "[]", down: str = "") -> RouterModel:
    config = resolve(read("edge.yaml", chain(routes, down))).service("gw").config
    assert isinstance(config, RouterModel)
    return config


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_whole_text(case: Path, request: pytest.FixtureRequest) -> None:
    text = case.read_text(encoding="utf-8")
    printed = refused.printed(text, "chain.yaml")
    golden = case.with_suffix(".txt")
    if request.config.getoption("--update-golden", default=False):
        golden.write_text(printed, encoding="utf-8")
    assert printed == golden.read_text(encoding="utf-8")
    assert {found.code for found in refused.mistakes(text, "chain.yaml")} == {case.stem.split("-")[0]}


def test_every_code_has_a_case() -> None:
    folder = files("compiler") / "services" / "router"
    source = "".join((folder / name).read_text(encoding="utf-8") for name in ("model.py", "advertise.py"))
    cases = {case.stem.split("-")[0] for case in CASES} | {"R115"}  # whose chain would be too long for a file
    assert set(re.findall(r'"(R[0-9]{3})"', source)) == cases


FOLLOWS = "\n    kernel-routes: {table: main}"
NO_ROOM = """\
error[R115]: there is no room for the next hops of the route to `10.128.0.0/16`
  --> chain.yaml:140:14
    |
140 |       - {to: 10.128.0.0/16, via: [203.0.113.137, 203.0.113.138, 203.0.113.139, 203.0.113.140, 203.0.113.141, 2…
    |              ^^^^^^^^^^^^^ its 64 next hops take 128 places
    = note: with those of the routes before it that is 16387, and there are 16383
    = help: routes with the same gateways in the same order share their places
"""


def grouped(count: int) -> str:
    """A route with one gateway, and others with 64 each, of which each has others than the one before it."""
    lines = ["", "      - {to: 192.0.2.0/24, via: 10.0.0.9}"]
    for at in range(count):
        gateways = ", ".join(f"203.0.113.{10 + (at + member) % 240}" for member in range(64))
        lines.append(f"      - {{to: 10.{1 + at}.0.0/16, via: [{gateways}]}}")
    return "\n".join(lines)


def test_next_hops_that_find_no_room_are_refused() -> None:
    text = chain(grouped(128) + FOLLOWS)
    assert refused.printed(text, "chain.yaml") == NO_ROOM


def test_next_hops_that_just_find_room_are_not_refused() -> None:
    assert model(grouped(127) + FOLLOWS).table_size
    assert not model(grouped(128)).table_size, "what is code needs no places"


def test_subnets_are_routes() -> None:
    found = [(str(route.prefix), route.nexthops[0].text) for route in model().routes]
    assert found == [("203.0.113.0/24", "on up"), ("10.0.0.0/24", "on down"), ("fd00:1::/64", "on down")]


def test_the_lowest_metric_is_used() -> None:
    routes = "[{to: 0.0.0.0/0, via: 203.0.113.1, metric: 20}, {to: 0.0.0.0/0, via: 10.0.0.2, metric: 10}]"
    (chosen,) = [route for route in model(routes).routes if route.prefix.prefixlen == 0]
    assert chosen.nexthops[0].text == "via 10.0.0.2 on down"


def test_every_way_to_go() -> None:
    routes = (
        "[{to: 192.0.2.0/24, via: [203.0.113.1, 10.0.0.2]}, {to: 198.51.100.0/24, port: up}, "
        "{to: 10.1.0.0/16, blackhole: true}, {to: 10.2.0.0/16, unreachable: true}, {to: 10.3.0.0/16, prohibit: true}, "
        "{to: '2001:db8::/32', via: 'fe80::1', port: down}]"
    )
    found = {str(route.prefix): [hop.text for hop in route.nexthops] for route in model(routes).routes[3:]}
    assert found == {
        "192.0.2.0/24": ["via 203.0.113.1 on up", "via 10.0.0.2 on down"],
        "198.51.100.0/24": ["on up"],
        "10.1.0.0/16": ["blackhole"],
        "10.2.0.0/16": ["unreachable"],
        "10.3.0.0/16": ["prohibit"],
        "2001:db8::/32": ["via fe80::1 on down"],
    }


def test_equal_next_hops_share_an_element_and_groups_are_in_one_piece() -> None:
    routes = (
        "[{to: 192.0.2.0/24, via: [203.0.113.1, 10.0.0.2]}, {to: 198.51.100.0/24, via: 203.0.113.1}, "
        "{to: 192.0.3.0/24, via: [203.0.113.1, 10.0.0.2]}, {to: 198.51.101.0/24, via: 203.0.113.1}]"
    )
    numbered = number(model(routes))
    records = {slot.index: NextHopRecord.unpacked(slot.value) for slot in numbered.slots}
    assert list(records) == list(range(1, len(records) + 1))
    by_prefix = {str(route.prefix): index for route, index in numbered.of_route.items()}
    assert by_prefix["198.51.100.0/24"] == by_prefix["198.51.101.0/24"]
    assert by_prefix["192.0.2.0/24"] == by_prefix["192.0.3.0/24"]
    group = records[by_prefix["192.0.2.0/24"]]
    assert (group.kind, group.members) == (Kind.GROUP, 2)
    members = [records[group.first + at] for at in range(group.members)]
    assert [ipaddress.IPv4Address(member.gateway[:4]) for member in members] == [
        ipaddress.IPv4Address("203.0.113.1"),
        ipaddress.IPv4Address("10.0.0.2"),
    ]
    assert [member.port for member in members] == [0, 1]


def test_facts_of_an_interface_come_through_transparent_services() -> None:
    gw = resolve(read("edge.yaml", chain())).service("gw")
    assert [(name, interface.name) for name, interface in gw.interfaces] == [("up", "wan")]
    up, down = control(gw)["ports"]
    assert (up["device"], up["mac"], up["mtu"]) == ("eth0", None, None)
    assert (down["device"], down["mac"], down["mtu"]) == (None, local_mac(gw, gw.port("down")).hex(":"), 1500)


def test_the_mac_of_a_port_without_an_interface_is_its_own_for_ever() -> None:
    gw = resolve(read("edge.yaml", chain())).service("gw")
    macs = {local_mac(gw, port) for port in gw.ports}
    assert len(macs) == 2
    assert all(mac[0] == 0x02 for mac in macs)
    assert local_mac(gw, gw.port("down")).hex(":") == "02:36:2e:08:ba:db"


def test_mac_and_mtu_of_the_file_come_first() -> None:
    _, down = control(resolve(read("edge.yaml", chain(down=", mac: 52:54:00:12:34:56, mtu: 9000"))).service("gw"))[
        "ports"
    ]
    assert (down["mac"], down["mtu"]) == ("52:54:00:12:34:56", 9000)


def test_redirects_are_on_unless_a_port_says_no() -> None:
    gw = resolve(read("edge.yaml", chain(down=", redirects: false"))).service("gw")
    up, down = (lower(gw, gw.port(name), Hook.XDP) for name in ("up", "down"))
    for lowered, said in ((up, "true"), (down, "false")):
        (value,) = [constant.value for constant in lowered.constants if constant.path.endswith(".redirects")]
        assert value == said
    names = {function.field for function in up.functions} - {function.field for function in down.functions}
    assert names == {"share_subnet4"}
    assert {each.name for each in up.maps} - {each.name for each in down.maps} == {"gw__redirected"}


def test_what_is_no_answer_to_redirects_is_said_where_it_stands() -> None:
    text = chain(down=", redirects: no")
    assert refused.printed(text) == (
        "error[C112]: expected true or false, found a string\n"
        " --> edge.yaml:10:65\n"
        "   |\n"
        '10 |       down: {address: [10.0.0.1/24, "fd00:1::1/64"], redirects: no}\n'
        "   |                                                                 ^^ this is a string\n"
        "   = note: whether hosts on the port's link are told of a better next hop on it, when a packet of theirs"
        " leaves by the port that it came in by (ICMP redirects)\n"
        "   = help: for example `false`\n"
    )


def test_another_gateway_changes_a_map_and_no_program() -> None:
    """Only an address, a port or a prefix is in the code."""
    lowered = []
    for gateway in ("203.0.113.1", "203.0.113.9"):
        gw = resolve(read("edge.yaml", chain(f"[{{to: 0.0.0.0/0, via: {gateway}}}]"))).service("gw")
        lowered.append(lower(gw, gw.port("up"), Hook.XDP))
    first, second = lowered
    assert [function.text for function in first.functions] == [function.text for function in second.functions]
    assert first.constants == second.constants
    assert first.maps != second.maps


@pytest.mark.parametrize(
    ("count", "in_code", "size"), [(MOST_IN_CODE, True, 0), (MOST_IN_CODE + 1, False, MOST_STATIC)]
)
def test_routes_that_are_too_many_for_code_go_into_tables(count: int, in_code: bool, size: int) -> None:
    listed = [f"{{to: 10.{64 + (n >> 8)}.{n & 255}.0/24, via: 10.0.0.2}}" for n in range(count)]
    found = model(f"[{', '.join(listed)}]")
    assert len(found.routes) == found.connected + count
    assert found.in_code == (found.routes if in_code else found.routes[: found.connected])
    assert found.table_size == size


def test_tables_of_kernel_routes_stay_when_static_routes_become_many() -> None:
    """Another size would be another layout, and all routes were lost."""
    few = model("[]\n    kernel-routes: {table: main, size: 1000}")
    listed = [f"{{to: 10.{64 + (n >> 8)}.{n & 255}.0/24, via: 10.0.0.2}}" for n in range(MOST_IN_CODE + 1)]
    many = model(f"[{', '.join(listed)}]\n    kernel-routes: {{table: main, size: 1000}}")
    assert len(many.in_code) < len(many.routes)
    assert few.table_size == many.table_size == MOST_STATIC + 1000


# --- router advertisements -------------------------------------------------------------------------------------------


def advertised(down: str) -> dict[str, object]:
    """What the control plane is told of `down`, which has fd00:1::1/64."""
    instance = resolve(read("edge.yaml", chain(down=down))).service("gw")
    (told,) = [port["advertise"] for port in control(instance)["ports"] if port["name"] == "down"]
    assert isinstance(told, dict)
    return told


def test_nothing_is_advertised_unless_the_file_says_so() -> None:
    instance = resolve(read("edge.yaml", chain())).service("gw")
    assert [port["advertise"] for port in control(instance)["ports"]] == [None, None]


def test_what_is_advertised_by_default() -> None:
    prefix = {"prefix": "fd00:1::/64", "valid": 86400, "preferred": 14400, "on_link": True, "autonomous": True}
    assert advertised(", advertise: {}") == {
        "interval": 600.0,
        "lifetime": 1800,
        "hop_limit": 64,
        "managed": False,
        "other_config": False,
        "preference": "medium",
        "mtu": None,
        "prefixes": [prefix],
        "dns": {"servers": [], "search": [], "lifetime": 1800},
    }


def test_what_follows_from_other_settings() -> None:
    """The lifetime from the interval, the MTU from the port's, what is preferred from what is valid."""
    told = advertised(
        ', mtu: 1400, advertise: {interval: 20, prefixes: ["fd00:7::/48", {prefix: "fd00:8::/64", valid: 1h}]}'
    )
    assert (told["lifetime"], told["mtu"], told["dns"]) == (60, 1400, {"servers": [], "search": [], "lifetime": 60})
    assert told["prefixes"] == [
        {"prefix": "fd00:7::/48", "valid": 86400, "preferred": 14400, "on_link": True, "autonomous": False},
        {"prefix": "fd00:8::/64", "valid": 3600, "preferred": 3600, "on_link": True, "autonomous": True},
    ]
    assert advertised(", advertise: {interval: 30m}")["lifetime"] == 5400
    assert advertised(", advertise: {lifetime: 0}")["lifetime"] == 0
    assert advertised(", mtu: 1000, advertise: {}")["mtu"] is None, "IPv6 needs 1280"
