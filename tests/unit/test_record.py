"""Records of generations: bytes and back, those of earlier versions too."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import pytest
from msgspec.structs import replace

from runtime.record import Record, record_bytes, record_in
from schemas.diagnostic import LoadFailed
from tests.unit.manifests import sample

RECORD = Record(sample(), {"lan_mac": bytes(6)}, home=4026531840, applied_at=1_700_000_000)
PATH = Path("edge/1/record")


def as_format_1(record: Record) -> bytes:
    """What the version before load-time constants kept."""
    content = json.loads(zlib.decompress(record_bytes(record)))
    content["manifest"]["format"] = 1
    for program in content["manifest"]["programs"]:
        del program["values"]
    for found in content["manifest"]["maps"]:
        del found["filled"]
    return zlib.compress(json.dumps(content).encode())


def as_format_2(record: Record) -> bytes:
    """What the version before filled maps kept."""
    content = json.loads(zlib.decompress(record_bytes(record)))
    content["manifest"]["format"] = 2
    for found in content["manifest"]["maps"]:
        del found["filled"]
    return zlib.compress(json.dumps(content).encode())


def test_a_record_comes_back() -> None:
    assert record_in(PATH, record_bytes(RECORD)) == RECORD


def test_what_an_earlier_version_applied_is_known() -> None:
    """So it can be looked at, replaced under traffic and taken down."""
    programs = tuple(replace(program, values=()) for program in RECORD.manifest.programs)
    manifest = replace(RECORD.manifest, programs=programs)
    assert record_in(PATH, as_format_1(RECORD)) == replace(RECORD, manifest=manifest)
    assert record_in(PATH, as_format_2(RECORD)) == RECORD


def test_a_record_of_a_later_version() -> None:
    later = replace(RECORD, manifest=replace(RECORD.manifest, format=4))
    with pytest.raises(LoadFailed) as caught:
        record_in(PATH, record_bytes(later))
    (found,) = caught.value.diagnostics
    assert found.code == "A112"
    assert "the manifest has format 4, and this version of bpfchain reads format 3" in found.message
