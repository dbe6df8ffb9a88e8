from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.fib.layout import (
    NO_ROUTE,
    RANGES4_PER_ROUTE,
    RANGES6_PER_ROUTE,
    ROOTS_SIZE,
    capacity,
    entry,
)
from schemas.fib.pool import Full, Pool
from schemas.fib.ranges import key, ranges
from schemas.fib.roots import Roots
from schemas.fib.table4 import Fib4
from schemas.fib.table6 import Fib6
from tests.rig.fib import TableReader
from tests.rig.routes import Routes, crowded, edges, internet, longest_prefix, prefix

Table = Fib4 | Fib6


class Memory(TableReader):
    """The two arrays of a table."""

    def __init__(self, bits: int, places: int) -> None:
        kind: Literal["I", "Q"] = "I" if bits == 32 else "Q"
        size = 4 if bits == 32 else 8
        roots = memoryview(bytearray(ROOTS_SIZE)).cast("Q")
        super().__init__(bits, roots, memoryview(bytearray(places * size)).cast(kind))

    def table(self, grace: Callable[[], None] = lambda: None) -> Table:
        return (Fib4 if self.bits == 32 else Fib6)(self.roots, self.places, grace)


VERSIONS = pytest.mark.parametrize("bits", [32, 128])


def per_route(bits: int) -> int:
    return RANGES4_PER_ROUTE if bits == 32 else RANGES6_PER_ROUTE


def as_list(routes: Routes) -> list[tuple[int, int, int]]:
    return [(address, length, value) for (address, length), value in routes.items()]


def check(memory: Memory, routes: Routes, random_: random.Random, count: int) -> None:
    for address in edges(routes, random_, count, memory.bits):
        assert memory.lookup(address) == longest_prefix(routes, address, memory.bits), f"{address:#x}"


@VERSIONS
def test_prefixes_that_together_are_one_range_have_a_block_as_others_do(bits: int) -> None:
    """The first block of a table is at place 0."""
    memory = Memory(bits, 64)
    halves = {prefix(half << bits - 17, 17, bits): 5 for half in (2, 3)}
    memory.table().load(as_list(halves))
    assert [memory.lookup(number << bits - 17) for number in range(1, 5)] == [0, 5, 5, 0]


# --- the parts ------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 0xFFFF), st.integers(1, 16), st.integers(1, 5)), max_size=20))
def test_ranges_give_each_value_the_answer_of_its_longest_prefix(listed: list[tuple[int, int, int]]) -> None:
    routes = {prefix(start, length, 16): value for start, length, value in listed}
    found = list(ranges({key(start, length): value for (start, length), value in routes.items()}).items())
    assert found[0][0] == 0
    assert all(a[0] < b[0] and a[1] != b[1] for a, b in pairwise(found)), "in order, none to be merged"
    for address in {0, 0xFFFF} | {start for start, _ in found} | {max(start - 1, 0) for start, _ in found}:
        answer = next(value for start, value in reversed(found) if start <= address)
        assert answer == longest_prefix(routes, address, 16)


def test_ranges_lead_to_what_is_below_and_keep_their_own_answer_there() -> None:
    found = ranges({key(0x1000, 4): 7}, {0x1234: 99, 0xFFFF: 98})
    assert list(found.items()) == [
        (0, 0),
        (0x1000, 7),
        (0x1234, entry(7, 99)),
        (0x1235, 7),
        (0x2000, 0),
        (0xFFFF, entry(0, 98)),
    ]


@given(st.lists(st.integers(0, 5), max_size=60), st.randoms(use_true_random=False))
def test_a_pool_gives_disjoint_aligned_blocks_and_all_of_them_back(orders: list[int], random_: random.Random) -> None:
    pool = Pool(8, lambda: None)
    held: dict[int, int] = {}
    for order in orders:
        if held and random_.random() < 0.4:
            first = random_.choice(list(held))
            pool.retire(first, held.pop(first))
        try:
            first = pool.take(order)
        except Full:
            assert sum(1 << order for order in held.values()) + (1 << order) > 256 / 32, "it need not be full so early"
            continue
        assert first % (1 << order) == 0
        taken = {place for start, size in held.items() for place in range(start, start + (1 << size))}
        assert not taken & set(range(first, first + (1 << order)))
        held[first] = order
    for first, order in held.items():
        pool.retire(first, order)
    pool.reclaim()
    assert pool.take(8) == 0, "everything is in one piece again"


def test_a_retired_block_is_taken_again_only_after_a_grace_period() -> None:
    graces: list[str] = []
    pool = Pool(3, lambda: graces.append("grace"))
    first = pool.take(2)
    pool.take(2)
    pool.retire(first, 2)
    assert not graces
    assert pool.take(1) in range(first, first + 4)
    assert graces == ["grace"]


def test_a_claimed_block_is_not_given_out() -> None:
    pool = Pool(4, lambda: None)
    pool.claim(6, 1)
    blocks = {pool.take(1) for _ in range(7)}
    assert blocks == {0, 2, 4, 8, 10, 12, 14}
    with pytest.raises(Full):
        Pool(1, lambda: None).claim(4, 0)


# --- tables ---------------------------------------------------------------------------------------------------------


@VERSIONS
@pytest.mark.parametrize("seed", range(2))
def test_a_table_answers_as_the_longest_prefix_does_after_every_change(bits: int, seed: int) -> None:
    random_ = random.Random(seed)
    memory = Memory(bits, capacity(2000, per_route(bits)))
    table, routes = memory.table(), Routes()
    for _ in range(60):
        changes = []
        for _ in range(random_.choice((1, 1, 1, 5, 30))):
            old = random_.random() < 0.45 and routes
            where = random_.choice(list(routes)) if old else crowded(random_, bits)
            value = random_.choice((NO_ROUTE, random_.randrange(1, 65536)))
            changes.append((*where, value))
            routes[where] = value
            if value == NO_ROUTE:
                del routes[where]
        table.update(changes)
        assert not table.behind
        check(memory, routes, random_, 3)
    check(memory, routes, random_, 200)


@VERSIONS
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_overlapping_routes_come_and_go(bits: int, data: st.DataObject) -> None:
    """Few prefixes along one address, so that each encloses the next; hypothesis shortens what fails."""
    memory = Memory(bits, capacity(200, per_route(bits)))
    table, routes = memory.table(), Routes()
    stem = 0x0A0B0C0D if bits == 32 else 0x20010DB8_00010002_00030004_00050006
    for length, value in data.draw(st.lists(st.tuples(st.integers(0, bits), st.integers(0, 3)), max_size=30)):
        where = prefix(stem, length, bits)
        table.update([(*where, value)])
        if value:
            routes[where] = value
        else:
            routes.pop(where, None)
        for flipped in range(bits):
            address = stem ^ 1 << flipped
            assert memory.lookup(address) == longest_prefix(routes, address, bits)
        assert memory.lookup(stem) == longest_prefix(routes, stem, bits)


def test_one_value_more_or_less_in_a_level_with_many_ranges_changes_nothing_beside_it() -> None:
    """IPv6: such a level is not worked out anew. Values touch, with routes of their own, longer ones or neither."""
    random_ = random.Random(5)
    memory = Memory(128, 1 << 17)
    table = memory.table()
    base = 0x20010DB8 << 96
    routes: Routes = {(base, 36): 9, (base | 0xFF << 84, 44): 8}
    routes |= {(base | value << 80, 48): 1 + value % 3 for value in range(0, 0x4000, 3)}
    table.load(as_list(routes))
    values = [0, 1, 2, 0x0FEF, 0x0FF0, 0x0FF1, 0x3FFE, 0x3FFF, 0x4000, 0xFFFE, 0xFFFF]
    for _ in range(150):
        changes: Routes = {}
        for _ in range(random_.choice((1, 1, 5, 20))):
            length = random_.choice((40, 44, 47, 48, 48, 48, 64, 128))
            where = prefix(base | random_.choice(values) << 80 | random_.getrandbits(2), length, 128)
            changes[where] = random_.choice((NO_ROUTE, 1, 2, 9))
        routes.update(changes)
        routes = {where: value for where, value in routes.items() if value}
        table.update(as_list(changes))
        for value in values:
            for address in (base | value << 80, base | value << 80 | 2, (base | value << 80) - 1):
                assert memory.lookup(address) == longest_prefix(routes, address, 128), f"{address:#x}"
    check(memory, routes, random_, 300)
    table.update([(address, length, NO_ROUTE) for address, length in routes])
    assert table.free == 1 << 17


@VERSIONS
def test_all_places_are_free_when_all_routes_are_gone(bits: int) -> None:
    random_ = random.Random(7)
    places = capacity(3000, per_route(bits))
    memory = Memory(bits, places)
    table = memory.table()
    routes = {crowded(random_, bits): 1 for _ in range(3000)}
    table.load(as_list(routes))
    assert table.free < places
    where = list(routes)
    random_.shuffle(where)
    for address, length in where:
        table.update([(address, length, NO_ROUTE)])
    assert table.free == places
    assert not any(memory.roots)


@VERSIONS
def test_a_table_for_so_many_routes_holds_them_wherever_they_are(bits: int) -> None:
    """Also the routes that need most places: each the only one of its /16 or /32."""
    count = 4000
    memory = Memory(bits, capacity(count, per_route(bits)))
    table = memory.table()
    for routes in (
        {(index << bits - 16 | 5 << bits - 24, 24): index % 7 + 1 for index in range(count)},
        internet(random.Random(1), count, bits),
        {(0x0A000000 << bits - 32 | index, bits): index % 5 + 1 for index in range(count)},
    ):
        table.load(as_list(routes))
        assert not table.behind
        check(memory, routes, random.Random(2), 300)


@VERSIONS
def test_loading_replaces_what_was_there(bits: int) -> None:
    random_ = random.Random(3)
    memory = Memory(bits, capacity(3000, per_route(bits)))
    table = memory.table()
    for count in (1000, 10, 0, 2000):
        routes = {crowded(random_, bits): random_.randrange(1, 9) for _ in range(count)}
        table.load(as_list(routes))
        check(memory, routes, random_, 300)


@VERSIONS
def test_a_new_owner_finds_the_table_as_it_is_and_goes_on_from_there(bits: int) -> None:
    random_ = random.Random(4)
    places = capacity(2000, per_route(bits))
    memory = Memory(bits, places)
    routes = {crowded(random_, bits): random_.randrange(1, 9) for _ in range(1500)}
    memory.table().load(as_list(routes))
    successor = memory.table()
    check(memory, routes, random_, 100)
    for where in random_.sample(list(routes), len(routes) // 2):
        del routes[where]
    routes.update({crowded(random_, bits): 77 for _ in range(300)})
    successor.load(as_list(routes))
    check(memory, routes, random_, 300)
    successor.load([])
    assert successor.free == places, "what the first owner took is free as well"


@VERSIONS
@pytest.mark.parametrize("seed", range(2))
def test_no_lookup_sees_a_change_half_done(bits: int, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each store that lookups can see, every address has its old answer or its new one; also in one batch."""
    random_ = random.Random(seed)
    memory = Memory(bits, capacity(1000, per_route(bits)))
    table, routes = memory.table(), Routes()
    probes: dict[int, list[tuple[int, set[int]]]] = {}
    seen = 0
    publish = Roots.publish

    def watched(roots: Roots, index: int, block: int) -> None:
        nonlocal seen
        publish(roots, index, block)
        for address, allowed in probes.get(index, ()):
            assert memory.lookup(address) in allowed, f"{address:#x}"
            seen += 1

    monkeypatch.setattr(Roots, "publish", watched)
    for number in range(10):
        old = dict(routes)
        routes.update({crowded(random_, bits): random_.randrange(1, 99) for _ in range(40)})
        for where in random_.sample(list(routes), len(routes) // 3):
            del routes[where]
        probes.clear()
        for address in edges({**old, **routes}, random_, 60, bits):
            allowed = {longest_prefix(which, address, bits) for which in (old, routes)}
            probes.setdefault(address >> bits - 16, []).append((address, allowed))
        if number % 5:
            table.update([(*where, routes.get(where, NO_ROUTE)) for where in {**old, **routes}])
        else:
            table.load(as_list(routes))
        check(memory, routes, random_, 10)
    assert seen > 100


@VERSIONS
def test_what_a_lookup_may_be_reading_is_not_written(bits: int) -> None:
    """Without a grace period no place changes that any earlier state led to."""
    random_ = random.Random(5)
    memory = Memory(bits, capacity(3000, per_route(bits)))
    table = memory.table(lambda: pytest.fail("there is room"))
    before = memory.places.tolist()
    for _ in range(30):
        table.update([(*crowded(random_, bits), random_.randrange(1, 9)) for _ in range(10)])
        after = memory.places.tolist()
        assert all(was in (0, now) for was, now in zip(before, after, strict=True)), "written twice"
        before = after


@VERSIONS
def test_a_full_table_keeps_covering_prefixes_and_catches_up(bits: int) -> None:
    memory = Memory(bits, 64)
    table = memory.table()
    inside = [(index << bits - 16 | host << bits - 24, 24, 2) for index in range(1, 40) for host in (1, 3)]
    table.update([(0, 0, 1), *inside])
    assert table.behind
    assert all(memory.lookup(address) in (1, 2) for address, _, _ in inside)
    missing = [address for address, _, _ in inside if memory.lookup(address) == 1]
    assert {address >> bits - 16 for address in missing} == table.behind
    table.update([(address, length, NO_ROUTE) for address, length, _ in inside if address not in missing])
    table.update([(address, 24, NO_ROUTE) for address in missing[8:]])
    assert not table.behind
    assert [memory.lookup(address) for address in missing[:8]] == [2] * 8


@VERSIONS
def test_removing_what_is_not_there_changes_nothing(bits: int) -> None:
    memory = Memory(bits, 64)
    table = memory.table()
    table.update([(0x0A0A << bits - 16, 24, 3)])
    before = bytes(memory.roots)
    for length in (0, 8, 16, 20, 24, 30):
        table.update([(0x0B0B << bits - 16 if length else 0, length, NO_ROUTE)])
    table.update([(0x0A0A << bits - 16, 25, NO_ROUTE)])
    assert memory.lookup(0x0A0A << bits - 16) == 3
    assert [word & 0xFFFF for word in memory.roots] == [word & 0xFFFF for word in memoryview(before).cast("Q")]
