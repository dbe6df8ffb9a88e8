"""`bpfchain cost`: what is said of programs before a chain runs is what the kernel says when it does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import bpfchain
from runtime.bpffs import bpffs_root
from runtime.cli import cost as command
from runtime.info import map_info, prog_info, progs
from runtime.object import read_object
from runtime.pin import chain_pins
from runtime.sys import obj_get
from schemas.compiled import save
from tests.kernel.live import guarded_bridge, host
from tests.rig.network import network

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize("mode", ["native", "tc"])
def test_costs_are_those_of_the_running_chain(mode: str, tmp_path: Path) -> None:
    with network("p1", "p2", "p3") as net, host(net.dut, tmp_path) as machine:
        chain = machine.compiled(guarded_bridge(mode))
        found = bpfchain.cost(chain)  # here, where none of its devices is
        read = read_object.cache_info().misses
        machine.apply(chain)
        assert read_object.cache_info().misses == read, "an object is read once, whoever asks"
        (generation,) = chain_pins(bpffs_root(), machine.name).generations()
        running = {path.name: prog_info(obj_get(path)) for path in generation.pinned("programs")}
        sizes = {info.name: info.max_entries for info in (map_info(obj_get(p)) for p in generation.pinned("maps"))}
    assert found.left_out == ""
    assert found.tail_calls == 1
    for program in found.programs:
        assert program.loaded
        assert program.loaded.verified_instructions == running[program.name].verified_insns
        assert program.loaded.jited == running[program.name].jited_size
        assert 0 < program.loaded.stack <= 512
        assert program.instructions > 30
    assert {each.name[:15]: each.entries for each in found.maps} == sizes
    assert all(each.memory and each.memory >= each.entries for each in found.maps)


def test_the_command_takes_a_directory_and_leaves_nothing_loaded(tmp_path: Path) -> None:
    with network("p1", "p2", "p3") as net, host(net.dut, tmp_path) as machine:
        chain = guarded_bridge()
        chain["services"]["guard"]["block"]["sources"].append("203.0.113.77")  # like no other chain's
        save(machine.compiled(chain), tmp_path / "edge")
    result = CliRunner().invoke(command, [str(tmp_path / "edge"), "--format", "json"])
    assert result.exit_code == 0, result.output
    data = json.loads(result.output)
    guard = next(program for program in data["programs"] if program["name"] == "guard__outside__xdp")
    size = guard["loaded"]["jited"]
    assert data["chain"] == machine.name
    assert not [found for found in progs() if found.name == "guard__outside__"[:15] and found.jited_size == size]
