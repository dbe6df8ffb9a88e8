"""A bridge's filtering database as it lies in its map, and the way from one layout to another.

The only place of the runtime that knows the layout. compiler/services/bridge/fdb.h has it in C and says why:
sets of eight words, each a station's tag, the time when it was seen, whether it was seen again, and its port
plus one. The map's `meaning` tells how many bits each has: `bridge fdb/2 key 48 port 2 tick 9 PORT...`.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from msgspec import Struct
from msgspec.structs import replace

from .. import features
from ..clock import jiffies64
from ..control_maps import ControlMap
from ..migrate import Entries, Exchange, Migration, Moved, Table

_MEANING = re.compile(r"bridge fdb/2 key (\d+) port (\d+) tick (\d+)(?: \S+)*")
_MAC_BITS = 48  # of a key; above them is the VLAN, where there are VLANs
WAYS = 8
_SET = struct.Struct(f"<{WAYS}Q")
_WORD = 8
_GOLDEN_RATIO = 0x9E3779B97F4A7C15
_LOW_64 = (1 << 64) - 1
_QUOTA_WORDS, _QUOTA_COUNTED = 3, 1  # struct quota


class Station(Struct, frozen=True):
    """An entry: `seen` is in ticks of its layout and cut to its bits."""

    key: int
    port: int
    confirmed: bool
    seen: int


@dataclass(frozen=True)
class Layout:
    """Where the bits of an entry are; `sets` is the number of elements of the map, a power of two."""

    key_bits: int
    port_bits: int
    tick_bits: int
    sets: int

    @cached_property
    def set_bits(self) -> int:
        return self.sets.bit_length() - 1

    @cached_property
    def state_bits(self) -> int:
        return 64 - self.key_bits + self.set_bits

    @cached_property
    def time_mask(self) -> int:
        return (1 << (self.state_bits - self.port_bits - 1)) - 1

    @cached_property
    def _multiplier(self) -> int:
        return _GOLDEN_RATIO >> (64 - self.key_bits) | 1

    @cached_property
    def _inverse(self) -> int:
        return pow(self._multiplier, -1, 1 << self.key_bits)

    def ticks(self, jiffies: int, hz: int) -> int:
        """fdb_ticks() of learning.h."""
        return jiffies >> (self.tick_bits + (hz >= 200) + 2 * (hz >= 800))

    def place(self, station: Station) -> tuple[int, int]:
        """(set, word) of a station."""
        hashed = station.key * self._multiplier << (64 - self.key_bits) & _LOW_64
        state = (station.seen & self.time_mask) << (self.port_bits + 1) | station.confirmed << self.port_bits
        return hashed >> (64 - self.set_bits), hashed << self.set_bits & _LOW_64 | state | (station.port + 1)

    def station(self, number: int, word: int) -> Station:
        """The station that word `word` of set `number` is about."""
        tag, state = word >> self.state_bits, word & ((1 << self.state_bits) - 1)
        hashed = number << (self.key_bits - self.set_bits) | tag
        return Station(
            key=hashed * self._inverse & ((1 << self.key_bits) - 1),
            port=(state & ((1 << self.port_bits) - 1)) - 1,
            confirmed=bool(state >> self.port_bits & 1),
            seen=state >> (self.port_bits + 1),
        )

    def port(self, word: int) -> int:
        return (word & ((1 << self.port_bits) - 1)) - 1

    def confirmed(self, word: int) -> int:
        return word >> self.port_bits & 1

    def idle(self, word: int, now: int) -> int:
        """Ticks since a station was seen; none where that was after the clock was read."""
        return max(0, (now + 1 - (word >> (self.port_bits + 1)) & self.time_mask) - 1)

    def stations(self, entries: Entries) -> Iterator[Station]:
        """Every station in a map's content."""
        for key, content in entries.items():
            number = int.from_bytes(key, "little")
            yield from (self.station(number, word) for word in _SET.unpack(content) if word)


def layout_of(table: Table) -> Layout | None:
    """What the map of a generation has for a layout; None for one that is not known here."""
    found = _MEANING.fullmatch(table.record.meaning)
    if found is None or table.record.value_size != _SET.size:
        return None
    key, port, tick = map(int, found.groups())
    return Layout(key, port, tick, table.record.max_entries)


def optional_map(open_map: Callable[[str], ControlMap], name: str) -> ControlMap | None:
    """A map that bridges have only where the chain file asks for what it is for."""
    try:
        return open_map(name)
    except LookupError:
        return None


def known_layout(fdb: ControlMap) -> Layout:
    """The layout of a map that programs of this version use."""
    layout = layout_of(Table(fdb.record, ()))
    assert layout, "a bridge's own map has a layout that is known"
    return layout


def forget(
    fdb: ControlMap,
    quotas: ControlMap | None,
    *,
    ports: Collection[int] | None = None,
    fits: Callable[[Station], bool] | None = None,
) -> int:
    """Forgets learned stations: all, or those behind some ports (by index) that fit; how many.

    Each is one store of zero: programs go on. A station that is learned into the entry in that very moment may go with
    it: its frames are flooded until it sends again, and nothing is ever led astray. Ports that have a limit count their
    stations anew before they learn the next one.
    """
    layout, forgotten = known_layout(fdb), 0
    mask, states = (1 << layout.port_bits) - 1, None if ports is None else {port + 1 for port in ports}
    with fdb.memory().cast("Q") as words:
        for at, word in enumerate(words.tolist()):
            if not word or (states is not None and word & mask not in states):
                continue
            if fits is None or fits(layout.station(at // WAYS, word)):
                words[at] = 0
                forgotten += 1
    if quotas is not None:
        _count_anew(quotas)
    return forgotten


def _count_anew(quotas: ControlMap) -> None:
    """`counted` of struct quota (quota.h) becomes 0."""
    with quotas.memory().cast("Q") as words:
        for at in range(_QUOTA_COUNTED, len(words), _QUOTA_WORDS):
            words[at] = 0


def entries(fdb: ControlMap) -> Iterator[Station]:
    """Every entry that is not free."""
    layout = known_layout(fdb)
    with fdb.memory().cast("Q") as words:
        content = words.tolist()
    return (layout.station(at // WAYS, word) for at, word in enumerate(content) if word)


def migration(old: Table, new: Table) -> Migration | None:
    """For other sizes, ports, ageing times and VLANs; but what was learned without VLANs is in none of them."""
    before, after = layout_of(old), layout_of(new)
    if before is None or after is None or (before.key_bits > _MAC_BITS) != (after.key_bits > _MAC_BITS):
        return None
    ports = {index: new.ports.index(name) for index, name in enumerate(old.ports) if name in new.ports}
    way = _Way(before, after, ports)
    return Migration(way.content, way.late)


@dataclass(frozen=True)
class _Way:
    """From one layout to another; `ports` are the new indices of the old ports that are still there."""

    before: Layout
    after: Layout
    ports: Mapping[int, int]

    @cached_property
    def _clock(self) -> tuple[int, int]:
        """Now, in ticks of both layouts: the same now for both sweeps, so that what is the same stays the same."""
        jiffies, hz = jiffies64(), features.hz()
        return self.before.ticks(jiffies, hz), self.after.ticks(jiffies, hz)

    def content(self, entries: Entries) -> Moved:
        sets: dict[int, list[int]] = {}
        left_out = 0
        newest_first = sorted(self._moved(entries), key=lambda moved: moved.age)
        for number, word in (self.after.place(moved.station) for moved in newest_first):
            words = sets.setdefault(number, [])
            if len(words) < WAYS:
                words.append(word)
            else:
                left_out += 1
        filled = {number: words + [0] * (WAYS - len(words)) for number, words in sets.items()}
        return Moved({number.to_bytes(4, "little"): _SET.pack(*words) for number, words in filled.items()}, left_out)

    def late(self, then: Entries, now: Entries, placed: Entries, exchange: Exchange) -> None:
        """A station that moved, and one that is new, where programs have not seen it themselves meanwhile.

        A new one takes the first free word, as programs do. Where that is not free any more, its set is left alone from
        then on: programs may have put the same station there.
        """
        before = set(self._moved(then))
        sets = {int.from_bytes(key, "little"): list(_SET.unpack(content)) for key, content in placed.items()}
        closed: set[int] = set()
        for moved in self._moved(now):
            if moved in before:
                continue
            number, word = self.after.place(moved.station)
            words = sets.setdefault(number, [0] * WAYS)
            known, free = self._way_of(words, word), next((way for way in range(WAYS) if not words[way]), None)
            way = free if known is None else known
            if way is None or (known is None and number in closed):
                continue
            if exchange(number, way * _WORD, words[way], word):
                words[way] = word
            elif known is None:
                closed.add(number)

    def _way_of(self, words: Sequence[int], word: int) -> int | None:
        """Where a set has the station that `word` is about."""
        bits = self.after.state_bits
        return next((way for way, other in enumerate(words) if other and other >> bits == word >> bits), None)

    def _moved(self, entries: Entries) -> Iterator[_Moved]:
        """The stations on ports and in VLANs that are still there, in the new layout, without those long silent."""
        for station in self.before.stations(entries):
            age = self._age(station)
            if station.port in self.ports and age <= _oldest(self.after) and not station.key >> self.after.key_bits:
                seen = self._clock[1] - age & self.after.time_mask
                yield _Moved(replace(station, port=self.ports[station.port], seen=seen), age)

    def _age(self, station: Station) -> int:
        """In ticks of the new layout; negative if it was seen after the clock was read."""
        age = self._clock[0] - station.seen & self.before.time_mask
        if age > _oldest(self.before):
            age -= self.before.time_mask + 1
        shift = self.before.tick_bits - self.after.tick_bits
        return age << shift if shift >= 0 else age >> -shift


class _Moved(Struct, frozen=True):
    """A station in its new layout, and how long it has been silent."""

    station: Station
    age: int


def _oldest(layout: Layout) -> int:
    """Ages above it are taken for negative ones. The time reaches for four ageing times: these have long expired."""
    return layout.time_mask - (layout.time_mask >> 2)
