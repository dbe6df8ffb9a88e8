"""The benches of routes run, and give a figure for everything that they were asked for."""

from __future__ import annotations

import pytest

from bench import fib, follow

pytestmark = pytest.mark.kernel


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
