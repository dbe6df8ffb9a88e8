"""A ddos service's model → what is special about the program of one port: constants, maps and generated functions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property

from msgspec import Struct

from schemas.counters import COUNTER_SIZE
from schemas.diagnostic import Span
from schemas.manifest import Hook, Role, Scope

from ...bucket import Bucket, coarse_clock
from ...ir import Constant, GeneratedFunction, Inlined, InMap, LoweredPort, MapDef
from ...lower import port_name
from ...maps import BPF_F_NO_PREALLOC, array, map_name, with_headroom
from ...model import Port, ServiceInstance
from .lists import address_function, port_function, protocol_function
from .model import BlockedPorts, BlockedPrefix, BlockedProtocol, DdosModel, Rate
from .near import neighbourhood

INLINED_ADDRESSES = 256
"""Lists of up to so many prefixes of one IP version are compiled in, longer ones are LPM tries.

Measured (bench/ddos_lists.py): behind its table of bits either costs a clean packet 1 to 8 ns up to 1,000 entries. A
packet that is on the list costs 30 ns in code and 77 ns in a trie of 256, but clang's time grows with the square: 0.3 s
for 256 entries, 2 s for 1,000, 88 s for 5,000, against 0.1 s for a trie, whose list also changes without a compilation.
"""

WAYS = 4  # DDOS_WAYS
SET_SIZE = 64  # sizeof(struct ddos_set)

_Entry = BlockedPrefix | BlockedProtocol | BlockedPorts


class _List(Struct, frozen=True):
    """A list of one IP version or kind: the function's or the trie's field, and the key that the file has it under."""

    function: str
    trie: str
    key: str
    entries: tuple[_Entry, ...]

    @property
    def inlined(self) -> bool:
        return not self.trie or len(self.entries) <= INLINED_ADDRESSES


def lower(instance: ServiceInstance, port: Port, hook: Hook) -> LoweredPort:
    """The program of `outside` filters, that of `inside` only passes on; every hook has the same."""
    out = next(other for other in instance.ports if other != port)
    constants = [Constant(str(port), out.name, "port to leave by", Inlined("out", str(out.index)), instance.span)]
    if port.name != "outside":
        return LoweredPort(tuple(constants))
    model = instance.config
    assert isinstance(model, DdosModel)
    lowering = _Lowering(instance, port, list(_lists(model)))
    constants += lowering.entries()
    maps = [*lowering.blocked(), *lowering.tries()]
    if model.rate:
        constants += _rate_constants(instance, model.rate)
        maps += _buckets(instance, model.rate)
    return LoweredPort(tuple(constants), tuple(maps), tuple(lowering.functions()))


def _lists(model: DdosModel) -> Iterator[_List]:
    """The lists that are not empty, in the order in which their entries are counted."""
    lists = [
        _List("source4", "sources4", "sources", _of_version(model.sources, 4)),
        _List("source6", "sources6", "sources", _of_version(model.sources, 6)),
        _List("destination4", "destinations4", "destinations", _of_version(model.destinations, 4)),
        _List("destination6", "destinations6", "destinations", _of_version(model.destinations, 6)),
        _List("protocol", "", "protocols", model.protocols),
        _List("port", "", "ports", model.ports),
        _List("source_port", "", "source-ports", model.source_ports),
    ]
    return (each for each in lists if each.entries)


def _of_version(entries: Iterable[BlockedPrefix], version: int) -> tuple[BlockedPrefix, ...]:
    return tuple(entry for entry in entries if entry.prefix.version == version)


class _Lowering(Struct, frozen=True, dict=True):
    """The block lists of one service, each as code or as a trie."""

    instance: ServiceInstance
    port: Port
    lists: Sequence[_List]

    @cached_property
    def first(self) -> Mapping[str, int]:
        """The index of the first entry's counter, for each list that is code."""
        found, counted = {}, 0
        for each in self._inlined():
            found[each.function] = counted
            counted += len(each.entries)
        return found

    def _inlined(self) -> Iterator[_List]:
        return (each for each in self.lists if each.inlined)

    def _path(self, each: _List, entry: _Entry) -> str:
        return f"{self.instance.name}.block.{each.key} {entry.text}"

    def functions(self) -> Iterator[GeneratedFunction]:
        """One function for each list that is code; it returns 1 + the index of the entry's counter."""
        for each in self._inlined():
            name = f"{port_name(self.port)}__{each.function}"
            span = each.entries[0].span
            first = self.first[each.function] + 1
            yield _function(name, each.function, list(enumerate(each.entries, start=first)), span)

    def entries(self) -> Iterator[Constant]:
        """Every entry that is code, as a constant of the program."""
        for each in self._inlined():
            for entry in each.entries:
                yield Constant(self._path(each, entry), entry.text, "dropped", Inlined("", ""), entry.span)

    def blocked(self) -> Iterator[MapDef]:
        """The counters of the entries that are code. They are known by position, so the layout names them all."""
        name = map_name(self.instance.name, "blocked")
        counted = [(self._path(each, entry), entry) for each in self._inlined() for entry in each.entries]
        if not counted:
            return
        labels = hashlib.sha256("\n".join(path for path, _ in counted).encode()).hexdigest()[:16]
        yield array(
            self.instance,
            "blocked",
            "struct counter",
            COUNTER_SIZE,
            len(counted),
            role=Role.COUNTERS,
            layout=f"ddos-blocked/1 {labels}",
            span=self.instance.span,
            per_cpu=True,
            field="blocked",
            counts=True,
            entries=tuple(
                Constant(path, entry.text, "counted", InMap(name, index.to_bytes(4, "little"), b""), entry.span)
                for index, (path, entry) in enumerate(counted)
            ),
        )

    def tries(self) -> Iterator[MapDef]:
        """The lists that are too long for code."""
        for each in self.lists:
            if not each.inlined:
                yield self._trie(each)
                yield self._near(each)

    def _near(self, each: _List) -> MapDef:
        """The bit table before a trie: one element, written whole when the list changes."""
        field, span = f"near_{each.trie}", each.entries[0].span
        near = neighbourhood(entry.prefix for entry in each.entries if isinstance(entry, BlockedPrefix)).packed()
        home = InMap(map_name(self.instance.name, field), bytes(4), near)
        path, meaning = f"{self.instance.name}.block.{each.key}", "where to look closer"
        return array(
            self.instance,
            field,
            "struct ddos_near",
            len(near),
            role=Role.CONFIG,
            layout="ddos-near/1",
            span=span,
            field=field,
            entries=(Constant(path, f"{len(each.entries)} entries", meaning, home, span),),
        )

    def _trie(self, each: _List) -> MapDef:
        name = map_name(self.instance.name, each.trie)
        version = each.trie[-1]
        return MapDef(
            name=name,
            type="BPF_MAP_TYPE_LPM_TRIE",
            key_type=f"struct ddos_prefix{version}",
            key_size=8 if version == "4" else 20,
            value_type="struct counter",
            value_size=COUNTER_SIZE,
            max_entries=with_headroom(len(each.entries)),
            scope=Scope.SERVICE,
            role=Role.CONFIG,
            layout="ddos-prefixes/1",
            span=each.entries[0].span,
            flags=BPF_F_NO_PREALLOC,
            field=each.trie,
            service=self.instance.name,
            counts=True,
            entries=tuple(
                Constant(
                    self._path(each, entry),
                    entry.text,
                    "dropped",
                    InMap(name, _trie_key(entry), bytes(COUNTER_SIZE)),
                    entry.span,
                )
                for entry in each.entries
                if isinstance(entry, BlockedPrefix)
            ),
        )


def _function(name: str, field: str, numbered: Sequence[tuple[int, _Entry]], span: Span) -> GeneratedFunction:
    prefixes = [(entry, found) for found, entry in numbered if isinstance(entry, BlockedPrefix)]
    ports = [(entry, found) for found, entry in numbered if isinstance(entry, BlockedPorts)]
    protocols = [(entry, found) for found, entry in numbered if isinstance(entry, BlockedProtocol)]
    if prefixes:
        return address_function(name, field, prefixes, span)
    return port_function(name, field, ports, span) if ports else protocol_function(name, field, protocols, span)


def _trie_key(entry: BlockedPrefix) -> bytes:
    """struct ddos_prefix4 or ddos_prefix6: the length as the machine has it, the address as the wire has it."""
    return entry.prefix.prefixlen.to_bytes(4, "little") + entry.prefix.network_address.packed


def _rate_constants(instance: ServiceInstance, rate: Rate) -> Iterator[Constant]:
    path, coarse = f"{instance.name}.rate", coarse_clock(rate.per_source, rate.burst)
    bucket = Bucket(f"{path}.per-source", rate.per_source, f"{path}.burst", rate.burst, rate.span)
    yield from bucket.constants("rate", coarse=coarse)
    sets = Inlined("rate_set_bits", str(_set_bits(rate)))
    yield Constant(f"{path}.size", str(rate.size), "log2 of the sets of buckets", sets, rate.span)


def _set_bits(rate: Rate) -> int:
    """Enough sets that each source to be remembered has a way: a power of two, at least two."""
    return max(1, (-(-rate.size // WAYS) - 1).bit_length())


def _buckets(instance: ServiceInstance, rate: Rate) -> Iterator[MapDef]:
    """The buckets' place depends on the number of sets, so that is part of the layout."""
    bits = _set_bits(rate)
    for version in (4, 6):
        yield array(
            instance,
            f"buckets{version}",
            "struct ddos_set",
            SET_SIZE,
            1 << bits,
            role=Role.STATE,
            layout=f"ddos-sets/1 {bits}",
            span=rate.span,
            field=f"buckets{version}",
        )
