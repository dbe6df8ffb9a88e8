"""What `resolve` makes of right chains, and that one mistake neither hides nor begets another."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_network
from typing import Any

import pytest

from compiler.model import Chain, Host, Interface, Port
from compiler.resolve import resolve
from compiler.source import read
from schemas.diagnostic import InvalidChain
from schemas.manifest import Mode
from tests.unit.toy_services import ToyConfig, chain, toys_only

HUB = {"kind": "hub", "ports": {"p1": {}, "p2": {}, "p3": {}}}
TUBE = {"kind": "tube"}


@pytest.fixture(autouse=True)
def _toys() -> Iterator[None]:
    with toys_only():
        yield


def resolved(services: dict[str, Any], links: list[list[str]], **more: Any) -> Chain:
    return resolve(read("x.yaml", chain(services, links, **more)))


def codes(services: dict[str, Any], links: list[list[str]], **more: Any) -> list[str]:
    with pytest.raises(InvalidChain) as caught:
        resolved(services, links, **more)
    return [found.code for found in caught.value.diagnostics]


def test_a_chain() -> None:
    guard = {"kind": "tube", "prefixes": ["10.0.0.0/8"]}
    made = resolved(
        {"guard": guard, "sw": HUB},
        [["wan", "guard.outside"], ["guard.inside", "sw.p1"], ["lan", "sw.p3"], ["sw.p2", "host"]],
        mode="tc",
        interfaces={"wan": {"device": "eth0", "mode": "tc"}, "lan": {"device": "eth1"}},
    )
    wan, lan = made.interfaces
    assert (wan.device, wan.mode, wan.netns, lan.mode) == ("eth0", Mode.TC, None, Mode.TC)
    assert made.service("guard").config == ToyConfig((ip_network("10.0.0.0/8"),))
    assert [str(port) for port in made.service("sw").ports] == ["sw.p1", "sw.p2", "sw.p3"]
    assert [port.index for port in made.service("sw").ports] == [0, 1, 2]
    assert made.peer(made.service("guard").port("inside")) == made.service("sw").port("p1")
    assert made.peer(lan) == made.service("sw").port("p3")


def test_mode_defaults_to_native_and_an_interface_overrides() -> None:
    interfaces = {"wan": {"device": "eth0"}, "lan": {"device": "eth1", "mode": "generic", "netns": "blue"}}
    made = resolved({"t": TUBE}, [["wan", "t.outside"], ["t.inside", "lan"]], interfaces=interfaces)
    assert [(i.mode, i.netns) for i in made.interfaces] == [(Mode.NATIVE, None), (Mode.GENERIC, "blue")]


def test_several_links_to_host() -> None:
    made = resolved(
        {"a": TUBE, "b": TUBE}, [["wan", "a.outside"], ["a.inside", "host"], ["host", "b.inside"], ["lan", "b.outside"]]
    )
    peers = {str(port): made.peer(port) for service in made.services for port in service.ports}
    assert [type(peers[port]) for port in ("a.outside", "a.inside", "b.outside", "b.inside")] == [
        Interface,
        Host,
        Interface,
        Host,
    ]


def test_the_same_device_name_in_another_namespace_is_another_device() -> None:
    interfaces = {"wan": {"device": "eth0"}, "lan": {"device": "eth0", "netns": "blue"}}
    assert resolved({"t": TUBE}, [["wan", "t.outside"], ["t.inside", "lan"]], interfaces=interfaces)


LINKS = [["wan", "t.outside"], ["t.inside", "lan"]]

ALONE: list[tuple[str, dict[str, Any], list[list[str]], dict[str, Any], list[str]]] = [
    ("interfaces are missing", {"t": TUBE}, LINKS, {"interfaces": None}, ["C112"]),
    ("interfaces are misspelt", {"t": TUBE}, LINKS, {"interfaces": {"wan": "eth0", "lan": 5}}, ["C112", "C112"]),
    ("a kind is unknown: its ports are not", {"t": {"kind": "tub"}}, LINKS, {}, ["C209"]),
    ("a kind is missing", {"t": {}}, LINKS, {}, ["C111"]),
    ("a service is no mapping", {"t": "tube"}, LINKS, {}, ["C112"]),
    ("ports are missing", {"t": {"kind": "hub"}}, LINKS, {}, ["C111"]),
    ("ports are a list", {"t": {"kind": "hub", "ports": ["p1", "p2"]}}, LINKS, {}, ["C112"]),
    ("a port is wrong", {"t": {"kind": "hub", "ports": {"outside": 1, "inside": {}}}}, LINKS, {}, ["C112"]),
    ("a service's key is wrong", {"t": {"kind": "tube", "sise": 1}}, LINKS, {}, ["C110"]),
    ("a service is misspelt", {"tunnel": TUBE}, [["wan", "tunel.outside"], ["tunnel.inside", "lan"]], {}, ["C201"]),
    ("a port is misspelt", {"t": TUBE}, [["wan", "t.outsid"], ["t.inside", "lan"]], {}, ["C202"]),
    ("a port is left out", {"t": TUBE}, [["wan", "t"], ["t.inside", "lan"]], {}, ["C202"]),
    ("an interface is misspelt", {"t": TUBE}, [["wam", "t.outside"], ["t.inside", "lan"]], {}, ["C201"]),
    ("an end is missing", {"t": TUBE}, [["wan"], ["t.outside", "host"], ["t.inside", "lan"]], {}, ["C114"]),
]


@pytest.mark.parametrize(("services", "links", "more", "found"), [c[1:] for c in ALONE], ids=[c[0] for c in ALONE])
def test_one_mistake_is_told_alone(
    services: dict[str, Any], links: list[list[str]], more: dict[str, Any], found: list[str]
) -> None:
    assert codes(services, links, **more) == found


def test_mistakes_of_shape_do_not_hide_those_of_meaning() -> None:
    services = {"t": {"kind": "tube", "prefixes": ["10.0.0.1/8"]}, "sw": {**HUB, "extra": 1}}
    links = [["wan", "t.outside"], ["t.inside", "sw.p1"], ["sw.p2", "nowhere.at-all"]]
    assert set(codes(services, links, mode="fast")) == {"C115", "C212", "C110", "C201", "C204", "C206"}


@pytest.mark.parametrize(
    ("wrong", "shape"),
    [
        ({"sise": 1}, ["C110"]),
        ({"size": 0}, ["C113"]),
        ({"protocols": ["tcp", 999, "no"]}, ["C113", "C118"]),
        ({"size": "x", "share": [], "extra": {}}, ["C110", "C112", "C112"]),
    ],
)
def test_a_mistake_of_shape_does_not_hide_meaning_in_the_same_service(wrong: dict[str, Any], shape: list[str]) -> None:
    found = codes({"t": {"kind": "tube", "prefixes": ["10.0.0.1/8"], "mac": "x", **wrong}}, LINKS)
    assert sorted(found) == [*shape, "C212", "C214"]


def test_what_is_left_of_a_service_is_not_resolved_without_a_key_that_it_needs() -> None:
    assert codes({"t": {"kind": "tube", "mac": "x", "key": "x"}}, LINKS) == ["C118"]


def test_diagnostics_are_in_the_order_of_the_file() -> None:
    with pytest.raises(InvalidChain) as caught:
        resolve(
            read("x", "chain: A\nmode: b\ninterfaces: 1\nservices: {a: {kind: x}, b: {kind: y}}\nlinks: [[a, 1]]\n")
        )
    spans = [found.span for found in caught.value.diagnostics]
    assert len(spans) == 7
    assert spans == sorted(span for span in spans if span)


def ring(count: int, kind: str) -> tuple[dict[str, Any], list[list[str]]]:
    """`count` gates or hubs in a circle, with `wan` and `lan` on two of them."""
    services = {f"s{n}": {"kind": "hub", "ports": {"left": {}, "right": {}, "down": {}}} for n in range(2)}
    links = [["wan", "s0.down"], ["lan", "s1.down"], ["s0.left", "s1.right"]]
    middle = {f"m{n}": {"kind": kind} for n in range(count)}
    names = {"gate": ("left", "right"), "tube": ("outside", "inside")}[kind]
    ends = ["s0.right", *(f"m{n}.{port}" for n in range(count) for port in names), "s1.left"]
    return {**services, **middle}, links + [list(pair) for pair in zip(ends[::2], ends[1::2], strict=True)]


def test_a_loop_through_tubes_is_refused() -> None:
    assert codes(*ring(1, "tube")) == ["C216"]


def test_a_loop_through_a_gate_ends() -> None:
    assert resolved(*ring(1, "gate"))


def test_hubs_in_a_tree_do_not_loop() -> None:
    services = {"a": HUB, "b": HUB, "c": HUB}
    links = [["wan", "a.p1"], ["a.p2", "b.p1"], ["a.p3", "c.p1"], ["b.p2", "lan"], ["b.p3", "t.outside"]]
    links += [["t.inside", "u.outside"], ["u.inside", "x.p1"], ["x.p2", "v.outside"], ["v.inside", "host"]]
    tubes = {"t": TUBE, "u": TUBE, "v": TUBE}
    interfaces = {name: {"device": f"e-{name}"} for name in ("wan", "lan", "one", "two", "three")}
    links += [["c.p2", "one"], ["c.p3", "two"], ["x.p3", "three"]]
    assert resolved({**services, **tubes, "x": HUB}, links, interfaces=interfaces, mode="tc")


@pytest.mark.parametrize(("services", "problem"), [(34, False), (35, True), (2000, True)])
def test_33_tail_calls_and_no_more(services: int, problem: bool) -> None:
    tubes = {f"t{n}": TUBE for n in range(services)}
    links = [["wan", "t0.outside"], *([f"t{n}.inside", f"t{n + 1}.outside"] for n in range(services - 1))]
    links.append([f"t{services - 1}.inside", "lan"])
    if problem:
        assert codes(tubes, links) == ["C217", "C217"]  # from either side
    else:
        assert resolved(tubes, links)


def test_the_longest_way_is_counted_through_hubs() -> None:
    """A short way to an interface beside a long one to the host."""
    tubes = {f"t{n}": TUBE for n in range(34)}
    links = [["wan", "sw.p1"], ["sw.p2", "lan"], ["sw.p3", "t0.outside"], ["t33.inside", "host"]]
    links += [[f"t{n}.inside", f"t{n + 1}.outside"] for n in range(33)]
    assert codes({"sw": HUB, **tubes}, links, mode="tc") == ["C217"]


def test_xdp_floods_to_host_only_where_xdp_frames_arrive() -> None:
    links = [["wan", "sw.p1"], ["lan", "sw.p2"], ["sw.p3", "host"]]
    assert resolved({"sw": HUB}, links, mode="tc")
    mixed = {"wan": {"device": "eth0", "mode": "generic"}, "lan": {"device": "eth1"}}
    assert codes({"sw": HUB}, links, mode="tc", interfaces=mixed) == ["C219"]


def test_a_namespace_is_crossed_by_xdp_but_not_by_tc() -> None:
    def interfaces(mode: str) -> dict[str, Any]:
        return {"wan": {"device": "eth0", "mode": mode}, "lan": {"device": "eth1", "mode": "native", "netns": "blue"}}

    assert resolved({"t": TUBE}, LINKS, interfaces=interfaces("native"))
    assert codes({"t": TUBE}, LINKS, interfaces=interfaces("tc")) == ["C220"]


def test_large_lists_are_read_in_bounded_time() -> None:
    prefixes = [f"10.{n >> 8}.{n & 255}.0/24" for n in range(20_000)]
    made = resolved({"t": {"kind": "tube", "prefixes": prefixes}}, LINKS)
    config = made.service("t").config
    assert isinstance(config, ToyConfig)
    assert len(config.prefixes) == 20_000


def test_ports_are_values() -> None:
    made = resolved({"t": TUBE}, LINKS)
    port = made.service("t").port("inside")
    assert port == Port("t", "inside", 1, port.span)
