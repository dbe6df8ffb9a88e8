"""The filtering database of a running bridge: shown as it was learned, flushed, and flooded with sources."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

import bpfchain
from runtime.cli import commands
from runtime.services.bridge_stations import Station, flush, stations
from schemas.diagnostic import LoadFailed
from schemas.manifest import Hook
from tests.kernel.bridges import bridge, every_mode, frame, mac
from tests.services.harness import Bench

pytestmark = pytest.mark.kernel

TRUNK = {"vlan": {"trunk": [10, 20]}}
STATIC = [{"mac": "52:54:00:12:34:56", "port": "c"}]


def known(chain: str) -> set[tuple[str, int | None, str]]:
    return {(station.mac, station.vlan, station.port) for station in stations(chain, "br0")}


@every_mode
def test_what_was_learned_is_shown(mode: str, tmp_path: Path) -> None:
    with bridge(tmp_path, mode, static=STATIC) as (net, chain):
        assert stations(chain, "br0") == (Station("52:54:00:12:34:56", None, "c", None, confirmed=True),)
        for number, port in enumerate(("a", "b", "c", "a")):
            net.send(port, frame(mac(number)))
        net.arrivals(a=2, b=3, c=3)
        assert known(chain) == {
            ("52:54:00:12:34:56", None, "c"),
            *((mac(number).hex(":"), None, port) for number, port in enumerate(("a", "b", "c", "a"))),
        }
        assert all(station.idle_s is None or station.idle_s <= 60 for station in stations(chain, "br0"))


def test_a_flush_is_by_port_vlan_and_address(tmp_path: Path) -> None:
    with bridge(tmp_path, ports={"a": TRUNK, "b": TRUNK, "c": TRUNK}) as (net, chain):

        def learn() -> None:
            for port, number in (("a", 1), ("b", 2)):
                net.send(port, frame(mac(number), vlan=10), frame(mac(number), vlan=20))
            net.arrivals(a=2, b=2, c=4)

        everything = {(mac(n).hex(":"), vlan, port) for n, port in ((1, "a"), (2, "b")) for vlan in (10, 20)}
        for how, left in (
            ({"port": "a"}, {entry for entry in everything if entry[2] != "a"}),
            ({"vlan": 20}, {entry for entry in everything if entry[1] != 20}),
            ({"mac": "02:FD:00:00:00:02"}, {entry for entry in everything if entry[2] != "b"}),
            ({"port": "a", "vlan": 20}, everything - {(mac(1).hex(":"), 20, "a")}),
            ({"port": "a", "mac": mac(2).hex(":")}, everything),
            ({}, set()),
        ):
            learn()
            assert known(chain) == everything
            assert flush(chain, "br0", **how) == len(everything - left)
            assert known(chain) == left
        net.send("b", frame(mac(9), destination=mac(1), vlan=10))
        assert net.arrivals(a=1, c=1).keys() == {"a", "c"}, "who is forgotten is flooded to"


def test_an_expired_station_is_not_shown(tmp_path: Path) -> None:
    with bridge(tmp_path, aging="1s") as (net, chain):
        net.send("a", frame(mac(1)))
        net.arrivals(b=1, c=1)
        assert known(chain) == {(mac(1).hex(":"), None, "a")}
        time.sleep(1.6)
        assert known(chain) == set()


def test_the_command_line(tmp_path: Path) -> None:
    (fdb,) = [command for command in commands if command.name == "fdb"]
    with bridge(tmp_path, static=STATIC) as (net, chain):
        net.send("a", frame(mac(1)))
        net.arrivals(b=1, c=1)
        shown = CliRunner().invoke(fdb, ["show", chain, "br0"])
        heard = shown.output.splitlines()[1].rpartition("  ")[2]
        assert shown.output == (
            "station            vlan  port  heard\n"
            f"02:fd:00:00:00:01  -     a     {heard}\n"
            "52:54:00:12:34:56  -     c     static\n"
        )
        found = json.loads(CliRunner().invoke(fdb, ["show", chain, "br0", "--format", "json"]).output)
        assert found[1] == {"mac": "52:54:00:12:34:56", "vlan": None, "port": "c", "idle_s": None, "confirmed": True}
        flushed = CliRunner().invoke(fdb, ["flush", chain, "br0", "--mac", "02:fd:00:00:00:01"])
        assert (flushed.exit_code, flushed.stderr) == (0, "bridge br0: forgot 1 station\n")
        assert CliRunner().invoke(fdb, ["flush", chain, "br0", "--mac", "02:fd"]).exit_code == 2


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    with bridge(tmp_path) as (_, chain):
        for call, message, note in (
            (lambda: stations(chain, "br1"), f"chain `{chain}` has no bridge `br1`", "bridges here: `br0`"),
            (lambda: flush(chain, "br0", port="d"), "bridge `br0` has no port `d`", "ports here: `a`, `b`, `c`"),
        ):
            with pytest.raises(LoadFailed) as caught:
                call()
            (found,) = caught.value.diagnostics
            assert (found.code, found.message, found.notes) == ("B101", message, (note,))
        with pytest.raises(LoadFailed) as caught:
            stations("nothing-of-this-name", "br0")
        assert caught.value.diagnostics[0].code == "A109"


@pytest.mark.parametrize("hook", list(Hook), ids=str)
def test_a_hundred_thousand_sources(hook: Hook, tmp_path: Path) -> None:
    """Against a table of 4096: known stations keep their entries, nobody goes blind, and later ones are learned."""
    config = {"kind": "bridge", "fdb": {"size": 4096, "aging": "8s"}, "ports": {"a": {}, "b": {}, "c": {}}}
    residents = [mac(number) for number in range(64)]
    generator = random.Random(4096)
    with Bench(config, ("a", "b", "c"), hook, tmp_path) as bench:
        for pause in (0, 1.2):  # twice, in two ticks: from then on they are no one-off addresses
            time.sleep(pause)
            for resident in residents:
                bench.receive("a", frame(resident))
        for _ in range(20):
            bench.feed("b", [frame(b"\x06" + generator.randbytes(5), residents[0]) for _ in range(5_000)])
            for resident in residents:
                assert bench.receive("c", frame(mac(999), resident)).verdict == "out a", (
                    "a known station has been driven out"
                )
                bench.receive("a", frame(resident))  # on a slow machine they would be silent for too long else
        late = [mac(number) for number in range(2000, 2064)]
        for station in late:
            bench.receive("b", frame(station))
        reached = [bench.receive("c", frame(mac(999), station)).verdict for station in late]
        assert set(reached) <= {"out b", "flood"}, "led astray"
        assert reached.count("out b") == len(late), "a full table takes new stations in the place of one-off addresses"


@every_mode
def test_a_flood_of_sources_on_the_wire(mode: str, tmp_path: Path) -> None:
    """The same on real devices: the table never has more than its place, and takes new stations once others age.

    What is to be learned only is sent to a station on the port that it comes from: no one hears it.
    """
    generator = random.Random(4096)
    residents, neighbour = [mac(number) for number in range(32)], mac(500)
    flood = [frame(b"\x06" + generator.randbytes(5), neighbour) for _ in range(100_000)]
    with bridge(tmp_path, mode, size=4096, aging="6s") as (net, chain):

        def speak() -> None:
            net.send("a", *(frame(resident, residents[0]) for resident in residents))
            net.send("b", frame(neighbour, neighbour))

        def learn(port: str, stations: list[bytes], listener: bytes) -> None:
            """They speak there, to somebody on the same port."""
            speak()
            net.send(port, *(frame(station, listener) for station in stations))
            net.arrivals()

        def heard(stations: list[bytes]) -> dict[str, int]:
            """How many of the frames for them, from port c, arrive where. (A socket has room for about 50.)"""
            net.send("c", *(frame(mac(999), station) for station in stations))
            return {port: len(frames) for port, frames in net.arrivals(a=len(stations)).items()}

        for pause in (0, 0.2):  # twice, in two ticks: from then on they are no one-off addresses
            time.sleep(pause)
            speak()
        net.arrivals()
        for at in range(0, len(flood), 10_000):
            net.send("b", *flood[at : at + 10_000])
            speak()
        table = stations(chain, "br0")
        assert len(table) <= 2 * 4096
        assert {found.mac for found in table if found.port == "a"} == {resident.hex(":") for resident in residents}
        assert heard(residents) == {"a": 32}
        theirs = [bytes.fromhex(found.mac.replace(":", "")) for found in table if found.port == "b"]
        learn("b", theirs, neighbour)
        late = [mac(number) for number in range(2000, 2032)]
        learn("a", late, residents[0])
        arrived = heard(late)
        assert arrived["a"] == 32, "nobody goes blind: who cannot be learned is flooded to"
        assert arrived["b"] > 16, "the table is full of stations that are active"
        assert bpfchain.status(chain).problems, "which is told"
        time.sleep(3.5)  # half the ageing time: from then on those who were silent make room
        learn("a", late, residents[0])
        assert heard(late) == {"a": 32}
