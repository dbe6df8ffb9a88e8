"""What a generation was made from, and what was counted before it, to bytes and back."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from schemas.counters import Count
from schemas.diagnostic import LoadFailed
from schemas.manifest import FORMAT, Manifest
from schemas.manifest_json import from_data, parse, to_data

from .frozen import unreadable
from .home import here
from .tally import Tally

_FORMAT = 1


class Record(Struct, frozen=True):
    """What a generation was made from.

    `facts` are host-bound symbols' values, `home` the inode of the network namespace that it was applied in,
    `applied_at` is Unix time in seconds.
    """

    manifest: Manifest
    facts: Mapping[str, bytes]
    home: int
    applied_at: int


class Counted(Struct, frozen=True):
    """What was counted before a generation's own maps, by name; `maps` are ids of those still there that say so."""

    tally: Tally
    maps: frozenset[int]


def new_record(manifest: Manifest, facts: Mapping[str, bytes]) -> Record:
    """The record of what is applied here and now."""
    return Record(manifest, facts, here(), int(time.time()))


def record_bytes(record: Record) -> bytes:
    """A record as it is kept."""
    content = {
        "format": _FORMAT,
        "applied_at": record.applied_at,
        "home": record.home,
        "facts": {symbol: value.hex() for symbol, value in record.facts.items()},
        "manifest": to_data(record.manifest),
    }
    return zlib.compress(json.dumps(content, separators=(",", ":")).encode())


def record_in(path: Path, content: bytes) -> Record:
    """What `record_bytes` made, as found at a path. Raises `LoadFailed` (A112)."""
    try:
        data = parse(zlib.decompress(content))
        if data["format"] != _FORMAT:
            raise unreadable(path, f"it has format {data['format']}, this version knows {_FORMAT}")
        facts = {symbol: bytes.fromhex(value) for symbol, value in data["facts"].items()}
        return Record(from_data(_of_today(data["manifest"])), facts, int(data["home"]), int(data["applied_at"]))
    except (zlib.error, KeyError, TypeError, ValueError, AttributeError) as error:
        raise unreadable(path, str(error)) from error
    except LoadFailed as error:
        raise unreadable(path, error.diagnostics[0].message) from error


def _of_today(manifest: Any) -> Any:
    """The manifest of a chain that an earlier version has applied, so that it is replaced under traffic like any other.

    Format 1 knew no values that the loader writes into programs, and neither it nor format 2 maps that are filled.
    """
    if manifest["format"] not in (1, 2):
        return manifest
    programs, maps = manifest["programs"], [{**found, "filled": ""} for found in manifest["maps"]]
    if manifest["format"] == 1:
        programs = [{**program, "values": []} for program in programs]
    return {**manifest, "format": FORMAT, "programs": programs, "maps": maps}


def counted_bytes(counted: Counted) -> bytes:
    """Counts as they are kept."""
    counts = [[*name, count.packets, count.bytes] for name, count in counted.tally.items() if count]
    content = {"format": _FORMAT, "maps": sorted(counted.maps), "counts": counts}
    return zlib.compress(json.dumps(content, separators=(",", ":")).encode())


def counted_in(path: Path, content: bytes) -> Counted:
    """What `counted_bytes` made, as found at a path. Raises `LoadFailed` (A112)."""
    try:
        data = parse(zlib.decompress(content))
        if data["format"] != _FORMAT:
            raise unreadable(path, f"its counts have format {data['format']}, this version knows {_FORMAT}")
        counts = {
            (str(service), str(port), str(what)): Count(int(packets), int(size))
            for service, port, what, packets, size in data["counts"]
        }
        return Counted(counts, frozenset(int(found) for found in data["maps"]))
    except (zlib.error, KeyError, TypeError, ValueError) as error:
        raise unreadable(path, f"its counts: {error}") from error
