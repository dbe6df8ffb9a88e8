"""A ddos service's part of a chain file: what becomes of it, and every mistake of meaning as it is printed."""

from __future__ import annotations

import ipaddress

import pytest

from compiler.resolve import resolve
from compiler.services.ddos.model import BlockedPorts, DdosModel
from compiler.source import read
from schemas.diagnostic import InvalidChain
from tests.unit import refused

CHAIN = """\
chain: edge
interfaces: {{wan: {{device: eth0}}}}
services:
  guard:
    kind: ddos
    {keys}
links: [[wan, guard.outside], [guard.inside, host]]
"""


def model(keys: str) -> DdosModel:
    config = resolve(read("edge.yaml", CHAIN.format(keys=keys))).service("guard").config
    assert isinstance(config, DdosModel)
    return config


def printed(keys: str) -> str:
    return refused.printed(CHAIN.format(keys=keys))


def codes(keys: str) -> list[str]:
    return [found.code for found in refused.mistakes(CHAIN.format(keys=keys))]


def test_everything_at_once() -> None:
    found = model(
        "block: {sources: [198.51.100.0/24, 10.0.0.1, '2001:db8:bad::/48'], destinations: [192.0.2.7], "
        "protocols: [gre, 50], ports: [tcp/23, udp/1000-2000], source-ports: [udp/53]}"
    )
    assert [entry.prefix for entry in found.sources] == [
        ipaddress.ip_network(text) for text in ("198.51.100.0/24", "10.0.0.1/32", "2001:db8:bad::/48")
    ]
    assert [entry.text for entry in found.sources] == ["198.51.100.0/24", "10.0.0.1", "2001:db8:bad::/48"]
    assert found.sources[1].span.line == 6
    assert [entry.prefix for entry in found.destinations] == [ipaddress.ip_network("192.0.2.7")]
    assert [(entry.number, entry.text) for entry in found.protocols] == [(47, "gre"), (50, "50")]
    assert [_ports(entry) for entry in found.ports] == [(6, 23, 23), (17, 1000, 2000)]
    assert [_ports(entry) for entry in found.source_ports] == [(17, 53, 53)]
    assert found.rate is None


def _ports(entry: BlockedPorts) -> tuple[int, int, int]:
    return entry.protocol, entry.first, entry.last


def test_a_service_that_does_nothing() -> None:
    assert model("") == DdosModel()
    assert model("block: {}") == DdosModel()
    assert model("block: {sources: []}") == DdosModel()


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("rate: {per-source: 10000, burst: 2000}", (10000, 2000, 65536)),
        ("rate: {per-source: 10000}", (10000, 2000, 65536)),
        ("rate: {per-source: 3}", (3, 1, 65536)),
        ("rate: {per-source: 3, burst: 10800, size: 1024}", (3, 10800, 1024)),
    ],
)
def test_rate(keys: str, expected: tuple[int, int, int]) -> None:
    rate = model(keys).rate
    assert rate is not None
    assert (rate.per_source, rate.burst, rate.size) == expected


D101 = """\
error[D101]: unknown IP protocol `ger`
 --> edge.yaml:6:25
  |
6 |     block: {protocols: [ger]}
  |                         ^^^ no protocol has this name here
  = note: any protocol can be given by its number, from 0 to 255
  = help: did you mean `gre`?
"""
D102 = """\
error[D102]: `udp/2000-1000` is not PROTOCOL/PORT or PROTOCOL/FIRST-LAST
 --> edge.yaml:6:21
  |
6 |     block: {ports: [udp/2000-1000]}
  |                     ^^^^^^^^^^^^^ the range ends before it begins
  = help: write `udp/1000-2000`
"""
D102_TURNED = """\
error[D102]: `80/tcp` is not PROTOCOL/PORT or PROTOCOL/FIRST-LAST
 --> edge.yaml:6:21
  |
6 |     block: {ports: [80/tcp]}
  |                     ^^^^^^ not a port
  = help: did you mean `tcp/80`?
"""
D103_PROTOCOL = """\
error[D103]: IP protocol `47` is here twice
 --> edge.yaml:6:30
  |
6 |     block: {protocols: [gre, 47]}
  |                              ^^ already listed
  = note: the other one is at edge.yaml:6:25, as `gre`
  = help: leave this one out
"""
D103_PORT = """\
error[D103]: ports `udp/30-50` overlap already
 --> edge.yaml:6:32
  |
6 |     block: {ports: [udp/10-40, udp/30-50]}
  |                                ^^^^^^^^^ covered in part
  = note: by `udp/10-40` at edge.yaml:6:21
  = help: join the two ranges
"""
D104 = """\
error[D104]: a burst of 36001 packets makes the rate meaningless
 --> edge.yaml:6:35
  |
6 |     rate: {per-source: 10, burst: 36001}
  |                                   ^^^^^ at 10 packets a second it takes 3601 s to fill
  = note: a burst fills within 3600 s
  = help: write at most `36000`
"""


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ("block: {protocols: [ger]}", D101),
        ("block: {ports: [udp/2000-1000]}", D102),
        ("block: {ports: [80/tcp]}", D102_TURNED),
        ("block: {protocols: [gre, 47]}", D103_PROTOCOL),
        ("block: {ports: [udp/10-40, udp/30-50]}", D103_PORT),
        ("rate: {per-source: 10, burst: 36001}", D104),
    ],
)
def test_mistake_as_it_is_printed(keys: str, text: str) -> None:
    assert printed(keys) == text


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("block: {sources: [10.0.0.0/8, 10.1.0.0/16]}", ["C213"]),
        ("block: {sources: [10.0.0.1, 10.0.0.1/32]}", ["C213"]),
        ("block: {destinations: ['2001:db8::/32', '2001:db8:1::/48']}", ["C213"]),
        ("block: {sources: [10.0.0.1/24]}", ["C212"]),
        ("block: {sources: [10.0.0]}", ["C214"]),
        ("block: {sources: 10.0.0.1}", ["C112"]),
        ("block: {source: [10.0.0.1]}", ["C110"]),
        ("block: {protocols: [256]}", ["C113"]),
        ("block: {protocols: [true]}", ["C112"]),
        ("block: {protocols: [GRE]}", ["D101"]),
        ("block: {ports: [23]}", ["C112"]),
        ("block: {ports: [telnet, tcp/, icmp/1, tcp/65536, tcp/1-65536, 'tcp/ 1']}", ["D102"] * 6),
        ("block: {ports: [tcp/1-100, tcp/1-100, tcp/50, tcp/101]}", ["D103"] * 2),
        ("block: {ports: [tcp/1-1000, tcp/2, tcp/900]}", ["D103"] * 2),
        ("rate: {burst: 10}", ["C111"]),
        ("rate: {per-source: 0}", ["C113"]),
        ("rate: {per-source: 1.5}", ["C112"]),
        ("block: {sources: [10.0.0.0/8, 10.1.0.0/16], protocols: [ger], ports: [x]}", ["C213", "D101", "D102"]),
    ],
)
def test_mistakes_by_code(keys: str, expected: list[str]) -> None:
    assert codes(keys) == expected


@pytest.mark.parametrize(
    ("port", "meant"),
    [("TCP/80", "tcp/80"), ("udp:1-2", "udp/1-2"), ("80/tcp", "tcp/80"), ("80/icmp", "tcp/23"), ("telnet", "tcp/23")],
)
def test_a_port_that_was_meant(port: str, meant: str) -> None:
    with pytest.raises(InvalidChain) as caught:
        model(f"block: {{ports: ['{port}']}}")
    assert f"`{meant}`" in caught.value.diagnostics[0].help


def test_the_same_address_as_source_and_destination_is_no_mistake() -> None:
    found = model("block: {sources: [10.0.0.0/8], destinations: [10.1.0.0/16], ports: [tcp/1], source-ports: [tcp/1]}")
    assert (len(found.sources), len(found.destinations), len(found.ports), len(found.source_ports)) == (1, 1, 1, 1)
