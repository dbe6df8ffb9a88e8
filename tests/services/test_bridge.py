"""The bridge, frame by frame: a packet table, random frames against 802.1D in Python, ageing, full tables."""

from __future__ import annotations

import random
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from compiler.services.bridge.fdb import SET_SIZE, Fdb
from schemas.manifest import Hook
from tests.services import test_bridge_multicast
from tests.services.bridge_frames import (
    BROADCAST,
    ETHERTYPE,
    FLOOD,
    GATEWAY,
    PRINTER,
    A,
    B,
    C,
    D,
    ethernet,
    mac,
    row,
)
from tests.services.bridge_rules import RULES
from tests.services.harness import Bench, Row, Scene
from tests.services.model_bridge import BridgeModel
from tests.services.model_vlans import VlanBridgeModel, access, trunk

PORTS = ("p1", "p2", "p3", "p4")
SAME_PORT, LINK_LOCAL, INVALID = "drop same-port", "drop link-local", "drop invalid-source"


def tagged(source: str, destination: str, *tags: str) -> bytes:
    return ethernet(source, destination, ethertype=b"".join(bytes.fromhex(tag) for tag in tags) + ETHERTYPE)


def bridge(fdb: Mapping[str, Any] | None = None, ports: tuple[str, ...] = PORTS) -> dict[str, Any]:
    """What a chain file has under the service's name."""
    return {"kind": "bridge", **({"fdb": fdb} if fdb else {}), "ports": {port: {} for port in ports}}


LEARNING = Scene(
    "learning",
    bridge(),
    PORTS,
    partial(BridgeModel, PORTS),
    [
        row("unknown destination", "p1", A, B, FLOOD),
        row("the answer finds the station that spoke", "p2", B, A, "out p1"),
        row("now both are known", "p1", A, B, "out p2"),
        row("broadcast", "p1", A, BROADCAST, FLOOD),
        row("broadcast from another port", "p3", C, BROADCAST, FLOOD),
        row("the sender of a broadcast is known", "p1", A, C, "out p3"),
        row("IPv4 multicast", "p1", A, "01:00:5e:00:00:fb", FLOOD),
        row("IPv6 multicast", "p2", B, "33:33:00:00:00:01", FLOOD),
        row("a group address is not learned as destination", "p3", C, "33:33:00:00:00:01", FLOOD),
        row("destination on the port it came from", "p1", D, A, SAME_PORT),
        row("who was dropped is known all the same", "p2", B, D, "out p1"),
        row("to itself", "p2", B, B, SAME_PORT),
        row("a station moves", "p4", A, B, "out p2"),
        row("and is followed", "p2", B, A, "out p4"),
        row("frames to its old port's neighbours go on", "p2", B, D, "out p1"),
        row("it moves back", "p1", A, BROADCAST, FLOOD),
        row("and is followed again", "p2", B, A, "out p1"),
        row("moves to where it is wanted", "p2", A, B, SAME_PORT),
        row("from its old port to it", "p1", D, A, "out p2"),
        row("broadcast source", "p1", BROADCAST, B, INVALID),
        row("multicast source", "p1", "01:00:5e:00:00:01", B, INVALID),
        row("a group source is not learned", "p2", B, "01:00:5e:00:00:01", FLOOD),
        row("source of zero", "p1", "00:00:00:00:00:00", B, INVALID),
        row("destination of zero is just unknown", "p1", D, "00:00:00:00:00:00", FLOOD),
        row("a frame that is invalid teaches nothing", "p3", "03:aa:00:00:00:0a", A, INVALID),
        row("addresses that differ in the last bit", "p2", B, "02:aa:00:00:00:0e", FLOOD),
        row("addresses that differ in the first byte", "p2", B, "06:aa:00:00:00:0a", FLOOD),
        row("addresses with their halves exchanged", "p2", B, "00:00:00:0a:02:aa", FLOOD),
        row("universally administered address", "p3", "00:1b:21:00:00:01", A, "out p2"),
        row("and back", "p1", D, "00:1b:21:00:00:01", "out p3"),
        row("highest unicast address", "p4", "fe:ff:ff:ff:ff:ff", A, "out p2"),
        row("highest unicast address as destination", "p1", D, "fe:ff:ff:ff:ff:ff", "out p4"),
    ],
)

RESERVED = Scene(
    "reserved",
    bridge(),
    PORTS,
    partial(BridgeModel, PORTS),
    [
        row("BPDU is relayed without STP", "p1", A, "01:80:c2:00:00:00", FLOOD),
        row("pause frame", "p1", A, "01:80:c2:00:00:01", LINK_LOCAL),
        row("LACP", "p1", A, "01:80:c2:00:00:02", LINK_LOCAL),
        row("802.1X", "p1", A, "01:80:c2:00:00:03", LINK_LOCAL),
        row("LLDP", "p1", A, "01:80:c2:00:00:0e", LINK_LOCAL),
        row("the last reserved address", "p1", A, "01:80:c2:00:00:0f", LINK_LOCAL),
        row("behind the last reserved address", "p1", A, "01:80:c2:00:00:10", FLOOD),
        row("GVRP", "p1", A, "01:80:c2:00:00:21", FLOOD),
        row("reserved but for the fifth byte", "p1", A, "01:80:c2:00:01:01", FLOOD),
        row("reserved but for the first byte", "p1", A, "03:80:c2:00:00:01", FLOOD),
        row("reserved but not a group", "p1", A, "00:80:c2:00:00:01", FLOOD),
        row("invalid source comes first", "p1", BROADCAST, "01:80:c2:00:00:0e", INVALID),
    ],
)

FRAMES = Scene(
    "frames",
    bridge(),
    PORTS,
    partial(BridgeModel, PORTS),
    [
        Row("nothing behind the Ethernet header", "p1", ethernet(A, B, b""), FLOOD),
        Row("one byte of payload", "p2", ethernet(B, A, b"x"), "out p1"),
        Row("full length", "p1", ethernet(A, B, bytes(1500)), "out p2"),
        Row("802.3 length and LLC", "p2", ethernet(B, A, b"\x42\x42\x03" + bytes(35), b"\x00\x26"), "out p1"),
        Row("802.1Q tag", "p1", tagged(A, B, "81000064"), "out p2"),
        Row("a tag does not make another station", "p2", tagged(B, A, "810000c8"), "out p1"),
        Row("two tags", "p1", tagged(A, B, "88a80064", "810000c8"), "out p2"),
        Row("three tags, the last cut short", "p2", ethernet(B, A, b"\x00", bytes.fromhex("88a800648100")), "out p1"),
        Row("garbage that claims to be IPv4", "p1", ethernet(A, B, b"\xff" * 20, b"\x08\x00"), "out p2"),
        Row("tagged broadcast", "p1", tagged(A, BROADCAST, "81000064"), FLOOD),
    ],
)

STATIC = Scene(
    "static",
    bridge({"static": [{"mac": GATEWAY, "port": "p4"}, {"mac": PRINTER, "port": "p2"}]}),
    PORTS,
    partial(BridgeModel, PORTS, static={mac(GATEWAY): "p4", mac(PRINTER): "p2"}),
    [
        row("known before it has spoken", "p1", A, GATEWAY, "out p4"),
        row("the second entry", "p1", A, PRINTER, "out p2"),
        row("from its own port", "p4", C, GATEWAY, SAME_PORT),
        row("it speaks from its port", "p4", GATEWAY, A, "out p1"),
        row("somebody else claims its address", "p3", GATEWAY, A, "out p1"),
        row("and is not believed", "p1", A, GATEWAY, "out p4"),
        row("others are learned beside it", "p3", D, BROADCAST, FLOOD),
        row("as ever", "p1", A, D, "out p3"),
        row("a neighbour of the entry is unknown", "p1", A, "52:54:00:12:34:57", FLOOD),
    ],
)

TWO_PORTS = Scene(
    "two-ports",
    bridge(ports=("left", "right")),
    ("left", "right"),
    partial(BridgeModel, ("left", "right")),
    [
        row("a flood has one receiver", "left", A, B, FLOOD),
        row("broadcast", "right", B, BROADCAST, FLOOD),
        row("known", "left", A, B, "out right"),
        row("same port", "right", C, B, SAME_PORT),
        row("back", "right", C, A, "out left"),
    ],
)

VLANS = Scene(
    "vlans",
    {
        "kind": "bridge",
        "fdb": {
            "static": [
                {"mac": A, "port": "p1"},
                {"mac": B, "port": "p2"},
                {"mac": C, "port": "p3"},
                {"mac": D, "port": "p4", "vlan": 10},
            ]
        },
        "ports": {
            "p1": {"vlan": {"access": 10}},
            "p2": {"vlan": {"access": 10}},
            "p3": {"vlan": {"access": 20}},
            "p4": {"vlan": {"trunk": [20], "native": 10}},
            "p5": {"vlan": {"trunk": [10, 20]}},
        },
    },
    (*PORTS, "p5"),
    partial(
        VlanBridgeModel,
        {"p1": access(10), "p2": access(10), "p3": access(20), "p4": trunk(20, native=10), "p5": trunk(10, 20)},
        static={(10, mac(A)): "p1", (10, mac(B)): "p2", (20, mac(C)): "p3", (10, mac(D)): "p4"},
    ),
    [
        row("between access ports of a VLAN", "p1", A, B, "out p2"),
        row("from the native VLAN of a trunk", "p4", D, A, "out p1"),
        row("into the native VLAN of a trunk", "p1", A, D, "out p4"),
        row("untagged on a trunk without a native VLAN", "p5", A, B, "drop vlan"),
        row("what is dropped is not learned, and invalid comes first", "p5", BROADCAST, B, INVALID),
        row("as ever", "p2", B, A, "out p1"),
    ],
)
"""Frames that stay as they are, as far as a test run shows them; tests/services/test_bridge_vlans.py has the others."""

STORMS = Scene(
    "storms",
    {"kind": "bridge", "ports": {"p1": {"storm": {"broadcast": "1/s", "unknown": 1}}, "p2": {}}},
    ("p1", "p2"),
    lambda: BridgeModel(("p1", "p2"), bursts={("p1", "broadcast"): 1, ("p1", "unknown"): 1}),
    [
        row("the first broadcast", "p1", A, BROADCAST, FLOOD),
        row("the second", "p1", A, BROADCAST, "drop storm"),
        row("unknown stations have a limit of their own", "p1", A, B, FLOOD),
        row("which is reached", "p1", A, B, "drop storm"),
        row("there is none for multicast", "p1", A, "01:00:5e:00:00:fb", FLOOD),
        row("nor on another port", "p2", B, BROADCAST, FLOOD),
        row("nor for a known station", "p1", A, B, "out p2"),
    ],
)

CLOSED = Scene(
    "closed",
    {**bridge(ports=("left", "right")), "stp": {}},
    ("left", "right"),
    partial(BridgeModel, ("left", "right"), closed=True),
    [
        row("before the spanning tree has opened a port", "left", A, BROADCAST, "drop port-state"),
        row("nothing is learned", "right", B, A, "drop port-state"),
        row("only BPDUs are heard", "left", A, "01:80:c2:00:00:00", "slow-path bpdu"),
        row("not even what is invalid is looked at", "left", BROADCAST, A, "drop port-state"),
    ],
)

SCENES = (LEARNING, RESERVED, FRAMES, STATIC, TWO_PORTS, VLANS, STORMS, CLOSED, *RULES, *test_bridge_multicast.SCENES)

every_hook = pytest.mark.parametrize("hook", list(Hook), ids=str)


def test_the_table_is_large_enough() -> None:
    assert sum(len(scene.rows) for scene in SCENES) >= 60


def random_frames(generator: random.Random, count: int) -> Iterator[tuple[str, bytes]]:
    """Frames of a small, busy network: stations that stay and move, groups, reserved and invalid addresses."""
    stations = [f"02:bb:00:00:00:{number:02x}" for number in range(24)] + [GATEWAY, PRINTER]
    odd = [BROADCAST, "01:00:5e:00:00:01", "01:80:c2:00:00:00", "01:80:c2:00:00:0e", "33:33:00:00:00:16"]
    home = {station: generator.choice(PORTS) for station in stations}
    for _ in range(count):
        source = generator.choice(stations)
        if generator.random() < 0.05:
            home[source] = generator.choice(PORTS)
        destination = generator.choice(odd if generator.random() < 0.15 else stations)
        invalid = generator.random() < 0.02
        payload = generator.randbytes(generator.randrange(0, 200))
        yield home[source], ethernet(generator.choice(odd) if invalid else source, destination, payload)


@pytest.mark.kernel
@every_hook
@pytest.mark.parametrize("seed", range(2))
def test_random_frames_against_the_model(hook: Hook, seed: int, tmp_path: Path) -> None:
    model = STATIC.model()
    seen = set()
    with Bench(STATIC.config, PORTS, hook, tmp_path) as bench:
        for port, frame in random_frames(random.Random(seed), 1500):
            expected = model.receive(port, frame)
            outcome = bench.receive(port, frame)
            assert (outcome.verdict, outcome.frame) == (expected, frame)
            seen.add(expected)
    assert seen == {*(f"out {port}" for port in PORTS), FLOOD, SAME_PORT, LINK_LOCAL, INVALID}


@pytest.mark.kernel
@every_hook
def test_a_silent_station_is_forgotten(hook: Hook, tmp_path: Path) -> None:
    """Only what a station sends keeps it known: frames sent to it do not."""
    model = BridgeModel(PORTS, aging=2)
    with Bench(bridge({"aging": "2s"}), PORTS, hook, tmp_path) as bench:
        started = time.monotonic()

        def both(port: str, source: str, destination: str) -> str:
            frame = ethernet(source, destination)
            got = bench.receive(port, frame).verdict
            assert got == model.receive(port, frame, time.monotonic() - started)
            return got

        def at(second: float) -> None:
            time.sleep(max(0.0, started + second - time.monotonic()))

        assert both("p1", A, BROADCAST) == FLOOD
        assert both("p2", B, BROADCAST) == FLOOD
        at(1.2)
        assert both("p3", C, A) == "out p1"
        assert both("p2", B, A) == "out p1"
        at(2.0)
        assert both("p2", B, BROADCAST) == FLOOD
        at(2.6)  # A has been silent for 2.6 s, though it was written to at 1.2 s
        assert both("p3", C, A) == FLOOD
        assert both("p3", C, B) == "out p2"
        assert both("p4", A, B) == "out p2"
        assert both("p3", C, A) == "out p4"


@pytest.mark.kernel
@every_hook
def test_a_full_table_never_leads_astray(hook: Hook, tmp_path: Path) -> None:
    """Ten times more stations than fit: whoever is known is known at the right port, everyone else is flooded to."""
    generator = random.Random(7)
    model = BridgeModel(PORTS)
    stations = [f"02:cc:00:00:00:{number:02x}" for number in range(160)]
    home = {station: generator.choice(PORTS) for station in stations}
    verdicts = []
    with Bench(bridge({"size": 8}), PORTS, hook, tmp_path) as bench:
        for _ in range(3000):
            source, destination = generator.choice(stations), generator.choice(stations)
            frame = ethernet(source, destination)
            expected = model.receive(home[source], frame)
            got = bench.receive(home[source], frame).verdict
            assert got in (expected, FLOOD)
            verdicts.append(got)
    assert 0.5 < verdicts.count(FLOOD) / len(verdicts) < 1


@pytest.mark.kernel
def test_a_scan_does_not_drive_stations_out(tmp_path: Path) -> None:
    """Addresses that are seen once give way to new ones; a station that keeps talking stays."""
    with Bench(bridge({"aging": "7s", "size": 8}), PORTS, Hook.XDP, tmp_path) as bench:
        for pause in (0, 1.1):  # longer than an entry's time may lag: an eighth of the ageing time
            time.sleep(pause)
            bench.receive("p1", ethernet(A, BROADCAST))
            bench.receive("p3", ethernet(C, BROADCAST))
        for number in range(500):
            source = f"02:dd:00:00:{number >> 8:02x}:{number & 255:02x}"
            assert bench.receive("p2", ethernet(source, A)).verdict == "out p1", "the scan has driven it out"
            assert bench.receive("p3", ethernet(C, source)).verdict == "out p2", "a full table must take new stations"


def scan(bench: Bench, port: str) -> None:
    """Several times more addresses than a small table has entries, each once."""
    for number in range(200):
        bench.receive(port, ethernet(f"02:dd:00:00:00:{number:02x}", BROADCAST))


def sticky(aging: str) -> dict[str, Any]:
    """A small table, and a first port whose stations stay."""
    config = bridge({"aging": aging, "size": 8})
    return {**config, "ports": {**config["ports"], "p1": {"stations": {"sticky": True}}}}


@pytest.mark.kernel
@every_hook
def test_a_sticky_station_is_driven_out_by_nobody(hook: Hook, tmp_path: Path) -> None:
    """Not even one that has spoken only once: its address stays its own."""
    with Bench(sticky(aging="300s"), PORTS, hook, tmp_path) as bench:
        bench.receive("p1", ethernet(A, BROADCAST))
        scan(bench, "p2")
        bench.receive("p2", ethernet(A, BROADCAST))
        assert bench.receive("p3", ethernet(C, A)).verdict == "out p1"
        scan(bench, "p1")
        bench.receive("p2", ethernet(D, BROADCAST))
        assert bench.receive("p3", ethernet(C, D)).verdict == FLOOD, "sticky ones are everywhere"


@pytest.mark.kernel
@every_hook
def test_sticky_stations_that_have_aged_give_way(hook: Hook, tmp_path: Path) -> None:
    with Bench(sticky(aging="1s"), PORTS, hook, tmp_path) as bench:
        scan(bench, "p1")
        time.sleep(1.5)
        bench.receive("p2", ethernet(D, BROADCAST))
        assert bench.receive("p3", ethernet(C, D)).verdict == "out p2"


GOLDEN_RATIO = 0x9E3779B97F4A7C15


def multiplier(fdb: Fdb) -> int:
    """What keys are hashed with: learning.h, fdb_hash."""
    return GOLDEN_RATIO >> 64 - fdb.key_bits | 1


def station_at(fdb: Fdb, place: int) -> str:
    """The address whose hash is `place`: set on top, tag below."""
    key = place * pow(multiplier(fdb), -1, 1 << fdb.key_bits) % (1 << fdb.key_bits)
    return key.to_bytes(6, "little").hex(":")


def entries(fdb: Fdb, table: Mapping[int, bytes]) -> Iterator[tuple[str, int]]:
    """Address and port index of every entry of a table, by set."""
    state_bits = 64 - fdb.key_bits + fdb.set_bits
    for index, content in table.items():
        for word in struct.unpack("<8Q", content):
            if word:
                place = index << fdb.key_bits - fdb.set_bits | word >> state_bits
                yield station_at(fdb, place), word % (1 << fdb.port_bits) - 1


@pytest.mark.kernel
@every_hook
def test_a_free_entry_is_nobody(hook: Hook, tmp_path: Path) -> None:
    """A free entry is 0, as is the part of some addresses that entries hold: their stations are like all others."""
    fdb = Fdb(size=64, ports=len(PORTS), aging_s=300)
    tag_bits = fdb.key_bits - fdb.set_bits
    nought = [station_at(fdb, index << tag_bits) for index in range(1, 1 << fdb.set_bits)]
    stations = [station for station in nought if not mac(station)[0] & 1]
    assert stations
    with Bench(bridge({"size": 64}), PORTS, hook, tmp_path) as bench:
        for station in stations:
            assert bench.receive("p1", ethernet(A, station)).verdict == FLOOD
            assert bench.receive("p3", ethernet(station, BROADCAST)).verdict == FLOOD
            assert bench.receive("p1", ethernet(A, station)).verdict == "out p3"


@pytest.mark.kernel
def test_an_entry_holds_the_whole_address(tmp_path: Path) -> None:
    """Stations that share a set, or all but the set, are told apart."""
    fdb = Fdb(size=64, ports=len(PORTS), aging_s=300)
    tag_bits = fdb.key_bits - fdb.set_bits
    first = 0x5A5A5A5A5A4  # the lowest bit of a place is that of the address, the group bit
    places = [first, *(first ^ 1 << bit for bit in range(1, fdb.key_bits))]
    stations = [station_at(fdb, place) for place in places]
    assert len({place >> tag_bits for place in places}) == 1 + fdb.set_bits
    with Bench(bridge({"size": 64}), PORTS, Hook.XDP, tmp_path) as bench:
        for known in stations:
            bench.receive("p2", ethernet(known, BROADCAST))
            table = bench.table("tested__fdb", SET_SIZE)
            assert (known, PORTS.index("p2")) in set(entries(fdb, table))
            for other in stations:
                verdict = bench.receive("p1", ethernet(A, other)).verdict
                assert verdict == ("out p2" if other == known else FLOOD)
            bench.clear("tested__fdb", SET_SIZE)


@pytest.mark.kernel
def test_cpus_that_learn_at_the_same_time_leave_whole_entries(tmp_path: Path) -> None:
    """Two CPUs fight for the few entries of a table: each entry is a station at its own port all the same."""
    fdb = Fdb(size=8, ports=len(PORTS), aging_s=1)
    homes = {f"02:ee:00:00:00:{number:02x}": PORTS[number % len(PORTS)] for number in range(128)}
    with Bench(bridge({"size": 8, "aging": "1s"}), PORTS, Hook.XDP, tmp_path) as bench:

        def talk(seed: int) -> None:
            generator = random.Random(seed)
            end = time.monotonic() + 1.5
            while time.monotonic() < end:
                station, port = generator.choice(list(homes.items()))
                bench.run_program(port, ethernet(station, BROADCAST), repeat=generator.randrange(1, 20))

        cpus = [threading.Thread(target=talk, args=(seed,)) for seed in range(2)]
        for cpu in cpus:
            cpu.start()
        for cpu in cpus:
            cpu.join()
        found = list(entries(fdb, bench.table("tested__fdb", SET_SIZE)))
    assert len(found) == 8 << fdb.set_bits
    assert {(station, PORTS.index(homes[station])) for station, _ in found} == set(found)


STORM = {"kind": "bridge", "ports": {"p1": {"storm": {"broadcast": "50/s", "unknown": "20/s"}}, "p2": {}, "p3": {}}}


@pytest.mark.kernel
@every_hook
def test_a_storm_is_cut(hook: Hook, tmp_path: Path) -> None:
    """A tenth of a second's worth passes at once, then as many as the rate; other sorts and ports are not affected."""
    with Bench(STORM, ("p1", "p2", "p3"), hook, tmp_path) as bench:
        bench.receive("p2", ethernet(B, BROADCAST))
        started = time.monotonic()
        verdicts = {
            destination: [bench.receive("p1", ethernet(A, destination)).verdict for _ in range(200)]
            for destination in (BROADCAST, "01:00:5e:00:00:fb", C, B)
        }
        seconds = time.monotonic() - started
        for destination, rate in ((BROADCAST, 50), (C, 20)):
            passed = verdicts[destination].count(FLOOD)
            assert rate // 10 <= passed <= rate // 10 + 1 + rate * (seconds + 0.02), destination
            assert verdicts[destination].count("drop storm") == 200 - passed
        assert set(verdicts["01:00:5e:00:00:fb"]) == {FLOOD}, "multicast has no limit here"
        assert set(verdicts[B]) == {"out p2"}, "a station that is known"
        assert {bench.receive("p3", ethernet(D, BROADCAST)).verdict for _ in range(100)} == {FLOOD}
        assert bench.receive("p3", ethernet(D, A)).verdict == "out p1", "who is limited is learned all the same"
        time.sleep(0.25)
        assert bench.receive("p1", ethernet(A, BROADCAST)).verdict == FLOOD, "the bucket fills again"
