"""Where floods may go: what the service between does not change."""

from __future__ import annotations

import pytest

from compiler.resolve import resolve
from compiler.source import read
from tests.unit import refused

GUARDED_HOST = """\
chain: edge
mode: {mode}
interfaces: {{wan: {{device: eth0}}, lan: {{device: eth1}}}}
services:
  guard: {{kind: ddos}}
  br0: {{kind: bridge, ports: {{p1: {{}}, p2: {{}}, up: {{}}}}}}
links: [[wan, br0.p1], [lan, br0.p2], [br0.up, guard.outside], [guard.inside, host]]
"""


@pytest.mark.parametrize("mode", ["native", "generic"])
def test_a_flood_to_the_host_through_another_service_is_refused_at_xdp(mode: str) -> None:
    (diagnostic,) = refused.mistakes(GUARDED_HOST.format(mode=mode))
    assert diagnostic.code == "C219"
    assert diagnostic.span is not None
    assert (diagnostic.span.line, diagnostic.span.column) == (7, 64)


def test_at_tc_it_is_fine() -> None:
    assert resolve(read("edge.yaml", GUARDED_HOST.format(mode="tc"))).name == "edge"
