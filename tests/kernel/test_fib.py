"""The tables as the C reads them, in the kernel: every lookup against the longest prefix found the plain way."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import cycle

import pytest

from bench.fib import table as fresh_table
from bench.unit import compile_unit
from runtime import sys as kernel
from runtime.load import create_maps, load_object
from schemas.fib.layout import NO_ROUTE, RANGES4_PER_ROUTE, RANGES6_PER_ROUTE, capacity
from tests.rig.routes import Routes, crowded, edges, internet, longest_prefix

pytestmark = pytest.mark.kernel

VERSIONS = pytest.mark.parametrize("bits", [32, 128])
SHORTEST_FRAME = 14  # bytes: what BPF_PROG_TEST_RUN takes
ANSWERS = 1 << 16


class Loaded:
    """A table in maps, and the program that looks up in it; `seen` are answers since it was asked last."""

    def __init__(self, bits: int, routes: int, stack: ExitStack) -> None:
        places4, places6 = capacity(routes, RANGES4_PER_ROUTE), capacity(routes, RANGES6_PER_ROUTE)
        defines = {"PLACES4": places4, "PLACES6": places6, "ROUTES": 1, "DESTINATIONS": 1}
        spec = compile_unit("fib", defines)
        self.maps = {name: stack.enter_context(fd) for name, fd in create_maps(spec).items()}
        programs = stack.enter_context(load_object(spec, maps=self.maps)).programs
        self.bits = bits
        version = 4 if bits == 32 else 6
        self.program = programs[f"find{version}"]
        self.table = fresh_table(version, self.maps)

    def lookup(self, address: int, times: int = 1) -> int:
        frame = address.to_bytes(self.bits // 8, "big").ljust(SHORTEST_FRAME, b"\0")
        return kernel.prog_test_run(self.program, frame, repeat=times).retval

    def seen(self) -> dict[int, int]:
        counts = {}
        for index in range(ANSWERS):
            content = kernel.map_lookup_elem(self.maps["found"], index.to_bytes(4, "little"), 8)
            assert content is not None
            if any(content):
                counts[index] = int.from_bytes(content, "little")
        return counts


@contextmanager
def loaded(bits: int, routes: int) -> Iterator[Loaded]:
    with ExitStack() as stack:
        yield Loaded(bits, routes, stack)


def as_list(routes: Routes) -> list[tuple[int, int, int]]:
    return [(address, length, value) for (address, length), value in routes.items()]


def check(table: Loaded, routes: Routes, random_: random.Random, count: int) -> None:
    for address in edges(routes, random_, count, table.bits):
        assert table.lookup(address) == longest_prefix(routes, address, table.bits), f"{address:#x}"


@VERSIONS
@pytest.mark.parametrize("count", [0, 1, 10, 1000, 100_000])
def test_the_program_finds_the_longest_prefix(bits: int, count: int) -> None:
    random_ = random.Random(count)
    routes = {(0, 0): 65535} | internet(random_, count // 2, bits)
    routes |= {crowded(random_, bits): random_.randrange(1, 99) for _ in range(min(count // 2, 2000))}
    with loaded(bits, count + 1) as table:
        table.table.load(as_list(routes))
        assert not table.table.behind
        check(table, routes, random_, 400)


@VERSIONS
def test_the_program_follows_changes(bits: int) -> None:
    random_ = random.Random(1)
    routes = Routes()
    with loaded(bits, 1000) as table:
        for _ in range(30):
            changes = {crowded(random_, bits): random_.choice((NO_ROUTE, random_.randrange(1, 99))) for _ in range(15)}
            table.table.update([(*where, value) for where, value in changes.items()])
            routes = {where: value for where, value in {**routes, **changes}.items() if value != NO_ROUTE}
            check(table, routes, random_, 15)


@VERSIONS
def test_a_lookup_on_another_cpu_never_sees_more_than_old_and_new(bits: int) -> None:
    """While routes around an address come and go, and blocks are used again, its own route only moves from 1 to 2."""
    stem = 0x0A0B0C0D if bits == 32 else 0x20010DB8_00010002_00030004_00050006
    own = (stem, bits)
    near = [(stem >> shift << shift ^ 1 << shift, bits - shift) for shift in range(bits - 16)]
    random_ = random.Random(2)
    done = threading.Event()
    with loaded(bits, 16) as table:
        table.table.update([(*own, 1)])

        def change() -> None:
            for value in cycle((2, 1)):
                around = [(*where, random_.choice((NO_ROUTE, 3))) for where in random_.sample(near, len(near) // 2)]
                table.table.update([(*own, value), *around])
                if done.is_set():
                    return

        changing = threading.Thread(target=change)
        changing.start()
        try:
            for _ in range(40):
                table.lookup(stem, times=50_000)
        finally:
            done.set()
            changing.join()
        seen = table.seen()
    assert set(seen) == {1, 2}, seen
    assert sum(seen.values()) >= 40 * 50_000


@VERSIONS
def test_a_new_process_takes_a_table_over_while_it_is_read(bits: int) -> None:
    random_ = random.Random(3)
    routes = internet(random_, 500, bits)
    with loaded(bits, 1000) as table:
        table.table.load(as_list(routes))
        successor = fresh_table(4 if bits == 32 else 6, table.maps)
        check(table, routes, random_, 50)
        later = internet(random_, 500, bits)
        successor.load(as_list(later))
        check(table, later, random_, 100)
