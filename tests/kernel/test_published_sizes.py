"""Figure 3a on the page of figures: what features cost in instructions, beside what the kernel has of them now."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from bench import results
from bench.cases import bridge, stp_bridge, vlan_bridge
from bench.contenders import Chain, loaded, make_internal_links
from compiler.build import build
from runtime.info import prog_info
from schemas.manifest import Mode
from tests.rig.lab import Lab

pytestmark = pytest.mark.kernel

PUBLISHED = Path(__file__).parents[2] / "docs/performance/measured.json"
RECEIVING = "br0__a__xdp"
SLACK = 1.1
"""What a compiler of another version may add."""


def instructions(chain: Chain, folder: Path) -> int:
    """Of the program that receives, as the kernel runs it."""
    file = folder / "chain.yaml"
    file.write_text(yaml.safe_dump(chain.source(), sort_keys=False))
    compiled = build(file)
    with Lab("bench") as lab, ExitStack() as stack:
        far, dut = lab.namespace("far"), lab.namespace("dut")
        for name in ("in", "out"):
            lab.cable((dut, name), (far, name))
        make_internal_links(compiled.chain, dut)
        return prog_info(stack.enter_context(loaded(compiled.chain, dut)).programs[RECEIVING]).xlated_size // 8


def published(chain: Chain) -> int:
    wanted = chain.name, chain.service, chain.mode
    rows = [row for row in results.read(PUBLISHED).rows if (row.contender, row.service, row.mode) == wanted]
    (only,) = {program.instructions for row in rows for program in row.programs if program.name == RECEIVING}
    return only


def test_features_that_are_off_cost_what_the_page_says(tmp_path: Path) -> None:
    """At most: the plain bridge has not grown since it was measured, and each feature adds to it, there as here."""
    plain, vlans, stp = chains = [kind(Mode.NATIVE) for kind in (bridge, vlan_bridge, stp_bridge)]
    now = {chain.service: instructions(chain, tmp_path) for chain in chains}
    then = {chain.service: published(chain) for chain in chains}
    assert now[plain.service] <= SLACK * then[plain.service], "measure anew: `make bench bench-docs`"
    for sizes in (now, then):
        assert sizes[plain.service] < sizes[vlans.service] < sizes[stp.service], sizes
