"""Which of the kernel's neighbours become a router's."""

from __future__ import annotations

from ipaddress import ip_address
from socket import AF_INET, AF_INET6

import pytest

from runtime.routing.kernel_neighbours import KernelNeighbours
from runtime.routing.neighbours import Entry, Key, State
from runtime.routing.ports import Ports
from runtime.rtnetlink import NUD_PERMANENT, NUD_REACHABLE, NUD_STALE, NeighbourChange
from schemas.services.router import Kind, NextHopRecord
from tests.unit.test_router_neighbours import HIM, HIM6, HIS, NEW, OTHER, PORT, World

LEFT, RIGHT, ELSEWHERE = 11, 12, 99
NUD_INCOMPLETE, NUD_FAILED, NUD_NOARP = 0x01, 0x20, 0x40


class Told(World):
    """Neighbours that the kernel tells of."""

    def __init__(self) -> None:
        super().__init__()
        ports = Ports((PORT, OTHER), (), lambda index: NextHopRecord(Kind.NONE))
        self.kernel = KernelNeighbours({LEFT: 0, RIGHT: 1}, ports, self.neighbours)

    def told(self, address: str, state: int, mac: bytes = HIS, ifindex: int = LEFT, *, gone: bool = False) -> None:
        parsed = ip_address(address)
        family = AF_INET if parsed.version == 4 else AF_INET6
        self.kernel.take(NeighbourChange(family, ifindex, parsed.packed, mac, state, gone))


@pytest.mark.parametrize(
    ("state", "expected"),
    [(NUD_PERMANENT, State.PERMANENT), (NUD_REACHABLE, State.REACHABLE), (NUD_STALE, State.REACHABLE)],
)
@pytest.mark.parametrize("key", [HIM, HIM6], ids=["ipv4", "ipv6"])
def test_what_can_be_used_is_taken_over(key: Key, state: int, expected: State) -> None:
    world = Told()
    world.told(str(key.address), state)
    assert world.table.content == {key: Entry(HIS, 0)}
    assert world.neighbours[key].state is expected


@pytest.mark.parametrize(
    ("address", "state", "mac", "ifindex"),
    [
        ("10.7.1.10", NUD_PERMANENT, HIS, ELSEWHERE),
        ("10.7.1.10", NUD_FAILED, b"", LEFT),
        ("10.7.1.10", NUD_INCOMPLETE, b"", LEFT),
        ("10.7.1.10", NUD_NOARP, HIS, LEFT),
        ("10.7.1.10", NUD_PERMANENT, bytes(6), LEFT),
        ("10.7.1.10", NUD_PERMANENT, bytes.fromhex("333300000001"), LEFT),
        ("10.7.1.1", NUD_PERMANENT, HIS, LEFT),
        ("224.0.0.1", NUD_PERMANENT, HIS, LEFT),
        ("fd00:2::1", NUD_PERMANENT, HIS, RIGHT),
    ],
    ids=["no port", "failed", "incomplete", "noarp", "no mac", "group mac", "its own", "group", "version"],
)
def test_the_rest_is_not(address: str, state: int, mac: bytes, ifindex: int) -> None:
    world = Told()
    world.told(address, state, mac, ifindex)
    assert not world.table.content


@pytest.mark.parametrize("gone", [True, False], ids=["deleted", "failed"])
def test_what_was_permanent_goes_with_the_kernels(gone: bool) -> None:
    world = Told()
    world.told("10.7.1.10", NUD_PERMANENT)
    world.told("10.7.1.10", NUD_PERMANENT if gone else NUD_FAILED, gone=gone)
    assert not world.table.content


def test_what_the_router_has_found_itself_stays() -> None:
    world = Told()
    world.packet(1)
    world.neighbours.learn(HIM, HIS, world.now)
    world.told("10.7.1.10", NUD_STALE, NEW)
    world.told("10.7.1.10", NUD_STALE, NEW, gone=True)
    assert world.table.content == {HIM: Entry(HIS, 0)}
