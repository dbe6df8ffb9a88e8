"""A router's neighbours when its ports change: by name, and only those whose port is still there."""

from __future__ import annotations

import ipaddress

from msgspec.structs import replace

from runtime.migrate import Table
from runtime.services.router import migration
from schemas.services.router import NEIGHBOUR, NEIGHBOUR_KEY
from tests.unit.manifests import fdb

RECORD = replace(fdb(), key_size=NEIGHBOUR_KEY[4].size, value_size=NEIGHBOUR.size, meaning="router neighbours/1 a b c")
MAC = bytes.fromhex("02aa00000001")


def entry(address: str, port: int) -> tuple[bytes, bytes]:
    return NEIGHBOUR_KEY[4].pack(ipaddress.IPv4Address(address).packed, port), NEIGHBOUR.pack(MAC, 7)


def test_neighbours_stay_on_their_ports() -> None:
    way = migration(Table(RECORD, ("a", "b", "c")), Table(RECORD, ("new", "c", "a")))
    assert way
    before = dict((entry("10.0.0.1", 0), entry("10.0.0.2", 1), entry("10.0.0.3", 2)))
    assert way.content(before).entries == dict((entry("10.0.0.1", 2), entry("10.0.0.3", 1)))


def test_neighbours_of_the_layout_before_are_kept() -> None:
    """Their values had a time of confirmation behind them."""
    before = replace(RECORD, value_size=NEIGHBOUR.size + 4)
    way = migration(Table(before, ("a", "b")), Table(RECORD, ("a", "b")))
    assert way
    key, value = entry("10.0.0.1", 1)
    assert way.content({key: value + b"\x05\0\0\0"}).entries == {key: value}
    assert migration(Table(RECORD, ("a", "b")), Table(before, ("a", "b"))) is None


def test_other_maps_have_no_way() -> None:
    ports = ("a", "b")
    for other in (replace(RECORD, meaning="router routes/1"), replace(RECORD, key_size=4)):
        assert migration(Table(RECORD, ports), Table(other, ports)) is None
