"""State that cannot stay where it is: stations and rate buckets get into other maps, or the apply is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from runtime import sys
from runtime.apply import plan
from runtime.cli import apply as apply_command
from runtime.exchange import WordExchange
from runtime.migrate import Succession, migrate
from runtime.netns import entered
from runtime.steps import Step
from runtime.uapi import MapType
from schemas.compiled import save
from schemas.diagnostic import LoadFailed
from tests.kernel.live import A, B, C, Host, bridge, frame, guard, ipv4, stations
from tests.rig.network import Network
from tests.unit.manifests import fdb, sample

pytestmark = pytest.mark.kernel
MODES = ["native", "generic", "tc"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (bridge(size=1024), bridge(size=65536)),
        (bridge(size=65536), bridge(size=16)),
        (bridge(aging="300s"), bridge(aging="20s")),
        (bridge(), bridge(ports=("p3", "p2", "p1"))),
        (bridge(ports=("p3", "p1", "p2"), size=16), bridge(ports=("p2", "p1"), aging="4000s")),
    ],
    ids=["larger", "smaller", "other ticks", "ports added", "port removed"],
)
def test_stations_are_known_in_another_table(
    mode: str, before: dict[str, Any], after: dict[str, Any], machine: Host, net: Network
) -> None:
    """With a known destination a frame is not flooded: it comes out of one port and no other."""
    machine.apply({**before, "mode": mode})
    net.send("p1", frame(A, C))
    net.send("p2", frame(B, C))
    for _ in ("p1", "p2"):
        net.arrivals(p1=1, p2=1)
    assert stations(machine) == {A.hex(): "p1", B.hex(): "p2"}
    wanted = machine.plan({**after, "mode": mode})
    assert "migrated: br0__fdb" in str(wanted)
    assert not wanted.lost
    machine.apply({**after, "mode": mode})
    assert stations(machine) == {A.hex(): "p1", B.hex(): "p2"}
    net.send("p1", frame(A, B))
    assert net.arrivals(p2=1) == {"p2": [frame(A, B)]}


def test_the_stations_of_a_removed_port_go_with_it(machine: Host, net: Network) -> None:
    machine.apply(bridge(ports=("p1", "p2", "p3")))
    net.send("p1", frame(A, C))
    net.send("p3", frame(B, C))
    net.arrivals(p1=1, p2=2, p3=1)
    machine.apply(bridge(ports=("p1", "p2")))
    assert stations(machine) == {A.hex(): "p1"}


def test_what_is_learned_meanwhile_comes_along(machine: Host, net: Network) -> None:
    """Between the first sweep and the swap a station moves, and another one is seen for the first time."""
    machine.apply(bridge(ports=("p1", "p2", "p3"), size=64))
    net.send("p1", frame(A, C))
    net.arrivals(p2=1, p3=1)

    def on_step(step: Step) -> None:
        if step.title == "load the programs":
            net.send("p3", frame(A, C), frame(B, C))
            net.arrivals(p1=2, p2=2)

    machine.apply(bridge(ports=("p2", "p3", "p1"), size=8192), on_step=on_step)
    assert stations(machine) == {A.hex(): "p3", B.hex(): "p3"}


def test_what_the_new_programs_have_seen_is_not_overwritten(machine: Host, net: Network) -> None:
    """The station moves under the old generation, and once more under the new one, before the second sweep."""
    machine.apply(bridge(ports=("p1", "p2", "p3"), size=64))
    net.send("p1", frame(A, C))
    net.arrivals(p2=1, p3=1)

    def on_step(step: Step) -> None:
        if step.title == "load the programs":
            net.send("p3", frame(A, C), frame(B, C))
            net.arrivals(p1=2, p2=2)
        if step.title == "wait for packets on their way":
            net.send("p2", frame(A, C), frame(B, C))
            net.arrivals(p1=2, p3=2)

    machine.apply(bridge(ports=("p1", "p2", "p3"), size=8192), on_step=on_step)
    assert stations(machine) == {A.hex(): "p2", B.hex(): "p2"}


def test_a_source_stays_slowed_down_in_a_larger_table(machine: Host, net: Network) -> None:
    """It has spent its burst and earns a packet a second; forgotten, it could send as many again at once."""
    slow = {"per-source": 1, "burst": 100}
    machine.apply(guard(rate={**slow, "size": 1024}))
    net.send("p1", *[ipv4("192.0.2.1")] * 150)
    assert len(net.arrivals(p2=100)["p2"]) < 150
    wanted = guard(rate={**slow, "size": 65536})
    assert "migrated: guard__buckets4, guard__buckets6" in str(machine.plan(wanted))
    machine.apply(wanted)
    net.send("p1", *[ipv4("192.0.2.1")] * 90, ipv4("192.0.2.2"))
    arrived = net.arrivals(p2=1)["p2"]
    assert arrived.count(ipv4("192.0.2.2")) == 1
    assert arrived.count(ipv4("192.0.2.1")) < 50


# --- refused --------------------------------------------------------------------------------------------------------


def vlans() -> dict[str, Any]:
    chain = bridge()
    chain["services"]["br0"]["ports"] = {"p1": {"vlan": {"access": 10}}, "p2": {"vlan": {"access": 10}}}
    return chain


def test_state_is_not_lost_unasked(machine: Host, net: Network, tmp_path: Path) -> None:
    machine.apply(bridge())
    net.send("p1", frame(A, B))
    net.arrivals(p2=1)
    running = machine.footprint()
    assert "LOST: br0__fdb" in str(machine.plan(vlans()))
    (found,) = machine.refused(vlans())
    assert (found.code, found.message) == ("A150", "what was learned would be lost")
    assert found.notes == ("`br0__fdb`: its entries have another meaning, chain.yaml:9",)
    assert found.help == "`bpfchain apply --accept-state-loss` begins anew with these"
    assert machine.footprint() == running
    assert stations(machine) == {A.hex(): "p1"}
    save(machine.compiled(vlans()), tmp_path / "out")
    with entered(machine.namespace.name):
        refused = CliRunner().invoke(apply_command, [str(tmp_path / "out")])
        assert isinstance(refused.exception, LoadFailed)
        assert CliRunner().invoke(apply_command, [str(tmp_path / "out"), "--accept-state-loss"]).exit_code == 0
    assert stations(machine) == {}


def test_a_service_that_is_renamed_would_lose_its_state(machine: Host) -> None:
    renamed = bridge()
    renamed["services"] = {"br1": renamed["services"]["br0"]}
    renamed["links"] = [[f"br1.{port}", port] for port in ("p1", "p2")]
    machine.apply(bridge())
    (found,) = machine.refused(renamed)
    assert found.notes == ("`br0__fdb`: no program uses it any more",)
    assert machine.plan(guard(rate={"per-source": 9})).lost == ("br0__fdb",)


def test_a_feature_that_is_switched_off_takes_its_state_along(machine: Host) -> None:
    machine.apply(guard(rate={"per-source": 9}))
    wanted = machine.plan(guard())
    assert "removed: guard__buckets4, guard__buckets6" in str(wanted)
    machine.apply(guard())


def test_no_room(machine: Host, net: Network) -> None:
    """Fewer than were learned: told before anything is touched, and with consent those seen last stay."""
    machine.apply(bridge(size=1024))
    sources = [bytes([2, 0xBB, 0, 0, number // 256, number % 256]) for number in range(300)]
    net.send("p1", *[frame(source, B) for source in sources])
    net.arrivals(p2=len(sources))
    assert len(stations(machine)) == 300
    running = machine.footprint()
    wanted = machine.compiled(bridge(size=8))
    (found,) = machine.refused(wanted)
    assert (found.code, found.message) == ("A151", "there is no room for everything that was learned")
    with entered(machine.namespace.name):
        assert plan(wanted).lost == ()
    (note,) = found.notes
    left_out = int(note.removeprefix("`br0__fdb`: ").removesuffix(" entries"))
    assert found.help == "leave the sizes as they are, or apply with `--accept-state-loss`"
    assert machine.footprint() == running
    assert machine.generations() == ["generation-1"]
    machine.apply(wanted, accept_state_loss=True)
    assert len(stations(machine)) == 300 - left_out


# --- the tools ------------------------------------------------------------------------------------------------------


def test_a_word_is_exchanged_only_for_what_is_expected() -> None:
    with (
        sys.map_create(MapType.BPF_MAP_TYPE_ARRAY, key_size=4, value_size=64, max_entries=4) as fd,
        WordExchange(fd, 64) as exchange,
    ):
        assert exchange(3, 56, 0, (1 << 64) - 1)
        assert not exchange(3, 56, 0, 5)
        assert exchange(3, 56, (1 << 64) - 1, 7)
        assert dict(sys.map_entries(fd, 4, 64))[bytes([3, 0, 0, 0])] == bytes(56) + (7).to_bytes(8, "little")
        for element, offset in ((4, 0), (0, 64), (0, 60), (0, -8), (0, 1 << 31)):
            with pytest.raises(IndexError):
                exchange(element, offset, 0, 1)


def hash_map(size: int) -> sys.Fd:
    """The hash that stands for a filtering database in hand-made manifests."""
    return sys.map_create(MapType.BPF_MAP_TYPE_HASH, key_size=8, value_size=16, max_entries=size)


def test_a_hash_of_another_size() -> None:
    """Deleted, changed and new entries come along; what the new programs did stays."""
    keys = [bytes([number]) * 8 for number in range(8)]
    old_value, new_value, own = bytes([1]) * 16, bytes([2]) * 16, bytes([3]) * 16
    with hash_map(64) as old_fd, hash_map(128) as new_fd:
        sys.map_update_batch(old_fd, keys[:6], [old_value] * 6)
        migrated = migrate(Succession(sample(), fdb(), sample(), fdb(size=128)), old_fd, new_fd)
        assert migrated
        assert dict(sys.map_entries(new_fd, 8, 16)) == dict.fromkeys(keys[:6], old_value)
        sys.map_delete_elem(old_fd, keys[0])
        sys.map_delete_elem(old_fd, keys[1])
        for number in (2, 3, 6, 7):
            sys.map_update_elem(old_fd, keys[number], new_value)
        for number in (1, 3, 7):
            sys.map_update_elem(new_fd, keys[number], own)
        migrated.catch_up(old_fd, new_fd)
        assert dict(sys.map_entries(new_fd, 8, 16)) == {
            keys[1]: own,
            keys[2]: new_value,
            keys[3]: own,
            keys[4]: old_value,
            keys[5]: old_value,
            keys[6]: new_value,
            keys[7]: own,
        }
