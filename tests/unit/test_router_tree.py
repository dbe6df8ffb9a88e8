from __future__ import annotations

import random
from ipaddress import ip_network

import pytest

from compiler.decision import Below, End
from compiler.services.router.model import NextHop, Route
from compiler.services.router.tree import Answer, Step, ranges, tree
from schemas.diagnostic import Span
from schemas.services.router import Kind
from tests.rig.routes import Routes, crowded, edges, longest_prefix

HERE = Span("chain.yaml", 1, 1, 1, 2)


def described(routes: Routes, version: int) -> list[tuple[Route, int]]:
    """As the lowering hands them over."""
    bits = 32 if version == 4 else 128
    return [
        (Route(ip_network((address.to_bytes(bits // 8, "big"), length)), (NextHop(Kind.BLACKHOLE),), 0, HERE), nexthop)
        for (address, length), nexthop in routes.items()
    ]


def decide(steps: list[Step], address: int) -> int:
    """What the C does: passes over the smaller half where the address is not below the pivot."""
    position = 0
    while True:
        step = steps[position]
        if isinstance(step, Answer):
            return step.nexthop
        assert isinstance(step, Below)
        position += 1
        if address >= step.pivot:
            depth = step.depth
            position = next(
                at for at in range(position, len(steps)) if isinstance(steps[at], End) and steps[at].depth == depth
            )
            position += 1


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("count", [1, 2, 10, 256])
def test_the_decision_is_for_the_longest_prefix(version: int, count: int) -> None:
    bits = 32 if version == 4 else 128
    random_ = random.Random(count)
    routes: Routes = {}
    while len(routes) < count:
        routes[crowded(random_, bits)] = random_.randrange(1, 9)
    steps = list(tree(described(routes, version)))
    for address in edges(routes, random_, 200, bits):
        assert decide(steps, address) == longest_prefix(routes, address, bits), f"{address:#x}"


def test_neighbouring_ranges_with_one_next_hop_are_one() -> None:
    routes = {(0x0A000000, 24): 3, (0x0A000100, 24): 3, (0x0A000000, 8): 5, (0x0A010000, 16): 5}
    assert [(found.start, found.nexthop) for found in ranges(described(routes, 4))] == [
        (0, 0),
        (0x0A000000, 3),
        (0x0A000200, 5),
        (0x0B000000, 0),
    ]


def test_a_default_route_alone_is_no_decision() -> None:
    assert [step for step in tree(described({(0, 0): 7}, 4)) if not isinstance(step, Answer)] == []
