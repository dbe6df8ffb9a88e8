"""The ddos service, packet by packet: tables and random frames through the kernel and the plain-Python model."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from schemas.manifest import Hook
from tests.services.ddos_bench import PORTS, SMALLEST, DdosBench
from tests.services.ddos_frames import (
    AH,
    ARP,
    DCCP,
    DESTINATION,
    DOT1AD,
    DOT1Q,
    ESP,
    FRAGMENT,
    GOOD4,
    GOOD6,
    GRE,
    HOP_BY_HOP,
    ICMP,
    IPV6,
    MOBILITY,
    NO_NEXT,
    OTHER4,
    OTHER6,
    ROUTING,
    SCTP,
    TCP,
    UDP,
    UDPLITE,
    authentication,
    chained,
    ethernet,
    extension,
    fragment_header,
    ipv4,
    ipv6,
    ports,
    random_frame,
)
from tests.services.harness import Row, Scene
from tests.services.model_ddos import DdosModel

pytestmark = pytest.mark.kernel

Config = dict[str, Any]

BLOCK: Config = {
    "sources": ["198.51.100.0/24", "10.9.0.0/16", "10.10.0.1", "203.0.112.0/20", "2001:db8:bad::/48", "fd00::1"],
    "destinations": ["203.0.113.7", "2001:db8:2::/65"],
    "protocols": ["gre", 4, "ipv6-route"],
    "ports": ["tcp/23", "udp/11211", "udp/1000-2000", "sctp/7", "udplite/8", "dccp/9"],
    "source-ports": ["udp/53"],
}
SHORT: Config = {"block": BLOCK}
FILLER4 = [f"100.64.{number // 256}.{number % 256}" for number in range(300)]
FILLER6 = [f"2001:db8:f::{number:x}" for number in range(300)]
LONG: Config = {
    "block": BLOCK
    | {
        "sources": [*BLOCK["sources"], *FILLER4, *FILLER6],
        "destinations": [*BLOCK["destinations"], *FILLER4, *FILLER6],
    }
}
ADDRESSES_ONLY: Config = {"block": {"sources": ["198.51.100.0/24", "2001:db8:bad::/48"]}}
ONLY_IPV4: Config = {"block": {"sources": ["198.51.100.0/24"]}}
ONLY_PROTOCOLS: Config = {"block": {"protocols": ["gre"]}}
NOTHING: Config = {}
EVERYTHING: Config = {"block": {"sources": ["0.0.0.0/0", "::/0"]}}
CONFIGS = {
    "short": SHORT,
    "long": LONG,
    "addresses": ADDRESSES_ONLY,
    "ipv4": ONLY_IPV4,
    "protocols": ONLY_PROTOCOLS,
    "nothing": NOTHING,
    "everything": EVERYTHING,
}

BAD4, BAD6 = "198.51.100.77", "2001:db8:bad:1::5"
TELNET = ports(4000, 23)
PASS, TRUNCATED, MALFORMED, DEEP = "out inside", "drop truncated", "drop malformed", "drop extension-headers"
SOURCE, TARGET, PROTOCOL, PORT = (f"drop blocked-{what}" for what in ("source", "destination", "protocol", "port"))

Line = tuple[str, bytes, str]
"""Name, frame from outside, verdict."""


def good(payload: bytes, ethertype: int = IPV6) -> bytes:
    return ethernet(payload, ethertype)


IPV4_ROWS: list[Line] = [
    ("clean UDP", ethernet(ipv4()), PASS),
    ("clean ICMP", ethernet(ipv4(bytes(8), ICMP)), PASS),
    ("ESP has no ports", ethernet(ipv4(ports(53, 23), ESP)), PASS),
    ("blocked source, first of its prefix", ethernet(ipv4(source="198.51.100.0")), SOURCE),
    ("blocked source, last of its prefix", ethernet(ipv4(source="198.51.100.255")), SOURCE),
    ("source just below", ethernet(ipv4(source="198.51.99.255")), PASS),
    ("source just above", ethernet(ipv4(source="198.51.101.0")), PASS),
    ("blocked single source", ethernet(ipv4(source="10.10.0.1")), SOURCE),
    ("source beside a single one", ethernet(ipv4(source="10.10.0.2")), PASS),
    ("blocked source of a /20", ethernet(ipv4(source="203.0.127.255")), SOURCE),
    ("all ones as source", ethernet(ipv4(source="255.255.255.255")), PASS),
    ("all zeros as source", ethernet(ipv4(source="0.0.0.0")), PASS),
    ("blocked destination", ethernet(ipv4(destination="203.0.113.7")), TARGET),
    ("blocked source's address as destination", ethernet(ipv4(destination=BAD4)), PASS),
    ("source comes before destination", ethernet(ipv4(source=BAD4, destination="203.0.113.7")), SOURCE),
    ("blocked protocol by name", ethernet(ipv4(bytes(8), GRE)), PROTOCOL),
    ("blocked protocol by number", ethernet(ipv4(ipv4(), 4)), PROTOCOL),
    ("IPv6 routing header's number in IPv4", ethernet(ipv4(bytes(8), ROUTING)), PROTOCOL),
    ("blocked TCP port", ethernet(ipv4(TELNET, TCP)), PORT),
    ("the same port in UDP", ethernet(ipv4(TELNET, UDP)), PASS),
    ("the same port as source", ethernet(ipv4(ports(23, 80), TCP)), PASS),
    ("range: below", ethernet(ipv4(ports(1, 999))), PASS),
    ("range: first", ethernet(ipv4(ports(1, 1000))), PORT),
    ("range: last", ethernet(ipv4(ports(1, 2000))), PORT),
    ("range: above", ethernet(ipv4(ports(1, 2001))), PASS),
    ("blocked SCTP port", ethernet(ipv4(ports(1, 7), SCTP)), PORT),
    ("blocked UDP-Lite port", ethernet(ipv4(ports(1, 8), UDPLITE)), PORT),
    ("blocked DCCP port", ethernet(ipv4(ports(1, 9), DCCP)), PORT),
    ("blocked source port", ethernet(ipv4(ports(53, 4000))), PORT),
    ("blocked source port's number as destination", ethernet(ipv4(ports(4000, 53))), PASS),
    ("options before the port", ethernet(ipv4(TELNET, TCP, options=bytes(40))), PORT),
    ("four bytes of options", ethernet(ipv4(TELNET, TCP, options=bytes(4))), PORT),
    ("what looks like ports in options", ethernet(ipv4(ports(1, 80), TCP, options=TELNET[:4])), PASS),
    ("first fragment has ports", ethernet(ipv4(TELNET, TCP, fragment=0x2000)), PORT),
    ("later fragment has none", ethernet(ipv4(TELNET, TCP, fragment=0x2005)), PASS),
    ("last fragment has none", ethernet(ipv4(TELNET, TCP, fragment=0x0005)), PASS),
    ("later fragment of a blocked source", ethernet(ipv4(TELNET, TCP, BAD4, fragment=5)), SOURCE),
    ("later fragment of a blocked protocol", ethernet(ipv4(bytes(8), GRE, fragment=5)), PROTOCOL),
    ("don't fragment", ethernet(ipv4(TELNET, TCP, fragment=0x4000)), PORT),
    ("fragment beyond the end of a datagram", ethernet(ipv4(bytes(32), fragment=0x1FFF)), MALFORMED),
    ("fragment up to the end of a datagram", ethernet(ipv4(bytes(7), fragment=0x1FFF)), PASS),
    ("first fragment without ports", ethernet(ipv4(bytes(3), TCP, fragment=0x2000)), TRUNCATED),
    ("authentication header before a port", ethernet(ipv4(authentication(TCP, TELNET), AH)), PORT),
    ("authentication header of odd words", ethernet(ipv4(authentication(TCP, TELNET, 5), AH)), PORT),
    ("authentication header before GRE", ethernet(ipv4(authentication(GRE, bytes(8)), AH)), PROTOCOL),
    ("authentication header cut short", ethernet(ipv4(authentication(TCP, b"")[:-1], AH)), TRUNCATED),
    ("hop-by-hop's number means nothing in IPv4", ethernet(ipv4(extension(TCP, TELNET), HOP_BY_HOP)), PASS),
    ("UDP cut in its ports", ethernet(ipv4(bytes(3))), TRUNCATED),
    ("ICMP of no length", ethernet(ipv4(b"", ICMP)), PASS),
    ("ports behind the packet's own end", ethernet(ipv4(TELNET, TCP, total=22)), TRUNCATED),
    ("padding behind the packet", ethernet(ipv4(ports(1, 80)[:8]) + bytes(18)), PASS),
    ("version 5", ethernet(ipv4(version=5)), MALFORMED),
    ("version 6 in an IPv4 frame", ethernet(ipv6()), MALFORMED),
    ("header length below five words", ethernet(ipv4(ihl=4)), MALFORMED),
    ("header length of nothing", ethernet(ipv4(ihl=0)), MALFORMED),
    ("total length below the header's", ethernet(ipv4(total=19)), MALFORMED),
    ("total length of nothing", ethernet(ipv4(total=0)), MALFORMED),
    ("header longer than the packet", ethernet(ipv4(bytes(4), ihl=15)), MALFORMED),
    ("total length beyond the frame", ethernet(ipv4(total=41)), TRUNCATED),
]

IPV6_ROWS: list[Line] = [
    ("IPv6: clean UDP", good(ipv6()), PASS),
    ("IPv6: blocked source", good(ipv6(source=BAD6)), SOURCE),
    ("IPv6: blocked source, last of its prefix", good(ipv6(source="2001:db8:bad:ffff:ffff:ffff:ffff:ffff")), SOURCE),
    ("IPv6: source just above", good(ipv6(source="2001:db8:bae::")), PASS),
    ("IPv6: blocked single source", good(ipv6(source="fd00::1")), SOURCE),
    ("IPv6: source beside a single one", good(ipv6(source="fd00::2")), PASS),
    ("IPv6: source with the same low half", good(ipv6(source="fd00:1::1")), PASS),
    ("IPv6: blocked destination", good(ipv6(destination="2001:db8:2::7fff:ffff:ffff:ffff")), TARGET),
    ("IPv6: destination in the other half of its /64", good(ipv6(destination="2001:db8:2::8000:0:0:0")), PASS),
    ("IPv6: blocked protocol", good(ipv6(bytes(8), GRE)), PROTOCOL),
    ("IPv6: blocked extension header", good(ipv6(extension(TCP, bytes(20)), ROUTING)), PROTOCOL),
    ("IPv6: blocked port", good(ipv6(TELNET, TCP)), PORT),
    ("IPv6: blocked source port", good(ipv6(ports(53, 1))), PORT),
    ("IPv6: hop-by-hop before a port", good(ipv6(extension(TCP, TELNET), HOP_BY_HOP)), PORT),
    ("IPv6: long destination options before a port", good(ipv6(extension(TCP, TELNET, 30), DESTINATION)), PORT),
    ("IPv6: mobility header before a port", good(ipv6(extension(TCP, TELNET), MOBILITY)), PORT),
    ("IPv6: authentication header before a port", good(ipv6(authentication(TCP, TELNET), AH)), PORT),
    ("IPv6: two headers before GRE", good(ipv6(*chained([HOP_BY_HOP, DESTINATION], GRE, bytes(8))[::-1])), PROTOCOL),
    ("IPv6: eight headers before a port", good(ipv6(*chained([DESTINATION] * 8, TCP, TELNET)[::-1])), PORT),
    ("IPv6: eight headers before a clean port", good(ipv6(*chained([DESTINATION] * 8, TCP, ports(1, 80))[::-1])), PASS),
    ("IPv6: nine headers", good(ipv6(*chained([DESTINATION] * 9, TCP, ports(1, 80))[::-1])), DEEP),
    ("IPv6: no next header", good(ipv6(extension(NO_NEXT, TELNET), HOP_BY_HOP)), PASS),
    ("IPv6: ESP ends the chain", good(ipv6(extension(ESP, TELNET), DESTINATION)), PASS),
    ("IPv6: first fragment", good(ipv6(fragment_header(TCP, TELNET, more=True), FRAGMENT)), PORT),
    ("IPv6: atomic fragment", good(ipv6(fragment_header(TCP, TELNET), FRAGMENT)), PORT),
    ("IPv6: later fragment", good(ipv6(fragment_header(TCP, TELNET, 1480), FRAGMENT)), PASS),
    (
        "IPv6: later fragment of a blocked protocol",
        good(ipv6(fragment_header(GRE, bytes(8), 1480), FRAGMENT)),
        PROTOCOL,
    ),
    ("IPv6: later fragment whose data look like headers", good(ipv6(fragment_header(0, bytes(4), 8), FRAGMENT)), PASS),
    ("IPv6: fragment beyond the end", good(ipv6(fragment_header(UDP, bytes(16), 65528), FRAGMENT)), MALFORMED),
    ("IPv6: extension header cut short", good(ipv6(extension(TCP, b"", 1)[:-1], DESTINATION)), TRUNCATED),
    ("IPv6: extension header of seven bytes", good(ipv6(bytes(7), DESTINATION)), TRUNCATED),
    ("IPv6: fragment header cut short", good(ipv6(fragment_header(TCP, b"")[:-1], FRAGMENT)), TRUNCATED),
    ("IPv6: ports cut short", good(ipv6(bytes(3))), TRUNCATED),
    ("IPv6: ports behind the packet's own end", good(ipv6(TELNET, TCP, size=2)), TRUNCATED),
    ("IPv6: payload length of nothing", good(ipv6(TELNET, TCP, size=0)), TRUNCATED),
    ("IPv6: jumbogram", good(ipv6(extension(TCP, TELNET), HOP_BY_HOP, size=0)), PORT),
    ("IPv6: payload length beyond the frame", good(ipv6(size=21)), TRUNCATED),
    ("IPv6: version 4 in an IPv6 frame", good(ipv4(bytes(40))), MALFORMED),
    ("IPv6: version 7", good(ipv6(version=7)), MALFORMED),
]

TAG_ROWS: list[Line] = [
    (f"{name}: {what}", ethernet(packet, ethertype, tags), verdict)
    for name, tags in (
        ("802.1Q", (DOT1Q,)),
        ("802.1ad", (DOT1AD,)),
        ("QinQ", (DOT1AD, DOT1Q)),
        ("two 802.1Q tags", (DOT1Q, DOT1Q)),
    )
    for what, packet, ethertype, verdict in (
        ("clean", ipv4(), 0x0800, PASS),
        ("blocked source", ipv4(source=BAD4), 0x0800, SOURCE),
        ("blocked port", ipv4(TELNET, TCP), 0x0800, PORT),
        ("blocked IPv6 source", ipv6(source=BAD6), IPV6, SOURCE),
        ("blocked port behind an extension header", ipv6(extension(TCP, TELNET), DESTINATION), IPV6, PORT),
        ("ARP", bytes(28), ARP, PASS),
    )
]

OTHER_ROWS: list[Line] = [
    ("ARP", ethernet(bytes(28), ARP), PASS),
    ("one byte behind the Ethernet header", ethernet(b"\0", 0x9000), PASS),
    ("802.3 length", ethernet(bytes(46), 46), PASS),
    ("three tags", ethernet(ipv4(source=BAD4), tags=(DOT1AD, DOT1Q, DOT1Q)), MALFORMED),
    ("three tags, clean", ethernet(ipv4(), tags=(DOT1Q, DOT1Q, DOT1Q)), MALFORMED),
    ("a tag cut short", ethernet(b"", DOT1Q) + b"\0\1\x08", TRUNCATED),
    ("a second tag cut short", ethernet(b"\0", DOT1Q, (DOT1AD,)), TRUNCATED),
    ("a tag before nothing", ethernet(b"\0\1\x08\x00", DOT1Q), TRUNCATED),
]

ROWS: dict[str, list[Line]] = {
    "short": [*IPV4_ROWS, *IPV6_ROWS, *TAG_ROWS, *OTHER_ROWS],
    "long": [*IPV4_ROWS, *IPV6_ROWS, *TAG_ROWS, *OTHER_ROWS],
    "addresses": [
        ("blocked source", ethernet(ipv4(source=BAD4)), SOURCE),
        ("blocked IPv6 source", good(ipv6(source=BAD6)), SOURCE),
        ("what stands behind the addresses is not looked at", ethernet(ipv4(bytes(3))), PASS),
        ("nine extension headers are not looked at", good(ipv6(*chained([60] * 9, TCP, TELNET)[::-1])), PASS),
        ("malformed", ethernet(ipv4(ihl=4)), MALFORMED),
        ("blocked source behind two tags", ethernet(ipv4(source=BAD4), tags=(DOT1AD, DOT1Q)), SOURCE),
    ],
    "ipv4": [
        ("malformed IPv6 is none of its business", good(ipv6(version=7)), PASS),
        ("malformed IPv4", ethernet(ipv4(version=7)), MALFORMED),
    ],
    "protocols": [
        ("GRE", ethernet(ipv4(bytes(4), GRE)), PROTOCOL),
        ("UDP without ports", ethernet(ipv4(b"")), PASS),
        ("later fragment of GRE in IPv6", good(ipv6(fragment_header(GRE, b"", 8), FRAGMENT)), PROTOCOL),
    ],
    "nothing": [
        ("malformed", ethernet(ipv4(version=7)), PASS),
        ("three tags", ethernet(ipv4(), tags=(DOT1Q, DOT1Q, DOT1Q)), PASS),
        ("shorter than any packet", ethernet(b"\0", 0x9000), PASS),
    ],
    "everything": [
        ("IPv4", ethernet(ipv4()), SOURCE),
        ("IPv6", good(ipv6()), SOURCE),
        ("ARP", ethernet(bytes(28), ARP), PASS),
    ],
}

# A second is more than a table takes, and less than what brings the next token.
RATE: Config = {"rate": {"per-source": 1, "burst": 2, "size": 1024}}
RATE_ROWS: list[Line] = [
    ("the first of a burst", ethernet(ipv4()), PASS),
    ("the second", ethernet(ipv4(bytes(8), ICMP)), PASS),
    ("one too many", ethernet(ipv4()), "drop rate"),
    ("another source", ethernet(ipv4(source=OTHER4)), PASS),
    ("ARP has no rate", ethernet(bytes(28), ARP), PASS),
    ("an IPv6 source", good(ipv6()), PASS),
    ("another address of its /64", good(ipv6(source=OTHER6)), PASS),
    ("a third one: the /64 is the source", good(ipv6(source="2001:db8:1::77")), "drop rate"),
    ("another /64", good(ipv6(source="2001:db8:1:1::1")), PASS),
    ("malformed packets take no token", ethernet(ipv4(source="10.0.0.9", version=5)), MALFORMED),
]
INSIDE_ROWS: list[Line] = [
    ("blocked source", ethernet(ipv4(source=BAD4)), "out outside"),
    ("malformed", ethernet(ipv4(version=9)), "out outside"),
    ("three tags", ethernet(ipv4(), tags=(DOT1Q, DOT1Q, DOT1Q)), "out outside"),
    ("IPv6", good(ipv6(source=BAD6)), "out outside"),
    ("ARP", ethernet(bytes(28), ARP), "out outside"),
]


def scene(name: str, config: Config, lines: list[Line], port: str = "outside") -> Scene:
    rows = [Row(line, port, frame, verdict) for line, frame, verdict in lines]
    return Scene(name, {"kind": "ddos", **config}, PORTS, partial(DdosModel, config), rows)


SCENES = (
    *(scene(name, CONFIGS[name], lines) for name, lines in ROWS.items()),
    scene("rate", RATE, RATE_ROWS),
    scene("inside", SHORT | RATE, INSIDE_ROWS, "inside"),
)


@pytest.fixture(scope="module", params=list(Hook), ids=str)
def benches(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, DdosBench]]:
    """The service with each of some configurations, at one hook; native and generic XDP run the same bench."""
    folder = tmp_path_factory.mktemp("ddos")
    with ExitStack() as stack:
        names = ["short", "long", "addresses", "protocols"]
        yield {name: stack.enter_context(DdosBench(CONFIGS[name], request.param, folder / name)) for name in names}


@pytest.mark.parametrize("config", ["short", "long"])
@pytest.mark.parametrize(
    "whole",
    [
        ethernet(ipv4(TELNET, TCP, options=bytes(8)), tags=(DOT1AD, DOT1Q)),
        ethernet(ipv6(*chained([HOP_BY_HOP, DESTINATION, AH, FRAGMENT], TCP, TELNET)[::-1]), IPV6, (DOT1Q,)),
        ethernet(ipv4(source=BAD4)),
        ethernet(ipv6(source=BAD6), IPV6),
        ethernet(ipv4(source=BAD4), tags=(DOT1Q,)),
    ],
    ids=["IPv4 QinQ options", "IPv6 tag extensions", "IPv4 source", "IPv6 source", "IPv4 source, tagged"],
)
def test_truncated_at_every_length(benches: dict[str, DdosBench], config: str, whole: bytes) -> None:
    bench, model = benches[config], DdosModel(CONFIGS[config])
    verdicts = {}
    for size in range(SMALLEST, len(whole)):
        if not bench.takes(whole[:size]):
            continue
        verdicts[size] = bench.verdict(whole[:size])
        assert verdicts[size] == model.receive("outside", whole[:size]), f"{size} bytes"
        assert verdicts[size] in (TRUNCATED, MALFORMED)
    assert bench.verdict(whole) in (PORT, SOURCE)
    assert len(verdicts) > 15


@pytest.mark.parametrize("config", ["short", "long", "addresses", "protocols"])
@pytest.mark.parametrize("seed", range(3))
def test_random_frames_against_the_model(benches: dict[str, DdosBench], config: str, seed: int) -> None:
    generator = random.Random(f"{config} {seed}")
    bench, model = benches[config], DdosModel(CONFIGS[config])
    addresses4 = [GOOD4, OTHER4, BAD4, "10.9.8.7", "10.10.0.1", "10.10.0.2", "203.0.113.7", "100.64.1.1"]
    addresses6 = [GOOD6, OTHER6, BAD6, "fd00::1", "fd00::3", "2001:db8:2::7", "2001:db8:2::ffff:0:0:7", "2001:db8:f::5"]
    seen = set()
    for _ in range(1500):
        frame = random_frame(generator, addresses4, addresses6)
        if not bench.takes(frame):
            continue
        expected = model.receive("outside", frame)
        assert bench.verdict(frame) == expected, frame.hex()
        seen.add(expected)
    assert len(seen) >= 4, "the frames are not varied enough to show anything"


def test_lists_are_where_they_should_be(benches: dict[str, DdosBench]) -> None:
    tries = {f"tested__{trie}" for trie in ("sources4", "sources6", "destinations4", "destinations6")}
    maps = {name: {record.name for record in bench.manifest.maps} for name, bench in benches.items()}
    assert not tries & maps["short"]
    assert tries <= maps["long"]


@pytest.mark.parametrize("config", ["short", "long"])
def test_every_entry_counts_its_own_packets(benches: dict[str, DdosBench], config: str) -> None:
    bench = benches[config]
    before = bench.blocked()
    frames = {
        "tested.block.sources 198.51.100.0/24": [ethernet(ipv4(source=BAD4))] * 3,
        "tested.block.sources 10.10.0.1": [ethernet(ipv4(source="10.10.0.1"))] * 2,
        "tested.block.sources fd00::1": [good(ipv6(source="fd00::1"))],
        "tested.block.destinations 203.0.113.7": [ethernet(ipv4(destination="203.0.113.7"))],
        "tested.block.destinations 2001:db8:2::/65": [good(ipv6(destination="2001:db8:2::9"))],
        "tested.block.protocols gre": [ethernet(ipv4(b"", GRE)), good(ipv6(b"", GRE))],
        "tested.block.protocols 4": [ethernet(ipv4(b"", 4))],
        "tested.block.ports udp/1000-2000": [ethernet(ipv4(ports(1, 1234)))],
        "tested.block.source-ports udp/53": [ethernet(ipv4(ports(53, 1)))],
    }
    for frame in (frame for each in frames.values() for frame in each):
        assert bench.verdict(frame).startswith("drop blocked-")
    assert bench.verdict(ethernet(ipv4())) == PASS
    after = bench.blocked()
    counted = {path: count - before.get(path, 0) for path, count in after.items() if count != before.get(path)}
    assert counted == {path: len(each) for path, each in frames.items()}


def test_blocked_packets_take_no_tokens(tmp_path: Path) -> None:
    config: Config = {"block": {"ports": ["tcp/23"]}, "rate": {"per-source": 1, "burst": 2}}
    with DdosBench(config, Hook.XDP, tmp_path) as bench:
        for _ in range(5):
            assert bench.verdict(ethernet(ipv4(TELNET, TCP))) == PORT
        assert [bench.verdict(ethernet(ipv4())) for _ in range(3)] == [PASS, PASS, "drop rate"]


def test_a_flood_of_other_sources_frees_nobody_and_cuts_nobody_off(tmp_path: Path) -> None:
    """Many more sources than are remembered: a bucket that is overdrawn is the last to change hands."""
    with DdosBench({"rate": {"per-source": 1, "burst": 3600, "size": 1024}}, Hook.XDP, tmp_path) as bench:
        started = time.monotonic()
        bench.run(ethernet(ipv4()), 3700)
        assert bench.verdict(ethernet(ipv4())) == "drop rate"
        for number in range(3000):
            assert bench.verdict(ethernet(ipv4(source=f"10.{number >> 8}.{number & 255}.1"))) == PASS
        bench.run(ethernet(ipv4()), int(time.monotonic() - started) + 2)  # what it has earned meanwhile
        assert bench.verdict(ethernet(ipv4())) == "drop rate"


@pytest.mark.parametrize("burst", [199, 200], ids=["fine clock", "coarse clock"])
def test_rate_over_time(burst: int, tmp_path: Path) -> None:
    """What gets through is the burst and what the clock brought, to a tick; a fifth is left to preemption."""
    rate, tick, packets = 5000, 0.010, 4_000_000
    with DdosBench({"rate": {"per-source": rate, "burst": burst}}, Hook.XDP, tmp_path) as bench:
        started = time.monotonic()
        ran = bench.run(ethernet(ipv4()), packets)
        most = time.monotonic() - started
        passed = bench.packets("out inside")
        assert passed + bench.packets("drop rate") == packets
        assert burst + rate * (0.8 * ran - tick) <= passed <= burst + rate * (most + tick) + 1


def test_rate_is_exact_on_all_cpus_together(tmp_path: Path) -> None:
    """Two CPUs flood from one source at once: the one bucket lets its burst through, and not a packet more."""
    rate, packets = 1000, 2_000_000
    with DdosBench({"rate": {"per-source": rate, "burst": packets}}, Hook.XDP, tmp_path) as bench:
        frame = ethernet(ipv4())
        started = time.monotonic()
        threads = [threading.Thread(target=bench.run, args=(frame, packets)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        refilled = rate * (time.monotonic() - started) + 1
        assert packets <= bench.packets("out inside") <= packets + refilled
        assert bench.packets("out inside") + bench.packets("drop rate") == 2 * packets
