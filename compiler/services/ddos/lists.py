"""Block lists to C functions: a decision tree over disjoint ranges of addresses or ports, a set of protocols."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from msgspec import Struct

from schemas.diagnostic import Span

from ...addresses import Prefix
from ...decision import Below, End, decision
from ...ir import GeneratedFunction
from ...templates import Rendering
from .model import BlockedPorts, BlockedPrefix, BlockedProtocol
from .near import HASH, MAX_SLOT_BITS, Neighbourhood, neighbourhood, sparse

TEMPLATES = Path(__file__).parent / "templates"

FILTERED_ENTRIES = 4
"""Shorter lists are decided as fast by the tree alone."""

SLOTS_PER_ENTRY = 64

Entry = BlockedPrefix | BlockedPorts | BlockedProtocol
Listed = TypeVar("Listed", BlockedPrefix, BlockedPorts)


class Match(Struct, Generic[Listed], frozen=True):
    """The one entry that can still match; `found` is what the function returns for it: 1 + its counter's index."""

    depth: int
    entry: Listed
    found: int


Step = Below | End | Match[Listed]
Numbered = tuple[Listed, int]


def address_function(
    name: str, field: str, entries: Sequence[Numbered[BlockedPrefix]], span: Span
) -> GeneratedFunction:
    """Entries of one IP version, none within another, as a function of an address."""
    ordered = sorted(entries, key=lambda item: _first_address(item[0]))
    near = _near([entry.prefix for entry, _ in ordered])
    steps = list(_tree(ordered, _first_address))
    version = ordered[0][0].prefix.version
    longest = max(entry.prefix.prefixlen for entry, _ in entries)
    return _render(f"address{version}.c.j2", name, field, span, steps=steps, longest=longest, near=near, hash=HASH)


def _near(prefixes: Sequence[Prefix]) -> Neighbourhood | None:
    """The bit table that spares most traffic the tree; None where the list is short or covers too much."""
    if len(prefixes) < FILTERED_ENTRIES:
        return None
    near = neighbourhood(prefixes, min((SLOTS_PER_ENTRY * len(prefixes) - 1).bit_length(), MAX_SLOT_BITS))
    return near if sparse(near) else None


def port_function(name: str, field: str, entries: Sequence[Numbered[BlockedPorts]], span: Span) -> GeneratedFunction:
    """Ranges of ports, disjoint within a protocol, as a function of protocol and port."""
    ordered = sorted(entries, key=lambda item: (item[0].protocol, item[0].first))
    protocols = dict.fromkeys(entry.protocol for entry, _ in ordered)
    trees = [
        (protocol, list(_tree([item for item in ordered if item[0].protocol == protocol], _first_port, depth=2)))
        for protocol in protocols
    ]
    return _render("port.c.j2", name, field, span, trees=trees)


def protocol_function(
    name: str, field: str, entries: Sequence[tuple[BlockedProtocol, int]], span: Span
) -> GeneratedFunction:
    """A set of protocols as a function of the number: a bit of one of four words says whether to look closer."""
    words = [0, 0, 0, 0]
    for entry, _ in entries:
        words[entry.number // 64] |= 1 << entry.number % 64
    ordered = sorted(entries, key=lambda item: item[0].number)
    return _render("protocol.c.j2", name, field, span, words=words, entries=ordered)


def _first_address(entry: BlockedPrefix) -> int:
    return int(entry.prefix.network_address)


def _first_port(entry: BlockedPorts) -> int:
    return entry.first


def _tree(
    ordered: Sequence[Numbered[Listed]], first: Callable[[Listed], int], depth: int = 1
) -> Iterator[Step[Listed]]:
    """A binary decision over entries in order of their first value; every path ends in one match."""
    return decision(ordered, lambda item: first(item[0]), lambda depth, item: Match(depth, *item), depth)


def _render(template: str, name: str, field: str, span: Span, **words: object) -> GeneratedFunction:
    return GeneratedFunction(field, name, Rendering(TEMPLATES, template, {"name": name, **words}), span)
