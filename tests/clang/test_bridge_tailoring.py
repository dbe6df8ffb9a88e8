"""With VLANs and the spanning tree off nothing is left of them: cut out of the source, not one instruction changes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from msgspec.structs import replace

from compiler.clang import compile_units, find_clang
from runtime.object import read_object
from schemas.manifest import Hook
from tests.clang.test_bridge_folding import MIXED, PLAIN, compiled, program

HEADER = "bridge.bpf.h"

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


def without_features(header: str) -> str:
    for switch, constant in SWITCHES.items():
        header, found = re.subn(rf"{re.escape(switch)}\b", constant, header)
        assert found, switch
    for name, body in BODIES.items():
        header, found = re.subn(
            rf"(\b{name}\([^;{{]*\)\n)\{{\n.*?\n\}}\n", rf"\1{{\n\t{body}\n}}\n", header, flags=re.S
        )
        assert found == 1, name
    return f'#pragma clang diagnostic ignored "-Wunused-parameter"\n{header}'


def instructions(ports: tuple[str, str, str], hook: Hook, folder: Path) -> bytes:
    """The program that receives on p1, without the features."""
    (unit,) = [each.unit for each in compiled(ports, hook).programs if each.unit.program.name == f"br0__p1__{hook}"]
    copies = []
    for number, headers in enumerate(unit.headers):
        copy = folder / str(number)
        copy.mkdir()
        for file in headers.glob("*.h"):
            text = file.read_text()
            (copy / file.name).write_text(without_features(text) if file.name == HEADER else text)
        copies.append(copy)
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
