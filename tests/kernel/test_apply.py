"""The life of a chain: applied, applied again, changed, looked at, taken down; and nothing is left of it."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from runtime.bpffs import bpffs_root
from runtime.cli import commands
from runtime.netns import entered
from runtime.pin import GenerationPins, chain_pins, chains
from runtime.plan import Action, Kind, Way
from runtime.state import LiveGeneration, read_generation
from runtime.status import status, status_data
from schemas.compiled import save
from schemas.counters import Count
from tests.kernel.live import (
    NOTHING,
    A,
    B,
    C,
    Host,
    bridge,
    descriptors,
    frame,
    guard,
    guarded_bridge,
    ipv4,
)
from tests.rig.network import Network
from tests.rig.waiting import eventually

pytestmark = pytest.mark.kernel
MODES = ["native", "generic", "tc"]


def test_a_plan_while_somebody_else_applies(machine: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was looked at has gone before all of it was seen: it is looked at once more."""
    machine.apply(bridge())
    wanted = machine.compiled(bridge(aging="9s"))
    applied: list[GenerationPins] = []

    def interrupted(pins: GenerationPins) -> LiveGeneration:
        if not applied:
            applied.append(pins)
            machine.apply(wanted)
        return read_generation(pins)

    monkeypatch.setattr("runtime.state.read_generation", interrupted)
    assert not machine.plan(wanted)


@pytest.mark.parametrize("mode", MODES)
def test_the_whole_life_of_a_chain(mode: str, machine: Host, net: Network) -> None:
    before, devices = descriptors(), machine.devices()
    compiled = machine.compiled(guarded_bridge(mode))
    wanted = machine.plan(compiled)
    assert wanted.way is Way.GENERATION
    assert {change.action for change in wanted.changes} == {Action.ADD}
    assert machine.apply(compiled).generation == 1

    net.send("p1", frame(A, B))
    assert net.arrivals(p2=1, p3=1) == {"p2": [frame(A, B)], "p3": [frame(A, B)]}
    assert {found.state for found in machine.status().interfaces} == {"attached"}
    assert any("-xdp" in found.name for found in machine.status().interfaces) == (mode != "tc")

    footprint = machine.footprint()
    again = machine.apply(compiled)
    assert not again.plan
    assert str(again).startswith(f"chain {machine.name}: no changes")
    assert str(machine.plan(compiled)) == f"chain {machine.name}: no changes, generation 1 runs it\n"
    assert machine.footprint() == footprint

    machine.detach()
    eventually(footprint.left, NOTHING)
    assert machine.name not in chains(bpffs_root())
    assert machine.devices() == devices
    assert machine.qdiscs() == []
    assert descriptors() == before
    net.send("p1", frame(A, B))
    assert net.arrivals() == {}


@pytest.mark.parametrize("mode", MODES)
def test_a_changed_constant_is_swapped_in(mode: str, machine: Host, net: Network) -> None:
    machine.apply(bridge(mode, aging="300s"))
    net.send("p2", frame(B, C))
    net.arrivals(p1=1)
    before = machine.footprint()

    changed = machine.compiled(bridge(mode, aging="60s"))
    wanted = machine.plan(changed)
    assert [(c.action, c.kind, c.name.rpartition("__")[0]) for c in wanted.changes] == [
        (Action.CHANGE, Kind.PROGRAM, "br0__p1"),
        (Action.CHANGE, Kind.PROGRAM, "br0__p2"),
    ]
    assert wanted.changes[0].reasons == ("inlined constant `br0.fdb.aging` 300s → 60s, chain.yaml:12",)
    assert set(wanted.kept) == {"br0__fdb", "br0__counters"}
    assert not wanted.lost
    assert not wanted.interrupts

    applied = machine.apply(changed)
    assert applied.generation == 2
    assert [stage for stage, _ in applied.timings] == ["look", "load", "swap", "clean up"]
    assert all(seconds > 0 for _, seconds in applied.timings)
    assert machine.generations() == ["generation-2"]
    after = machine.footprint()
    assert after.links == before.links
    assert not after.progs & before.progs
    eventually(lambda: len(before.left().progs), 0)
    net.send("p1", frame(A, B))  # B is known: what was learned stays
    assert net.arrivals(p2=1) == {"p2": [frame(A, B)]}
    assert machine.status().service("br0").port("p2").received == Count(1, 60)


@pytest.mark.parametrize("mode", MODES)
def test_another_value_takes_effect_in_the_same_objects(mode: str, machine: Host, net: Network) -> None:
    """No program is compiled for another ageing time, and the new one holds for what was learned before."""
    slow, fast = (machine.compiled(bridge(mode, ports=("p1", "p2", "p3"), aging=aging)) for aging in ("40s", "1s"))
    assert fast.manifest.objects == slow.manifest.objects
    machine.apply(slow)
    net.send("p2", frame(B, C))
    net.arrivals(p1=1, p3=1)
    time.sleep(1.4)
    net.send("p1", frame(A, B))
    assert net.arrivals(p2=1) == {"p2": [frame(A, B)]}, "40 s have not passed"
    wanted = machine.plan(fast)
    assert {change.reasons for change in wanted.changes} == {
        ("inlined constant `br0.fdb.aging` 40s → 1s, chain.yaml:14",)
    }
    machine.apply(fast)
    net.send("p1", frame(A, B))
    assert net.arrivals(p2=1, p3=1) == {"p2": [frame(A, B)], "p3": [frame(A, B)]}
    assert not machine.plan(fast)


def test_a_bucket_that_was_filled_under_a_lower_rate_does_not_block_its_source(machine: Host, net: Network) -> None:
    """What ten packets at once owe is ten seconds' worth at one a second: nobody waits for that at a higher rate."""
    packet = ipv4("203.0.113.7")
    slow = machine.compiled(guard(rate={"per-source": 1, "burst": 10}))
    fast = machine.compiled(guard(rate={"per-source": 1000, "burst": 400}))
    assert fast.manifest.objects == slow.manifest.objects
    machine.apply(slow)
    net.send("p1", *[packet] * 20)
    assert net.arrivals(p2=10) == {"p2": [packet] * 10}
    machine.apply(fast)
    net.send("p1", packet)
    assert net.arrivals(p2=1) == {"p2": [packet]}


def test_counters_follow_their_ports(machine: Host, net: Network) -> None:
    """A bridge with a port more has other counters: they are carried over by name."""
    machine.apply(bridge(ports=("p2", "p3")))
    net.send("p3", frame(A, B))
    net.arrivals(p2=1)
    net.send("p2", frame(B, A))
    net.arrivals(p3=1)
    assert machine.status().service("br0").port("p3").sent == Count(1, 60)
    applied = machine.apply(bridge(ports=("p1", "p2", "p3")))
    assert "carried over: br0__counters" in str(applied.plan)
    counted = machine.status().service("br0")
    assert counted.port("p3").sent == Count(1, 60)
    assert counted.port("p2").received == Count(1, 60)
    assert counted.port("p1").received == Count()


def test_labelled_counters_follow_their_labels(machine: Host, net: Network) -> None:
    machine.apply(guard(sources=("198.51.100.0/24", "203.0.113.0/24")))
    net.send("p1", *[ipv4("203.0.113.5")] * 3, ipv4("198.51.100.7"), ipv4("192.0.2.1"))
    assert net.arrivals(p2=1) == {"p2": [ipv4("192.0.2.1")]}
    counted = machine.status().service("guard")
    assert counted.labelled == {
        "block.sources 198.51.100.0/24": Count(1, 60),
        "block.sources 203.0.113.0/24": Count(3, 180),
    }
    assert counted.drops == {"blocked-source": Count(4, 240)}
    machine.apply(guard(sources=("192.0.2.0/24", "203.0.113.0/24")))
    assert machine.status().service("guard").labelled == {
        "block.sources 192.0.2.0/24": Count(),
        "block.sources 203.0.113.0/24": Count(3, 180),
    }


def test_sent_includes_floods(machine: Host, net: Network) -> None:
    machine.apply(bridge(ports=("p1", "p2", "p3")))
    net.send("p1", frame(A, B, 100))
    net.arrivals(p2=1, p3=1)
    found = machine.status().service("br0")
    assert [port.received for port in found.ports] == [Count(1, 100), Count(), Count()]
    assert [port.sent for port in found.ports] == [Count(), Count(1, 100), Count(1, 100)]


# --- in place -------------------------------------------------------------------------------------------------------


def long_list(*more: str) -> tuple[str, ...]:
    """Too long to be compiled in: it goes into a trie."""
    return (*(f"10.{number // 256}.{number % 256}.0/24" for number in range(300)), *more)


@pytest.mark.parametrize("mode", MODES)
def test_entries_of_a_map_change_in_place(mode: str, machine: Host, net: Network) -> None:
    machine.apply(guard(mode, long_list("198.51.100.0/24", "203.0.113.0/24")))
    net.send("p1", ipv4("198.51.100.7"), ipv4("203.0.113.7"), ipv4("203.0.113.8"), ipv4("192.0.2.7"))
    assert net.arrivals(p2=1) == {"p2": [ipv4("192.0.2.7")]}
    before = machine.footprint()

    changed = machine.compiled(guard(mode, long_list("192.0.2.0/24", "203.0.113.0/24")))
    wanted = machine.plan(changed)
    assert wanted.way is Way.IN_PLACE
    assert [(c.action, c.name) for c in wanted.changes if "near" not in c.name] == [
        (Action.ADD, "guard__sources4[guard.block.sources 192.0.2.0/24]"),
        (Action.REMOVE, "guard__sources4[guard.block.sources 198.51.100.0/24]"),
    ]
    assert "in place: nothing is loaded, nothing is swapped" in str(wanted)
    applied = machine.apply(changed)
    assert applied.generation == 1
    assert machine.footprint() == before
    net.send("p1", ipv4("198.51.100.7"), ipv4("203.0.113.7"), ipv4("192.0.2.7"))
    assert net.arrivals(p2=1) == {"p2": [ipv4("198.51.100.7")]}
    labelled = {label: found for label, found in machine.status().service("guard").labelled.items() if found}
    assert labelled == {
        "block.sources 203.0.113.0/24": Count(3, 180),
        "block.sources 192.0.2.0/24": Count(1, 60),
    }
    assert not machine.plan(changed)


def test_counts_in_entries_survive_a_swap(machine: Host, net: Network) -> None:
    machine.apply(guard(sources=long_list("203.0.113.0/24")))
    net.send("p1", ipv4("203.0.113.7"), ipv4("192.0.2.7"))
    net.arrivals(p2=1)
    applied = machine.apply(guard(sources=long_list("203.0.113.0/24", "192.0.2.0/24"), rate={"per-source": 10000}))
    assert applied.plan.way is Way.GENERATION
    assert machine.status().service("guard").labelled["block.sources 203.0.113.0/24"] == Count(1, 60)
    net.send("p1", ipv4("203.0.113.7"), ipv4("192.0.2.7"), ipv4("8.8.8.8"))
    assert net.arrivals(p2=1) == {"p2": [ipv4("8.8.8.8")]}


def test_an_interrupted_update_in_place_is_finished(machine: Host, net: Network) -> None:
    """Killed between two maps, and then something else again is applied: nothing of the update stays behind."""
    machine.apply(guard(sources=long_list("198.51.100.0/24")))
    half = machine.compiled(guard(sources=long_list("203.0.113.0/24")))
    (pins,) = chain_pins(bpffs_root(), machine.name).generations()
    record = pins.read_record()
    assert record
    wanted = machine.compiled(guard(sources=long_list("192.0.2.0/24")))
    machine.apply(half)  # as if this had been killed after the maps and before the record
    pins.write_record(replace(record, manifest=half.manifest), pending=True)
    pins.write_record(record)
    assert machine.status().problems == ("an update in place was interrupted: apply again",)
    machine.apply(wanted)
    assert machine.status().problems == ()
    net.send("p1", ipv4("198.51.100.7"), ipv4("203.0.113.7"), ipv4("192.0.2.7"))
    assert net.arrivals(p2=2) == {"p2": [ipv4("198.51.100.7"), ipv4("203.0.113.7")]}


def test_other_lines_of_the_same_chain_are_no_change(machine: Host) -> None:
    compiled = machine.compiled(bridge())
    machine.apply(compiled)
    moved = replace(compiled.manifest, source=replace(compiled.manifest.source, sha256="0" * 64))
    applied = machine.apply(replace(compiled, manifest=moved))
    assert not applied.plan
    (pins,) = chain_pins(bpffs_root(), machine.name).generations()
    record = pins.read_record()
    assert record
    assert record.manifest == moved


# --- commands -------------------------------------------------------------------------------------------------------


def test_commands(machine: Host, tmp_path: Path) -> None:
    save(machine.compiled(bridge()), tmp_path / "out")
    named = {command.name: command for command in commands}
    plan, apply, show, detach = (named[name] for name in ("plan", "apply", "status", "detach"))
    runner = CliRunner()
    with entered(machine.namespace.name):
        result = runner.invoke(plan, [str(tmp_path / "out")])
        assert result.exit_code == 3
        assert "does not run yet" in result.output
        assert json.loads(runner.invoke(plan, [str(tmp_path / "out"), "--format", "json"]).output)["differs"]
        assert runner.invoke(apply, [str(tmp_path / "out"), "--quiet"]).output == ""
        timings = runner.invoke(apply, [str(tmp_path / "out"), "--quiet", "--timings"]).output
        assert re.fullmatch(r"read \d+ ms  look \d+ ms\n", timings)
        assert runner.invoke(plan, [str(tmp_path / "out")]).exit_code == 0
        shown = runner.invoke(show, [machine.name]).output
        assert shown.startswith(f"chain {machine.name}: generation 1 of chain.yaml, applied ")
        assert "p2         p2      native  br0__p2__xdp" in shown
        (found,) = json.loads(runner.invoke(show, [machine.name, "--format", "json"]).output)["chains"]
        assert found == status_data(status(machine.name))
        save(machine.compiled(bridge(aging="77s")), tmp_path / "other")
        begun = time.monotonic()
        timings = runner.invoke(apply, [str(tmp_path / "other"), "--quiet", "--timings"]).output
        stages = "".join(rf"{stage} \d+ ms  " for stage in ("read", "look", "load", "swap"))
        live = re.fullmatch(rf"{stages}clean up \d+ ms\nlive after \d+ ms, at ([\d.]+) s of CLOCK_MONOTONIC\n", timings)
        assert live
        assert begun < float(live[1]) < time.monotonic()
        assert runner.invoke(detach, [machine.name]).exit_code == 0
        missing = runner.invoke(detach, [machine.name])
    assert missing.exit_code == 1
    assert "does not run here" in str(missing.exception)
