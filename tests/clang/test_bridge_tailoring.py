"""With VLANs and the spanning tree off nothing is left of them: cut out of the source, not one instruction changes."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from msgspec.structs import replace

from compiler.clang import compile_units, find_clang
from runtime.object import read_object
from schemas.manifest import Hook
from tests.clang.test_bridge_folding import MIXED, PLAIN, compiled, program

HEADERS = ("learning.h", "bridge.bpf.h")
"""Those of the bridge's functions; nothing else asks for the features."""

SWITCHES = {"cfg->vlan_aware": "false", "cfg->states": "NULL", "cfg->bpdu_guard": "false", "cfg->root_guard": "false"}
"""Where the rest of the bridge asks for the features."""

BODIES = {
    "bridge_classify": "return PARSED;",
    "bridge_leave": "return PARSED;",
    "bridge_bpdu": "return PARSED;",
    "bridge_filters_bpdus": "return false;",
    "bridge_states": "return NULL;",
    "bridge_state": "return PORT_FORWARDING;",
}
"""Functions that are about nothing else, and what is left of each."""


def without_features(header: str) -> tuple[str, Counter[str]]:
    """The text, and how many places of each switch and function were cut out of it."""
    cut: Counter[str] = Counter()
    for switch, constant in SWITCHES.items():
        header, cut[switch] = re.subn(rf"{re.escape(switch)}\b", constant, header)
    for name, body in BODIES.items():
        header, cut[name] = re.subn(
            rf"(\b{name}\([^;{{]*\)\n)\{{\n.*?\n\}}\n", rf"\1{{\n\t{body}\n}}\n", header, flags=re.S
        )
    return f'#pragma clang diagnostic ignored "-Wunused-parameter"\n{header}', cut


def instructions(ports: tuple[str, str, str], hook: Hook, folder: Path) -> bytes:
    """The program that receives on p1, without the features."""
    (unit,) = [each.unit for each in compiled(ports, hook).programs if each.unit.program.name == f"br0__p1__{hook}"]
    copies, cut = [], Counter[str]()
    for number, headers in enumerate(unit.headers):
        copy = folder / str(number)
        copy.mkdir()
        for file in headers.glob("*.h"):
            text = file.read_text()
            if file.name in HEADERS:
                text, found = without_features(text)
                cut += found
            (copy / file.name).write_text(text)
        copies.append(copy)
    assert cut.keys() == SWITCHES.keys() | BODIES.keys()
    assert {cut[name] for name in BODIES} == {1}
    (made,) = compile_units([replace(unit, headers=tuple(copies))], find_clang())
    (only,) = read_object(made.elf).programs
    return only.insns


@pytest.mark.parametrize("hook", list(Hook), ids=str)
def test_features_that_are_off_might_as_well_not_exist(hook: Hook, tmp_path: Path) -> None:
    assert instructions(PLAIN, hook, tmp_path) == program(PLAIN, hook).insns


@pytest.mark.parametrize("hook", list(Hook), ids=str)
def test_features_that_are_on_are_what_was_cut_away(hook: Hook, tmp_path: Path) -> None:
    """So that the test above does not pass because it cuts the wrong thing."""
    left, whole = len(instructions(MIXED, hook, tmp_path)), len(program(MIXED, hook).insns)
    assert left < whole
