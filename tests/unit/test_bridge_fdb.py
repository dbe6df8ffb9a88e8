"""The bits of a filtering database's entries: whatever a chain asks for fits, and time reaches far enough."""

from __future__ import annotations

from itertools import product

import pytest

from compiler.services.bridge.fdb import Fdb

SIZES = (8, 100, 4096, 65536, 1 << 20)
PORTS = (1, 2, 3, 4, 16, 127, 128)
AGES = (1, 7, 47, 48, 300, 3599, 3600, 24 * 86400)
RATES = (100, 250, 300, 1000)


@pytest.mark.parametrize(("size", "ports", "aging_s"), list(product(SIZES, PORTS, AGES)))
@pytest.mark.parametrize("key_bits", [48, 60])
def test_an_entry_is_one_word_and_tells_time_long_enough(size: int, ports: int, aging_s: int, key_bits: int) -> None:
    fdb = Fdb(size, ports, aging_s, key_bits)
    assert 8 << fdb.set_bits >= 2 * size
    assert ports < 1 << fdb.port_bits
    assert fdb.key_bits - fdb.set_bits + fdb.time_bits + 1 + fdb.port_bits == 64
    assert fdb.set_bits <= (18 if key_bits == 48 else 21)
    for hz in RATES:
        ticks = tick_jiffies(fdb, hz) / hz
        assert aging_s >= 8 * ticks, "ageing would be too coarse"
        assert ticks * 2**fdb.time_bits >= 4 * aging_s, "a silent station would seem young again too early"


def tick_jiffies(fdb: Fdb, hz: int) -> int:
    """learning.h, fdb_ticks."""
    return 1 << fdb.tick_bits + (hz >= 200) + 2 * (hz >= 800)


def test_what_changes_the_meaning_of_an_entry_is_in_its_layout() -> None:
    default = Fdb(4096, 3, 300)
    assert Fdb(65536, 3, 60).layout == default.layout
    for other in (Fdb(4096, 4, 300), Fdb(4096, 3, 47), Fdb(4096, 3, 300, 60)):
        assert other.layout != default.layout


def test_a_plain_bridge_gets_what_it_asks_for() -> None:
    fdb = Fdb(4096, 3, 300)
    assert (fdb.set_bits, fdb.port_bits, fdb.time_bits) == (10, 2, 23)
    assert Fdb(8, 3, 300).set_bits == 1
