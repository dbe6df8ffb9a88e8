"""A control plane's view of maps: typed, whole while others come and go, and without a call where memory is shared."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from msgspec.structs import replace

from runtime import sys as kernel
from runtime.control_maps import ControlMap, Layout
from runtime.uapi import ElemFlag, MapFlag, MapType
from tests.unit.manifests import MAP

pytestmark = [pytest.mark.kernel]

STATION = Layout.of("Station", "mac:6s vlan:H")
SEEN = Layout.of("Seen", "port:H 2x used:I")


@contextmanager
def made(
    map_type: MapType, key: Layout | None, value: Layout | None, entries: int, flags: int = 0
) -> Iterator[ControlMap]:
    record = replace(
        MAP,
        name="br0__fdb",
        type=map_type.name,
        key_size=key.size if key else 4,
        value_size=value.size if value else 8,
        max_entries=entries,
        flags=flags,
    )
    fd = kernel.map_create(
        map_type, key_size=record.key_size, value_size=record.value_size, max_entries=entries, map_flags=flags
    )
    opened = ControlMap(fd, record, key, value)
    try:
        yield opened
    finally:
        opened.close()


def test_entries_are_named_tuples() -> None:
    with made(MapType.BPF_MAP_TYPE_HASH, STATION, SEEN, 16) as fdb:
        a, b = STATION(b"\x02" * 6, 10), STATION(mac=b"\x04" * 6, vlan=0)
        fdb[a] = SEEN(3, 77)
        fdb[b] = SEEN(port=1, used=2**32 - 1)
        assert (fdb[a].port, fdb[a].used, fdb.get(b)) == (3, 77, SEEN(1, 2**32 - 1))
        assert dict(fdb.items()) == {a: SEEN(3, 77), b: SEEN(1, 2**32 - 1)}
        with pytest.raises(kernel.SyscallFailed, match="EEXIST"):
            fdb.set(a, SEEN(0, 0), ElemFlag.BPF_NOEXIST)
        assert fdb.delete(a)
        assert not fdb.delete(a)
        with pytest.raises(KeyError):
            fdb[a]


def test_a_layout_of_another_size_is_refused() -> None:
    with made(MapType.BPF_MAP_TYPE_HASH, STATION, SEEN, 16) as fdb:
        with pytest.raises(ValueError, match="map `br0__fdb` has a value of 8 bytes, its layout has 6"):
            ControlMap(fdb._fd, fdb.record, STATION, Layout.of("Short", "port:H used:I"))
        with pytest.raises(ValueError, match="not a layout: 'port'"):
            Layout.of("Nothing", "port")


def test_iteration_loses_nothing_while_others_come_and_go() -> None:
    """Every entry that stays is met exactly once, in a map that is changed all the while."""
    key, value = Layout.of("Key", "number:I"), Layout.of("Value", "number:Q")
    with made(MapType.BPF_MAP_TYPE_HASH, key, value, 40_000) as table:
        stays = {key(number): value(number) for number in range(20_000)}
        table.set_many(stays.items())
        over = threading.Event()

        def churn() -> None:
            others = [key(number) for number in range(20_000, 38_000)]
            while not over.is_set():
                table.set_many((each, value(0)) for each in others)
                table.delete_many(others)

        thread = threading.Thread(target=churn)
        thread.start()
        try:
            for _ in range(10):
                met = Counter(found for found, content in table.items() if content == stays.get(found))
                assert met == dict.fromkeys(stays, 1)
        finally:
            over.set()
            thread.join()


def test_arrays_can_be_shared_memory() -> None:
    with made(MapType.BPF_MAP_TYPE_ARRAY, None, None, 1000, MapFlag.BPF_F_MMAPABLE) as states:
        memory = states.memory().cast("Q")
        assert len(memory) == 1000
        memory[999] = 7
        assert states[(999).to_bytes(4, "little")] == (7).to_bytes(8, "little")
        states[(5).to_bytes(4, "little")] = (9).to_bytes(8, "little")
        assert memory[5] == 9
        memory.release()
    with (
        made(MapType.BPF_MAP_TYPE_ARRAY, None, None, 8) as plain,
        pytest.raises(ValueError, match="not one that can be mapped"),
    ):
        plain.memory()
