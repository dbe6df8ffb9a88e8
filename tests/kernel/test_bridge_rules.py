"""Who may be learned where, over time: limits of ports, sticky stations and moves, in the kernel and in `status`."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

import bpfchain
from compiler.services.bridge.fdb import SET_SIZE, Fdb
from runtime.cli import commands
from runtime.netns import entered
from runtime.plan import Kind, Plan, Way
from runtime.services.bridge_moves import Loop
from runtime.services.bridge_stations import flush, hints, stations
from runtime.status import status_data
from schemas.manifest import Hook
from tests.kernel.bridges import BROADCAST, bridge, chain_of, every_mode, frame, mac
from tests.rig.daemon import daemon, own_bpffs
from tests.rig.network import Network, network, running
from tests.rig.waiting import until
from tests.services.harness import Bench
from tests.services.test_bridge import entries as table_entries

pytestmark = pytest.mark.kernel

every_hook = pytest.mark.parametrize("hook", list(Hook), ids=str)

PORTS = ("a", "b", "c")


def config(limit: int = 0, fdb: dict[str, object] | None = None, **stations: object) -> dict[str, object]:
    """A bridge whose port `a` has rules."""
    rules = {**({"limit": limit} if limit else {}), **stations}
    return {"kind": "bridge", "fdb": fdb or {}, "ports": {"a": {"stations": rules}, "b": {}, "c": {}}}


def behind(chain: str, port: str) -> set[str]:
    return {station.mac for station in stations(chain, "br0") if station.port == port}


def reapply(net: Network, folder: Path, chain: Mapping[str, Any]) -> Plan:
    """Another version of a chain in the place of the one that runs; what that took."""
    file = folder / "next.yaml"
    file.write_text(yaml.safe_dump(dict(chain), sort_keys=False))
    with entered(net.dut.name):
        return bpfchain.apply(bpfchain.compile(file, folder / "next")).plan


def arrived(net: Network, **expected: int) -> dict[str, int]:
    """How many frames have come to which neighbour."""
    return {port: len(frames) for port, frames in net.arrivals(**expected).items()}


# --- limits -----------------------------------------------------------------------------------------------------------


@every_mode
def test_a_port_has_no_more_stations_than_its_limit(mode: str, tmp_path: Path) -> None:
    rules = {"stations": {"limit": 3, "beyond": "drop"}}
    with bridge(tmp_path, mode, {"a": rules, "b": {}, "c": {}}) as (net, chain):
        net.send("a", *(frame(mac(number)) for number in range(5)), frame(mac(0)), frame(mac(4)))
        net.send("b", frame(mac(100)), frame(mac(101)), frame(mac(102)), frame(mac(103)))
        assert arrived(net, a=4, b=4, c=8) == {"a": 4, "b": 4, "c": 8}
        assert behind(chain, "a") == {mac(number).hex(":") for number in range(3)}
        assert len(behind(chain, "b")) == 4
        found = bpfchain.status(chain).service("br0")
        assert {reason: count.packets for reason, count in found.drops.items()} == {"station-limit": 3}
        assert found.port("a").note == "3 of 3 stations, 3 frames of others"
        assert found.facts["limited_ports"] == {"a": {"stations": 3, "limit": 3, "refused": 3}}
        assert flush(chain, "br0", mac=mac(1).hex(":")) == 1
        net.send("a", frame(mac(4)), frame(mac(3)))
        assert len(net.arrivals(b=1, c=1)["c"]) == 1, "a place that was flushed is free at once, and no other"
        assert behind(chain, "a") == {mac(number).hex(":") for number in (0, 2, 4)}


@every_hook
def test_places_become_free_with_age(hook: Hook, tmp_path: Path) -> None:
    """Nobody takes an entry away that has aged: it is counted no more. One that comes back is one more station."""
    with Bench(config(2, {"aging": "1s", "size": 64}, beyond="drop"), PORTS, hook, tmp_path) as bench:

        def verdict(number: int) -> str:
            return bench.receive("a", frame(mac(number))).verdict

        started = time.monotonic()
        assert [verdict(number) for number in (1, 2, 3)] == ["flood", "flood", "drop station-limit"]
        while time.monotonic() < started + 1.5:  # the first one goes on, the second has gone silent
            assert verdict(1) == "flood"
            time.sleep(0.1)
        assert [verdict(number) for number in (3, 4, 1)] == ["flood", "drop station-limit", "flood"]
        assert verdict(2) == "drop station-limit", "its entry is still there, but it has aged"


@every_hook
def test_a_station_that_moves_away_makes_room(hook: Hook, tmp_path: Path) -> None:
    """Within a tick, 82 ms at an ageing time under 48 s."""
    with Bench(config(1, {"aging": "40s"}, beyond="drop"), PORTS, hook, tmp_path) as bench:
        assert bench.receive("a", frame(mac(1))).verdict == "flood"
        assert bench.receive("a", frame(mac(2))).verdict == "drop station-limit"
        assert bench.receive("b", frame(mac(1))).verdict == "flood"
        time.sleep(0.2)
        assert bench.receive("a", frame(mac(2))).verdict == "flood"
        assert bench.receive("a", frame(mac(1))).verdict == "drop station-limit", "it cannot come back"
        assert bench.receive("c", frame(mac(3), mac(1))).verdict == "out b"


@every_hook
def test_a_station_that_finds_no_room_does_not_count(hook: Hook, tmp_path: Path) -> None:
    """All sets are full of active stations of another port: the limit is not reached, so nobody is beyond it."""
    with Bench(config(2, {"aging": "40s", "size": 8}, beyond="drop"), PORTS, hook, tmp_path) as bench:
        for _ in range(3):  # in three ticks, so that all of the last ones have been seen before
            for number in range(100):
                bench.receive("b", frame(mac(number)))
            time.sleep(0.1)
        fdb = Fdb(size=8, ports=len(PORTS), aging_s=40)
        table = [mac for mac, _ in table_entries(fdb, bench.table("tested__fdb", SET_SIZE))]
        for known in table:
            bench.receive("b", frame(bytes.fromhex(known.replace(":", ""))))
        verdicts = [bench.receive("a", frame(mac(number))).verdict for number in range(1000, 1050)]
        assert set(verdicts) == {"flood"}


@every_hook
@pytest.mark.parametrize("size", [8, 65536])
def test_cpus_do_not_exceed_a_limit_together(hook: Hook, size: int, tmp_path: Path) -> None:
    """Two CPUs learn different stations on one port; a count over a small table and one over a large one."""
    limit = 8
    with Bench(config(limit, {"size": size, "aging": "40s"}), PORTS, hook, tmp_path) as bench:

        def talk(first: int) -> None:
            for number in range(first, first + 400):
                bench.run_program("a", frame(mac(number)))

        cpus = [threading.Thread(target=talk, args=(1000 * (cpu + 1),)) for cpu in range(2)]
        for cpu in cpus:
            cpu.start()
        for cpu in cpus:
            cpu.join()
        asked = [mac(1000 * (cpu + 1) + number) for cpu in range(2) for number in range(400)]
        verdicts = [bench.receive("b", frame(mac(1), station)).verdict for station in asked]
        assert set(verdicts) == {"out a", "flood"}
        # What one CPU learns while the other counts is missed by that count (docs/services/bridge.md): a limit at most.
        assert 0 < verdicts.count("out a") <= 2 * limit


def test_a_limit_counts_those_who_were_there_before(tmp_path: Path) -> None:
    """A reload brings a limit of 3 where two stations are known, then takes the count anew."""
    with network(*PORTS) as net:
        plain, limited = chain_of(), chain_of(ports={"a": {"stations": {"limit": 3}}, "b": {}, "c": {}})
        with running(net.dut, plain, tmp_path) as compiled:
            chain = compiled.chain.manifest.chain
            net.send("a", frame(mac(0)), frame(mac(1)))
            net.arrivals(b=2, c=2)
            reapply(net, tmp_path, {"chain": chain, **limited})
            net.send("a", *(frame(mac(number)) for number in range(2, 6)))
            assert len(net.arrivals(b=4, c=4)["b"]) == 4, "beyond the limit frames are forwarded"
            assert behind(chain, "a") == {mac(number).hex(":") for number in range(3)}


# --- sticky stations --------------------------------------------------------------------------------------------------


@every_mode
def test_a_sticky_station_stays(mode: str, tmp_path: Path) -> None:
    with bridge(
        tmp_path, mode, {"a": {"stations": {"sticky": True}}, "b": {}, "c": {}}, intruders="drop", static=STATIC
    ) as (net, chain):
        net.send("a", frame(mac(1)))
        net.arrivals(b=1, c=1)
        net.send("b", frame(mac(1)), frame(mac(1), GATEWAY), frame(GATEWAY), frame(mac(2), mac(1)))
        assert net.arrivals(a=1) == {"a": [frame(mac(2), mac(1))]}
        assert behind(chain, "a") == {mac(1).hex(":")}
        assert {reason: count.packets for reason, count in bpfchain.status(chain).service("br0").drops.items()} == {
            "intruder": 3
        }
        assert flush(chain, "br0", port="a") == 1
        net.send("b", frame(mac(1)))
        net.arrivals(a=1, c=1)
        assert behind(chain, "b") == {mac(1).hex(":"), mac(2).hex(":")}, "who has been flushed may be anywhere"


GATEWAY = bytes.fromhex("525400123456")
STATIC = [{"mac": GATEWAY.hex(":"), "port": "c"}]


@every_hook
def test_a_sticky_station_moves_once_it_has_aged(hook: Hook, tmp_path: Path) -> None:
    with Bench(config(fdb={"aging": "1s", "intruders": "drop"}, sticky=True), PORTS, hook, tmp_path) as bench:
        assert bench.receive("a", frame(mac(1))).verdict == "flood"
        assert bench.receive("b", frame(mac(1))).verdict == "drop intruder"
        time.sleep(1.4)
        assert bench.receive("b", frame(mac(1))).verdict == "flood"
        assert bench.receive("c", frame(mac(2), mac(1))).verdict == "out b"


# --- static stations in code and in a map ----------------------------------------------------------------------------


@every_mode
def test_static_stations_are_reached_wherever_they_are(mode: str, tmp_path: Path) -> None:
    """The first is code, the others are in a map, of which one is changed while the bridge runs."""
    homes = {mac(number): port for number, port in ((1, "a"), (2, "b"), (3, "c"))}

    def chain(of_third: str) -> dict[str, Any]:
        static = [{"mac": found.hex(":"), "port": port} for found, port in {**homes, mac(3): of_third}.items()]
        return chain_of(mode, inline=1, static=static)

    with network(*PORTS) as net, running(net.dut, chain("c"), tmp_path) as compiled:
        name = compiled.chain.manifest.chain
        for station, port in homes.items():
            sender = "a" if port != "a" else "b"
            net.send(sender, frame(mac(9), station))
            assert net.arrivals(**{port: 1}) == {port: [frame(mac(9), station)]}
        assert {found.mac: found.port for found in stations(name, "br0") if found.idle_s is None} == {
            station.hex(":"): port for station, port in homes.items()
        }
        plan = reapply(net, tmp_path, {"chain": name, **chain("b")})
        assert (plan.way, [change.kind for change in plan.changes]) == (Way.IN_PLACE, [Kind.ENTRY])
        net.send("a", frame(mac(9), mac(3)))
        assert net.arrivals(b=1) == {"b": [frame(mac(9), mac(3))]}
        homes[mac(1)] = "c"
        plan = reapply(net, tmp_path, {"chain": name, **chain("b")})
        assert plan.way is Way.GENERATION
        assert f"inlined constant `br0.fdb.static {mac(1).hex(':')}` a → c" in str(plan)
        net.send("a", frame(mac(9), mac(1)))
        assert net.arrivals(c=1) == {"c": [frame(mac(9), mac(1))]}


def test_a_static_entry_overrules_what_was_learned(tmp_path: Path) -> None:
    """It comes into the map while somebody else has its address: within a tick that one is an intruder."""
    others = [{"mac": mac(50).hex(":"), "port": "c"}]
    options: dict[str, Any] = {"aging": "40s", "inline": 0, "intruders": "drop"}
    with network(*PORTS) as net, running(net.dut, chain_of(static=others, **options), tmp_path) as compiled:
        name = compiled.chain.manifest.chain
        net.send("b", frame(mac(1)))
        net.arrivals(a=1, c=1)
        static = [*others, {"mac": mac(1).hex(":"), "port": "a"}]
        reapply(net, tmp_path, {"chain": name, **chain_of(static=static, **options)})
        net.send("c", frame(mac(9), mac(1)))
        assert net.arrivals(a=1) == {"a": [frame(mac(9), mac(1))]}
        time.sleep(0.2)
        net.send("b", frame(mac(1)), frame(mac(8)))
        assert net.arrivals(a=1, c=1) == {"a": [frame(mac(8))], "c": [frame(mac(8))]}


# --- moves ------------------------------------------------------------------------------------------------------------


def flap(net: Network, chain: str, *ports: str, vlan: int = 0) -> Loop:
    """A station's frames come in by these ports in turn, until that is too often."""
    deadline = time.monotonic() + 20
    while not (found := hints(chain, "br0")):
        assert time.monotonic() < deadline
        for port in ports * 5:
            net.send(port, frame(mac(1), vlan=vlan))
        net.arrivals()
    (loop,) = found
    return loop


@every_mode
def test_a_loop_is_held_and_told_of(mode: str, tmp_path: Path) -> None:
    """A station's frames come back by another port, again and again: it stays where it was, and everybody hears."""
    with bridge(tmp_path, mode, moves={"station": "3/s", "hold": "1h"}) as (net, chain):
        assert hints(chain, "br0") == ()
        loop = flap(net, chain, "a", "b")
        assert (loop.mac, loop.vlan, set(loop.ports)) == (mac(1).hex(":"), None, {"a", "b"})
        home, away = loop.ports
        net.send("c", frame(mac(3), mac(1)))
        assert net.arrivals(**{home: 1}) == {home: [frame(mac(3), mac(1))]}
        told = f"{mac(1).hex(':')} moves between {home} and {away}: "
        (problem,) = bpfchain.status(chain).problems
        assert problem.startswith(f"is there a loop at br0? {told}")
        data = status_data(bpfchain.status(chain))["services"][0]["facts"]["loops"]
        assert [(found["mac"], found["ports"], found["moves"]) for found in data] == [
            (loop.mac, loop.ports, loop.moves)
        ]
        (fdb,) = [command for command in commands if command.name == "fdb"]
        shown = CliRunner().invoke(fdb, ["show", chain, "br0"])
        assert shown.stderr.startswith(f"is there a loop? {told}")


def test_a_daemon_writes_down_that_there_may_be_a_loop(tmp_path: Path) -> None:
    """The bridge has no control plane, and needs no daemon; one that is there tells all the same, once."""
    with own_bpffs(tmp_path), daemon(tmp_path) as process, bridge(tmp_path, moves={"station": 1}) as (net, chain):
        assert process.state(chain, "br0") == ""
        flap(net, chain, "a", "b")
        until(lambda: "is there a loop" in process.log.read_text(), process.log.read_text)
        (told,) = [line for line in process.log.read_text().splitlines() if "is there a loop" in line]
        assert f"level=warning event=problem chain={chain} service=br0" in told
        assert f"{mac(1).hex(':')} moves between " in told


@every_hook
def test_a_station_is_followed_again_when_its_time_is_over(hook: Hook, tmp_path: Path) -> None:
    with Bench(config(fdb={"moves": {"station": 1, "hold": "1s"}}), PORTS, hook, tmp_path) as bench:

        def home() -> str:
            return bench.receive("c", frame(mac(9), mac(1))).verdict

        for port in "aba":  # the second move comes too early
            bench.receive(port, frame(mac(1)))
        assert home() == "out b"
        time.sleep(1.1)
        bench.receive("a", frame(mac(1)))
        assert home() == "out a"


@every_hook
def test_a_station_that_was_too_fast_is_held(hook: Hook, tmp_path: Path) -> None:
    """Also once its rate alone would allow another move."""
    with Bench(config(fdb={"moves": {"station": "20/s", "hold": "1h"}}), PORTS, hook, tmp_path) as bench:
        for _ in range(100):
            for port in "ab":
                bench.run_program(port, frame(mac(1)))
        home = bench.receive("c", frame(mac(9), mac(1))).verdict
        time.sleep(0.3)
        bench.receive("b" if home == "out a" else "a", frame(mac(1)))
        assert bench.receive("c", frame(mac(9), mac(1))).verdict == home


@every_hook
def test_a_station_that_has_aged_may_come_up_anywhere(hook: Hook, tmp_path: Path) -> None:
    """It moves no more than one that nobody knows."""
    with Bench(config(fdb={"aging": "1s", "moves": {"station": 1, "hold": "1h"}}), PORTS, hook, tmp_path) as bench:
        for port in "aba":
            bench.receive(port, frame(mac(1)))
        assert bench.receive("c", frame(mac(9), mac(1))).verdict == "out b"
        time.sleep(1.4)
        bench.receive("a", frame(mac(1)))
        assert bench.receive("c", frame(mac(9), mac(1))).verdict == "out a"


@every_hook
def test_moves_of_all_stations_have_a_limit_too(hook: Hook, tmp_path: Path) -> None:
    with Bench(config(fdb={"moves": {"bridge": "1/s"}}), PORTS, hook, tmp_path) as bench:
        for port in "ab":
            for number in range(20):
                bench.receive(port, frame(mac(number)))
        verdicts = [bench.receive("c", frame(mac(99), mac(number))).verdict for number in range(20)]
        assert set(verdicts) == {"out a", "out b"}
        assert 1 <= verdicts.count("out b") <= 10, "the first, and one more for each second that this took"


# --- VLANs ------------------------------------------------------------------------------------------------------------


@every_mode
def test_rules_hold_in_every_vlan(mode: str, tmp_path: Path) -> None:
    """A station is one of its VLAN; a limit is of the port, whatever the VLANs; static stations in a map have one."""
    trunk = {"trunk": [10, 20]}
    ports = {
        "a": {"vlan": trunk, "stations": {"limit": 3, "beyond": "drop"}},
        "b": {"vlan": trunk, "stations": {"sticky": True}},
        "c": {"vlan": trunk},
    }
    static = [{"mac": mac(5).hex(":"), "port": port, "vlan": vlan} for port, vlan in (("b", 10), ("c", 20))]
    with bridge(tmp_path, mode, ports, inline=0, intruders="drop", moves={"station": 1}, static=static) as (net, chain):
        net.send("a", *(frame(mac(number), vlan=vlan) for number in (1, 2) for vlan in (10, 20)))
        assert arrived(net, b=3, c=3) == {"b": 3, "c": 3}, "the fourth is beyond the limit"
        net.send("b", frame(mac(3), vlan=10))
        net.send("c", frame(mac(3), vlan=10))
        assert arrived(net, a=1, c=1) == {"a": 1, "c": 1}, "the second is an intruder"
        net.send("c", frame(mac(3), vlan=20))
        assert arrived(net, a=1, b=1) == {"a": 1, "b": 1}, "in another VLAN it is another station"
        for vlan, port in ((10, "b"), (20, "c")):
            net.send("a", frame(mac(1), mac(5), vlan=vlan))
            assert net.arrivals(**{port: 1}) == {port: [frame(mac(1), mac(5), vlan=vlan)]}
        loop = flap(net, chain, "c", "a", vlan=20)
        assert (loop.mac, loop.vlan, set(loop.ports)) == (mac(1).hex(":"), 20, {"a", "c"})
        assert f"{mac(1).hex(':')} in VLAN 20 moves between " in str(loop)


# --- a full table -----------------------------------------------------------------------------------------------------


def test_status_tells_how_full_the_table_is(tmp_path: Path) -> None:
    with bridge(tmp_path, size=64, aging="40s") as (net, chain):
        net.send("a", frame(mac(1)), frame(mac(1)))
        net.arrivals(b=2, c=2)
        found = bpfchain.status(chain)
        assert found.service("br0").lines == ("stations: 1, made for 64",)
        assert found.problems == ()
        net.send("a", *(frame(mac(number)) for number in range(500)))
        known = [bytes.fromhex(station.mac.replace(":", "")) for station in stations(chain, "br0")]
        assert len(known) == 128
        time.sleep(0.2)  # in another tick: from then on they are no one-off addresses, and make no room for others
        net.send("a", *(frame(resident) for resident in known))
        found = bpfchain.status(chain)
        assert found.service("br0").facts == {
            "stations": 128,
            "size": 64,
            "sets": 16,
            "full_sets": 16,
            "estimated": False,
            "loops": [],
            "limited_ports": {},
        }
        (problem,) = found.problems
        assert problem == (
            "the table of br0 is full, 128 stations where 64 were expected: "
            "no new station is learned, what is sent to it is flooded"
        )
        assert "  stations: 128, made for 64; 16 of 16 sets are full\n" in str(found)
        for wire in net.wires.values():
            wire.drain()
        late = mac(9999)
        net.send("b", frame(late, known[0]))
        assert net.arrivals(a=1).keys() == {"a"}, "who is known is still reached"
        net.send("a", frame(known[0], late))
        assert net.arrivals(b=1, c=1).keys() == {"b", "c"}, "who is new is flooded to"


def test_a_large_table_is_estimated(tmp_path: Path) -> None:
    with bridge(tmp_path, size=1 << 20) as (net, chain):
        net.send("a", *(frame(mac(number)) for number in range(20_000)), BROADCAST + mac(1) + bytes(48))
        found = bpfchain.status(chain).service("br0")
        assert found.facts["estimated"] is True
        assert 10_000 < found.facts["stations"] < 30_000
        assert found.lines[0].startswith("stations: about ")
