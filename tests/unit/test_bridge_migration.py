"""A filtering database in another layout: the same stations on the same ports, as old as they were."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from compiler.services.bridge.fdb import Fdb
from runtime import features
from runtime.migrate import Migration, Table
from runtime.services import bridge_fdb
from runtime.services.bridge_fdb import Layout, Station, layout_of, migration
from tests.unit.manifests import fdb

JIFFIES, HZ = (7 << 32) + 12345678, 250
SET = struct.Struct("<8Q")


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge_fdb, "jiffies64", lambda: JIFFIES)
    monkeypatch.setattr(features, "hz", lambda: HZ)


def table(geometry: Fdb, *ports: str) -> Table:
    record = replace(
        fdb(size=1 << geometry.set_bits), value_size=64, meaning=f"bridge {geometry.layout} {' '.join(ports)}"
    )
    return Table(record, ports)


def layout(of: Table) -> Layout:
    found = layout_of(of)
    assert found
    return found


def way(old: Table, new: Table) -> Migration:
    found = migration(old, new)
    assert found
    return found


def content(of: Table, stations: Iterator[Station] | list[Station]) -> dict[bytes, bytes]:
    """A map with these stations; each set has room."""
    sets: dict[int, list[int]] = {}
    for station in stations:
        number, word = layout(of).place(station)
        sets.setdefault(number, []).append(word)
    return {key.to_bytes(4, "little"): SET.pack(*words, *[0] * (8 - len(words))) for key, words in sets.items()}


def known(of: Table, entries: dict[bytes, bytes]) -> dict[int, tuple[str, bool, int]]:
    """(port, confirmed, age in ticks) by address."""
    now = layout(of).ticks(JIFFIES, HZ)
    return {
        found.key: (of.ports[found.port], found.confirmed, now - found.seen & layout(of).time_mask)
        for found in layout(of).stations(entries)
    }


def some(of: Table, count: int, seed: int = 1) -> list[Station]:
    """Stations seen up to 50 ticks ago."""
    random_ = random.Random(seed)
    now = layout(of).ticks(JIFFIES, HZ)
    found: dict[int, Station] = {}
    while len(found) < count:
        key = random_.getrandbits(48)
        seen = now - random_.randrange(50) & layout(of).time_mask
        found[key] = Station(key, random_.randrange(len(of.ports)), bool(random_.getrandbits(1)), seen)
    return list(found.values())


SMALL, LARGE = table(Fdb(64, 3, 300), "a", "b", "c"), table(Fdb(65536, 3, 300), "a", "b", "c")


@pytest.mark.parametrize("of", [SMALL, LARGE, table(Fdb(8, 127, 1, 60), *(f"p{n}" for n in range(127)))])
def test_a_word_is_the_station_that_it_was_made_from(of: Table) -> None:
    for station in some(of, 200):
        number, word = layout(of).place(station)
        assert number < layout(of).sets
        assert layout(of).station(number, word) == station


@pytest.mark.parametrize(("old", "new"), [(SMALL, LARGE), (LARGE, SMALL)])
def test_another_size(old: Table, new: Table) -> None:
    before = content(old, some(old, 40))
    moved = way(old, new).content(before)
    assert moved.left_out == 0
    assert known(new, dict(moved.entries)) == known(old, before)


def test_ports_that_come_go_and_change_places() -> None:
    new = table(Fdb(64, 4, 300), "c", "new", "a", "other")
    before = content(SMALL, some(SMALL, 40))
    moved = way(SMALL, new).content(before)
    wanted = {key: found for key, found in known(SMALL, before).items() if found[0] != "b"}
    assert 0 < len(wanted) < 40
    assert known(new, dict(moved.entries)) == wanted


def test_an_ageing_time_with_other_ticks() -> None:
    """Ticks are eight times as long or an eighth: ages stay what they were, to the tick."""
    new = table(Fdb(64, 3, 40), "a", "b", "c")
    longer = layout(SMALL).tick_bits - layout(new).tick_bits
    assert longer == 6
    before = content(SMALL, some(SMALL, 40))
    moved = way(SMALL, new).content(before)
    ages = {key: (port, confirmed, age << longer) for key, (port, confirmed, age) in known(SMALL, before).items()}
    assert known(new, dict(moved.entries)) == ages
    back = way(new, SMALL).content(moved.entries)
    assert known(SMALL, dict(back.entries)) == known(SMALL, before)


def test_where_there_is_no_room_those_seen_last_stay() -> None:
    least = table(Fdb(8, 3, 300), "a", "b", "c")
    now = layout(LARGE).ticks(JIFFIES, HZ)
    stations = [replace(station, seen=now - age) for age, station in enumerate(some(LARGE, 200))]
    moved = way(LARGE, least).content(content(LARGE, stations))
    kept = known(least, dict(moved.entries))
    assert moved.left_out == 200 - len(kept) > 0
    assert len(kept) == 8 * layout(least).sets
    by_set: dict[int, list[Station]] = {}
    for station in stations:
        by_set.setdefault(layout(least).place(station)[0], []).append(station)
    assert kept.keys() == {station.key for found in by_set.values() for station in found[:8]}


def test_other_keys_and_unknown_layouts_have_no_way() -> None:
    vlans = table(Fdb(64, 3, 300, key_bits=52), "a", "b", "c")
    later = replace(SMALL, record=replace(SMALL.record, meaning="bridge fdb/9 key 48 port 2 tick 9 a b c"))
    assert migration(SMALL, vlans) is None
    assert migration(later, SMALL) is None
    assert migration(SMALL, later) is None


def test_vlans_that_come_and_go() -> None:
    """A key is the address and, above it, the VLAN; where the highest VLAN is a lower one, those above it are gone."""
    few, many = (table(Fdb(64, 3, 300, key_bits=48 + bits), "a", "b", "c") for bits in (4, 12))
    stations = [
        replace(station, key=station.key | (number % 15 + 1) << 48) for number, station in enumerate(some(few, 40))
    ]
    there = way(few, many).content(content(few, stations))
    assert known(many, dict(there.entries)) == known(few, content(few, stations))
    stations[0] = replace(stations[0], key=stations[0].key & ((1 << 48) - 1) | 4094 << 48)
    back = way(many, few).content(content(many, stations))
    assert known(few, dict(back.entries)) == known(few, content(few, stations[1:]))


class Live:
    """The new map while programs use it."""

    def __init__(self, placed: dict[bytes, bytes]) -> None:
        self.sets = {int.from_bytes(key, "little"): list(SET.unpack(words)) for key, words in placed.items()}

    def exchange(self, element: int, offset: int, expected: int, desired: int) -> bool:
        words = self.sets.setdefault(element, [0] * 8)
        if words[offset // 8] != expected:
            return False
        words[offset // 8] = desired
        return True

    def learns(self, of: Table, station: Station) -> None:
        """As a program does: where it is, or in the first free word."""
        number, word = layout(of).place(station)
        words, bits = self.sets.setdefault(number, [0] * 8), layout(of).state_bits
        same = [way for way in range(8) if words[way] and words[way] >> bits == word >> bits]
        words[(same or [words.index(0)])[0]] = word

    def entries(self) -> dict[bytes, bytes]:
        return {number.to_bytes(4, "little"): SET.pack(*words) for number, words in self.sets.items()}


def test_the_second_sweep_brings_what_moved_and_what_is_new() -> None:
    stations = some(SMALL, 30)
    moves, stays, newcomer = stations[0], stations[1:29], stations[29]
    then = content(SMALL, [moves, *stays])
    migration = way(SMALL, LARGE)
    live = Live(dict(migration.content(then).entries))
    placed = live.entries()
    now = content(SMALL, [replace(moves, port=(moves.port + 1) % 3), *stays, newcomer])
    assert migration.late
    migration.late(then, now, placed, live.exchange)
    assert known(LARGE, live.entries()) == known(SMALL, now)


def test_the_second_sweep_overwrites_nothing_that_programs_have_learned() -> None:
    """A station moves twice, is seen for the first time by both generations, or has its place taken by another one."""
    stations = some(SMALL, 20)
    moves, newcomer = stations[0], stations[1]
    then = content(SMALL, [moves])
    migration = way(SMALL, SMALL)
    live = Live(dict(migration.content(then).entries))
    placed = live.entries()
    seen_last = [replace(moves, port=(moves.port + 2) % 3), replace(newcomer, port=(newcomer.port + 2) % 3)]
    for station in seen_last:
        live.learns(SMALL, station)
    wanted = known(SMALL, live.entries())
    now = content(SMALL, [replace(moves, port=(moves.port + 1) % 3), newcomer])
    assert migration.late
    migration.late(then, now, placed, live.exchange)
    assert known(SMALL, live.entries()) == wanted


@pytest.mark.parametrize("seed", range(20))
def test_no_station_is_ever_in_a_set_twice(seed: int) -> None:
    """Programs and the second sweep learn the same stations, in any order, into sets that are almost full."""
    least, random_ = table(Fdb(8, 3, 300), "a", "b", "c"), random.Random(seed)
    stations = some(least, 14, seed)
    migration = way(least, least)
    then = {bytes(4): bytes(64)}
    live = Live({})
    for station in random_.sample(stations, 5):
        live.learns(least, station)
    now = migration.content(content(least, stations[:8])).entries
    assert migration.late
    migration.late(then, now, {}, live.exchange)
    for words in live.sets.values():
        tags = [word >> layout(least).state_bits for word in words if word]
        assert len(tags) == len(set(tags))
