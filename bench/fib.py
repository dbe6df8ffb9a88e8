"""What a route lookup costs a packet: ns above a program that does not look, by the number of routes and destinations.

Run as root: `python -m bench.fib`. Every packet is for another one of 1, 1,024 or 65,536 destinations in random order,
so that branches are predicted and caches filled as they would be by real traffic; each is in one of the routes. Beside
the router's table, the kernel's LPM trie with the same routes. Prefix lengths are those of a full table.
"""

from __future__ import annotations

import argparse
import mmap
import random
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

from runtime import sys as kernel
from runtime.fib import grace_period
from runtime.info import map_info
from runtime.load import create_maps, load_object
from schemas.fib.layout import RANGES4_PER_ROUTE, RANGES6_PER_ROUTE, capacity
from schemas.fib.table4 import Fib4
from schemas.fib.table6 import Fib6
from tests.rig.routes import Routes, internet

from .unit import compile_unit

ROUNDS = 15
PACKETS = 200_000
DESTINATIONS = (1, 1024, 65536)
BITS = {4: 32, 6: 128}


@dataclass(frozen=True, slots=True)
class Cost:
    """Nanoseconds a lookup in the table and in the trie, for each number of destinations; seconds to load the table."""

    table: list[float]
    trie: list[float]
    load_seconds: float


def main() -> None:
    """Measures and prints one line for each table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--sizes", type=int, nargs="+", default=[10, 1000, 100_000, 1_000_000])
    arguments.add_argument("--versions", type=int, nargs="+", default=[4, 6])
    options = arguments.parse_args()
    tell(
        "ns a lookup for 1, 1k, 64k destinations: the router's table, the kernel's LPM trie; seconds to load the table"
    )
    tell(f"{'':>4} {'routes':>8} {'table':>23} {'trie':>23} {'load, s':>8}")
    for version in options.versions:
        for size in options.sizes:
            found = measure(version, size)
            cells = [" ".join(f"{cell:7.1f}" for cell in cells) for cells in (found.table, found.trie)]
            tell(f"IPv{version} {size:>8} {cells[0]} {cells[1]} {found.load_seconds:8.2f}")


def tell(line: str) -> None:
    """One line of the table, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def measure(version: int, size: int) -> Cost:
    """One line."""
    generator = random.Random(size)  # noqa: S311  # the same routes each time
    routes = internet(generator, size, BITS[version])
    chosen = list(destinations(routes, generator, BITS[version]))
    costs = [cost(version, routes, chosen[:count]) for count in DESTINATIONS]
    tables, tries, loads = zip(*costs, strict=True)
    return Cost(list(tables), list(tries), min(loads))


def destinations(routes: Routes, generator: random.Random, bits: int) -> Iterator[int]:
    """Random addresses of random routes."""
    for address, length in generator.choices([*routes], k=max(DESTINATIONS)):
        yield address | generator.getrandbits(bits) & (1 << bits - length) - 1


def cost(version: int, routes: Routes, addresses: Sequence[int]) -> tuple[float, float, float]:
    """Table and trie: the least of rounds that alternate, less that without a lookup; seconds to load the table."""
    size = BITS[version] // 8
    places = {4: capacity(len(routes), RANGES4_PER_ROUTE), 6: capacity(len(routes), RANGES6_PER_ROUTE)}
    unused = {4: {"PLACES6": 64}, 6: {"PLACES4": 64}}[version]
    defines = {f"PLACES{version}": places[version], **unused, "ROUTES": len(routes), "DESTINATIONS": len(addresses)}
    with ExitStack() as stack:
        spec = compile_unit("fib", defines)
        maps = {name: stack.enter_context(fd) for name, fd in create_maps(spec).items()}
        for index, address in enumerate(addresses):
            key = index.to_bytes(4, "little")
            kernel.map_update_elem(maps[f"destinations{version}"], key, address.to_bytes(size, "big"))
        load_seconds = fill(version, maps, routes)
        programs = stack.enter_context(load_object(spec, maps=maps)).programs
        names = [f"{what}{version}" for what in ("none", "table", "lpm")]
        rounds = [[run(programs[name]) for name in names] for _ in range(ROUNDS)]
    none, table, trie = (min(times) for times in zip(*rounds, strict=True))
    return table - none, trie - none, load_seconds


def fill(version: int, maps: Mapping[str, kernel.Fd], routes: Routes) -> float:
    """Both tables get the routes; the seconds of the router's."""
    size = BITS[version] // 8
    keys = [length.to_bytes(4, "little") + address.to_bytes(size, "big") for address, length in routes]
    kernel.map_update_batch(maps[f"trie{version}"], keys, [value.to_bytes(4, "little") for value in routes.values()])
    made = table(version, maps)
    listed = [(address, length, value) for (address, length), value in routes.items()]
    started = time.perf_counter()
    made.load(listed)
    return time.perf_counter() - started


def table(version: int, maps: Mapping[str, kernel.Fd]) -> Fib4 | Fib6:
    """The router's table in its maps."""
    roots = words_of(maps[f"roots{version}"], "Q")
    if version == 4:
        return Fib4(roots, words_of(maps["ranges4"], "I"), grace_period)
    return Fib6(roots, words_of(maps["ranges6"], "Q"), grace_period)


def words_of(map_fd: kernel.Fd, kind: Literal["I", "Q"]) -> memoryview:
    """The one value of a map, in its place; the memory stays for as long as the view does."""
    size = map_info(map_fd).value_size
    words: memoryview = memoryview(mmap.mmap(map_fd.fileno(), size))[:size].cast(kind)
    return words


def run(program: kernel.Fd) -> float:
    """Nanoseconds of CPU time a packet; the kernel's own figure is rounded to whole ones."""
    started = time.thread_time()
    kernel.prog_test_run(program, bytes(64), repeat=PACKETS)
    return (time.thread_time() - started) / PACKETS * 1e9


if __name__ == "__main__":
    main()
