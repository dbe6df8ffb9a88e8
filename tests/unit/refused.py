"""A chain file that is refused in, what is wrong with it out."""

from __future__ import annotations

import pytest

from compiler.resolve import resolve
from compiler.source import read
from schemas.diagnostic import Diagnostic, InvalidChain
from schemas.render import render


def mistakes(text: str, file: str = "edge.yaml") -> tuple[Diagnostic, ...]:
    """Every diagnostic of a text under the name of a file; fails where it has none."""
    with pytest.raises(InvalidChain) as caught:
        resolve(read(file, text))
    return caught.value.diagnostics


def printed(text: str, file: str = "edge.yaml") -> str:
    """The same as people see it."""
    return render(mistakes(text, file), {file: text})
