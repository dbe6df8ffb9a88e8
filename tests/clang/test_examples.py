"""The files of chains/: valid, compiled as they stand, and named after their chain."""

from __future__ import annotations

from pathlib import Path

import pytest

import bpfchain
from runtime.object import read_object
from tests.clang.lookups import lookups_in_any_map

EXAMPLES = sorted(Path(__file__).parents[2].joinpath("chains").glob("*.yaml"))

every_example = pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 4


@every_example
def test_it_is_valid(file: Path) -> None:
    assert bpfchain.validate(file) == ()


@every_example
def test_it_compiles(file: Path, tmp_path: Path) -> None:
    chain = bpfchain.compile(file, tmp_path).chain
    assert bpfchain.load(tmp_path) == chain
    assert chain.manifest.chain == file.stem
    programs = {program.name for content in chain.objects.values() for program in read_object(content).programs}
    assert programs == {program.name for program in chain.manifest.programs}


@every_example
def test_each_lookup_is_in_one_map(file: Path) -> None:
    """Only then does the verifier put an array's lookup in line; else it is an indirect call of many nanoseconds."""
    for content in bpfchain.compile(file).chain.objects.values():
        for program in read_object(content).programs:
            assert lookups_in_any_map(program) == [], program.name


@every_example
def test_it_tells_editors_its_schema_and_people_what_it_is_for(file: Path) -> None:
    first, blank, purpose, *_ = file.read_text().splitlines()
    assert first == "# yaml-language-server: $schema=../schemas/chain.schema.json"
    assert (blank, purpose[:2]) == ("#", "# ")
