"""The bench of routes runs, and gives a figure for everything that it was asked for."""

from __future__ import annotations

import pytest

from bench import fib, follow, routes

pytestmark = pytest.mark.kernel


def test_a_router_carries_all_flows_beside_the_bare_redirect() -> None:
    found = routes.measure(routes.Spread("few flows", flows=64), [10, 100], seconds=0.2)
    assert set(found) == {0, 10, 100}
    assert all(ns > 0 for ns in found.values())


@pytest.mark.parametrize("version", [4, 6])
def test_lookups_are_timed(version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fib, "ROUNDS", 1)
    monkeypatch.setattr(fib, "PACKETS", 1000)
    found = fib.measure(version, 100)
    assert len(found.table) == len(found.trie) == len(fib.DESTINATIONS)


@pytest.mark.parametrize("version", [4, 6])
def test_bursts_are_followed(version: int) -> None:
    found = {name: burst for name, _, burst in follow.measure(version, 20)}
    assert set(found) == {f"{order}, {verb}" for order in ("in order", "random") for verb in ("add", "delete")}
