"""docs/map.md names every module and no other: whoever looks for something finds where it is."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECTIONS = dict(re.findall(r"^## (\w+):.*?\n(.*?)(?=^## |\Z)", (ROOT / "docs/map.md").read_text(), re.M | re.S))


@pytest.mark.parametrize("package", ["compiler", "schemas", "runtime"])
def test_every_module_has_its_place(package: str) -> None:
    named = Counter(re.findall(r"`(\w+\.py)`", SECTIONS[package]))
    assert named == Counter(path.name for path in (ROOT / package).glob("*.py") if path.name != "__init__.py")


@pytest.mark.parametrize("package", ["compiler", "schemas", "runtime"])
def test_every_folder_has_its_place(package: str) -> None:
    named = set(re.findall(r"`(\w+)/", SECTIONS[package])) - {package}
    assert named == {path.parent.name for path in (ROOT / package).glob("*/*") if path.suffix != ".pyc"}
