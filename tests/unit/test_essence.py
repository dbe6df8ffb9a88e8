"""Units of the same essence have the same code; what only moves or renames things for people changes no essence."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from msgspec.structs import replace

from compiler import essence as essence_module
from compiler.build import lowered
from compiler.emit import CUnit, units
from compiler.essence import essence
from compiler.source import read
from schemas.chains import examples
from schemas.diagnostic import ChainError
from tests.rig import probe

VARIANTS = 100  # of each example


def written(folder: Path, text: str) -> list[CUnit]:
    file = folder / "chain.yaml"
    file.write_text(text)
    return units(lowered(file), "VERSION")


@pytest.mark.parametrize("chain", sorted(examples()))
def test_moved_lines_and_another_name_of_the_file_change_text_only(chain: str, tmp_path: Path) -> None:
    text = examples()[chain].read_text()
    for before, after in zip(written(tmp_path, text), written(tmp_path, f"# moved\n\n{text}"), strict=True):
        assert after.text != before.text
        assert after.code == before.code
        assert essence(after) == essence(before)
        assert after.marks == before.marks
        assert [span.line - 2 for _, span in after.lines(before.marks)] == [
            span.line for _, span in before.lines(before.marks)
        ]


def test_another_number_for_the_loader_is_the_same_essence(tmp_path: Path) -> None:
    text = examples()["plain-bridge"].read_text()
    slower = text.replace("aging: 60s", "aging: 77s")
    for before, after in zip(written(tmp_path, text), written(tmp_path, slower), strict=True):
        assert after.text != before.text
        assert (essence(after), after.code) == (essence(before), before.code)


@pytest.mark.parametrize("chain", sorted(examples()))
def test_the_same_essence_is_the_same_code(chain: str, tmp_path: Path) -> None:
    """Of an example and of what comes of it by small changes, and what it was before is told apart from it."""
    text = examples()[chain].read_text()
    found = {essence(unit): unit for unit in written(tmp_path, text)}
    chains = 0
    for variant in _variants(read(chain, text).data, random.Random(chain)):
        try:
            changed = written(tmp_path, yaml.safe_dump(variant, sort_keys=False))
        except ChainError:
            continue
        chains += 1
        for unit in changed:
            same = found.setdefault(essence(unit), unit)
            assert (unit.code, unit.marks) == (same.code, same.marks), variant
    assert None not in found
    assert chains


def _variants(data: Any, rng: random.Random) -> Iterator[Any]:
    """One to three leaves or branches of it are other numbers, other words of the file, or gone."""
    for _ in range(VARIANTS):
        variant = copy.deepcopy(data)
        for _ in range(rng.randint(1, 3)):
            places = list(_places(variant))
            if not places:
                break
            holder, key = rng.choice(places)
            value = holder[key]
            if isinstance(value, int) and not isinstance(value, bool):
                holder[key] = max(0, value + rng.choice((-1, 1, 7)))
            elif isinstance(value, str) and rng.random() < 0.7:
                holder[key] = _other_word(value, rng)
            else:
                del holder[key]
        yield variant


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield value, key
        yield from _places(item)


def _other_word(text: str, rng: random.Random) -> str:
    """Another digit where there is one: addresses, durations, rates."""
    digits = [at for at, character in enumerate(text) if character.isdigit()]
    if not digits:
        return rng.choice(("native", "generic", "tc", text))
    at = rng.choice(digits)
    return f"{text[:at]}{rng.randint(0, 9)}{text[at + 1 :]}"


def test_a_changed_compiler_is_another_essence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (unit, *_) = written(tmp_path, examples()["plain-bridge"].read_text())
    before = essence(unit)
    folder = tmp_path / "compiler"
    folder.mkdir()
    (folder / "emit.py").write_text("one = 1\n")
    monkeypatch.setattr(essence_module, "_COMPILER", folder)
    own = replace(unit, headers=(folder,))
    essences = [before]
    for text in ("two = 22\n", "three = 333\n"):
        (folder / "emit.py").write_text(text)
        essence_module._tool.cache_clear()
        essences.append(essence(own))
    monkeypatch.undo()
    essence_module._tool.cache_clear()
    assert len(set(essences)) == 3
    assert essence(unit) == before


def test_services_of_other_distributions_have_none(tmp_path: Path) -> None:
    with probe.installed():
        text = (
            "chain: probed\ninterfaces: {a: {device: a}, b: {device: b}}\nservices: {p: {kind: probe}}\n"
            "links: [[a, p.outside], [p.inside, b]]\n"
        )
        assert {essence(unit) for unit in written(tmp_path, text) if unit.program.name.startswith("p__")} == {None}
